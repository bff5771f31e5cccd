r"""Imports a teacher's outputs that other programs wrote into a logit store of a dataset.

    python -m pd_jax.tools.import_logits --input scores.jsonl --values probs --kind probabilities \
        --labels negative,positive --records transfer/records --output transfer/logits
    python -m pd_jax.tools.import_logits --input ids.csv --id-column id --array logits.npy \
        --labels negative,positive --records transfer/records --output transfer/logits

Files are JSONL, CSV, TSV or Parquet, or an .npy array with a file that names its rows. Rows are
joined to the dataset by text (with --pair-column: both) or by id. Without --values, each label has
a column of its own; with it, one column has a list of numbers, an object of numbers by label, or
what transformers' pipelines answer with `top_k=None`: [{"label": ..., "score": ...}, ...].
Probabilities of classes may be rounded to two decimals; they are divided by their sum. A row that
is repeated with the same numbers (but for rounding) counts once; one that contradicts another
counts as missing, and so does a row of the dataset that no file mentions.
"""

import argparse
import itertools
import sys
import typing
from collections.abc import Iterator, Sequence

from etils import epath

from pd_jax import config, files, locks
from pd_jax.data.logits import answers as answers_lib
from pd_jax.data.logits.labelling import Teacher, label_dataset
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.text import corpora
from pd_jax.errors import ConfigError, LogitsError
from pd_jax.progress import Progress
from pd_jax.tools import command, options


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 once the store is complete.

    Raises:
      LogitsError: where a row cannot be used, or more rows lack an answer than are allowed to.
    """
    arguments = _parser().parse_args(argv)
    options.check_apart(arguments.records, arguments.output, kind="dataset")
    dataset = Dataset.open(arguments.records)
    form, source = _form(arguments, dataset), _source(arguments)
    named = arguments.array or ", ".join(arguments.input)
    print(
        f"importing {form.kind} of {form.outputs} outputs from {named} for {len(dataset):,} rows of"
        f" {arguments.records}",
        file=sys.stderr,
    )
    with Progress("reading answers", None, unit="rows") as progress:
        found = answers_lib.read_answers(
            source,
            form,
            by_id=arguments.id_column is not None,
            array=arguments.array,
            count=progress.advance,
        )
    missing = _check_missing(dataset, found, arguments)
    teacher = Teacher(
        _fingerprint(source, arguments.array),
        form.task,
        form.labels,
        settings={
            "form": [form.kind, form.column, *form.columns, form.certainty],
            "joined by": [arguments.id_column, source.text, source.pair],
        },
        complete=missing == 0,
    )
    with locks.held(f"{arguments.output}/.lock", f"the logit store in {arguments.output}"):
        made = label_dataset(
            epath.Path(arguments.output),
            dataset,
            teacher=teacher,
            answers=lambda rows: [
                (rows, {"logits": found.of(dataset.gather(rows).example_ids)}),
            ],
            title="writing logits",
        )
    print(
        f"logits of {made.rows - missing:,} of {made.rows:,} rows x {made.outputs} outputs, from"
        f" {found.rows:,} rows with {found.repeated:,} repetitions: {arguments.output}"
    )
    return 0


def _source(arguments: argparse.Namespace) -> config.Source:
    """Returns the files that hold the answers, or name their rows."""
    if arguments.id_column and arguments.pair_column:
        raise ConfigError("--pair-column has no effect with --id-column; leave one of them out")
    return config.Source(
        path=tuple(arguments.input),
        format=arguments.format,
        text=arguments.id_column or arguments.text_column,
        pair=arguments.pair_column,
    )


def _form(arguments: argparse.Namespace, dataset: Dataset) -> answers_lib.Form:
    """Returns the form of the files' columns that the arguments describe.

    Raises:
      ConfigError: where arguments contradict each other or the dataset.
    """
    manifest = dataset.manifest
    task = arguments.task or manifest.task or "classification"
    form = answers_lib.Form(
        task,
        () if task == "regression" else arguments.labels or manifest.labels,
        arguments.kind,
        arguments.values,
        arguments.columns,
        arguments.certainty or 1.0,
    )
    faults = itertools.chain(
        _label_faults(form, dataset),
        _kind_faults(form, arguments.certainty),
        _column_faults(form, arguments.array),
    )
    if fault := next(faults, None):
        raise ConfigError(fault)
    return form


def _label_faults(form: answers_lib.Form, dataset: Dataset) -> Iterator[str]:
    """Yields what is wrong with the task and its labels."""
    manifest, labels = dataset.manifest, form.labels
    if manifest.task not in (None, form.task):
        yield f"{dataset.folder} is for task {manifest.task}; leave --task={form.task} out"
    if form.task != "regression" and not labels:
        yield "the dataset has no labels; name those of the outputs in order with --labels"
    if manifest.labels and sorted(labels) != sorted(manifest.labels):
        yield f"{dataset.folder} has labels {', '.join(manifest.labels)}, not {', '.join(labels)}"
    if len(set(labels)) < len(labels):
        yield "--labels names a label twice"


def _kind_faults(form: answers_lib.Form, certainty: float | None) -> Iterator[str]:
    """Yields what is wrong with the kind of answer and its certainty."""
    named = form.kind == "labels"
    if named != (certainty is not None):
        yield (
            "--kind labels needs --certainty, the probability that the named label is given, and "
            "no other kind takes it"
        )
    if named and (form.column is None or form.task != "classification"):
        yield "--kind labels needs --values, the column of the label, and a classification"
    if form.task == "regression" and form.kind != "logits":
        yield "a regression has neither probabilities nor labels; leave --kind out"
    if certainty is not None and not 0 < certainty < 1:
        yield "--certainty must be between 0 and 1"


def _column_faults(form: answers_lib.Form, array: str | None) -> Iterator[str]:
    """Yields what is wrong with the places of the numbers."""
    if form.columns and len(form.columns) != form.outputs:
        yield (
            f"--columns names {len(form.columns)} columns for {form.outputs} outputs; name one for "
            "each label, in the order of --labels"
        )
    if form.column is not None and form.columns:
        yield "give either --values, a column of all numbers, or --columns, one for each label"
    if array is not None and (form.column is not None or form.columns):
        yield "--array has the numbers; leave --values and --columns out"
    if form.task == "regression" and not (form.column or form.columns or array):
        yield "a regression needs --values, the column of the value"


def _check_missing(
    dataset: Dataset, found: answers_lib.Answers, arguments: argparse.Namespace
) -> int:
    """Returns how many rows lack an answer; raises LogitsError where they are too many."""
    missing = answers_lib.missing_rows(dataset, found)
    if found.disputed:
        print(
            f"{found.disputed:,} examples have several different answers, which are not used"
            f" ({found.dispute})",
            file=sys.stderr,
        )
    if len(missing) == len(dataset):
        raise LogitsError(
            f"no row of {dataset.folder} has an answer; join by what it was built from: the same"
            " texts (--text-column, --pair-column) or its ids (--id-column)"
        )
    if len(missing) > arguments.allow_missing:
        disputed = f" ({found.disputed:,} disputed: {found.dispute})" if found.disputed else ""
        raise LogitsError(
            f"{len(missing):,} of {len(dataset):,} rows have no answer{disputed}, the first of"
            f" them {dataset.place(int(missing[0]))}; complete the files, or leave the rows out of"
            f" training with --allow-missing {len(missing)}"
        )
    return len(missing)


def _fingerprint(source: config.Source, array: str | None) -> str:
    """Returns the digest of what was read, which identifies the teacher."""
    read = [corpora.digest(file) for file in corpora.source_files(source)]
    return files.digest_json(read + ([files.digest_file(epath.Path(array))] if array else []))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.import_logits",
        description="Imports a teacher's outputs that other programs wrote into a logit store.",
    )
    add = parser.add_argument
    add("--input", nargs="+", action="extend", required=True, metavar="FILE", help="or a pattern")
    formats = ("auto", "tsv", "csv", "jsonl", "parquet", "text")
    add("--format", choices=formats, default="auto", help="default: by file ending")
    add("--records", required=True, metavar="FOLDER", help="the dataset that the rows belong to")
    add("--output", required=True, metavar="FOLDER", help="the logit store to write")
    key = parser.add_mutually_exclusive_group()
    key.add_argument("--text-column", default="text", metavar="NAME", help="default: %(default)s")
    key.add_argument("--id-column", metavar="NAME", help="join by id: 32 hexadecimal digits")
    add("--pair-column", metavar="NAME", help="column of second texts")
    kinds = ("logits", "probabilities", "labels")
    add(
        "--kind",
        choices=kinds,
        default="logits",
        help="what the numbers are; probabilities of classes are divided by their sum, which may"
        " be off by 0.005 for each, and by 0.5 at most (default: %(default)s)",
    )
    add("--values", metavar="NAME", help="column of a list, of numbers by label, or of the label")
    names = {"type": options.names, "default": (), "metavar": "A,B"}
    add("--columns", **names, help="columns of the labels, if named otherwise")
    add("--array", metavar="FILE.npy", help="the numbers; --input then only names its rows")
    add("--labels", **names, help="labels in order (default: the dataset's)")
    add("--task", choices=typing.get_args(config.Task), help="teacher's")
    add("--certainty", type=float, metavar="P", help="for --kind labels: the label's probability")
    add(
        "--allow-missing",
        type=options.at_least(0),
        default=0,
        metavar="N",
        help="rows that may lack an answer; they are not trained on (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(command.run(main))
