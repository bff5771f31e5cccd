"""Writes a dataset: shards of records, each complete or absent, and the manifest at the end.

A shard is three files, written in this order: `NAME-00000-of-00008.tfrecord`, its offset index
`.index.npy`, and the note `.shard.json`, which states that the other two are complete and what they
were made from. A build that resumes after an interruption calls `whole_shard` and makes only what
is missing; `finish` collects the notes into `manifest.json`.
"""

import dataclasses
import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import IO, Any

import numpy as np
from etils import epath
from jaxtyping import Int32

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.data.records import manifest
from pd_jax.data.records.manifest import Manifest, ShardInfo, TokenizerInfo
from pd_jax.data.wire import example, tfrecord
from pd_jax.errors import RecordsError

ID_BYTES = 16

INDEX = np.dtype(
    [
        ("offset", "<u8"), ("size", "<u4"), ("crc", "<u4"), ("tokens", "<u4"),
        ("ids_at", "<u4"), ("ids_bytes", "<u4"), ("segments_at", "<u4"), ("id_at", "<u4"),
        ("label_at", "<u4"), ("label_bytes", "<u4"), ("next_at", "<u4"),
    ]
)  # fmt: skip
"""A row of the offset index: where the payload lies in the shard, its CRC-32C, and where in the
payload each feature's values lie (0: the row has no such feature). The CRC binds a row to its
index, so that a shard in another's place is refused even where every record has the same size."""

TASK_FEATURES = {
    "classification": "label_ids",
    "multilabel": "label_ids",
    "regression": "label_values",
}

_NOTE_FORMAT = "pd_jax shard 1"
_INDEX_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Record:
    """One tokenised example, with its special tokens and without padding."""

    input_ids: Int32[np.ndarray, " tokens"]
    segment_ids: Int32[np.ndarray, " tokens"] | None
    """0 and 1; None where all are 0."""
    example_id: bytes
    label: int | float | tuple[int, ...] | None = None
    """Class number, regression value, multi-hot vector, or none."""
    next_sentence: int | None = None
    """0: the second segment follows the first; 1: it is a random one."""


@dataclasses.dataclass(frozen=True)
class _Note:
    """The note beside a complete shard."""

    made_from: str
    shard: ShardInfo
    left_out: Mapping[str, manifest.Count] = dataclasses.field(default_factory=dict)
    """How much of the text is not in the shard, by the reason."""


def example_id(text_a: str, text_b: str | None = None) -> bytes:
    """Returns the 16 bytes that name an example: blake2b over its stripped texts in NFC."""
    texts = (text_a,) if text_b is None else (text_a, text_b)
    state = hashlib.blake2b(digest_size=ID_BYTES)
    for text in texts:
        part = unicodedata.normalize("NFC", text).strip().encode("utf-8")
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def write_shard(
    folder: epath.PathLike,
    name: str,
    *,
    index: int,
    of: int,
    records: Iterable[Record],
    made_from: str = "",
    left_out: Mapping[str, int] = MappingProxyType({}),
) -> ShardInfo:
    """Writes shard `index` of `of` and returns its description; memory use stays constant.

    `made_from` is a digest of whatever decides the records; `whole_shard` recognises the shard by
    it. `left_out` says how much is not in the shard, by the reason: what makes the records may
    still count it while it makes them.

    Raises:
      RecordsError: on a record that cannot be stored (naming its row), or a file that cannot be
      written.
    """
    path = epath.Path(folder) / manifest.shard_file(name, index, of)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = _ShardWriter(path.name)
    with replaced(path) as stream:
        for record in records:
            writer.add(record, stream)
    content = writer.index_content()
    info = writer.info(files.digest_file(path), files.digest_content(content))
    note = dataclasses.asdict(_Note(made_from, info, dict(left_out)))
    with _refusal(path):
        files.write_bytes(path.parent / info.index_file, content)
        manifest.write_sealed(note_file(path), {"format": _NOTE_FORMAT, **note})
    return info


def whole_shard(
    folder: epath.PathLike, name: str, *, index: int, of: int, made_from: str = ""
) -> ShardInfo | None:
    """Returns shard `index` of `of` if it is complete and made from the same; else None."""
    path = epath.Path(folder) / manifest.shard_file(name, index, of)
    if not note_file(path).exists():
        return None
    note = _read_note(path)
    info = note.shard
    if info.file != path.name:
        return None
    index_path = path.parent / info.index_file
    if note.made_from != made_from or not path.exists() or not index_path.exists():
        return None
    if files.digest_file(path) != info.digest or files.digest_file(index_path) != info.index_digest:
        return None
    return info


