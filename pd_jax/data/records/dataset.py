"""Reads rows of a dataset by number, checking and decoding them a block at a time.

A row is found through its shard's offset index and compared with the CRC-32C stored there. The
token ids of all requested rows are decoded together: nothing is done per token in Python. Local
shards are memory-mapped; remote ones (`gs://`) are read in blocks (`wire/remote.py`).

A small dataset is kept in memory (`row_cache.py`). The first request for a row of a shard reads the
complete shard and compares it with its digest in the manifest, which takes a third of the time of
reading its rows one by one.
"""

import dataclasses
import io
import mmap
import weakref
from collections.abc import Iterator
from functools import cached_property
from typing import Self

import numpy as np
from etils import epath
from jaxtyping import Int32, Int64, Shaped, UInt8

from pd_jax import files
from pd_jax.data.records import manifest
from pd_jax.data.records.manifest import Manifest, ShardInfo
from pd_jax.data.records.row_cache import Gathered, RowCache
from pd_jax.data.records.shards import ID_BYTES, INDEX
from pd_jax.data.wire import example, remote, tfrecord
from pd_jax.errors import RecordsError

_INDEX_BLOCK = 1 << 20
_INDEXES: weakref.WeakValueDictionary[str, np.ndarray] = weakref.WeakValueDictionary()
"""Indexes in memory, by digest: a dataset that is opened several times shares one."""
_CACHE_BYTES = 1 << 28
"""Datasets whose rows take no more than this are kept in memory."""
_ROWS_AT_ONCE = 1 << 12
"""Rows of a complete shard that are decoded together: their memory fits a core's cache."""
_MUCH_CUT = 0.01
"""The share of tokens from which it is said that they are cut."""


@dataclasses.dataclass(frozen=True)
class _Block:
    """Checked payloads of some rows, concatenated, with the start and index entry of each."""

    data: UInt8[np.ndarray, " bytes"]
    starts: Int64[np.ndarray, " rows"]
    entries: Shaped[np.ndarray, " rows"]


