r"""Imports records that other programs wrote into a dataset.

    python -m pd_jax.tools.import_records FILE [FILE ...] --tokenizer TOKENIZER --output FOLDER \
        [--task classification --labels no,yes]

FILE is a TFRecord file, gzipped or not, or an ArrayRecord file (*.array_record), or a pattern of
several, from google-research/bert or TensorFlow Model Garden, with static masks or without. The
files stay as they are. An interrupted import continues where it was when the command is
repeated.
"""

import argparse
import sys
import typing
from collections.abc import Sequence

from etils import epath

from pd_jax import config, locks
from pd_jax.data.building import build, places
from pd_jax.data.records import foreign
from pd_jax.data.text import paths
from pd_jax.data.tokenizers import tokenizer as tokenizer_lib
from pd_jax.progress import Progress
from pd_jax.tools import command, options


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 once the dataset is complete.

    Raises:
      ConfigError: where the name cannot name shards, or a task lacks its labels' names.
      SourceError: where a file is missing, or named twice.
      RecordsError: where one would be overwritten, is damaged, or does not fit tokenizer or task.
    """
    arguments = _parser().parse_args(argv)
    options.check_used(arguments, "task", "labels")
    labels = arguments.labels or ()
    foreign.check(arguments.name, arguments.task, labels)
    found = [path for pattern in arguments.files for path in paths.expanded(pattern)]
    paths.check(found)
    folder = epath.Path(arguments.output)
    foreign.check_places(found, folder, arguments.name)
    tokenizer = tokenizer_lib.load_tokenizer(arguments.tokenizer)
    places.check(folder, tokenizer)
    print(f"importing {len(found)} files into {folder}, one shard each", file=sys.stderr)
    with locks.held(folder / ".lock", f"the dataset in {folder}"):
        if not build.finished_with(folder, tokenizer):
            build.begin(folder, tokenizer)
        with Progress("importing", len(found), unit="files") as progress:
            made = foreign.import_records(
                found,
                folder,
                name=arguments.name,
                tokenizer=tokenizer,
                task=arguments.task,
                labels=labels,
                workers=min(arguments.workers, len(found)),
                shown=lambda shard: progress.advance(1, rows=shard.rows),
            )
    print(f"made a dataset of {made.rows} rows and {made.tokens} tokens in {folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.import_records",
        description="Imports records that other programs wrote into a dataset.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="TFRecord or ArrayRecord file, or pattern"
    )
    parser.add_argument("--tokenizer", required=True, help="the one the records were made with")
    parser.add_argument("--output", required=True, help="folder of the dataset to make")
    parser.add_argument("--name", default="records", help="name of the dataset and its shards")
    parser.add_argument(
        "--task",
        choices=typing.get_args(config.Task),
        help="what the labels are (default: labels are dropped)",
    )
    parser.add_argument(
        "--labels",
        type=options.names,
        metavar="A,B",
        help="names of the labels, in order",
    )
    parser.add_argument(
        "--workers", type=options.at_least(1), default=1, help="processes, each with its own file"
    )
    return parser


if __name__ == "__main__":
    sys.exit(command.run(main))
