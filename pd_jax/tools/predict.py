"""Labels texts with a trained model: texts in, one line of labels and probabilities a text out.

python -m pd_jax.tools.predict --model FOLDER --input reviews.tsv --text sentence --output out.jsonl
cat lines.txt | python -m pd_jax.tools.predict --model FOLDER > out.jsonl

Texts are read in windows, batched by length within a window, and written in the order they came:
memory does not grow with the input. A line of output says which line of the input it is of.
"""

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import jax
import numpy as np
from etils import epath

from pd_jax import config as config_lib
from pd_jax.compilation import use_cache
from pd_jax.config import Source
from pd_jax.data import tables, text
from pd_jax.data.layouts import Passage, frame
from pd_jax.data.tokenizers import Tokenizer, load_tokenizer
from pd_jax.errors import SourceError, WeightsError
from pd_jax.models.weights import hf
from pd_jax.parallel.mesh import make_mesh
from pd_jax.parallel.sharding import put_batch
from pd_jax.progress import Progress
from pd_jax.stages.label import make_predict
from pd_jax.tools import command

_STANDARD_INPUT = "/dev/stdin"
_WINDOW_BATCHES = 16
_LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Padded lengths: each is compiled once, and costs little more than the texts in it need."""

_DIGITS = 8
_LINE_FORMATS = ("text", "tsv", "csv", "jsonl")
_COUNTED_BYTES = 1 << 30

_Batch = dict[str, np.ndarray]


class _Window(NamedTuple):
    """Rows in the order they came, and the batches they are in: (numbers in the window, logits)."""

    rows: list[tables.Row]
    parts: list[tuple[np.ndarray, jax.Array]]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after every text got its line."""
    arguments = _parser().parse_args(argv)
    use_cache()
    model = _as_classifier(hf.load(arguments.model), arguments.model)
    tokenizer = load_tokenizer(arguments.model)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise WeightsError(
            f"{arguments.model} holds a tokenizer of {tokenizer.vocab_size} entries and a model of "
            f"{model.config.vocab_size}; take both from one source"
        )
    predict = _make_predict(model, tokenizer, arguments)
    where = arguments.output or "standard output"
    print(f"labelling {arguments.input} with {arguments.model}", file=sys.stderr)
    total = None if arguments.input == "-" else _count(arguments.input)
    with (
        _output(arguments.output) as stream,
        Progress("labelling", total, unit="texts") as progress,
    ):
        done = 0
        header, lines = _WRITERS[arguments.format](model, with_logits=arguments.logits)
        stream.write(header)
        for window in _ahead(map(predict, _windows(_rows(arguments), arguments.batch))):
            stream.writelines(f"{line}\n" for line in lines(window.rows, _in_order(window)))
            stream.flush()
            done += len(window.rows)
            progress.set(done)
    print(f"labelled {done} texts: {where}", file=sys.stderr)
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
        help="a .txt, .tsv, .csv, .jsonl or .parquet file (also .gz); default: standard input",
    )
    parser.add_argument(
        "--input-format", choices=("text", "jsonl"), default="text", help="of standard input"
    )
    parser.add_argument("--text", default="text", help="the column or key of the text")
    parser.add_argument("--pair", help="the column or key of the second text, where there is one")
    parser.add_argument("--output", help="the file to write; default: standard output")
    parser.add_argument("--format", choices=sorted(_WRITERS), default="jsonl", help="of the output")
    parser.add_argument("--logits", action="store_true", help="write the logits too")
    parser.add_argument(
        "--max-length", type=_at_least(8), help="cut texts to so many tokens (8 or more)"
    )
    parser.add_argument(
        "--batch", type=_at_least(1), default=64, help="texts at once (default: 64)"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    return parser


def _at_least(smallest: int) -> Callable[[str], int]:
    """Returns an argparse type for whole numbers from `smallest` on."""

    def number(given: str) -> int:
        if not given.isdecimal() or int(given) < smallest:
            raise argparse.ArgumentTypeError(f"{given!r} is no whole number from {smallest} on")
        return int(given)

    return number


# ---- in ---------------------------------------------------------------------------------------


def _rows(arguments: argparse.Namespace) -> Iterator[tables.Row]:
    """Yields the rows of the input, one after the other."""
    columns = {"text": arguments.text, "pair": arguments.pair}
    if arguments.input != "-":
        return text.rows(Source(path=arguments.input, **columns))
    source = Source(path=_STANDARD_INPUT, format=arguments.input_format, **columns)
    kind = tables.Plain if arguments.input_format == "text" else tables.Jsonl
    table = kind(_STANDARD_INPUT, source, zipped=False, begin=0, end=None)
    return map(table.row, table.items())


def _count(path: str) -> int | None:
    """Returns about how many texts there are: lines, where counting them takes no time."""
    found = text.source_files(Source(path=path))
    if any(file.zipped or file.format not in _LINE_FORMATS for file in found):
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


def _windows(rows: Iterator[tables.Row], batch: int) -> Iterator[list[tables.Row]]:
    """Yields lists of rows, as long as still fit in memory many times over."""
    while window := list(itertools.islice(rows, batch * _WINDOW_BATCHES)):
        yield window


def _as_classifier(model: hf.SavedModel, where: str) -> hf.SavedModel:
    """Returns the model with the task and labels that transformers would give it by default."""
    if "classifier" not in model.params:
        raise WeightsError(f"{where} has no classifier; name a fine-tuned or distilled model")
    outputs = model.params["classifier"]["bias"].shape[0]
    task = model.task or ("regression" if outputs == 1 else "classification")
    labels = model.labels or tuple(f"LABEL_{index}" for index in range(outputs))
    return hf.SavedModel(model.config, model.params, labels, task, model.fingerprint)


# ---- through the model ------------------------------------------------------------------------


def _make_predict(
    model: hf.SavedModel, tokenizer: Tokenizer, arguments: argparse.Namespace
) -> Callable[[list[tables.Row]], _Window]:
    """Returns rows -> a window whose logits the devices are still computing."""
    mesh = make_mesh(config_lib.Mesh())
    run = make_predict(model, mesh, dtype=arguments.dtype)
    longest = min(arguments.max_length or model.config.positions, model.config.positions)
    lengths = (*(length for length in _LENGTHS if length < longest), longest)
    batch = -(-arguments.batch // mesh.size) * mesh.size

    def predict(rows: list[tables.Row]) -> _Window:
        framed = _framed(rows, tokenizer, longest)
        order = np.argsort([len(ids) for ids, _ in framed], kind="stable")
        parts = []
        for first in range(0, len(order), batch):
            numbers = order[first : first + batch]
            padded = _pad([framed[number] for number in numbers], batch, lengths, tokenizer.pad_id)
            parts.append((numbers, run(put_batch(padded, mesh))))
        return _Window(rows, parts)

    return predict


def _framed(
    rows: list[tables.Row], tokenizer: Tokenizer, longest: int
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Returns ids and segments as the model was trained on them, cut to `longest` tokens."""
    firsts = tokenizer.encode([row.text for row in rows], limit=longest)
    seconds = [None] * len(rows)
    if rows[0].pair is not None:
        seconds = tokenizer.encode([row.pair or "" for row in rows], limit=longest)
    return [
        frame(Passage(first, second), tokenizer, max_length=longest)
        for first, second in zip(firsts, seconds, strict=True)
    ]


def _pad(
    framed: list[tuple[np.ndarray, np.ndarray | None]],
    batch: int,
    lengths: Sequence[int],
    pad_id: int,
) -> _Batch:
    """Returns a batch of a fixed number of rows, as long as the shortest of `lengths` that fits."""
    longest = max(len(ids) for ids, _ in framed)
    length = next(length for length in lengths if length >= longest)
    ids = np.full((batch, length), pad_id, np.int32)
    segments, mask = np.zeros_like(ids), np.zeros_like(ids)
    for row, (tokens, kinds) in enumerate(framed):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        if kinds is not None:
            segments[row, : len(tokens)] = kinds
    return {"input_ids": ids, "segment_ids": segments, "input_mask": mask}


def _ahead(windows: Iterator[_Window]) -> Iterator[_Window]:
    """Yields each window after the next one was sent off, so that devices and host overlap."""
    before = next(windows, None)
    for window in windows:
        if before is not None:
            yield before
        before = window
    if before is not None:
        yield before


def _in_order(window: _Window) -> np.ndarray:
    """Returns the window's logits, row for row."""
    outputs = window.parts[0][1].shape[1]
    logits = np.empty((len(window.rows), outputs), np.float32)
    for numbers, found in window.parts:
        logits[numbers] = np.asarray(found)[: len(numbers)]
    return logits


# ---- out --------------------------------------------------------------------------------------

_Lines = Callable[[list[tables.Row], np.ndarray], Iterator[str]]


def _probabilities(model: hf.SavedModel, logits: np.ndarray) -> list[list[float]]:
    """Returns each text's probabilities, label by label; of a regression the values themselves."""
    numbers = logits.astype(np.float64)
    if model.task == "regression":
        return numbers.tolist()
    if model.task == "multilabel":
        return np.round(1.0 / (1.0 + np.exp(-numbers)), _DIGITS).tolist()
    shares = np.exp(numbers - numbers.max(axis=1, keepdims=True))
    return np.round(shares / shares.sum(axis=1, keepdims=True), _DIGITS).tolist()


def _labels(model: hf.SavedModel, logits: np.ndarray) -> list[Any]:
    """Returns each text's label, or the list of its labels where it may have several."""
    if model.task == "multilabel":
        return [[model.labels[index] for index in np.flatnonzero(row > 0)] for row in logits]
    return [model.labels[index] for index in logits.argmax(axis=1)]


def _jsonl(model: hf.SavedModel, *, with_logits: bool) -> tuple[str, _Lines]:
    def lines(rows: list[tables.Row], logits: np.ndarray) -> Iterator[str]:
        found = zip(
            rows,
            _labels(model, logits),
            _probabilities(model, logits),
            logits.tolist(),
            strict=True,
        )
        for row, label, shares, numbers in found:
            line: dict[str, Any] = {"line": row.number}
            if model.task == "regression":
                line["value"] = shares[0]
            else:
                line["label"] = label
                line["probabilities"] = dict(zip(model.labels, shares, strict=True))
            if with_logits:
                line["logits"] = numbers
            yield json.dumps(line, ensure_ascii=False)

    return "", lines


def _tsv(model: hf.SavedModel, *, with_logits: bool) -> tuple[str, _Lines]:
    scored = model.task != "regression"
    header = [
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
            named = label if isinstance(label, str) else tables.LABEL_SEPARATOR.join(label)
            cells = [str(row.number), *([named] if scored else []), *map(repr, shares)]
            yield "\t".join(cells + ([repr(number) for number in numbers] if with_logits else []))

    return "\t".join(header) + "\n", lines


_WRITERS: dict[str, Callable[..., tuple[str, _Lines]]] = {"jsonl": _jsonl, "tsv": _tsv}


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[str]]:
    """Gives the stream to write; a file appears under its name when all is written."""
    if path is None:
        yield sys.stdout
        return
    target = epath.Path(path)
    if not target.parent.exists():
        raise SourceError(f"{target.parent} does not exist; make the folder of --output first")
    partial = target.parent / f".{target.name}.partial"
    try:
        with partial.open("w") as stream:
            yield stream
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(command.run(main))
