"""Teacher outputs, row for row with a dataset; every row's id is checked whenever it is read.

A store is a folder of TFRecord shards, cut like the dataset's (`logit_shards.py`), and a
sealed `manifest.json`. All records of a store have the same size, so a row's place follows from its
number and no index is needed; remote shards are read in blocks (`wire/remote.py`). An id does not
tell whose logits are beside it, so when the first row of a shard is read, its complete file is
compared with the digest in the manifest. A teacher of a task gives `logits` (full float32) and may
give the `states` of its layers; a teacher of language gives what `language_fields` names.
"""

import dataclasses
import hashlib
import mmap
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from etils import epath
from jaxtyping import Int64, UInt8

from pd_jax import files
from pd_jax.data.logits.logit_shards import (
    LARGEST_ROW,
    Field,
    Layout,
    LogitsShard,
    endless,
    unanswered,
)
from pd_jax.data.records import manifest
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.wire import remote
from pd_jax.errors import LogitsError

_FORMAT = "pd_jax logits 2"
_BLOCK_ROWS = 4096

LANGUAGE = "language"
"""The task of a store that holds a masked language model's predictions at masked positions."""


@dataclasses.dataclass(frozen=True)
class LogitsManifest:
    """The manifest of a store. `teacher` and `dataset` are fingerprints.

    `settings` are what else decided the answers (the lengths that rows were padded and cut to, the
    precision, the tokenizer where the teacher read texts), as JSON.
    """

    name: str
    rows: manifest.Count
    task: str
    labels: tuple[str, ...]
    """The teacher's labels in the order of its outputs; empty for regression."""
    fields: tuple[Field, ...]
    """What a row holds."""
    about: Mapping[str, Any]
    """What the fields mean where their names do not tell, as JSON."""
    teacher: str
    dataset: str
    shards: tuple[LogitsShard, ...]
    fingerprint: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def missing(self) -> int:
        """Rows for which the teacher gave no answer."""
        return sum(shard.missing for shard in self.shards)

    @property
    def outputs(self) -> int:
        """Logits of a row."""
        return next((field.size for field in self.fields if field.name == "logits"), 0)


def language_fields(places: int, kept: int) -> tuple[Field, ...]:
    """Returns the fields of a language model's rows: 16 + 8 `kept` bytes per masked place.

    `positions` of the masked tokens (-1: a place that a short row leaves unused), the tokens that
    were there when the teacher read them (`replacements`), its `kept` likeliest `tokens` with
    their `logits`, the largest first, and the logarithm of the sum of exp over all of its logits,
    at the store's temperature and at temperature 1 (`normalisers`).
    """
    return (
        Field("positions", (places,), "int32"),
        Field("replacements", (places,), "int32"),
        Field("tokens", (places, kept), "int32"),
        Field("logits", (places, kept)),
        Field("normalisers", (places, 2)),
    )


