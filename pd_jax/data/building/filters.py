"""Leaves text out of a dataset: exact duplicates, and text that occurs in an evaluation set.

Duplicates are found in two passes, in memory that does not grow with the corpus. First every
shard's rows are named by 16 bytes and written in order of name (`scan`). Then the shards are read
side by side, one range of names at a time, and all but the first of equal names are listed
(`match`). What is to be left out is thus known before a shard is made, and does not depend on who
makes it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import shutil
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from etils import epath

from pd_jax import config, files
from pd_jax.data.building.watched import Watched
from pd_jax.data.records.shards import ID_BYTES, example_id, replaced
from pd_jax.data.text import corpora

_NAMED = np.dtype([("high", ">u8"), ("low", ">u8"), ("row", "<i8")])
_RANGES = 64
_PATTERNS = ("names-?????-*.npy", "duplicates-?????-*.npy", "excluded-*.npy")


@dataclasses.dataclass(frozen=True)
class Filter:
    """What to leave out of one shard, as files in a folder that all shards share."""

    folder: str
    index: int
    names: str | None
    """Digest of the shard's text if duplicates are to be left out."""
    excluded: str | None
    """Digest of the evaluation sets if their rows are to be left out."""

    @property
    def names_file(self) -> epath.Path:
        """Where the names of the shard's rows are, in order."""
        return epath.Path(self.folder) / f"names-{self.index:05d}-{self.names}.npy"

    @property
    def excluded_file(self) -> epath.Path:
        """Where the evaluation sets' keys are."""
        return epath.Path(self.folder) / f"excluded-{self.excluded}.npy"

    def duplicates_file(self, all_names: str) -> epath.Path:
        """Where the numbers of the shard's duplicate rows are."""
        return epath.Path(self.folder) / f"duplicates-{self.index:05d}-{all_names}.npy"


def key(content: str) -> bytes:
    """Returns 16 bytes that are equal for texts differing only in case, spacing and punctuation."""
    folded = unicodedata.normalize("NFKC", content).casefold()
    kept, inside = [], False
    for letter in folded:
        # A mark behind a letter is part of it: in Hindi and Thai, vowels are marks.
        inside = letter.isalnum() or (inside and unicodedata.category(letter).startswith("M"))
        if inside:
            kept.append(letter)
    return hashlib.blake2b("".join(kept).encode("utf-8"), digest_size=ID_BYTES).digest()


_NOTHING = key("")


def write_excluded(filter_: Filter, sources: Sequence[config.Source], watched: Watched) -> None:
    """Writes the keys of evaluation sets: of each text, each second text, and both together; of a
    set limited to so many documents, those of the documents.
    """
    if filter_.excluded is None or filter_.excluded_file.exists():
        return
    found = set()
    for source in sources:
        if source.documents is not None:
            found |= set(map(_document_key, corpora.documents(source)))
            continue
        for row in corpora.rows(source):
            found.add(key(row.text))
            if row.pair is not None:
                found |= {key(row.pair), _pair_key(row.text, row.pair)}
    watched.check()
    content = b"".join(sorted(found - {_NOTHING}))
    _save(filter_.excluded_file, np.frombuffer(content, np.uint8).reshape(-1, ID_BYTES))


def scan(filter_: Filter, items: Iterable[corpora.Row | corpora.Document]) -> None:
    """Writes the names of a shard's rows or documents in order of name."""
    content = b"".join(_name(item) for item in items)
    halves = np.frombuffer(content, ">u8").reshape(-1, 2)
    named = np.empty(len(halves), _NAMED)
    named["high"], named["low"], named["row"] = halves[:, 0], halves[:, 1], np.arange(len(halves))
    _save(filter_.names_file, named[np.lexsort((named["low"], named["high"]))])


def match(filters: Sequence[Filter]) -> str:
    """Writes every shard's list of duplicates; returns the digest in the lists' names."""
    everything = files.digest_json([filter_.names for filter_ in filters])
    if all(filter_.duplicates_file(everything).exists() for filter_ in filters):
        return everything
    with tempfile.TemporaryDirectory() as scratch:
        found = _again([_on_disk(filter_.names_file, scratch) for filter_ in filters])
    for filter_, rows in zip(filters, found, strict=True):
        _save(
            filter_.duplicates_file(everything),
            np.sort(np.concatenate([np.zeros(0, np.int64), *rows])),
        )
    return everything


def _on_disk(path: epath.Path, scratch: str) -> epath.Path:
    """Returns the file, or a remote one's copy in the folder `scratch`."""
    if not files.is_remote(path):
        return path
    copy = epath.Path(scratch) / path.name
    with path.open("rb") as source, copy.open("wb") as stream:
        shutil.copyfileobj(source, stream)
    return copy


