"""Teacher outputs, row for row with a dataset, every row's id checked whenever it is read.

A store is a folder of TFRecord shards, cut like the dataset's, of tf.train.Examples with `logits`
(full float32) and `example_id`, and a sealed `manifest.json`. All records of a store have the same
size, so a row's place follows from its number and no index is needed.
"""

import dataclasses
import mmap
from collections.abc import Sequence
from typing import Self

import numpy as np
from etils import epath
from jaxtyping import Float32, Int64, UInt8

from pd_jax import files
from pd_jax.data import example, manifest, tfrecord
from pd_jax.data.records import Dataset
from pd_jax.data.shards import ID_BYTES, replaced
from pd_jax.errors import LogitsError

_FORMAT = "pd_jax logits 1"
_WRITE_ROWS = 1 << 16


@dataclasses.dataclass(frozen=True)
class LogitsShard:
    """One whole shard of a store."""

    file: str
    rows: int
    outputs: int
    bytes: int
    digest: str


@dataclasses.dataclass(frozen=True)
class LogitsManifest:
    """What a store says about itself. `teacher` and `dataset` are fingerprints."""

    name: str
    rows: int
    outputs: int
    task: str
    labels: tuple[str, ...]
    """The teacher's labels in the order of its outputs; empty for regression."""
    teacher: str
    dataset: str
    shards: tuple[LogitsShard, ...]
    fingerprint: str


class _Layout:
    """Where everything stands in a record with so many outputs."""

    def __init__(self, outputs: int):
        blank = {"example_id": bytes(ID_BYTES), "logits": np.zeros(outputs, np.float32)}
        encoded = example.encode(blank)
        self.record = np.frombuffer(tfrecord.frame(encoded.payload, 0), np.uint8)
        self.size = len(self.record)
        self.payload = slice(tfrecord.HEADER_BYTES, self.size - tfrecord.FOOTER_BYTES)
        self.crc = slice(self.size - tfrecord.FOOTER_BYTES, self.size)
        self.id = self._slice(encoded.spans["example_id"])
        self.logits = self._slice(encoded.spans["logits"])
        self.fixed = np.ones(self.size, bool)
        for part in (self.id, self.logits, self.crc):
            self.fixed[part] = False

    def _slice(self, span: example.Span) -> slice:
        start = tfrecord.HEADER_BYTES + span.start
        return slice(start, start + span.size)

    def checksums(self, records: UInt8[np.ndarray, "rows bytes"]) -> UInt8[np.ndarray, "rows 4"]:
        """Returns the masked CRC-32C of each record's payload, as it stands on disk."""
        payloads = records[:, self.payload]
        width = payloads.shape[1]
        data = payloads.tobytes()
        starts = range(0, len(data), width)
        crcs = [tfrecord.mask(tfrecord.crc32c(data[at : at + width])) for at in starts]
        return np.array(crcs, "<u4").view(np.uint8).reshape(len(records), 4)


def write_logits_shard(
    folder: epath.PathLike,
    name: str,
    *,
    index: int,
    of: int,
    ids: UInt8[np.ndarray, "rows 16"],
    logits: Float32[np.ndarray, "rows outputs"],
) -> LogitsShard:
    """Returns what was written as shard `index` of `of`.

    Raises:
      LogitsError: where a logit is not finite (naming its row), or the arrays do not fit.
    """
    path = epath.Path(folder) / manifest.shard_file(name, index, of)
    path.parent.mkdir(parents=True, exist_ok=True)
    if logits.ndim != 2 or ids.shape != (len(logits), ID_BYTES):
        raise LogitsError(f"{path}: ids {ids.shape} and logits {logits.shape} are not row for row")
    logits = np.ascontiguousarray(logits, "<f4")
    endless = ~np.isfinite(logits).all(axis=1)
    if endless.any():
        row = int(np.argmax(endless))
        raise LogitsError(f"{path} row {row} has a logit that is not finite; mend the teacher")
    layout = _Layout(logits.shape[1])
    with replaced(path) as stream:
        for at in range(0, len(logits), _WRITE_ROWS):
            block = logits[at : at + _WRITE_ROWS]
            records = np.tile(layout.record, (len(block), 1))
            records[:, layout.id] = ids[at : at + _WRITE_ROWS]
            records[:, layout.logits] = block.view(np.uint8)
            records[:, layout.crc] = layout.checksums(records)
            stream.write(records.tobytes())
    size = len(logits) * layout.size
    return LogitsShard(path.name, len(logits), logits.shape[1], size, files.digest_file(path))


