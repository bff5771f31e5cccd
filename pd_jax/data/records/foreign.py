"""Imports records that other programs wrote into the one format that is used for training.

It reads TFRecord files, gzipped or not, and ArrayRecord files of tf.train.Examples as
google-research/bert writes them (`input_ids`, `segment_ids`) and as TensorFlow Model Garden does
(`input_word_ids`, `input_type_ids`), for pre-training and for tasks. Padding is removed. Static
masks are removed too (`masked_lm_ids` go back to `masked_lm_positions`), because masks are drawn
again at every step.

The files stay as they are. Each becomes one shard, which is smaller without the padding. A shard
that already exists and was made from the same file is kept.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from etils import epath

from pd_jax import files, processes
from pd_jax.config import Task
from pd_jax.data.records import manifest, shards
from pd_jax.data.records.manifest import HasVocabulary, Manifest, ShardInfo, TokenizerInfo
from pd_jax.data.records.shards import ID_BYTES, Record
from pd_jax.data.wire import example, tfrecord
from pd_jax.errors import ConfigError, RecordsError

_IDS = ("input_ids", "input_word_ids")
_SEGMENTS = ("segment_ids", "input_type_ids")
_LABELS = ("label_ids", "label_values")
_LABELLED = ("classification", "multilabel")
_ARRAY_RECORDS = (".array_record", ".arrayrecord")
_RECORDS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class _Source:
    """One foreign file, and how to read it."""

    path: str
    tokenizer: TokenizerInfo
    task: Task | None
    labels: tuple[str, ...]
    digest: str

    @property
    def made_from(self) -> str:
        """Digest of what decides the records, and whether they are refused."""
        deciding = {**dataclasses.asdict(self), "path": ""}
        if not self.labels:
            del deciding["labels"]
        return files.digest_json(deciding)


def import_records(
    paths: Sequence[epath.PathLike],
    folder: epath.PathLike,
    *,
    name: str,
    tokenizer: HasVocabulary,
    task: Task | None = None,
    labels: tuple[str, ...] = (),
    workers: int = 1,
    shown: Callable[[ShardInfo], None] = lambda shard: None,
) -> Manifest:
    """Returns the manifest of a dataset in `folder` with the records of `paths`, one shard a file.

    Without `task`, labels are dropped. `shown` is called with each shard that is ready.

    Raises:
      ConfigError: as `check`.
      RecordsError: as `check_places`; on a record that is damaged, made with another tokenizer or
        for another task, or has a label that is not one of `labels`, naming its file and number.
    """
    check(name, task, labels)
    check_places(paths, folder, name)
    info = TokenizerInfo.of(tokenizer)
    sources = [_Source(str(path), info, task, labels, files.digest_file(path)) for path in paths]
    job = functools.partial(_import_file, folder=str(folder), name=name, of=len(sources))
    made = {}
    for (index, _), shard in processes.run(job, tuple(enumerate(sources)), workers=workers):
        made[index] = shard
        shown(shard)
    ready = [made[index] for index in range(len(sources))]
    return shards.finish(
        folder,
        ready,
        name=name,
        tokenizer=tokenizer,
        max_length=max(shard.longest for shard in ready),
        task=task,
        labels=labels,
        sources={shard.file: one.digest for shard, one in zip(ready, sources, strict=True)},
    )


def check(name: str, task: Task | None, labels: Sequence[str]) -> None:
    """Raises ConfigError where `name` cannot name shards, or a task lacks its labels."""
    manifest.check_name(name)
    if task in _LABELLED and not labels:
        raise ConfigError(f"task {task!r} needs the names of its labels, in order; give --labels")


def check_places(paths: Sequence[epath.PathLike], folder: epath.PathLike, name: str) -> None:
    """Raises RecordsError where one of `paths` is a file that their dataset would overwrite."""
    written: set[str] = set()
    for index in range(len(paths)):
        shard = epath.Path(folder) / manifest.shard_file(name, index, len(paths))
        index_file = shard.parent / f"{shard.name.removesuffix('.tfrecord')}.index.npy"
        written.update(map(_place, (shard, index_file, shards.note_file(shard))))
    for path in paths:
        source = os.fspath(path)
        followed = source if files.is_remote(source) else os.path.realpath(source)
        if {_place(source), followed} & written:
            raise RecordsError(
                f"{source} would be overwritten by a shard of dataset {name!r};"
                " give another output folder or another name"
            )


def _place(path: epath.PathLike) -> str:
    """Returns where a file is, through links to its folder; a link to the file counts itself."""
    path = os.fspath(path)
    if files.is_remote(path):
        return path
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _import_file(
    numbered: tuple[int, _Source], count: processes.Count, *, folder: str, name: str, of: int
) -> ShardInfo:
    del count  # progress counts files
    index, source = numbered
    kept = shards.whole_shard(folder, name, index=index, of=of, made_from=source.made_from)
    return kept or shards.write_shard(
        folder, name, index=index, of=of, records=_records(source), made_from=source.made_from
    )


def _records(source: _Source) -> Iterator[Record]:
    for number, payload in _payloads(source.path):
        try:
            features = example.parse(payload)
            if features.get("is_real_example", [1]) == [1]:
                yield _record(features, source)
        except ValueError as fault:
            raise RecordsError(f"{source.path} record {number}: {fault}") from None


def _payloads(path: str) -> Iterator[tuple[int, bytes]]:
    """Yields a file's records by number, checked against their checksums."""
    if not path.endswith(_ARRAY_RECORDS):
        yield from ((frame.number, frame.payload) for frame in tfrecord.read_frames(path))
        return
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as fault:
        raise RecordsError(
            f"{path} needs the package array_record ({fault}); install it, or give TFRecord files"
        ) from None
    first = 0
    try:
        # Records are requested by number: without reading ahead, memory holds only those.
        reader = ArrayRecordReader(path, options="readahead_buffer_size:0")
        count = reader.num_records()
        for first in range(0, count, _RECORDS_AT_ONCE):
            wanted = range(first, min(first + _RECORDS_AT_ONCE, count))
            yield from zip(wanted, reader.read(list(wanted)), strict=True)
        reader.close()
    except (RuntimeError, ValueError, IndexError) as fault:
        cause = " ".join(str(fault).split())
        raise RecordsError(
            f"{path} is damaged or not an ArrayRecord file, from record {first} on ({cause}); "
            "download or rebuild it"
        ) from None


