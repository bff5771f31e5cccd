"""Labels texts with a trained model: writes a line of labels and probabilities for each text.

python -m pd_jax.tools.predict --model FOLDER --input reviews.tsv --text sentence --output out.jsonl
cat lines.txt | python -m pd_jax.tools.predict --model FOLDER > out.jsonl

Texts are read in windows, batched by length within a window, and written in the order they came:
memory does not grow with the input. A line of output gives the number of its line in the input,
and its file where the input is a pattern of several.
"""

import argparse
import contextlib
import json
import pathlib
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np
from etils import epath
from scipy import special

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.allocation import keep_memory
from pd_jax.compilation import use_cache
from pd_jax.config import Source
from pd_jax.data.text import corpora, tables
from pd_jax.errors import ConfigError
from pd_jax.evaluation.scores import softmax
from pd_jax.models.weights import hf
from pd_jax.progress import Progress, warn
from pd_jax.stages.classifier import beyond_training, check_positions, load_classifier
from pd_jax.stages.predict import make_predict_rows
from pd_jax.tools import command, options

_STANDARD_INPUT = "/dev/stdin"
_DIGITS = 8
_LINE_FORMATS = ("text", "tsv", "csv", "jsonl")
_READ_ONCE = ("text", "csv", "jsonl")
"""The formats that can come through a pipe, of which nothing can be read again."""
_COUNTED_BYTES = 1 << 30


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after a line was written for every text, except for rows to be left out."""
    arguments = _parser().parse_args(argv)
    options.check_output(arguments.output)
    source, found = _input(arguments)
    options.check_unread(arguments.output, [arguments.model, *(file.path for file in found)])
    keep_memory()
    use_cache()
    model, tokenizer = load_classifier(arguments.model)
    check_positions(arguments.model, model.config.positions, arguments.max_length or 0)
    where = arguments.output or "standard output"
    print(f"labelling {arguments.input} with {arguments.model}", file=sys.stderr)
    with (
        _output(arguments.output) as stream,
        Progress("labelling", _count(found), unit="texts") as progress,
    ):
        done, cut, longest = 0, 0, 0
        writer = _WRITERS[arguments.format]
        header, lines = writer(model, with_file=len(found) > 1, with_logits=arguments.logits)
        stream.write(header)
        predict = make_predict_rows(
            model,
            tokenizer,
            batch=arguments.batch,
            max_length=arguments.max_length,
            dtype=arguments.dtype,
        )
        for window in predict(corpora.rows(source)):
            stream.writelines(f"{line}\n" for line in lines(window.rows, window.logits))
            stream.flush()
            done, cut = done + len(window.rows), cut + window.read.cut
            longest = max(longest, window.read.longest)
            progress.set(done)
    if told := beyond_training(arguments.model, longest):
        warn(told)
    also = f", {cut} of them cut at the last token that fits" if cut else ""
    print(f"labelled {done} texts{also}: {where}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.predict",
        description="Label texts with a fine-tuned or distilled model.",
    )
    parser.add_argument("--model", required=True, help="a Hugging Face folder with a classifier")
    parser.add_argument(
        "--input",
        default="-",
        help="a .txt, .tsv, .csv, .jsonl (also .gz) or .parquet file, or a pattern of several; "
        "default: standard input",
    )
    parser.add_argument(
        "--input-format",
        choices=typing.get_args(config_lib.TextFormat),
        default="auto",
        help="default: by file ending; of standard input: text",
    )
    parser.add_argument("--text", default="text", help="the column or key of the text")
    parser.add_argument("--pair", help="the column or key of the second text, where there is one")
    options.add_skip_broken_rows(parser)
    parser.add_argument("--output", help="the file to write; default: standard output")
    parser.add_argument("--format", choices=sorted(_WRITERS), default="jsonl", help="of the output")
    parser.add_argument("--logits", action="store_true", help="write the logits too")
    parser.add_argument(
        "--max-length",
        type=options.at_least(8),
        help="cut texts to this many tokens (8 or more; default: as the rows of its training)",
    )
    parser.add_argument(
        "--batch", type=options.at_least(1), default=64, help="texts at once (default: 64)"
    )
    parser.add_argument("--dtype", choices=typing.get_args(config_lib.Precision), default="float32")
    return parser


# ---- in ---------------------------------------------------------------------------------------


def _input(arguments: argparse.Namespace) -> tuple[Source, tuple[corpora.SourceFile, ...]]:
    """Returns what is to be read, and its files.

    Raises:
      ConfigError: where a pipe has a format that is not read in one go.
    """
    path, form = arguments.input, arguments.input_format
    if path == "-":
        path, form = _STANDARD_INPUT, "text" if form == "auto" else form
    source = Source(
        path=path,
        format=form,
        text=arguments.text,
        pair=arguments.pair,
        broken_rows="skip" if arguments.skip_broken_rows else "refuse",
    )
    found = corpora.source_files(source)
    for file in found:
        if _is_pipe(file) and file.format not in _READ_ONCE:
            raise ConfigError(
                f"--input-format={file.format} cannot be read from a pipe or standard input; name"
                f" a file with --input, or give {' or '.join(_READ_ONCE)}"
            )
    return source, found


def _is_pipe(file: corpora.SourceFile) -> bool:
    """Returns whether a file may be readable only once, as standard input is."""
    return file.path == _STANDARD_INPUT or pathlib.Path(file.path).is_fifo()


def _count(found: Sequence[corpora.SourceFile]) -> int | None:
    """Returns roughly how many texts there are: the lines, where counting them is quick."""
    if any(file.zipped or file.format not in _LINE_FORMATS or _is_pipe(file) for file in found):
        return None
    if sum(file.size for file in found) > _COUNTED_BYTES:
        return None
    count = 0
    for file in found:
        with epath.Path(file.path).open("rb") as stream:
            while chunk := stream.read(1 << 20):
                count += chunk.count(b"\n")
        count -= file.format in ("tsv", "csv")
    return max(count, 1)


# ---- out --------------------------------------------------------------------------------------

_Lines = Callable[[list[tables.Row], np.ndarray], Iterator[str]]


def _place(row: tables.Row, *, with_file: bool) -> dict[str, Any]:
    """Returns where a row was read: its line, and before it its file if wanted."""
    file = {"file": row.where.rpartition(":")[0]} if with_file else {}
    return {**file, "line": row.number}


def _probabilities(model: hf.SavedModel, logits: np.ndarray) -> list[list[float]]:
    """Returns each text's probabilities, label by label; of a regression the values themselves."""
    numbers = logits.astype(np.float64)
    if model.task == "regression":
        return numbers.tolist()
    if model.task == "multilabel":
        return np.round(special.expit(numbers), _DIGITS).tolist()
    return np.round(softmax(numbers), _DIGITS).tolist()


