"""A cache of decoded rows in memory, so that later epochs neither check nor decode them again.

A small dataset is read many times over, and finding, checking and decoding a row costs several
times as much as copying it.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from pd_jax.data.wire import tfrecord


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Rows of a dataset in the requested order, their tokens concatenated without padding."""

    tokens: Int32[np.ndarray, " tokens"]
    lengths: Int32[np.ndarray, " rows"]
    segments: UInt8[np.ndarray, " tokens"] | None
    """None: all 0."""
    labels: Int32[np.ndarray, " rows"] | Float32[np.ndarray, "rows ..."] | None
    """Class numbers, regression values, or multi-hot rows."""
    next_sentence: Int32[np.ndarray, " rows"] | None
    example_ids: UInt8[np.ndarray, "rows 16"]


_TOKEN_FEATURES = ("tokens", "segments")
_ROW_FEATURES = ("labels", "next_sentence", "example_ids")


class RowCache:
    """Rows of a dataset in memory, read when first requested. Safe to use from several threads."""

    def __init__(
        self,
        lengths: Int32[np.ndarray, " rows"],
        read: Callable[[Int64[np.ndarray, " rows"]], Iterable[tuple[np.ndarray, Gathered]]],
    ):
        """Makes an empty cache for rows of these lengths in tokens.

        `read` returns row numbers and the rows themselves, in parts: at least those requested.
        """
        self._read = read
        self._lengths = lengths
        ends = np.cumsum(lengths, dtype=np.int64)
        self._starts, self._tokens = ends - lengths, int(ends[-1])
        self._here = np.zeros(len(lengths), bool)
        self._values: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def gather(self, rows: Int64[np.ndarray, " rows"]) -> Gathered:
        """Returns these rows, in this order; raises what `read` raises for rows not yet here."""
        if not self._here[rows].all():
            with self._lock:
                for part in self._read(rows[~self._here[rows]]):
                    self._put(*part)
        lengths = self._lengths[rows]
        places = tfrecord.spans(self._starts[rows], lengths)
        values = self._values
        return Gathered(
            tokens=values["tokens"][places],
            lengths=lengths,
            segments=values["segments"][places] if "segments" in values else None,
            labels=values["labels"][rows] if "labels" in values else None,
            next_sentence=values["next_sentence"][rows] if "next_sentence" in values else None,
            example_ids=values["example_ids"][rows],
        )

    def _put(self, rows: np.ndarray, found: Gathered) -> None:
        places: np.ndarray | slice = tfrecord.spans(self._starts[rows], found.lengths)
        where: np.ndarray | slice = rows
        if (np.diff(rows) == 1).all():  # then one contiguous copy will do
            where = slice(int(rows[0]), int(rows[-1]) + 1)
            places = slice(int(places[0]), int(places[-1]) + 1)
        for names, size, at in (
            (_TOKEN_FEATURES, self._tokens, places),
            (_ROW_FEATURES, len(self._lengths), where),
        ):
            for name in names:
                values = getattr(found, name)
                if values is None:
                    continue
                if name not in self._values:
                    self._values[name] = np.empty((size, *values.shape[1:]), values.dtype)
                self._values[name][at] = values
        # Last, since other threads read rows marked as here without taking the lock.
        self._here[rows] = True
