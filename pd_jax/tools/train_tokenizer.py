r"""Trains a vocabulary on text.

    python -m pd_jax.tools.train_tokenizer --input corpus/*.txt --algorithm wordpiece \
        --vocab-size 30522 --output vocabularies/mine

Writes a folder that `build_records --tokenizer` and transformers' AutoTokenizer read: `vocab.txt`
and `tokenizer.json` for WordPiece, `spiece.model` and `tokenizer.json` for unigram and BPE.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

from pd_jax import config
from pd_jax.data import text
from pd_jax.data.tokenizers import train_tokenizer
from pd_jax.progress import Progress
from pd_jax.tools import command, options


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
            sample_sentences=arguments.sample_sentences,
            seed=arguments.seed,
        )
    found = text.source_files(source)
    print(
        f"training {stage.vocab_size:,} pieces ({stage.algorithm}) on at most"
        f" {stage.sample_sentences:,} sentences of {sum(file.size for file in found) / 1e6:,.1f} MB"
        f" in {len(found)} files, to {arguments.output}",
        file=sys.stderr,
    )
    began = time.monotonic()
    tokenizer = train_tokenizer(_shown(text.sentences(source)), stage)
    tokenizer.save(arguments.output)
    seconds = time.monotonic() - began
    print(f"{tokenizer.vocab_size:,} pieces, trained in {seconds:.1f} s: {arguments.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.train_tokenizer", description="Trains a vocabulary on text."
    )
    options.add_source(parser)
    add = parser.add_argument
    algorithms = ("wordpiece", "unigram", "bpe")
    add("--algorithm", choices=algorithms, default="wordpiece", help="default: %(default)s")
    add("--vocab-size", type=int, default=30_522, help="number of pieces (default: %(default)s)")
    add("--cased", action="store_true", help="keep capitals and accents")
    add(
        "--sample-sentences",
        type=int,
        default=1_000_000,
        help="train on so many sentences, drawn evenly (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="decides which sentences are drawn")
    add("--output", required=True, metavar="FOLDER", help="where the tokenizer goes")
    return parser


def _shown(sentences: Iterator[str]) -> Iterator[str]:
    with Progress("reading", unit="sentences") as progress:
        for sentence in sentences:
            yield sentence
            progress.advance(1)


if __name__ == "__main__":
    sys.exit(command.run(main))
