"""Reads a complete dataset and reports every fault in it.

The reader for training checks what it reads. This one reads everything, and in another way:
protobuf parses each payload, and the parsed example, encoded again, must give the same bytes and
the same index entry.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath

from pd_jax import files, processes
from pd_jax.data.records.dataset import index_in
from pd_jax.data.records.manifest import Manifest, ShardInfo
from pd_jax.data.records.shards import ID_BYTES, INDEX, TASK_FEATURES, index_row
from pd_jax.data.wire import example, tfrecord
from pd_jax.errors import RecordsError


def dataset_faults(
    folder: epath.PathLike,
    manifest: Manifest,
    *,
    workers: int,
    shown: Callable[[ShardInfo], None],
) -> Iterator[str]:
    """Yields one sentence for every fault in a dataset, in order of shard.

    `workers` processes read the shards; `shown` is called with each shard that was read.
    """
    job = functools.partial(_read, folder=str(folder), manifest=manifest)
    ended: dict[int, list[str]] = {}
    following = 0
    for number, faults in processes.run(job, range(len(manifest.shards)), workers=workers):
        ended[number] = faults
        shown(manifest.shards[number])
        while following in ended:
            yield from ended.pop(following)
            following += 1


def _read(
    number: int, count: processes.Count, *, folder: epath.PathLike, manifest: Manifest
) -> list[str]:
    del count  # progress counts shards
    return shard_faults(folder, manifest, number)


def shard_faults(folder: epath.PathLike, manifest: Manifest, number: int) -> list[str]:
    """Returns one sentence for every fault in shard `number`, with its file and row."""
    return list(_ShardAudit(epath.Path(folder), manifest, manifest.shards[number]).faults())


@dataclasses.dataclass(frozen=True)
class _ShardAudit:
    """One shard, with what the manifest states about it, and the search for its faults."""

    folder: epath.Path
    manifest: Manifest
    shard: ShardInfo

    @property
    def path(self) -> epath.Path:
        return self.folder / self.shard.file

    def faults(self) -> Iterator[str]:
        if not self.path.exists():
            yield f"{self.path} is missing"
            return
        size = files.size(self.path)
        if size != self.shard.bytes:
            yield f"{self.path} has {size} bytes, but its manifest states {self.shard.bytes}"
        if files.digest_file(self.path) != self.shard.digest:
            yield f"{self.path} is not the file its manifest lists (its digest differs)"
        index, fault = self._index()
        if fault:
            yield fault
        if index is None:
            yield from self._walk()
        else:
            yield from self._rows(index)

    def _index(self) -> tuple[np.ndarray | None, str | None]:
        """Returns the offset index, None where it cannot be used, and what is wrong with it."""
        path = self.folder / self.shard.index_file
        if not path.exists():
            return None, f"{path} is missing"
        if files.digest_file(path) != self.shard.index_digest:
            return None, f"{path} is not the index its manifest lists (its digest differs)"
        try:
            index = index_in(path.read_bytes(), path)
        except RecordsError as fault:
            return None, str(fault)
        if index.dtype != INDEX or index.shape != (self.shard.rows,):
            return None, f"{path} does not describe the {self.shard.rows} rows of its shard"
        if index["tokens"].sum() != self.shard.tokens:
            return index, f"{path} counts {index['tokens'].sum()} tokens, not {self.shard.tokens}"
        return index, None

    def _walk(self) -> Iterator[str]:
        """Yields faults of rows found one after another, up to the first that hides the next."""
        rows = 0
        try:
            for frame in tfrecord.read_frames(self.path):
                rows += 1
                yield from self._payload(frame.payload, frame.number)
        except RecordsError as fault:
            yield str(fault)
            return
        if rows != self.shard.rows:
            yield f"{self.path} has {rows} rows, but its manifest states {self.shard.rows}"

    def _rows(self, index: np.ndarray) -> Iterator[str]:
        """Yields faults of rows found by the index: a damaged one does not hide the next."""
        end = 0
        with self.path.open("rb") as stream:
            for row, entry in enumerate(index):
                start, length = int(entry["offset"]), int(entry["size"])
                if not tfrecord.HEADER_BYTES <= start <= self.shard.bytes - length:
                    yield f"{self.path} row {row} lies outside its shard"
                    continue
                stream.seek(start - tfrecord.HEADER_BYTES)
                frame = stream.read(tfrecord.HEADER_BYTES + length + tfrecord.FOOTER_BYTES)
                payload = frame[tfrecord.HEADER_BYTES : -tfrecord.FOOTER_BYTES]
                crc = tfrecord.crc32c(payload)
                if start != end + tfrecord.HEADER_BYTES:
                    yield f"{self.path} row {row} does not follow the row before it"
                end = start + length + tfrecord.FOOTER_BYTES
                if frame != tfrecord.frame(payload, crc):
                    yield f"{self.path} row {row} is damaged (its length or checksum is wrong)"
                    continue
                yield from self._payload(payload, row, entry)

    def _payload(self, payload: bytes, row: int, entry: np.void | None = None) -> Iterator[str]:
        place = f"{self.path} row {row}"
        try:
            features = example.parse(payload)
        except ValueError as fault:
            yield f"{place} is not a tf.train.Example ({fault})"
            return
        yield from (f"{place} {fault}" for fault in self._content(features))
        if entry is None:
            return
        arrays = {
            name: values[0] if isinstance(values[0], bytes) else np.array(values)
            for name, values in features.items()
            if values
        }
        if not {"input_ids", "example_id"} <= arrays.keys():
            return  # already reported
        try:
            encoded = example.encode(arrays)
        except ValueError as fault:
            yield f"{place} {fault}"
            return
        crc, tokens = tfrecord.crc32c(payload), len(features.get("input_ids", []))
        expected = np.array(index_row(encoded, int(entry["offset"]), crc, tokens), INDEX)
        if encoded.payload != payload or expected != entry:
            yield f"{place} does not match its index entry"

    def _content(self, features: dict[str, list]) -> Iterator[str]:
        """Yields what is wrong with a parsed example."""
        manifest, ids = self.manifest, features.get("input_ids", [])
        expected = set(self.shard.features) - {"segment_ids"}
        if set(features) - {"segment_ids"} != expected:
            yield f"has features {sorted(features)}, not {sorted(expected)}"
        if not 0 < len(ids) <= manifest.max_length:
            yield f"has {len(ids)} tokens, not 1 to {manifest.max_length}"
        if ids and not 0 <= min(ids) <= max(ids) < manifest.tokenizer.vocab_size:
            yield f"has a token outside the vocabulary of {manifest.tokenizer.vocab_size}"
        segments = features.get("segment_ids", [0] * len(ids))
        if len(segments) != len(ids) or not set(segments) <= {0, 1}:
            yield "has segment_ids that are not 0 or 1 for each token"
        if [len(one) for one in features.get("example_id", [])] != [ID_BYTES]:
            yield f"has no example_id of {ID_BYTES} bytes"
        if manifest.task is not None:
            yield from self._labels(features.get(TASK_FEATURES[manifest.task], []))

    def _labels(self, values: list) -> Iterator[str]:
        count, classes = len(values), len(self.manifest.labels)
        if count != (classes if self.manifest.task == "multilabel" else 1):
            yield f"has {count} labels"
        elif self.manifest.task == "classification" and not 0 <= values[0] < classes:
            yield f"has label {values[0]}, but there are {classes} labels"
        elif self.manifest.task == "multilabel" and not set(values) <= {0, 1}:
            yield "has labels that are not 0 or 1"
        elif self.manifest.task == "regression" and not np.isfinite(values[0]):
            yield "has a label that is not finite"
