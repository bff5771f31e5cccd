r"""Measures how near transfer sets are to a labelled set, and picks the nearest rows of one.

    python -m pd_jax.tools.similarity --labelled train.tsv --transfer reviews.txt news.txt
    python -m pd_jax.tools.similarity --labelled train.tsv --transfer reviews.txt \
        --select 100000 --output nearest.txt

Printed for each transfer set: Spearman's rank correlation of the frequencies of words, bigrams and
trigrams, over the most frequent ones of the labelled set.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from pd_jax import config
from pd_jax.data.records.shards import replaced
from pd_jax.data.text import corpora, similarity
from pd_jax.errors import ConfigError
from pd_jax.progress import Progress
from pd_jax.tools import command, options

_NAMES = {1: "words", 2: "bigrams", 3: "trigrams"}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after printing the correlations, and writing the selection if one is wanted."""
    arguments = _parser().parse_args(argv)
    if (arguments.select is None) != (arguments.output is None):
        raise ConfigError("give --select N and --output FILE together")
    if arguments.select is not None and len(arguments.transfer) > 1:
        raise ConfigError("--select picks rows of one transfer set; name only one in --transfer")
    options.check_output(arguments.output)
    with options.faults():
        labelled = config.Source(
            path=tuple(arguments.labelled),
            text=arguments.labelled_text_column,
            pair=arguments.labelled_pair_column,
        )
        transfers = [
            config.Source(
                path=path, text=arguments.transfer_text_column, pair=arguments.transfer_pair_column
            )
            for path in arguments.transfer
        ]
    read = [file.path for one in (labelled, *transfers) for file in corpora.source_files(one)]
    options.check_unread(arguments.output, read)
    print(
        f"comparing at most {arguments.sample_rows:,} rows of each set by the labelled set's"
        f" {arguments.vocabulary:,} most frequent words, bigrams and trigrams",
        file=sys.stderr,
    )
    words = similarity.Words()
    first = _frequencies(labelled, words, arguments)
    seconds = [_frequencies(source, words, arguments) for source in transfers]
    _print_table(arguments, first, seconds)
    if arguments.select is not None:
        count = _select(transfers[0], first, seconds[0], words, arguments)
        print(f"{count:,} nearest rows: {arguments.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.similarity",
        description="Measure how near transfer sets are to a labelled set; pick the nearest rows.",
    )
    add = parser.add_argument
    add("--labelled", nargs="+", required=True, metavar="PATH", help="the labelled set's files")
    add("--labelled-text-column", default="text", metavar="NAME", help="default: %(default)s")
    add("--labelled-pair-column", metavar="NAME", help="column of second texts")
    add("--transfer", nargs="+", required=True, metavar="PATH", help="transfer sets, one each")
    add("--transfer-text-column", default="text", metavar="NAME", help="default: %(default)s")
    add("--transfer-pair-column", metavar="NAME", help="column of second texts")
    count = options.at_least(1)
    add("--vocabulary", type=count, default=10_000, help="n-grams to rank (default: %(default)s)")
    add("--sample-rows", type=count, default=100_000, help="rows of each set, drawn evenly")
    add("--seed", type=options.at_least(0), default=0, help="decides which rows are drawn")
    add("--select", type=count, metavar="N", help="write the N rows nearest to the labelled set")
    add(
        "--output",
        metavar="FILE",
        help="where they go: a line each; a TSV file with a header if they are pairs, or its name"
        " ends in .tsv",
    )
    return parser


def _frequencies(
    source: config.Source, words: similarity.Words, arguments: argparse.Namespace
) -> dict[int, similarity.Frequencies]:
    rows = corpora.sampled(_shown(source), limit=arguments.sample_rows, seed=arguments.seed)
    texts = (part for row in rows for part in (row.text, row.pair) if part is not None)
    return similarity.frequencies(texts, words)


def _print_table(
    arguments: argparse.Namespace,
    first: dict[int, similarity.Frequencies],
    seconds: Sequence[dict[int, similarity.Frequencies]],
) -> None:
    width = max(map(len, arguments.transfer))
    print(f"{'transfer set':{width}}  " + "  ".join(f"{name:>9}" for name in _NAMES.values()))
    for path, second in zip(arguments.transfer, seconds, strict=True):
        found = [
            similarity.correlation(first, second, size=size, vocabulary=arguments.vocabulary)
            for size in similarity.SIZES
        ]
        print(f"{path:{width}}  " + "  ".join(f"{one.value:9.3f}" for one in found))
        if len(seconds) == 1:
            print(f"ranks of words in {path} (upwards) against the labelled set (to the right):")
            print(similarity.picture(found[0]))
    print(
        f"Spearman's rank correlation over the {arguments.vocabulary:,} most frequent n-grams of"
        " the labelled set; absent ones have frequency 0, equal frequencies share their mean rank"
    )


def _select(
    source: config.Source,
    first: dict[int, similarity.Frequencies],
    second: dict[int, similarity.Frequencies],
    words: similarity.Words,
    arguments: argparse.Namespace,
) -> int:
    """Returns how many rows were written, in the order of the source."""
    texts = (f"{row.text}\n{row.pair or ''}" for row in _shown(source))
    chosen = similarity.choose(texts, near=first, among=second, words=words, rows=arguments.select)
    kept = np.zeros(int(chosen[-1]) + 1 if len(chosen) else 0, bool)
    kept[chosen] = True
    wanted = itertools.compress(corpora.rows(source), kept)
    with replaced(epath.Path(arguments.output)) as stream:
        if source.pair is not None:
            stream.write(b"text\tpair\n")
        elif arguments.output.endswith(".tsv"):
            stream.write(b"text\n")
        for row in wanted:
            texts = [row.text] if row.pair is None else [row.text, row.pair]
            # A row takes one line, so white space of any other kind becomes a space.
            line = "\t".join(" ".join(part.split()) for part in texts)
            stream.write(line.encode("utf-8") + b"\n")
    return len(chosen)


def _shown(source: config.Source) -> Iterator[corpora.Row]:
    path = source.path if isinstance(source.path, str) else ", ".join(source.path)
    with Progress(f"reading {path}") as progress:
        for row in corpora.rows(source):
            yield row
            progress.advance(1)


if __name__ == "__main__":
    sys.exit(command.run(main))