def _again(paths: Sequence[epath.Path]) -> list[list[np.ndarray]]:
    """Returns for each shard the numbers of its rows whose names occurred before, range by range.

    Each file is opened again for each range: a process may not keep one open for each shard.
    """
    found: list[list[np.ndarray]] = [[] for _ in paths]
    bounds = np.arange(_RANGES, dtype=np.uint64) * np.uint64((1 << 64) // _RANGES)
    cuts = [[*np.searchsorted(_load(path)["high"], bounds), len(_load(path))] for path in paths]
    for number in range(_RANGES):
        parts = [
            np.array(_load(path)[cut[number] : cut[number + 1]])
            for path, cut in zip(paths, cuts, strict=True)
        ]
        owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        names = np.concatenate(parts)
        order = np.lexsort((names["row"], owners, names["low"], names["high"]))
        names, owners = names[order], owners[order]
        again = np.zeros(len(names), bool)
        again[1:] = (names["high"][1:] == names["high"][:-1]) & (
            names["low"][1:] == names["low"][:-1]
        )
        for owner in np.unique(owners[again]):
            found[owner].append(names["row"][again & (owners == owner)])
    return found


class ShardFilter:
    """Passes on a shard's text without what is to be left out, and counts what was left out."""

    def __init__(self, filter_: Filter, all_names: str | None):
        self._duplicates = np.zeros(0, np.int64)
        if all_names is not None:
            self._duplicates = _load(filter_.duplicates_file(all_names))
        self._excluded = frozenset()
        if filter_.excluded is not None:
            self._excluded = _excluded(str(filter_.excluded_file))
        self.counts = {"duplicates": 0, "excluded": 0}
        """How many duplicates and how many texts of evaluation sets were left out so far."""

    def rows(self, rows: Iterable[corpora.Row]) -> Iterator[corpora.Row]:
        """Yields the rows that stay."""
        for row in self._first(rows):
            if self._excluded and _row_key(row) in self._excluded:
                self.counts["excluded"] += 1
            else:
                yield row

    def documents(self, documents: Iterable[corpora.Document]) -> Iterator[corpora.Document]:
        """Yields the documents that stay, without the sentences of evaluation sets."""
        for document in self._first(documents):
            if not self._excluded:
                yield document
                continue
            names = (key("\n".join(document.sentences)), _document_key(document))
            if not self._excluded.isdisjoint(names):
                self.counts["excluded"] += 1
                continue
            kept = tuple(part for part in document.sentences if key(part) not in self._excluded)
            self.counts["excluded"] += len(document.sentences) - len(kept)
            if kept:
                yield dataclasses.replace(document, sentences=kept)

    def _first(self, items: Iterable) -> Iterator:
        """Yields the items that are not duplicates."""
        waiting = iter(self._duplicates.tolist())
        duplicate = next(waiting, None)
        for number, item in enumerate(items):
            if number == duplicate:
                self.counts["duplicates"] += 1
                duplicate = next(waiting, None)
            else:
                yield item


def tidy(folder: epath.PathLike) -> None:
    """Removes a folder of filters' files, unless it holds anything else."""
    folder = epath.Path(folder)
    for pattern in _PATTERNS:
        for path in files.matching(folder, pattern):
            path.unlink(missing_ok=True)
    # Another share of the build may remove it at the same time.
    with contextlib.suppress(OSError):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _name(item: corpora.Row | corpora.Document) -> bytes:
    if isinstance(item, corpora.Document):
        return example_id("\n".join(item.sentences))
    return example_id(item.text, item.pair)


def _pair_key(first: str, second: str) -> bytes:
    return hashlib.blake2b(key(first) + key(second), digest_size=ID_BYTES).digest()


def _document_key(document: corpora.Document) -> bytes:
    """Returns what names a document that is to be left out as one, and no equal sentence."""
    return hashlib.blake2b(
        key("\n".join(document.sentences)), digest_size=ID_BYTES, person=b"document"
    ).digest()


def _row_key(row: corpora.Row) -> bytes:
    return key(row.text) if row.pair is None else _pair_key(row.text, row.pair)


@functools.lru_cache(maxsize=1)
def _excluded(path: str) -> frozenset[bytes]:
    return frozenset(row.tobytes() for row in _load(epath.Path(path)))


def _save(path: epath.Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as stream:
        np.save(stream, array)


def _load(path: epath.Path) -> np.ndarray:
    if files.is_remote(path):
        return np.load(io.BytesIO(path.read_bytes()))
    return np.load(path, mmap_mode="r")
