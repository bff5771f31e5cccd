"""Makes a logit store shard by shard: complete shards stay, and missing ones are labelled.

Beside each shard of the store is a note, written after it, of what the shard was made from. An
interrupted labelling is resumed by repeating it with the same arguments: it makes only what is
missing. No more than one shard's answers are held in memory.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from etils import epath
from jaxtyping import Int64

from pd_jax import files
from pd_jax.data.logits.logit_shards import (
    Field,
    LogitsShard,
    Values,
    no_answer,
    write_logits_shard,
)
from pd_jax.data.logits.store import LANGUAGE, LogitsManifest, LogitStore, finish_logits
from pd_jax.data.records import manifest
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.shards import note_file
from pd_jax.errors import LogitsError
from pd_jax.parallel import distributed
from pd_jax.progress import Progress

Answers = Callable[
    [Int64[np.ndarray, " rows"]], Iterable[tuple[Int64[np.ndarray, " some"], Values]]
]
"""Rows of a dataset (those of one shard) -> (rows, the fields they have) in any order and portions,
each row once. On several processes all of them call it, and all get every row."""

_NOTE_FORMAT = "pd_jax logits shard 2"
_ID_ROWS = 1 << 16


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What gives the answers: a fingerprint of the model (or file), and what its outputs mean."""

    fingerprint: str
    task: str
    labels: tuple[str, ...]
    """In the order of the outputs; empty for regression."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What else decides the answers, as JSON: lengths, precision, the tokenizer of one that reads
    texts. Not the batch, which only decides how they are rounded: what was labelled before memory
    ran out is kept when the batch is lowered.
    """
    more: tuple[Field, ...] = ()
    """What a row has besides its logits, or in place of them."""
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What those fields mean, as JSON, for the manifest."""
    complete: bool = True
    """Whether every row must be answered; else rows of NaN stand for no answer."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """Everything that a row has."""
        if self.task == LANGUAGE:
            return self.more
        outputs = 1 if self.task == "regression" else len(self.labels)
        return (Field("logits", (outputs,)), *self.more)


@dataclasses.dataclass(frozen=True)
class _Note:
    """The note beside a complete shard."""

    made_from: str
    shard: LogitsShard


def label_dataset(
    folder: epath.PathLike, dataset: Dataset, *, teacher: Teacher, answers: Answers, title: str
) -> LogitsManifest:
    """Returns the manifest of the complete store in `folder` after making what it lacks.

    Every process of a run calls this with the same arguments; process 0 writes.

    Raises:
      LogitsError: where a row has no logits or infinite ones (naming shard and row), or the folder
        holds a finished store that was made from something else.
      MeshError: where the processes see different teachers, datasets or settings.
    """
    folder = epath.Path(folder)
    made_from = _made_from(dataset, teacher)
    distributed.same_everywhere(f"what is labelled into {folder}", made_from)
    sizes = [shard.rows for shard in dataset.manifest.shards]
    ends = np.cumsum(sizes)
    with distributed.all_or_none("looking at what is labelled"):
        whole = _whole_shards(folder, dataset, teacher) if distributed.is_writer() else {}
    held = distributed.from_writer(np.isin(np.arange(len(sizes)), list(whole)).astype(np.int32))
    with Progress(
        title,
        total=len(dataset),
        start=int(np.dot(held, sizes)),
        shown=distributed.is_writer(),
    ) as progress:
        for index in np.flatnonzero(held == 0).tolist():
            rows = np.arange(ends[index] - sizes[index], ends[index])
            place = f"{folder / _file(dataset, index)}"
            values = _labelled(answers, rows, teacher.fields, place=place, advance=progress.advance)
            if distributed.is_writer():
                whole[index] = _write(folder, dataset, index, rows, values, teacher)
    if distributed.is_writer():
        finish_logits(
            folder,
            [whole[index] for index in range(len(sizes))],
            dataset=dataset,
            teacher=teacher.fingerprint,
            task=teacher.task,
            labels=teacher.labels,
            fields=teacher.fields,
            about=teacher.about,
            settings=teacher.settings,
        )
        for left in files.matching(folder, ".*.partial-*"):  # by a process that was killed
            left.unlink()
    distributed.barrier(f"labelled {folder}")
    return LogitStore.open(folder).manifest


def _made_from(dataset: Dataset, teacher: Teacher) -> str:
    return files.digest_json({"dataset": dataset.fingerprint, **dataclasses.asdict(teacher)})


def _whole_shards(folder: epath.Path, dataset: Dataset, teacher: Teacher) -> dict[int, LogitsShard]:
    """Returns the shards that need not be made, by number.

    Where something is to be made, an older manifest is removed first: shards of two labellings
    must never pass for one store.
    """
    of, made_from = len(dataset.manifest.shards), _made_from(dataset, teacher)
    found = {index: _whole_shard(folder, dataset, index, made_from) for index in range(of)}
    whole = {index: shard for index, shard in found.items() if shard is not None}
    if len(whole) < of:
        _check_replaceable(folder, dataset, teacher)
        (folder / manifest.FILE).unlink(missing_ok=True)
    return whole


def _check_replaceable(folder: epath.Path, dataset: Dataset, teacher: Teacher) -> None:
    """Raises LogitsError where a folder has another finished store, or something else."""
    manifest.check_replaceable(folder, "pd_jax logits", LogitsError)
    if not (folder / manifest.FILE).exists():
        return
    try:
        found = LogitStore.open(folder).manifest
    except LogitsError:
        return  # a damaged store is made again
    if (found.dataset, found.teacher) != (dataset.fingerprint, teacher.fingerprint):
        _refuse(folder)


def _refuse(folder: epath.Path) -> NoReturn:
    raise LogitsError(
        f"{folder} has a finished store of another teacher, dataset or settings; choose another "
        "folder, or delete it"
    )


def _whole_shard(
    folder: epath.Path, dataset: Dataset, index: int, made_from: str
) -> LogitsShard | None:
    """Returns a shard that exists, is undamaged, and was made from the same; else None."""
    path = folder / _file(dataset, index)
    note = note_file(path)
    if not note.exists():
        return None
    sealed = manifest.read_sealed(note, _NOTE_FORMAT, LogitsError)
    found = manifest.checked(_Note, sealed, note, LogitsError)
    if found.made_from != made_from:
        if (folder / manifest.FILE).exists():
            _refuse(folder)
        return None
    if found.shard.file != path.name or not path.exists():
        return None
    return found.shard if files.digest_file(path) == found.shard.digest else None


def _labelled(
    answers: Answers,
    rows: Int64[np.ndarray, " rows"],
    fields: Sequence[Field],
    *,
    place: str,
    advance: Callable[[int], None],
) -> Values:
    """Returns the fields of a shard's rows, in their order."""
    held = no_answer(len(rows), fields)
    times = np.zeros(len(rows), np.int64)
    for some, found in answers(rows) if len(rows) else ():
        foreign = ((some < rows[0]) | (some > rows[-1])).any()  # a shard's rows have no gaps
        for field in fields:
            shape = found[field.name].shape
            if shape != (len(some), *field.shape) or foreign:
                raise LogitsError(
                    f"{place}: got {shape} {field.name} for {len(some)} rows of {field.shape} each,"
                    " or rows that were not requested; fix the teacher"
                )
            held[field.name][some - rows[0]] = found[field.name]
        np.add.at(times, some - rows[0], 1)
        advance(len(some))
    if (times != 1).any():
        row = int(np.argmax(times != 1))
        raise LogitsError(
            f"{place} row {row} was answered {times[row]} times, not once; fix the teacher"
        )
    return held


def _write(
    folder: epath.Path,
    dataset: Dataset,
    index: int,
    rows: Int64[np.ndarray, " rows"],
    values: Values,
    teacher: Teacher,
) -> LogitsShard:
    """Returns a shard after writing it and then its note."""
    portions = [rows[at : at + _ID_ROWS] for at in range(0, max(len(rows), 1), _ID_ROWS)]
    ids = np.concatenate([dataset.gather(portion).example_ids for portion in portions])
    shard = write_logits_shard(
        folder,
        dataset.manifest.name,
        index=index,
        of=len(dataset.manifest.shards),
        ids=ids,
        values=values,
        fields=teacher.fields,
        complete=teacher.complete,
    )
    note = {
        "format": _NOTE_FORMAT,
        "made_from": _made_from(dataset, teacher),
        "shard": dataclasses.asdict(shard),
    }
    manifest.write_sealed(note_file(folder / shard.file), note)
    return shard


def _file(dataset: Dataset, index: int) -> str:
    return manifest.shard_file(dataset.manifest.name, index, len(dataset.manifest.shards))