def finish_logits(
    folder: epath.PathLike,
    shards: Sequence[LogitsShard],
    *,
    dataset: Dataset,
    teacher: str,
    task: str,
    labels: tuple[str, ...],
) -> LogitsManifest:
    """Returns the manifest of the shards (in order), after writing it: the store is now whole.

    Raises:
      LogitsError: where shards are missing, or do not match the dataset's shards or the labels.
    """
    folder = epath.Path(folder)
    wanted = [shard.rows for shard in dataset.manifest.shards]
    outputs = shards[0].outputs if shards else 0
    if [shard.rows for shard in shards] != wanted or any(s.outputs != outputs for s in shards):
        raise LogitsError(
            f"{folder}: its shards do not match those of {dataset.folder}; make all again"
        )
    if outputs != (1 if task == "regression" else len(labels)):
        raise LogitsError(f"{folder}: {outputs} outputs do not fit {task} with labels {labels}")
    unsigned = LogitsManifest(
        name=dataset.manifest.name,
        rows=len(dataset),
        outputs=outputs,
        task=task,
        labels=labels,
        teacher=teacher,
        dataset=dataset.fingerprint,
        shards=tuple(shards),
        fingerprint="",
    )
    whole = dataclasses.replace(unsigned, fingerprint=_fingerprint(unsigned))
    manifest.write_sealed(folder / manifest.FILE, {"format": _FORMAT, **dataclasses.asdict(whole)})
    return whole


