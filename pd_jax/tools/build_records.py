r"""Makes a dataset of tokenised examples from text.

    python -m pd_jax.tools.build_records --input corpus/*.txt --layout corpus \
        --tokenizer vocab.txt --max-length 128 --output datasets/corpus
    python -m pd_jax.tools.build_records --input train.tsv --label-column label \
        --task classification --labels negative,positive --tokenizer vocab.txt --output train

Inputs are files, globs, or `tfds:NAME:SPLIT`; text (one sentence a line, blank lines between
documents), TSV, CSV and JSONL, gzipped or not, and Parquet. An interrupted build is resumed
by repeating the command: it makes only the missing shards. With `--shard I --of N`,
N processes on any machines that share the folder each make a part, in any order. With --beam
runner=DataflowRunner project=P region=R temp_location=gs://B, Beam's workers make the same shards.
"""

import argparse
import dataclasses
import functools
import sys
import time
import typing
from collections.abc import Sequence

from pd_jax import config, locks, processes
from pd_jax.data.building import beam, estimates, places, plans
from pd_jax.data.building.build import Run, Share, build_share
from pd_jax.data.records import manifest
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.doubts import doubts
from pd_jax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from pd_jax.errors import ConfigError
from pd_jax.progress import warn
from pd_jax.tools import command, options