def left_out(folder: epath.PathLike, shard: ShardInfo) -> Mapping[str, int]:
    """Returns how much was left out of a complete shard, by the reason, as its note says."""
    return _read_note(epath.Path(folder) / shard.file).left_out


def _read_note(path: epath.Path) -> _Note:
    sealed = manifest.read_sealed(note_file(path), _NOTE_FORMAT, RecordsError)
    return manifest.checked(_Note, sealed, note_file(path), RecordsError)


def finish(
    folder: epath.PathLike,
    shards: Sequence[ShardInfo],
    *,
    name: str,
    tokenizer: manifest.HasVocabulary,
    max_length: int,
    task: config_lib.Task | None = None,
    labels: tuple[str, ...] = (),
    sources: Mapping[str, str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Manifest:
    """Returns the manifest of the shards (in order), after writing it: the dataset is now complete,
    and what earlier builds of its name left in the folder is removed.

    Raises:
      RecordsError: where shards are missing, disagree about their features, or lack what `task`
      needs.
    """
    folder = epath.Path(folder)
    _check_shards(folder, shards, name=name, task=task, labels=labels, max_length=max_length)
    unsigned = Manifest(
        name=name,
        rows=sum(shard.rows for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        max_length=max_length,
        task=task,
        labels=labels,
        pairs=any("segment_ids" in shard.features for shard in shards),
        tokenizer=TokenizerInfo.of(tokenizer),
        shards=tuple(shards),
        sources=dict(sources or {}),
        arguments=dict(arguments or {}),
        fingerprint="",
    )
    whole = dataclasses.replace(unsigned, fingerprint=manifest.fingerprint(unsigned))
    manifest.write(folder, whole)
    _remove_older(folder, name, of=len(shards))
    return whole


def _remove_older(folder: epath.Path, name: str, *, of: int) -> None:
    """Removes the shards of an earlier build of this name with another number of shards, and
    half-written shards that killed processes left.

    Only shards with a note of ours (`.shard.json`) are removed: a file that merely has such a name
    may be one of the user's, even the text that the dataset was built from.
    """
    shard = re.compile(rf"{re.escape(name)}-\d{{5}}-of-(\d{{5}})")
    kinds = (".tfrecord", ".index.npy", ".shard.json")
    for path in list(folder.iterdir()):
        stem, partial, _ = path.name.removeprefix(".").partition(".partial-")
        kind = next((kind for kind in kinds if stem.endswith(kind)), "")
        found = shard.fullmatch(stem.removesuffix(kind)) if kind else None
        if found and partial and path.name.startswith("."):
            path.unlink(missing_ok=True)
        elif found and kind == ".shard.json" and int(found[1]) != of:
            for other in kinds:
                (folder / f"{found[0]}{other}").unlink(missing_ok=True)


@contextmanager
def _refusal(path: epath.Path) -> Iterator[None]:
    """Turns an OSError of a block that writes a file or those beside it into a RecordsError."""
    try:
        yield
    except OSError as fault:
        raise RecordsError(
            f"{path} could not be written ({fault}); free some space or choose another folder"
        ) from fault


@contextmanager
def replaced(path: epath.Path) -> Iterator[IO[bytes]]:
    """Yields a stream whose content appears at `path` only if the block succeeds.

    Raises:
      RecordsError: where the file system refuses the write (full disk, quota, permission).
    """
    with _refusal(path), files.replaced(path) as stream:
        yield stream


class _ShardWriter:
    """Encodes records and keeps track of where everything was written."""

    def __init__(self, file: str):
        self._file = file
        self._rows = 0
        self._tokens = 0
        self._longest = 0
        self._offset = 0
        self._features: set[str] = set()
        self._blocks: list[np.ndarray] = []
        self._block: list[tuple[int, ...]] = []

    def add(self, record: Record, stream: IO[bytes]) -> None:
        try:
            encoded = example.encode(_features(record))
        except ValueError as fault:
            raise RecordsError(
                f"{self._file} row {self._rows}: {fault}; fix what produces the record"
            ) from None
        self._keep_features(set(encoded.spans))
        crc = tfrecord.crc32c(encoded.payload)
        stream.write(tfrecord.frame(encoded.payload, crc))
        tokens = len(record.input_ids)
        self._block.append(index_row(encoded, self._offset + tfrecord.HEADER_BYTES, crc, tokens))
        if len(self._block) == _INDEX_BLOCK:
            self._blocks.append(np.array(self._block, INDEX))
            self._block = []
        self._offset += tfrecord.HEADER_BYTES + len(encoded.payload) + tfrecord.FOOTER_BYTES
        self._rows += 1
        self._tokens += tokens
        self._longest = max(self._longest, tokens)

    def index_content(self) -> bytes:
        content = io.BytesIO()
        np.save(content, np.concatenate([*self._blocks, np.array(self._block, INDEX)]))
        return content.getvalue()

    def info(self, digest: str, index_digest: str) -> ShardInfo:
        return ShardInfo(
            file=self._file,
            rows=self._rows,
            tokens=self._tokens,
            longest=self._longest,
            bytes=self._offset,
            digest=digest,
            index_digest=index_digest,
            features=tuple(sorted(self._features)),
        )

    def _keep_features(self, names: set[str]) -> None:
        # A pair's segments may be left out of a row where they are all 0; nothing else may differ
        # between rows.
        changed = (names ^ self._features) - {"segment_ids"}
        if self._rows and changed:
            raise RecordsError(
                f"{self._file} row {self._rows} differs from the rows before it in"
                f" {', '.join(sorted(changed))}; give all rows of a dataset the same features"
            )
        self._features |= names


def _features(record: Record) -> dict[str, example.Values]:
    ids = np.asarray(record.input_ids)
    if len(record.example_id) != ID_BYTES:
        raise ValueError(f"example_id has {len(record.example_id)} bytes, not {ID_BYTES}")
    features: dict[str, example.Values] = {"input_ids": ids, "example_id": record.example_id}
    if record.segment_ids is not None:
        segments = np.asarray(record.segment_ids)
        if segments.shape != ids.shape or segments.max(initial=0) > 1:
            raise ValueError("segment_ids must be 0 or 1 for each of input_ids")
        features["segment_ids"] = segments
    if isinstance(record.label, float | np.floating):
        features["label_values"] = np.array([record.label], np.float32)
    elif record.label is not None:
        features["label_ids"] = np.atleast_1d(np.asarray(record.label, np.int64))
    if record.next_sentence is not None:
        if record.next_sentence not in (0, 1):
            raise ValueError(f"next_sentence is {record.next_sentence}, not 0 or 1")
        features["next_sentence_labels"] = np.array([record.next_sentence])
    return features


def index_row(encoded: example.Encoded, offset: int, crc: int, tokens: int) -> tuple[int, ...]:
    """Returns the entry of `INDEX` for a payload that begins at byte `offset` of its shard."""
    nothing = example.Span(0, 0)
    found = encoded.spans
    ids = found["input_ids"]
    label = found.get("label_ids") or found.get("label_values") or nothing
    segments, following = (
        found.get("segment_ids", nothing),
        found.get("next_sentence_labels", nothing),
    )
    return (
        offset, len(encoded.payload), crc, tokens, ids.start, ids.size, segments.start,
        found["example_id"].start, label.start, label.size, following.start,
    )  # fmt: skip


def _check_shards(
    folder: epath.Path,
    shards: Sequence[ShardInfo],
    *,
    name: str,
    task: str | None,
    labels: tuple[str, ...],
    max_length: int,
) -> None:
    expected = [manifest.shard_file(name, index, len(shards)) for index in range(len(shards))]
    found = [shard.file for shard in shards]
    if found != expected:
        wrong = next(one for one, other in zip(expected, found, strict=True) if one != other)
        raise RecordsError(f"{folder / wrong} is not among the shards to finish; build it")
    filled = [shard for shard in shards if shard.rows]
    if not filled:
        raise RecordsError(f"{folder} would have no rows; check the source of its text")
    kinds = {frozenset(shard.features) - {"segment_ids"} for shard in filled}
    if len(kinds) > 1:
        raise RecordsError(
            f"{folder}: its shards differ in their features; build them all with the same arguments"
        )
    needed = TASK_FEATURES.get(task) if task else None
    given = {"label_ids", "label_values"} & set(filled[0].features)
    if given != ({needed} if needed else set()):
        raise RecordsError(
            f"{folder}: task {task!r} needs {needed or 'no labels'}, but its rows have"
            f" {', '.join(given) or 'none'}; build it again with the right task"
        )
    if needed == "label_ids" and not labels:
        raise RecordsError(f"{folder}: task {task!r} needs the names of its labels, in order")
    longest = max(shard.longest for shard in shards)
    if longest > max_length:
        raise RecordsError(
            f"{folder} has a row of {longest} tokens, more than max_length={max_length};"
            " build it again"
        )


def note_file(path: epath.Path) -> epath.Path:
    """Returns the path of the note that the shard at `path` is complete, and made from what."""
    return path.parent / f"{path.name.removesuffix('.tfrecord')}.shard.json"