class LogitStore:
    """An open store. Safe to use from several threads."""

    def __init__(self, folder: epath.Path, manifest: LogitsManifest, columns: tuple[int, ...] = ()):
        self.folder = folder
        self.manifest = manifest
        self._columns = list(columns)
        self._layout = _Layout(manifest.outputs)
        self._first_rows = np.cumsum([0, *(shard.rows for shard in manifest.shards)])
        self._contents: dict[int, bytes | mmap.mmap] = {}

    @classmethod
    def open(cls, folder: epath.PathLike) -> Self:
        """Returns the store in `folder` after checking its manifest and the sizes of its shards.

        Raises:
          LogitsError: where anything is missing, cut short or edited.
        """
        folder = epath.Path(folder)
        found = _read_manifest(folder)
        for shard in found.shards:
            path = folder / shard.file
            if not path.exists() or path.stat().length != shard.bytes:
                raise LogitsError(
                    f"{path} is missing or cut short; restore it or label the dataset again"
                )
        return cls(folder, found)

    @property
    def fingerprint(self) -> str:
        """Digest of what the store holds."""
        return self.manifest.fingerprint

    def check(self, dataset: Dataset, labels: tuple[str, ...] = ()) -> "LogitStore":
        """Returns this store with its outputs in the order of `labels` (else of the dataset's).

        Raises:
          LogitsError: where it was made for another dataset, task or set of labels.
        """
        said = self.manifest
        if said.dataset != dataset.fingerprint or said.rows != len(dataset):
            raise LogitsError(
                f"{self.folder} holds logits for another dataset than {dataset.folder} (fingerprint"
                f" {said.dataset}, not {dataset.fingerprint}); label this dataset with the teacher"
            )
        task = dataset.manifest.task
        if task not in (None, said.task):
            raise LogitsError(
                f"{self.folder} is of task {said.task!r}, {dataset.folder} of {task!r}"
            )
        wanted = labels or dataset.manifest.labels or said.labels
        if sorted(wanted) != sorted(said.labels):
            raise LogitsError(
                f"{self.folder} has labels {said.labels}, but {wanted} are wanted;"
                " use a teacher with the same labels"
            )
        columns = tuple(said.labels.index(label) for label in wanted)
        return LogitStore(self.folder, said, columns)

    def place(self, row: int) -> str:
        """Returns where a row is, for messages: shard file and row in it."""
        shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return (
            f"{self.folder / self.manifest.shards[shard].file} row {row - self._first_rows[shard]}"
        )

    def gather(
        self, rows: Int64[np.ndarray, " rows"], expected_ids: UInt8[np.ndarray, "rows 16"]
    ) -> Float32[np.ndarray, "rows outputs"]:
        """Returns the logits of these rows.

        Raises:
          LogitsError: on the first row that is damaged, has another id than expected, or a logit
            that is not finite; names shard and row.
        """
        rows = np.asarray(rows, np.int64)
        records = self._records(rows)
        for fault, found in self._faults(records, expected_ids).items():
            if found.any():
                raise LogitsError(f"{self.place(int(rows[np.argmax(found)]))} {fault}")
        logits = self._logits(records)
        return logits[:, self._columns] if self._columns else logits

    def faults(
        self, rows: Int64[np.ndarray, " rows"], expected_ids: UInt8[np.ndarray, "rows 16"]
    ) -> list[str]:
        """Returns a sentence for every one of these rows that `gather` would refuse."""
        found = self._faults(self._records(rows), expected_ids).items()
        return [f"{self.place(row)} {fault}" for fault, bad in found for row in rows[bad].tolist()]

    def _faults(self, records: np.ndarray, expected_ids: np.ndarray) -> dict[str, np.ndarray]:
        """Returns what can be wrong with a row, and the rows it is wrong with."""
        layout = self._layout
        damaged = (records[:, layout.crc] != layout.checksums(records)).any(axis=1)
        damaged |= (records[:, layout.fixed] != layout.record[layout.fixed]).any(axis=1)
        foreign = (records[:, layout.id] != expected_ids).any(axis=1) & ~damaged
        endless = ~np.isfinite(self._logits(records)).all(axis=1) & ~damaged & ~foreign
        return {
            "is damaged (its checksum fails); restore it or label the dataset again": damaged,
            "belongs to another example than its dataset has; label the dataset again": foreign,
            "has a logit that is not finite; mend the teacher and label again": endless,
        }

    def _logits(self, records: np.ndarray) -> np.ndarray:
        data = np.ascontiguousarray(records[:, self._layout.logits])
        return data.view("<f4").astype(np.float32, copy=False)

    def _records(self, rows: np.ndarray) -> np.ndarray:
        shards = np.searchsorted(self._first_rows, rows, side="right") - 1
        records = np.empty((len(rows), self._layout.size), np.uint8)
        for shard in np.unique(shards):
            here = shards == shard
            places = rows[here] - self._first_rows[shard]
            records[here] = self._shard(int(shard))[places]
        return records

    def _shard(self, shard: int) -> np.ndarray:
        if shard not in self._contents:
            self._contents[shard] = tfrecord.content(self.folder / self.manifest.shards[shard].file)
        return np.frombuffer(self._contents[shard], np.uint8).reshape(-1, self._layout.size)


def _read_manifest(folder: epath.Path) -> LogitsManifest:
    path = folder / manifest.FILE
    if not path.exists():
        raise LogitsError(
            f"{path} does not exist: {folder} is no logit store, or its labelling has not finished"
        )
    value = manifest.read_sealed(path, _FORMAT, LogitsError)
    try:
        shards = tuple(LogitsShard(**shard) for shard in value["shards"])
        found = LogitsManifest(**value | {"labels": tuple(value["labels"]), "shards": shards})
    except (KeyError, TypeError) as fault:
        raise LogitsError(
            f"{path} lacks or has too many keys ({fault}); label the dataset again"
        ) from None
    if found.fingerprint != _fingerprint(found) or found.rows != sum(s.rows for s in found.shards):
        raise LogitsError(f"{path} contradicts itself: its fingerprint does not fit; label again")
    return found


def _fingerprint(found: LogitsManifest) -> str:
    held = {
        "shards": [shard.digest for shard in found.shards],
        "rows": found.rows,
        "task": found.task,
    }
    return files.digest_json(
        {**held, "labels": found.labels, "teacher": found.teacher, "dataset": found.dataset}
    )