_KINDS = {
    "duplicates": "duplicates",
    "excluded": "texts of evaluation sets",
    "broken_rows": "broken rows",
}
"""What is left out of a dataset, in words."""
_OF_A_CORPUS = ("short_probability", "next_sentence", "seed")
"""The options that --layout corpus takes, as `config.Corpus` names them."""
_OF_EXCLUDED = ("exclude_text_column", "exclude_pair_column", "exclude_columns")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after building what was asked for, or after estimating it."""
    arguments = _parser().parse_args(argv)
    manifest.check_name(arguments.name)
    tokenizer = load_tokenizer(arguments.tokenizer)
    with options.faults():
        stage = _stage(arguments)
    sources = config.several(stage.source)
    megabytes = estimates.source_bytes(sources) / 1e6
    workers = arguments.workers or len(processes.available_cores())
    by = (
        f"with {workers} workers"
        if arguments.beam is None
        else f"by Beam ({', '.join(arguments.beam)})"
    )
    print(
        f"{megabytes:,.1f} MB of text, layout {stage.examples.layout}, at most {stage.max_length}"
        f" tokens, {tokenizer.vocab_size:,} pieces ({arguments.tokenizer}), into {stage.shards}"
        f" shards {by}, to {arguments.output}",
        file=sys.stderr,
    )
    if arguments.estimate:
        return _print_estimate(stage, tokenizer, workers)
    began = time.monotonic()
    share = _share(arguments)
    places.check(arguments.output, tokenizer)  # before the lock makes the folder
    part = f"part {share.index} of {share.of} of the dataset in {arguments.output}"
    with locks.held(f"{arguments.output}/.part-{share.index}-of-{share.of}.lock", part):
        made = build_share(
            stage,
            tokenizer,
            arguments.output,
            name=arguments.name,
            run=_runner(arguments, workers),
            share=share,
        )
    if made is None:
        print(
            f"share {arguments.shard} of {arguments.of} is at {arguments.output};"
            " the dataset is complete when all shares are made"
        )
        return 0
    dataset, layout = Dataset.open(arguments.output), stage.examples.layout
    for doubt in doubts(dataset, unk_id=tokenizer.unk_id, layout=layout):
        warn(doubt)
    print(_summary(made, arguments.output, time.monotonic() - began))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.build_records",
        description="Makes a dataset of tokenised examples from text.",
    )
    options.add_source(parser)
    add = parser.add_argument
    add("--pair-column", metavar="NAME", help="column of a second text")
    add("--label-column", metavar="NAME", help="column of labels")
    add("--task", choices=typing.get_args(config.Task), help="what labels mean")
    names = {"type": options.names, "default": (), "metavar": "A,B"}
    add("--labels", **names, help="the label set, in order of class number")
    add("--layout", choices=("rows", "corpus"), default="rows", help="one per row, or packed")
    add("--tokenizer", required=True, metavar="PATH", help="vocab.txt, tokenizer.json or .model")
    add("--max-length", type=int, default=128, help="tokens per example (default: %(default)s)")
    _add_corpus(parser)
    _add_left_out(parser)
    add("--shards", type=int, help="number of files (default: one for each 8 MB of text)")
    add("--workers", type=options.at_least(1), help="processes (default: all cores)")
    add("--beam", nargs="+", metavar="KEY=VALUE", help="build on Apache Beam, with these options")
    add("--shard", type=int, metavar="I", help="make part I, from 0, of the N of --of")
    add("--of", type=int, metavar="N", help="number of parts")
    add("--name", default="data", help="first part of the files' names (default: %(default)s)")
    add("--estimate", action="store_true", help="estimate size and time, make nothing")
    add("--output", required=True, metavar="FOLDER", help="where the dataset goes")
    return parser


def _add_corpus(parser: argparse.ArgumentParser) -> None:
    usual, numbered = config.Corpus(), options.at_least(0)
    add = parser.add_argument_group("with --layout corpus").add_argument
    short = f"share of short examples (default: {usual.short_probability})"
    add("--short-probability", type=float, metavar="P", help=short)
    pairs = "pairs of passages, half of them random"
    add("--next-sentence", action="store_true", default=None, help=pairs)
    decides = f"decides short examples and random passages (default: {usual.seed})"
    add("--seed", type=numbered, metavar="N", help=decides)


def _add_left_out(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is left out").add_argument
    add("--deduplicate", action="store_true", help="keep the first of equal rows or documents")
    add("--exclude", nargs="+", default=[], metavar="FILE", help="leave out text of these files")
    add("--exclude-text-column", metavar="NAME", help="their text column (default: the input's)")
    pairs = "their column of second texts (default: the input's)"
    add("--exclude-pair-column", metavar="NAME", help=pairs)
    columns = "names of their columns, if these are TSV or CSV files without a header"
    add("--exclude-columns", type=options.names, metavar="A,B", help=columns)


def _stage(arguments: argparse.Namespace) -> config.RecordsStage:
    """Returns the stage that the arguments describe."""
    if arguments.layout == "corpus":
        if arguments.task or arguments.labels or arguments.pair_column:
            raise ConfigError(
                "a corpus has neither labels nor pairs; leave --task, --labels and --pair-column"
                " out, or use --layout rows"
            )
        given = {name: getattr(arguments, name) for name in _OF_A_CORPUS}
        examples = config.Corpus(
            **{name: value for name, value in given.items() if value is not None}
        )
    else:
        options.check_absent(arguments, "--layout corpus", *_OF_A_CORPUS)
        examples = config.Rows(task=arguments.task, labels=arguments.labels)
    options.check_used(arguments, "exclude", *_OF_EXCLUDED)
    source = options.source_from(
        arguments, pair=arguments.pair_column, label=arguments.label_column
    )
    excluded = config.Source(
        path="",
        text=arguments.exclude_text_column or arguments.text_column,
        pair=arguments.exclude_pair_column or arguments.pair_column,
        columns=arguments.exclude_columns or (),
    )
    stage = config.RecordsStage(
        source=source,
        tokenizer=arguments.tokenizer,
        examples=examples,
        max_length=arguments.max_length,
        shards=arguments.shards,
        deduplicate=arguments.deduplicate,
        exclude=tuple(dataclasses.replace(excluded, path=path) for path in arguments.exclude),
    )
    return plans.with_shards(stage)


def _runner(arguments: argparse.Namespace, workers: int) -> Run:
    """Returns the function that carries out the build."""
    if arguments.beam is None:
        return functools.partial(processes.run, workers=workers)
    if arguments.workers:
        raise ConfigError("--workers is for this machine, but --beam has its own; give only one")
    return functools.partial(beam.run, options=arguments.beam)


def _share(arguments: argparse.Namespace) -> Share:
    if arguments.shard is None and arguments.of is None:
        return Share(0, 1)
    if arguments.shard is None or arguments.of is None or not 0 <= arguments.shard < arguments.of:
        raise ConfigError("give --shard I and --of N together, with I from 0 to N - 1")
    return Share(arguments.shard, arguments.of)


def _print_estimate(stage: config.RecordsStage, tokenizer: Tokenizer, workers: int) -> int:
    found = estimates.estimate(stage, tokenizer)
    minutes = found.seconds / 60 / min(workers, stage.shards or 1)
    print(
        f"about {found.examples:,} examples, {found.tokens:,} tokens, {found.megabytes:,.1f} MB on"
        f" disk, {minutes:.1f} minutes with {workers} workers (from {found.sampled_share:.1%} of"
        " the text); nothing was made"
    )
    return 0


def _summary(made: manifest.Manifest, folder: str, seconds: float) -> str:
    left_out = made.arguments.get("left_out")
    without = ""
    if left_out:
        kinds = [f"{left_out[kind]:,} {name}" for kind, name in _KINDS.items() if kind in left_out]
        without = f", without {' and '.join(kinds)}"
    return (
        f"{made.rows:,} examples, {made.tokens:,} tokens in {len(made.shards)} shards{without}, in"
        f" {seconds:.1f} s: {folder} (fingerprint {made.fingerprint})"
    )


if __name__ == "__main__":
    sys.exit(command.run(main))
