"""The records of a logit store: what a row holds, where it is on disk, and how it is written.

A record is a tf.train.Example of `example_id` and the store's fields: real numbers as a float list,
whole numbers as little-endian int32 in a bytes list. All records of a store have the same size.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import pydantic
from etils import epath
from jaxtyping import Bool, Shaped, UInt8

from pd_jax import files
from pd_jax.data.records import manifest
from pd_jax.data.records.shards import ID_BYTES, replaced
from pd_jax.data.wire import example, tfrecord
from pd_jax.errors import LogitsError

WRITE_ROWS = 1 << 16
_WRITE_BYTES = 1 << 28
LARGEST_ROW = 1 << 24

Values = Mapping[str, Shaped[np.ndarray, "rows ..."]]
"""Field -> what it holds for each of some rows."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a row, float32 or int32."""

    name: str
    shape: tuple[Annotated[int, pydantic.Field(ge=1, le=LARGEST_ROW)], ...]
    dtype: Annotated[str, pydantic.Field(pattern="^(float32|int32)$")] = "float32"

    @property
    def size(self) -> int:
        """Numbers in the array."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class LogitsShard:
    """One complete shard of a store."""

    file: str
    rows: manifest.Count
    missing: manifest.Count
    """Rows for which the teacher gave no answer."""
    bytes: manifest.Count
    digest: str


class Layout:
    """Where everything is in a record with these fields."""

    def __init__(self, fields: Sequence[Field]):
        self.fields = tuple(fields)
        blank: dict[str, example.Values] = {"example_id": bytes(ID_BYTES)}
        for field in fields:
            zeros = np.zeros(field.size, field.dtype)
            blank[field.name] = zeros if field.dtype == "float32" else zeros.tobytes()
        encoded = example.encode(blank)
        self.record = np.frombuffer(tfrecord.frame(encoded.payload, 0), np.uint8)
        self.size = len(self.record)
        self.payload = slice(tfrecord.HEADER_BYTES, self.size - tfrecord.FOOTER_BYTES)
        self.crc = slice(self.size - tfrecord.FOOTER_BYTES, self.size)
        self.id = _slice(encoded.spans["example_id"])
        self.places = {field.name: _slice(encoded.spans[field.name]) for field in fields}
        self.fixed = np.ones(self.size, bool)
        for part in (self.id, self.crc, *self.places.values()):
            self.fixed[part] = False

    def checksums(self, records: UInt8[np.ndarray, "rows bytes"]) -> UInt8[np.ndarray, "rows 4"]:
        """Returns the masked CRC-32C of each record's payload, as stored on disk."""
        payloads = records[:, self.payload]
        width = payloads.shape[1]
        data = payloads.tobytes()
        starts = range(0, len(data), width)
        crcs = [tfrecord.mask(tfrecord.crc32c(data[at : at + width])) for at in starts]
        return np.array(crcs, "<u4").view(np.uint8).reshape(len(records), 4)

    def encode(self, ids: UInt8[np.ndarray, "rows 16"], values: Values) -> np.ndarray:
        """Returns the records of these rows, uint8 [rows, size]."""
        records = np.tile(self.record, (len(ids), 1))
        records[:, self.id] = ids
        for field in self.fields:
            flat = np.ascontiguousarray(values[field.name].reshape(len(ids), -1))
            stored = flat.astype(np.dtype(field.dtype).newbyteorder("<"), copy=False)
            records[:, self.places[field.name]] = stored.view(np.uint8)
        records[:, self.crc] = self.checksums(records)
        return records

    def decode(self, records: UInt8[np.ndarray, "rows bytes"]) -> dict[str, np.ndarray]:
        """Returns field -> array [rows, *shape]."""
        found = {}
        for field in self.fields:
            data = np.ascontiguousarray(records[:, self.places[field.name]])
            numbers = data.view(np.dtype(field.dtype).newbyteorder("<"))
            shape = (len(records), *field.shape)
            found[field.name] = numbers.astype(field.dtype, copy=False).reshape(shape)
        return found


def unanswered(values: Values) -> Bool[np.ndarray, " rows"]:
    """Returns which rows have no answer: all of their real numbers are NaN."""
    return _every_row(values, lambda flat: np.isnan(flat).all(axis=1))


def endless(values: Values) -> Bool[np.ndarray, " rows"]:
    """Returns which rows hold a real number that is not finite."""
    return ~_every_row(values, lambda flat: np.isfinite(flat).all(axis=1))


def no_answer(rows: int, fields: Sequence[Field]) -> dict[str, np.ndarray]:
    """Returns what a store holds for rows without an answer from the teacher."""
    return {
        field.name: np.full(
            (rows, *field.shape), np.nan if field.dtype == "float32" else 0, field.dtype
        )
        for field in fields
    }


def write_logits_shard(
    folder: epath.PathLike,
    name: str,
    *,
    index: int,
    of: int,
    ids: UInt8[np.ndarray, "rows 16"],
    values: Values,
    fields: Sequence[Field],
    complete: bool = True,
) -> LogitsShard:
    """Writes and describes shard `index` of `of`; unless `complete`, rows may lack answers.

    Raises:
      LogitsError: where a number is not finite (naming its row), or the arrays do not fit.
    """
    path = epath.Path(folder) / manifest.shard_file(name, index, of)
    path.parent.mkdir(parents=True, exist_ok=True)
    for field in fields:
        found = values[field.name]
        if found.shape != (len(ids), *field.shape) or ids.shape[1:] != (ID_BYTES,):
            raise LogitsError(
                f"{path}: ids {ids.shape} and {field.name} {found.shape} do not match row for row"
            )
    silent = np.zeros(len(ids), bool) if complete else unanswered(values)
    wrong = endless(values) & ~silent
    if wrong.any():
        row = int(np.argmax(wrong))
        raise LogitsError(f"{path} row {row} has a logit that is not finite; fix the teacher")
    layout = Layout(fields)
    at_once = max(1, min(WRITE_ROWS, _WRITE_BYTES // layout.size))
    with replaced(path) as stream:
        for at in range(0, len(ids), at_once):
            part = slice(at, at + at_once)
            block = {field.name: values[field.name][part] for field in fields}
            stream.write(layout.encode(ids[part], block).tobytes())
    size = len(ids) * layout.size
    return LogitsShard(path.name, len(ids), int(silent.sum()), size, files.digest_file(path))


def _every_row(values: Values, holds) -> np.ndarray:
    parts = [
        holds(array.reshape(len(array), math.prod(array.shape[1:])))  # -1 fails without rows
        for array in values.values()
        if array.dtype.kind == "f"
    ]
    return np.logical_and.reduce(parts)


def _slice(span: example.Span) -> slice:
    start = tfrecord.HEADER_BYTES + span.start
    return slice(start, start + span.size)