def _record(features: dict[str, list], source: _Source) -> Record:
    tokenizer = source.tokenizer
    ids = _integers(features, _IDS)
    if not len(ids):
        raise ValueError(f"it has none of {', '.join(_IDS)}, only {', '.join(sorted(features))}")
    segments = _integers(features, _SEGMENTS)
    segments = segments if len(segments) else np.zeros(len(ids), np.int64)
    mask = _one_of(features, ("input_mask",))
    real = np.array(mask) > 0 if mask else ids != tokenizer.pad_id
    if not len(ids) == len(segments) == len(real):
        raise ValueError(f"{len(ids)} ids, {len(segments)} segments and {len(real)} mask values")
    length = int(np.flatnonzero(real)[-1]) + 1 if real.any() else 0
    _unmask(ids, features)
    _check_ids(ids[:length], tokenizer)
    ids, segments = ids[:length].astype(np.int32), segments[:length]
    following = _one_of(features, ("next_sentence_labels",))
    for name, values in (("segment_ids", segments), ("next_sentence_labels", np.array(following))):
        if np.any(wrong := (values != 0) & (values != 1)):
            raise ValueError(
                f"its {name} must be 0 or 1, not {values[wrong][0]}; correct the record"
            )
    return Record(
        input_ids=ids,
        segment_ids=segments if segments.any() else None,
        example_id=hashlib.blake2b(
            ids.astype("<i4").tobytes() + segments.astype("<i4").tobytes(),
            digest_size=ID_BYTES,
            person=b"token ids",  # never the id of a text
        ).digest(),
        label=_label(features, source),
        next_sentence=following[0] if following else None,
    )


def _one_of(features: dict[str, list], names: Sequence[str]) -> list:
    name = next((name for name in names if name in features), "")
    values = features.get(name, [])
    if values and isinstance(values[0], bytes):
        raise ValueError(f"its {name} are bytes, not numbers; write them as an int64 list")
    return values


def _integers(features: dict[str, list], names: Sequence[str]) -> np.ndarray:
    values = _one_of(features, names)
    if values and isinstance(values[0], float):  # a list has numbers of one kind
        raise ValueError(f"its {names[0]} are floats; write them as an int64 list")
    return np.array(values, np.int64)


def _unmask(ids: np.ndarray, features: dict[str, list]) -> None:
    """Puts the original tokens back where a static mask took them."""
    positions = _integers(features, ("masked_lm_positions",))
    originals = _integers(features, ("masked_lm_ids",))
    # Lists are padded to one length: with weight 0, or, where weights are missing, with position 0,
    # which is [CLS] and never masked.
    given = "masked_lm_weights" in features
    weights = np.array(_one_of(features, ("masked_lm_weights",))) if given else positions
    if not len(positions) == len(originals) == len(weights):
        raise ValueError(
            "masked_lm_positions, masked_lm_ids and masked_lm_weights differ in length"
        )
    used = weights > 0
    if np.any((positions[used] < 0) | (positions[used] >= len(ids))):
        raise ValueError("a masked_lm_position is beyond the ends")
    ids[positions[used]] = originals[used]


def _check_ids(ids: np.ndarray, tokenizer: TokenizerInfo) -> None:
    if not len(ids) or ids[0] != tokenizer.cls_id:
        first = ids[0] if len(ids) else "nothing"
        raise ValueError(
            f"it begins with {first}, but the tokenizer's [CLS] is {tokenizer.cls_id};"
            " use the tokenizer it was made with"
        )
    outside = ids[(ids < 0) | (ids >= tokenizer.vocab_size)]
    if len(outside):
        raise ValueError(
            f"token {outside[0]} is outside the vocabulary of {tokenizer.vocab_size};"
            " use the tokenizer it was made with"
        )
    if np.any(ids == tokenizer.mask_id):
        raise ValueError("it has [MASK] in a place for which masked_lm_ids give no original token")


def _label(features: dict[str, list], source: _Source) -> int | float | tuple[int, ...] | None:
    task, names = source.task, source.labels
    if task is None:
        return None
    values = _one_of(features, _LABELS)
    needed = len(names) if task == "multilabel" else 1
    if len(values) != needed:
        raise ValueError(
            f"it has {len(values)} labels, but task {task!r} needs {needed};"
            " give the task and the labels that it was made with"
        )
    if task == "regression":
        if not abs(values[0]) <= np.finfo(np.float32).max:
            raise ValueError(
                f"it has label {values[0]}, which is not a number that float32 can hold; correct it"
            )
        return float(values[0])
    allowed = range(2 if task == "multilabel" else len(names))
    if wrong := [value for value in values if value not in allowed]:
        raise ValueError(
            f"it has label {wrong[0]!r}, but task {task!r} with {len(names)} labels allows"
            f" 0 to {allowed[-1]}; give the task and the labels that it was made with"
        )
    return tuple(map(int, values)) if task == "multilabel" else int(values[0])
