r"""Trains a vocabulary on text.

    python -m pd_jax.tools.train_tokenizer --input corpus/*.txt --algorithm wordpiece \
        --vocab-size 30522 --output vocabularies/mine

Writes a folder that `build_records --tokenizer` and transformers' AutoTokenizer read: `vocab.txt`
and `tokenizer.json` for WordPiece, `spiece.model` and `tokenizer.json` for unigram and BPE.
"""

import argparse
import sys
import time
import typing
from collections.abc import Iterator, Sequence

from pd_jax import config
from pd_jax.data.text import corpora
from pd_jax.data.tokenizers import vocabulary
from pd_jax.data.tokenizers.tokenizer import train_tokenizer, unknown_share
from pd_jax.progress import Progress, warn
from pd_jax.tools import command, options

_WATCHED = 10_000
_MUCH_UNKNOWN = 0.01


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after writing the tokenizer's folder."""
    arguments = _parser().parse_args(argv)
    with options.faults():
        source = options.source_from(arguments)
        stage = config.TokenizerStage(
            source=source,
            algorithm=arguments.algorithm,
            vocab_size=arguments.vocab_size,
            lowercase=not arguments.cased,
            strip_accents=arguments.strip_accents,
            sample_sentences=arguments.sample_sentences,
            seed=arguments.seed,
        )
    vocabulary.check_empty_of_models(arguments.output)
    vocabulary.check_place(arguments.output)
    found = corpora.source_files(source)
    print(
        f"training {stage.vocab_size:,} pieces ({stage.algorithm}) on at most"
        f" {stage.sample_sentences:,} sentences of {sum(file.size for file in found) / 1e6:,.1f} MB"
        f" in {len(found)} files, to {arguments.output}",
        file=sys.stderr,
    )
    began = time.monotonic()
    watched: list[str] = []
    tokenizer = train_tokenizer(_shown(corpora.sentences(source), watched), stage)
    tokenizer.save(arguments.output)
    seconds = time.monotonic() - began
    unknown = unknown_share(tokenizer, watched)
    if unknown > _MUCH_UNKNOWN:
        warn(_advice(unknown, stage))
    fewer = tokenizer.vocab_size < stage.vocab_size
    more = tokenizer.vocab_size > stage.vocab_size
    why = ", all that the text gives" if fewer else ", as its letters need" if more else ""
    print(
        f"{tokenizer.vocab_size:,} pieces{why}, trained"
        f" in {seconds:.1f} s, {unknown:.2%} of the text's tokens unknown: {arguments.output}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.train_tokenizer", description="Trains a vocabulary on text."
    )
    options.add_source(parser)
    add = parser.add_argument
    algorithms = typing.get_args(config.Algorithm)
    add("--algorithm", choices=algorithms, default="wordpiece", help="default: %(default)s")
    add("--vocab-size", type=int, default=30_522, help="number of pieces (default: %(default)s)")
    add("--cased", action="store_true", help="keep capitals, and accents unless told otherwise")
    add(
        "--strip-accents",
        action=argparse.BooleanOptionalAction,
        help="whether WordPiece leaves out accents, vowel signs and the like (default: unless"
        " --cased)",
    )
    add(
        "--sample-sentences",
        type=int,
        default=1_000_000,
        help="train on this many sentences, drawn evenly (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="decides which sentences are drawn")
    add("--output", required=True, metavar="FOLDER", help="where the tokenizer goes")
    return parser


def _shown(sentences: Iterator[str], watched: list[str]) -> Iterator[str]:
    """Yields the sentences, and collects some from all over the text in `watched`."""
    stride = 1
    with Progress("reading", unit="sentences") as progress:
        for number, sentence in enumerate(sentences):
            yield sentence
            progress.advance(1)
            if number % stride == 0:
                watched.append(sentence)
            if len(watched) > _WATCHED:
                watched[:] = watched[::2]
                stride *= 2


def _advice(unknown: float, stage: config.TokenizerStage) -> str:
    """Returns the warning for text with many unknown tokens, and what to do about it."""
    advice = "train with more --sample-sentences or another --vocab-size"
    if stage.algorithm == "wordpiece":
        advice = "train with --algorithm unigram"
        stripped = stage.lowercase if stage.strip_accents is None else stage.strip_accents
        if stripped:  # marks, and those are vowels in some scripts
            advice += ", or with --no-strip-accents where vowels are marks (Hindi, Thai)"
    return f"{unknown:.1%} of the text's tokens are [UNK]; {advice}"


if __name__ == "__main__":
    sys.exit(command.run(main))