def _labels(model: hf.SavedModel, logits: np.ndarray) -> list[Any]:
    """Returns each text's label, or the list of its labels where it may have several."""
    if model.task == "multilabel":
        return [[model.labels[index] for index in np.flatnonzero(row > 0)] for row in logits]
    return [model.labels[index] for index in logits.argmax(axis=1)]


def _jsonl(model: hf.SavedModel, *, with_file: bool, with_logits: bool) -> tuple[str, _Lines]:
    def lines(rows: list[tables.Row], logits: np.ndarray) -> Iterator[str]:
        found = zip(
            rows,
            _labels(model, logits),
            _probabilities(model, logits),
            logits.tolist(),
            strict=True,
        )
        for row, label, shares, numbers in found:
            line = _place(row, with_file=with_file)
            if model.task == "regression":
                line["value"] = shares[0]
            else:
                line["label"] = label
                line["probabilities"] = dict(zip(model.labels, shares, strict=True))
            if with_logits:
                line["logits"] = numbers
            yield json.dumps(line, ensure_ascii=False)

    return "", lines


def _tsv(model: hf.SavedModel, *, with_file: bool, with_logits: bool) -> tuple[str, _Lines]:
    scored = model.task != "regression"
    header = [
        *(["file"] if with_file else []),
        "line",
        *(["label", *(f"p({name})" for name in model.labels)] if scored else ["value"]),
    ]
    header += [f"logit({name})" for name in model.labels] if with_logits else []

    def lines(rows: list[tables.Row], logits: np.ndarray) -> Iterator[str]:
        found = zip(
            rows,
            _labels(model, logits),
            _probabilities(model, logits),
            logits.tolist(),
            strict=True,
        )
        for row, label, shares, numbers in found:
            place = map(str, _place(row, with_file=with_file).values())
            named = label if isinstance(label, str) else tables.LABEL_SEPARATOR.join(label)
            cells = [*place, *([named] if scored else []), *map(repr, shares)]
            yield "\t".join(cells + ([repr(number) for number in numbers] if with_logits else []))

    return "\t".join(header) + "\n", lines


_WRITERS: dict[str, Callable[..., tuple[str, _Lines]]] = {"jsonl": _jsonl, "tsv": _tsv}


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[str]]:
    """Yields the stream to write to; a file appears under its name once it is complete."""
    if path is None:
        yield sys.stdout
        return
    with files.replaced(path, "w") as stream:
        yield stream


if __name__ == "__main__":
    sys.exit(command.run(main))