class Dataset:
    """An open dataset folder. Safe to use from several threads."""

    def __init__(self, folder: epath.Path, manifest: Manifest, indexes: list[np.ndarray]):
        self.folder = folder
        self.manifest = manifest
        self._indexes = indexes
        self._first_rows = np.cumsum([0, *(shard.rows for shard in manifest.shards)])
        self._contents: dict[int, mmap.mmap | remote.RemoteFile] = {}
        self._blocks = remote.Blocks()
        self._damaged: set[int] = set()

    @classmethod
    def open(cls, folder: epath.PathLike) -> Self:
        """Returns the dataset in `folder` after checking its manifest, shard sizes, and indexes.

        Raises:
          RecordsError: where anything is missing, cut short or edited, or belongs to another
            dataset; also as `remote.enough_files`.
        """
        folder = epath.Path(folder)
        with remote.enough_files(folder):
            found = manifest.read(folder)
            indexes = remote.each(lambda shard: _open_shard(folder, shard), found.shards, folder)
        return cls(folder, found, indexes)

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def fingerprint(self) -> str:
        """Digest of what the dataset holds."""
        return self.manifest.fingerprint

    def cut_at(self, length: int) -> str:
        """Returns a sentence on the rows that have more than `length` tokens; empty where that is
        less than a hundredth of all tokens.
        """
        longer = self.lengths[self.lengths > length].astype(np.int64)
        share = (longer - length).sum() / max(1, self.lengths.sum(dtype=np.int64))
        if share < _MUCH_CUT:
            return ""
        return (
            f"{len(longer):,} rows of {self.folder} are longer than {length} tokens and are cut "
            f"there, {share:.1%} of all tokens"
        )

    @cached_property
    def lengths(self) -> Int32[np.ndarray, " rows"]:
        """Tokens of each row, special tokens included."""
        return np.concatenate([index["tokens"] for index in self._indexes]).astype(np.int32)

    @cached_property
    def _cache(self) -> RowCache | None:
        """The rows in memory; None where they do not fit."""
        bytes_a_token = np.int32().itemsize + self.manifest.pairs
        labels = len(self.manifest.labels) if self.manifest.task == "multilabel" else 1
        bytes_a_row = ID_BYTES + np.int32().itemsize * labels
        size = bytes_a_token * int(self.lengths.sum()) + bytes_a_row * len(self)
        return RowCache(self.lengths, self._kept) if size <= _CACHE_BYTES else None

    @property
    def in_memory(self) -> bool:
        """Whether its rows are kept in memory once they were read."""
        return self._cache is not None

    def place(self, row: int) -> str:
        """Returns where a row is, for messages: shard file and row in it."""
        shard = int(self._shards_of(np.array(row)))
        return (
            f"{self.folder / self.manifest.shards[shard].file} row {row - self._first_rows[shard]}"
        )

    def gather(self, rows: Int64[np.ndarray, " rows"]) -> Gathered:
        """Returns the rows with these numbers, in this order; a number may come more than once.

        Raises:
          RecordsError: on a row that is not what was written, naming shard and row.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(
                f"{self.folder} has rows 0 to {len(self) - 1}, not {rows.min()} to {rows.max()}"
            )
        return self._cache.gather(rows) if self._cache and len(rows) else self._read(rows)

    def _shards_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._first_rows, rows, side="right") - 1

    def _kept(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Gathered]]:
        """Yields what to keep in memory: all rows of the shards that these rows are in.

        Of a shard that is not what was written, only these, so that the damaged one is named.
        """
        shards = self._shards_of(rows)
        for shard in np.unique(shards).tolist():
            content = self._whole(shard)
            if content is None:
                requested = rows[shards == shard]
                yield requested, self._read(requested)
                continue
            index, before = self._indexes[shard], self._first_rows[shard]
            for first in range(0, len(index), _ROWS_AT_ONCE):
                entries = index[first : first + _ROWS_AT_ONCE]
                block = _Block(content, entries["offset"].astype(np.int64), entries)
                here = np.arange(first, first + len(entries)) + before
                yield here, self._decoded(block, here)

    def _whole(self, shard: int) -> np.ndarray | None:
        """Returns a shard's bytes; None where they are not what was written."""
        if shard not in self._damaged:
            info = self.manifest.shards[shard]
            path = self.folder / info.file
            _check_size(path, info)
            with remote.enough_files(path):
                content = path.read_bytes()
            if files.digest_content(content) == info.digest:
                return np.frombuffer(content, np.uint8)
            self._damaged.add(shard)
        return None

    def _read(self, rows: np.ndarray) -> Gathered:
        """Returns rows as they are on disk, after checking each."""
        return self._decoded(self._block(rows), rows)

    def _decoded(self, block: _Block, rows: np.ndarray) -> Gathered:
        """Returns the rows of a block that has been checked."""
        lengths = block.entries["tokens"].astype(np.int64)
        return Gathered(
            tokens=self._tokens(block, lengths, rows),
            lengths=lengths.astype(np.int32),
            segments=_segments(block, lengths) if self.manifest.pairs else None,
            labels=self._labels(block, rows),
            next_sentence=_next_sentence(block)
            if self.manifest.holds("next_sentence_labels")
            else None,
            example_ids=block.data[
                (block.starts + block.entries["id_at"])[:, None] + np.arange(ID_BYTES)
            ],
        )

    def _block(self, rows: np.ndarray) -> _Block:
        shards = self._shards_of(rows)
        places = rows - self._first_rows[shards]
        entries = np.empty(len(rows), INDEX)
        for shard in np.unique(shards):
            here = shards == shard
            entries[here] = self._indexes[shard][places[here]]
            if shard not in self._contents:
                self._contents[shard] = self._open(int(shard))
        ends = entries["offset"] + entries["size"]
        wanted = zip(shards.tolist(), entries["offset"].tolist(), ends.tolist(), strict=True)
        payloads = self._payloads(list(wanted))
        checksums = np.fromiter(map(tfrecord.crc32c, payloads), np.uint32, len(payloads))
        damaged = np.flatnonzero(checksums != entries["crc"])
        if len(damaged):
            raise RecordsError(
                f"{self.place(int(rows[damaged[0]]))} is damaged (its checksum fails);"
                " restore the shard or build it again"
            )
        sizes = entries["size"].astype(np.int64)
        return _Block(
            np.frombuffer(b"".join(payloads), np.uint8), np.cumsum(sizes) - sizes, entries
        )

    def _payloads(self, wanted: list[tuple[int, int, int]]) -> list[bytes]:
        """Returns the bytes of these ranges (shard, first byte, and the byte after the last)."""
        if not files.is_remote(self.folder):
            return [self._contents[shard][start:end] for shard, start, end in wanted]
        # Sorted by place in the files: blocks not yet cached are then read from front to back.
        found = {one: self._contents[one[0]][one[1] : one[2]] for one in sorted(wanted)}
        return [found[one] for one in wanted]

    def _open(self, shard: int) -> mmap.mmap | remote.RemoteFile:
        info = self.manifest.shards[shard]
        path = self.folder / info.file
        _check_size(path, info)
        return remote.content(path, self._blocks)

    def _tokens(self, block: _Block, lengths: np.ndarray, rows: np.ndarray) -> np.ndarray:
        sizes = block.entries["ids_bytes"].astype(np.int64)
        numbers, ends = self._numbers(block, "ids_at", sizes, rows)
        last = np.cumsum(lengths) - 1
        fits = len(numbers) == lengths.sum() and np.array_equal(ends[last], np.cumsum(sizes) - 1)
        if not fits:
            raise self._strange(rows, "tokens")
        if len(numbers) and numbers.max() >= self.manifest.tokenizer.vocab_size:
            row = int(np.searchsorted(np.cumsum(lengths), int(np.argmax(numbers)), side="right"))
            raise RecordsError(
                f"{self.place(int(rows[row]))} has token {numbers.max()}, outside the vocabulary of"
                f" {self.manifest.tokenizer.vocab_size}; build the dataset again with its tokenizer"
            )
        return numbers.astype(np.int32)

    def _numbers(
        self, block: _Block, name: str, sizes: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numbers of a feature in all rows, and each one's last byte."""
        starts = block.starts + block.entries[name]
        try:
            return example.decode_varints(block.data[tfrecord.spans(starts, sizes)])
        except ValueError:
            raise self._strange(rows, "numbers") from None

    def _strange(self, rows: np.ndarray, what: str) -> RecordsError:
        return RecordsError(
            f"{self.place(int(rows[0]))} or a later row has {what} that do not match its index;"
            " build the dataset again"
        )

    def _labels(self, block: _Block, rows: np.ndarray) -> np.ndarray | None:
        task, names = self.manifest.task, self.manifest.labels
        if task is None:
            return None
        sizes = block.entries["label_bytes"].astype(np.int64)
        if task == "regression":
            data = block.data[tfrecord.spans(block.starts + block.entries["label_at"], sizes)]
            if (sizes != np.float32().itemsize).any():
                raise self._strange(rows, "labels")
            return data.view("<f4").astype(np.float32)
        numbers, _ = self._numbers(block, "label_at", sizes, rows)
        if len(numbers) != len(rows) * (len(names) if task == "multilabel" else 1):
            raise self._strange(rows, "labels")
        if task == "multilabel":
            return numbers.reshape(len(rows), len(names)).astype(np.float32)
        if len(numbers) and numbers.max() >= len(names):
            row = int(rows[int(np.argmax(numbers))])
            raise RecordsError(
                f"{self.place(row)} has label {numbers.max()}, but there are {len(names)} labels;"
                " build the dataset again"
            )
        return numbers.astype(np.int32)


def _segments(block: _Block, lengths: np.ndarray) -> np.ndarray:
    # Segments are 0 or 1, a byte each on the wire. Rows without them are all 0.
    given = block.entries["segments_at"] > 0
    segments = np.zeros(int(lengths.sum()), np.uint8)
    targets = (np.cumsum(lengths) - lengths)[given]
    sources = (block.starts + block.entries["segments_at"])[given]
    segments[tfrecord.spans(targets, lengths[given])] = block.data[
        tfrecord.spans(sources, lengths[given])
    ]
    return segments


def _next_sentence(block: _Block) -> np.ndarray:
    return block.data[block.starts + block.entries["next_at"]].astype(np.int32)


def _open_shard(folder: epath.Path, shard: ShardInfo) -> np.ndarray:
    """Returns a shard's offset index after checking both files."""
    _check_size(folder / shard.file, shard)
    return _read_index(folder / shard.index_file, shard)


def _check_size(path: epath.Path, shard: ShardInfo) -> None:
    if not path.exists():
        raise RecordsError(f"{path} is missing; restore it or build the dataset again")
    size = files.size(path)
    if size != shard.bytes:
        raise RecordsError(
            f"{path} has {size} bytes, but its manifest states {shard.bytes};"
            " restore it or build the dataset again"
        )


def _read_index(path: epath.Path, shard: ShardInfo) -> np.ndarray:
    """Returns a shard's offset index."""
    if not path.exists():
        raise RecordsError(f"{path} is missing; restore it or build the dataset again")
    content = path.read_bytes()
    if files.digest_content(content) != shard.index_digest:
        raise RecordsError(
            f"{path} is not the index of {shard.file}; restore it or build the dataset again"
        )
    index = index_in(content, path)
    if index.dtype != INDEX or index.shape != (shard.rows,) or not _fits(index, shard):
        raise RecordsError(
            f"{path} does not describe the {shard.rows} rows of {shard.file};"
            " build the dataset again"
        )
    index.setflags(write=False)
    return _INDEXES.setdefault(shard.index_digest, index)


def index_in(content: bytes, path: epath.Path) -> np.ndarray:
    """Returns the array in an index file's content, unchecked; raises RecordsError where there is
    none.
    """
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as fault:  # numpy raises many kinds of error on bad headers
        raise RecordsError(f"{path} is not an index ({fault}); build the dataset again") from None


def _fits(index: np.ndarray, shard: ShardInfo) -> bool:
    """Returns whether every entry points inside its shard, and every feature inside its payload."""
    for first in range(0, len(index), _INDEX_BLOCK):
        block = index[first : first + _INDEX_BLOCK]
        held = {name: block[name].astype(np.int64) for name in INDEX.names or ()}
        size, tokens = held["size"], held["tokens"]
        paired = held["segments_at"] > 0
        inside = (
            (held["offset"] >= 0)
            & (held["offset"] <= shard.bytes - size)
            & (tokens > 0)
            & (tokens <= held["ids_bytes"])
            & (held["ids_at"] + held["ids_bytes"] <= size)
            & (paired * (held["segments_at"] + tokens) <= size)
            & (held["id_at"] + ID_BYTES <= size)
            & (held["label_at"] + held["label_bytes"] <= size)
            & (held["next_at"] < size)
        )
        if not inside.all():
            return False
    return True
