"""Reads teacher outputs that other programs wrote, row by row, and joins them to a dataset by id.

A row identifies its example by its text (both segments) or by its id, and gives a logit or a
probability for every label, or the name of one label. The first row that cannot be valid is
rejected, naming its file and line.
"""

import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from pd_jax import config, files
from pd_jax.data.logits import probabilities
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.shards import ID_BYTES, example_id
from pd_jax.data.text import corpora, lines, tables
from pd_jax.errors import LogitsError

_NOISE = 1e-3
"""How far apart logits of one example may be and still count as equal: a teacher that reads a text
in batches of other lengths rounds differently. For regression, in units of the values' standard
deviation."""

_ROUNDING = 2.0**-7
"""The same as a share of an example's largest number: a bfloat16 has 8 bits."""

_ROWS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class Form:
    """How files represent a teacher's outputs.

    Attributes:
      task: classification, regression or multilabel.
      labels: their names in the order of the outputs; empty for regression.
      kind: logits, probabilities, or labels (the name of the right one). Probabilities of classes
        may be rounded to two decimals: those that add up to 1 within 0.005 for each class, and
        within 0.5 for however many, are divided by their sum.
      column: has a list in the labels' order, or numbers by label; None: a column for each label.
      columns: the labels' columns, where their names are not the labels.
      certainty: the probability that `kind="labels"` gives the named label.
    """

    task: str
    labels: tuple[str, ...]
    kind: str = "logits"
    column: str | None = None
    columns: tuple[str, ...] = ()
    certainty: float = 1.0

    @property
    def outputs(self) -> int:
        """Numbers in a row."""
        return 1 if self.task == "regression" else len(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns to read."""
        return (self.column,) if self.column is not None else self.columns or self.labels


@dataclasses.dataclass(frozen=True)
class Answers:
    """Logits by example id, each id once, in order of id; what was left out is counted.

    `disputed` counts ids with several different answers, `dispute` tells where the first one is.
    """

    ids: np.ndarray
    logits: Float32[np.ndarray, "answers outputs"]
    rows: int
    repeated: int
    disputed: int
    dispute: str

    def of(self, ids: UInt8[np.ndarray, "rows 16"]) -> Float32[np.ndarray, "rows outputs"]:
        """Returns the logits of these examples, NaN for those without an answer."""
        wanted = _names(ids)
        found = np.full((len(wanted), self.logits.shape[1]), np.nan, np.float32)
        if len(self.ids):
            places = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
            hit = self.ids[places] == wanted
            found[hit] = self.logits[places[hit]]
        return found


def read_answers(
    source: config.Source,
    form: Form,
    *,
    by_id: bool,
    array: epath.PathLike | None = None,
    count: Callable[[int], None] = lambda rows: None,
) -> Answers:
    """Returns the answers in files, as logits by example id.

    Args:
      source: the files; `text` and `pair` name the columns of the texts, or `text` that of the id.
      form: what else is in a row; for an `array`, what its columns mean.
      by_id: whether rows name their examples by id (32 hexadecimal digits) instead of by text.
      array: an `.npy` file of numbers [rows, outputs]; `source` then only names its rows.
      count: called with the number of rows read.

    Raises:
      LogitsError: at the first row that cannot be used, naming file and line.
      SourceError: at the first row that cannot be read.
    """
    numbers = None if array is None else _load(array, form)
    ids, logits, places = [], [], _Places()
    start = 0
    for rows, given in _blocks(source, form if numbers is None else None):
        if numbers is not None:
            given = numbers[start : start + len(rows)].astype(np.float64)
        wrong, why = _unusable(given, form)
        if wrong is not None:
            raise LogitsError(f"{rows[wrong].where} {why}")
        ids.append(np.frombuffer(b"".join(_id(row, by_id=by_id) for row in rows), np.uint8))
        logits.append(_as_logits(given, form))
        places.add(rows)
        start += len(rows)
        count(len(rows))
    if numbers is not None and start != len(numbers):
        raise LogitsError(
            f"{array} has {len(numbers)} rows, but {source.path} names {start}; name each row once"
        )
    named = array or ", ".join(config.several(source.path))
    if not ids:
        raise LogitsError(f"{named} has no rows; give files with a row for each example")
    joined = np.concatenate(logits)
    if form.kind == "logits" and (found := probabilities.taken_for_logits(joined, form.task)):
        how, first = found
        raise LogitsError(
            f"every row of {named} {how}, as probabilities do and logits do not; {first}give --kind"
            " probabilities"
        )
    return _once(np.concatenate(ids).reshape(-1, ID_BYTES), joined, places, form)


def missing_rows(dataset: Dataset, answers: Answers) -> Int64[np.ndarray, " missing"]:
    """Returns the rows of a dataset that have no answer."""
    missing = []
    for first in range(0, len(dataset), _ROWS_AT_ONCE):
        rows = np.arange(first, min(first + _ROWS_AT_ONCE, len(dataset)))
        found = answers.of(dataset.gather(rows).example_ids)
        missing.append(rows[np.isnan(found).all(axis=1)])
    return np.concatenate(missing)


def _blocks(
    source: config.Source, form: Form | None
) -> Iterator[tuple[list[tables.Row], Float64[np.ndarray, "rows outputs"]]]:
    """Yields rows with the numbers that they give; none where `form` is None."""
    found = _rows(source, form)
    while block := list(itertools.islice(found, _ROWS_AT_ONCE)):
        yield [row for row, _ in block], np.array([given for _, given in block], np.float64)


def _rows(source: config.Source, form: Form | None) -> Iterator[tuple[tables.Row, Sequence[float]]]:
    piece = corpora.Piece(source, corpora.source_files(source))
    for table in corpora.tables_of(piece, () if form is None else form.names):
        columned = table if isinstance(table, tables.NamedTable) else None
        for item in table.items():
            row = table.row(item)
            if form is None:
                yield row, ()
            elif columned is None:
                raise LogitsError(
                    f"{row.where}: plain text and TFDS have no columns of numbers;"
                    " give JSONL, CSV, TSV or Parquet"
                )
            else:
                yield row, _numbers(columned.named(item), form, row)


def _numbers(values: Mapping[str, Any], form: Form, row: tables.Row) -> list[float]:
    """Returns the numbers that a row gives, in the order of the labels."""
    for name in form.names:
        if name not in values:
            known = ", ".join(map(repr, values))
            raise LogitsError(
                f"{row.where} has no column {name!r}; its columns are {known}: name one in"
                " --values, or one for each label in --columns"
            )
    if form.column is None:
        return [_number(values[name], row, name) for name in form.names]
    given = values[form.column]
    if form.kind == "labels":
        return _of_label(given, form, row)
    if isinstance(given, str) and given.lstrip()[:1] in ("[", "{"):
        try:
            given = json.loads(given)
        except ValueError as fault:
            raise LogitsError(
                f"{row.where}: {form.column!r} is not JSON ({fault}); correct the row"
            ) from None
    if isinstance(given, list) and given and all(map(_is_scored_label, given)):
        given = {one["label"]: one["score"] for one in given}
    if form.task == "regression" and isinstance(given, Mapping):
        # Its one number has a name that means nothing, as transformers' pipelines give it.
        given = [given["score"]] if _is_scored_label(given) else list(given.values())
    if isinstance(given, Mapping):
        if sorted(given) != sorted(form.labels):
            raise LogitsError(
                f"{row.where} has labels {', '.join(map(repr, given))}, not"
                f" {', '.join(map(repr, form.labels))}; name the labels with --labels"
            )
        return [_number(given[label], row, label) for label in form.labels]
    listed = given if isinstance(given, list | tuple) else [given]
    if len(listed) != form.outputs:
        raise LogitsError(
            f"{row.where} gives {len(listed)} numbers in {form.column!r} for {form.outputs}"
            " outputs; correct the row"
        )
    return [_number(one, row, form.column) for one in listed]


def _is_scored_label(value: Any) -> bool:
    """Returns whether a value is one of those that transformers' pipelines answer a text with."""
    named = isinstance(value, Mapping) and value.keys() == {"label", "score"}
    return named and isinstance(value["label"], str)


def _number(value: Any, row: tables.Row, name: str) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise LogitsError(
            f"{row.where} has {value!r} in {name!r}, which is not a number; correct the row"
        ) from None


def _of_label(given: Any, form: Form, row: tables.Row) -> list[float]:
    """Returns the probabilities of a row that only names its label."""
    name, labels = tables.label_text(given).strip(), list(map(tables.label_text, form.labels))
    if name not in labels:
        known = ", ".join(map(repr, form.labels))
        raise LogitsError(
            f"{row.where}: label {name!r} is not one of {known}; name the labels with --labels"
        )
    rest = (1.0 - form.certainty) / max(1, len(form.labels) - 1)
    return [form.certainty if label == name else rest for label in labels]


def _unusable(given: np.ndarray, form: Form) -> tuple[int | None, str]:
    """Returns the first row whose numbers cannot be valid, and why; or None."""
    checks = [(~np.isfinite(given).all(axis=1), "has a number that is not finite")]
    if form.kind == "probabilities":
        outside = ((given < 0) | (given > 1)).any(axis=1)
        checks.append((outside, "has a probability below 0 or above 1"))
        if form.task == "classification":
            apart = ~probabilities.add_up(given)
            checks.append((apart, "has probabilities that do not sum to 1"))
    for wrong, why in checks:
        if wrong.any():
            row = int(np.argmax(wrong))
            shown = ", ".join(f"{number:.6g}" for number in given[row])
            return row, f"{why} ({shown}); correct the row, or set --kind to what its numbers are"
    return None, ""


def _as_logits(given: np.ndarray, form: Form) -> Float32[np.ndarray, "rows outputs"]:
    """Returns the logits that are given, or give the stated probabilities."""
    if form.kind == "logits":
        return given.astype(np.float32)
    return probabilities.logits(given, form.task)


def _id(row: tables.Row, *, by_id: bool) -> bytes:
    if not by_id:
        return example_id(row.text, row.pair)
    try:
        name = bytes.fromhex(row.text)
    except ValueError:
        name = b""
    if len(name) != ID_BYTES:
        raise LogitsError(
            f"{row.where}: {row.text!r} is not an example id; give {2 * ID_BYTES} hexadecimal"
            " digits, or join by text"
        )
    return name


class _Places:
    """Where each row was, for messages: 12 bytes per row, and the files once."""

    def __init__(self) -> None:
        self._origins: dict[lines.Origin, int] = {}
        self._numbers: list[np.ndarray] = []
        self._files: list[np.ndarray] = []

    def add(self, rows: Sequence[tables.Row]) -> None:
        known = self._origins
        self._files.append(
            np.array([known.setdefault(row.origin, len(known)) for row in rows], np.int32)
        )
        self._numbers.append(np.array([row.number for row in rows], np.int64))

    def name(self, row: int) -> str:
        file = int(np.concatenate(self._files)[row])
        return list(self._origins)[file].name(int(np.concatenate(self._numbers)[row]))


def _differ(
    one: np.ndarray, other: np.ndarray, form: Form, *, deviation: float
) -> Bool[np.ndarray, " rows"]:
    """Returns which answers differ by more than rounding; probabilities are compared as such."""
    if form.task == "regression":
        return np.any(np.abs(one - other) > _NOISE * deviation, axis=1)
    if form.kind != "logits":
        odds = np.exp([one, other])
        one, other = odds if form.task == "classification" else odds / (1 + odds)
    largest = np.maximum(np.abs(one), np.abs(other)).max(axis=1, keepdims=True)
    return np.any(np.abs(one - other) > np.maximum(_NOISE, _ROUNDING * largest), axis=1)


def _once(ids: np.ndarray, logits: np.ndarray, places: _Places, form: Form) -> Answers:
    """Returns each id's first answer; ids with several different answers are left out."""
    deviation = float(logits.std(dtype=np.float64))
    names = _names(ids)
    order = np.argsort(names, kind="stable")
    names, logits = names[order], logits[order]
    first = np.ones(len(names), bool)
    first[1:] = names[1:] != names[:-1]
    group = np.cumsum(first) - 1
    again = np.flatnonzero(~first)
    differs = np.zeros(len(names), bool)
    before = logits[np.flatnonzero(first)[group[again]]]
    differs[again] = _differ(logits[again], before, form, deviation=deviation)
    disputed = np.zeros(int(group[-1]) + 1, bool)
    disputed[group[differs]] = True
    dispute = ""
    if differs.any():
        # The dispute that a reader of the files meets first.
        later = int(np.flatnonzero(differs)[np.argmin(order[differs])])
        earlier = int(np.flatnonzero(first)[group[later]])
        one, other = (places.name(int(order[at])) for at in (earlier, later))
        dispute = f"{other} contradicts {one}"
    kept = first & ~disputed[group]
    return Answers(
        names[kept],
        logits[kept],
        rows=len(names),
        repeated=int((~first & ~disputed[group]).sum()),
        disputed=int(disputed.sum()),
        dispute=dispute,
    )


def _names(ids: UInt8[np.ndarray, "rows 16"]) -> np.ndarray:
    # Byte strings of one length compare as their memory does: padding zeros change nothing.
    return np.ascontiguousarray(ids).view(f"S{ID_BYTES}").reshape(-1)


def _load(path: epath.PathLike, form: Form) -> np.ndarray:
    """Returns the numbers of an `.npy` file, memory-mapped where it is local."""
    path = epath.Path(path)
    if not path.exists():
        raise LogitsError(f"{path} does not exist; check the path")
    try:
        if files.is_remote(path):
            numbers = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        else:
            numbers = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as fault:
        raise LogitsError(f"{path} is not an .npy file of numbers ({fault})") from None
    if numbers.ndim == 1 and form.outputs == 1:
        numbers = numbers[:, None]
    if numbers.dtype.kind not in "fiu" or numbers.shape[1:] != (form.outputs,):
        raise LogitsError(
            f"{path} contains {numbers.dtype} {numbers.shape}, not numbers [rows, {form.outputs}]"
        )
    return numbers