def finish_logits(
    folder: epath.PathLike,
    shards: Sequence[LogitsShard],
    *,
    dataset: Dataset,
    teacher: str,
    task: str,
    labels: tuple[str, ...],
    fields: Sequence[Field],
    about: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> LogitsManifest:
    """Returns the manifest of the shards (in order), after writing it: the store is now complete.

    Raises:
      LogitsError: where shards are missing, or do not match the dataset's shards or the labels.
    """
    folder = epath.Path(folder)
    wanted = [shard.rows for shard in dataset.manifest.shards]
    size = Layout(fields).size
    if [shard.rows for shard in shards] != wanted or any(s.bytes != s.rows * size for s in shards):
        raise LogitsError(
            f"{folder}: its shards do not match those of {dataset.folder}; make them all again"
        )
    unsigned = LogitsManifest(
        name=dataset.manifest.name,
        rows=len(dataset),
        task=task,
        labels=labels,
        fields=tuple(fields),
        about=dict(about or {}),
        teacher=teacher,
        dataset=dataset.fingerprint,
        shards=tuple(shards),
        fingerprint="",
        settings=dict(settings or {}),
    )
    if task != LANGUAGE and unsigned.outputs != (1 if task == "regression" else len(labels)):
        raise LogitsError(
            f"{folder}: {unsigned.outputs} outputs do not match {task} with labels {labels}; name "
            "each output once"
        )
    whole = dataclasses.replace(unsigned, fingerprint=_fingerprint(unsigned))
    manifest.write_sealed(folder / manifest.FILE, {"format": _FORMAT, **dataclasses.asdict(whole)})
    return whole


class LogitStore:
    """An open store. Safe to use from several threads."""

    def __init__(
        self,
        folder: epath.Path,
        manifest: LogitsManifest,
        columns: tuple[int, ...] = (),
        shards: "_Shards | None" = None,
    ):
        self.folder = folder
        self.manifest = manifest
        self._columns = list(columns)
        self._layout = Layout(manifest.fields)
        self._first_rows = np.cumsum([0, *(shard.rows for shard in manifest.shards)])
        self._shards = shards or _Shards(folder, manifest.shards)

    @classmethod
    def open(cls, folder: epath.PathLike) -> Self:
        """Returns the store in `folder` after checking its manifest and the sizes of its shards.

        Raises:
          LogitsError: where anything is missing, cut short or edited.
          RecordsError: as `remote.enough_files`.
        """
        folder = epath.Path(folder)
        with remote.enough_files(folder):
            found = _read_manifest(folder)
        remote.each(
            lambda shard: _check_size(folder / shard.file, shard.bytes), found.shards, folder
        )
        return cls(folder, found)

    def check(self, dataset: Dataset, labels: tuple[str, ...] = ()) -> "LogitStore":
        """Returns this store with its outputs in the order of `labels` (else of the dataset's).

        Raises:
          LogitsError: where it was made for another dataset, task or set of labels.
        """
        own = self.manifest
        if own.dataset != dataset.fingerprint or own.rows != len(dataset):
            raise LogitsError(
                f"{self.folder} has logits for a dataset other than {dataset.folder} (fingerprint"
                f" {own.dataset}, not {dataset.fingerprint}); label this dataset with the teacher"
            )
        if own.task == LANGUAGE:  # whatever the rows' labels are
            return LogitStore(self.folder, own, shards=self._shards)
        task = dataset.manifest.task
        if task not in (None, own.task):
            raise LogitsError(
                f"{self.folder} is for task {own.task!r}, but {dataset.folder} is for {task!r};"
                " use a teacher with the same task"
            )
        wanted = labels or dataset.manifest.labels or own.labels
        if sorted(wanted) != sorted(own.labels):
            raise LogitsError(
                f"{self.folder} has labels {own.labels}, but {wanted} are required;"
                " use a teacher with the same labels"
            )
        columns = tuple(own.labels.index(label) for label in wanted)
        return LogitStore(self.folder, own, columns, self._shards)

    def place(self, row: int) -> str:
        """Returns where a row is, for messages: shard file and row in it."""
        shard = int(self._shards_of(np.array(row)))
        return (
            f"{self.folder / self.manifest.shards[shard].file} row {row - self._first_rows[shard]}"
        )

    def read(
        self, rows: Int64[np.ndarray, " rows"], expected_ids: UInt8[np.ndarray, "rows 16"]
    ) -> dict[str, np.ndarray]:
        """Returns every field of these rows; real numbers are NaN where there is no answer.

        Raises:
          LogitsError: on the first row that is damaged, has another id than expected, or a number
            that is not finite, naming shard and row; and on a shard of another store.
        """
        rows = np.asarray(rows, np.int64)
        records = self._records(rows)
        values = self._layout.decode(records)
        for fault, found in self._faults(records, values, expected_ids).items():
            if found.any():
                raise LogitsError(f"{self.place(int(rows[np.argmax(found)]))} {fault}")
        for shard in np.unique(self._shards_of(rows)).tolist():
            self._shards.check(shard)
        if self._columns:
            values["logits"] = values["logits"][:, self._columns]
        return values

    def faults(
        self, rows: Int64[np.ndarray, " rows"], expected_ids: UInt8[np.ndarray, "rows 16"]
    ) -> list[str]:
        """Returns a sentence for every one of these rows that `read` would refuse."""
        records = self._records(rows)
        found = self._faults(records, self._layout.decode(records), expected_ids).items()
        return [f"{self.place(row)} {fault}" for fault, bad in found for row in rows[bad].tolist()]

    def _faults(
        self, records: np.ndarray, values: dict[str, np.ndarray], expected_ids: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns the possible faults of a row, each with the rows that have it."""
        layout = self._layout
        damaged = (records[:, layout.crc] != layout.checksums(records)).any(axis=1)
        damaged |= (records[:, layout.fixed] != layout.record[layout.fixed]).any(axis=1)
        foreign = (records[:, layout.id] != expected_ids).any(axis=1) & ~damaged
        wrong = endless(values) & ~damaged & ~foreign
        if self.manifest.missing and wrong.any():
            wrong &= ~unanswered(values)
        return {
            "is damaged (its checksum fails); restore it or label the dataset again": damaged,
            "belongs to a different example from its dataset's; label the dataset again": foreign,
            "has a logit that is not finite; fix the teacher and label again": wrong,
        }

    def _shards_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._first_rows, rows, side="right") - 1

    def _records(self, rows: np.ndarray) -> np.ndarray:
        shards = self._shards_of(rows)
        records = np.empty((len(rows), self._layout.size), np.uint8)
        for shard in np.unique(shards):
            here = shards == shard
            places = rows[here] - self._first_rows[shard]
            records[here] = self._of_shard(int(shard), places)
        return records

    def _of_shard(self, shard: int, places: np.ndarray) -> np.ndarray:
        content, size = self._shards.content(shard), self._layout.size
        if isinstance(content, mmap.mmap):
            return np.frombuffer(content, np.uint8).reshape(-1, size)[places]
        # In the order of the file: blocks not yet cached are then read from front to back.
        ordered, back = np.unique(places, return_inverse=True)
        found = b"".join(content[at : at + size] for at in (ordered * size).tolist())
        return np.frombuffer(found, np.uint8).reshape(-1, size)[back]


class _Shards:
    """The open files of a store, each compared once with its digest in the manifest."""

    def __init__(self, folder: epath.Path, shards: Sequence[LogitsShard]):
        self._folder, self._shards = folder, shards
        self._contents: dict[int, mmap.mmap | remote.RemoteFile] = {}
        self._blocks = remote.Blocks()
        self._checked: set[int] = set()
        self._lock = threading.Lock()

    def content(self, shard: int) -> mmap.mmap | remote.RemoteFile:
        """Returns a shard's file for random access."""
        if shard not in self._contents:
            path = self._folder / self._shards[shard].file
            self._contents[shard] = remote.content(path, self._blocks)
        return self._contents[shard]

    def check(self, shard: int) -> None:
        """Raises LogitsError where a shard's digest is not the one in the manifest.

        The stores of two teachers have shards of one size with the same ids, so nothing less shows
        that an interrupted copy has mixed them.
        """
        with self._lock:  # several threads may be the first to request a shard
            if shard in self._checked:
                return
            listed = self._shards[shard]
            if self._digest(shard) != listed.digest:
                raise LogitsError(
                    f"{self._folder / listed.file} is not the file that its manifest lists (its "
                    "digest differs): it was changed, or belongs to another store; copy the "
                    "complete store again, or label the dataset again"
                )
            self._checked.add(shard)

    def _digest(self, shard: int) -> str:
        """Returns the digest of a shard, read in blocks: they are kept for its rows."""
        content, size = self.content(shard), self._shards[shard].bytes
        state = hashlib.blake2b(digest_size=files.DIGEST_BYTES)
        for begin in range(0, size, remote.BLOCK_BYTES):
            state.update(content[begin : min(begin + remote.BLOCK_BYTES, size)])
        return state.hexdigest()


def _check_size(path: epath.Path, size: int) -> None:
    if not path.exists() or files.size(path) != size:
        raise LogitsError(f"{path} is missing or cut short; restore it or label the dataset again")


def _read_manifest(folder: epath.Path) -> LogitsManifest:
    path = folder / manifest.FILE
    if not path.exists():
        raise LogitsError(
            f"{path} does not exist: {folder} is not a logit store, or its labelling has not"
            " finished; label the dataset again"
        )
    value = manifest.read_sealed(path, _FORMAT, LogitsError)
    found = manifest.checked(LogitsManifest, value, path, LogitsError)
    manifest.check_names(found.name, [shard.file for shard in found.shards], path, LogitsError)
    if not found.fields or sum(field.size for field in found.fields) > LARGEST_ROW:
        raise LogitsError(f"{path} lists fields that no teacher gives; label the dataset again")
    if len(set(found.labels)) < len(found.labels):
        raise LogitsError(
            f"{path} lists a label twice, so that outputs cannot be distinguished; label the "
            "dataset again with a different name for each"
        )
    size = Layout(found.fields).size
    if any(shard.bytes != shard.rows * size for shard in found.shards):
        raise LogitsError(f"{path} contradicts itself in the sizes of its shards; label again")
    if found.fingerprint != _fingerprint(found) or found.rows != sum(s.rows for s in found.shards):
        raise LogitsError(f"{path} contradicts itself: its fingerprint does not match; label again")
    return found


def _fingerprint(found: LogitsManifest) -> str:
    held = dataclasses.asdict(found)
    del held["name"], held["fingerprint"], held["settings"]  # the digests show their effect
    return files.digest_json({**held, "shards": [shard.digest for shard in found.shards]})


def logits_faults(store: LogitStore, dataset: Dataset) -> Iterator[str]:
    """Yields one sentence for every fault in a store of an undamaged dataset."""
    store.check(dataset)
    for shard in store.manifest.shards:
        path = store.folder / shard.file
        if files.digest_file(path) != shard.digest:
            yield f"{path} is not the file its manifest lists (its digest differs)"
    for first in range(0, len(dataset), _BLOCK_ROWS):
        rows = np.arange(first, min(first + _BLOCK_ROWS, len(dataset)))
        yield from store.faults(rows, dataset.gather(rows).example_ids)
