"""Builds a dataset from text: shards are made in parallel, each atomically, unless complete.

A shard is a pure function of its task (`plans.py`), so any number of processes or machines make
the same dataset. An interrupted build is resumed by repeating it with the same arguments: it makes
only what is missing.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from pd_jax import config, processes
from pd_jax.config.reading import to_json
from pd_jax.data.building import filters, layouts, places
from pd_jax.data.building.plans import (
    FILTERS_FOLDER,
    Plan,
    Task,
    check,
    kinds_left_out,
    make_plan,
)
from pd_jax.data.records import manifest, shards
from pd_jax.data.text import corpora
from pd_jax.data.text.broken import Skipped
from pd_jax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from pd_jax.errors import RecordsError, SourceError, TokenizerError
from pd_jax.progress import Progress

_COUNT_BYTES = 1 << 16
_LEFT_OUT = "left_out"

Run = Callable[..., Iterator[tuple[Task, Any]]]
"""`run(job, tasks, report=...)` does a job for each task, and yields what it knows to be done."""


@dataclasses.dataclass(frozen=True)
class Share:
    """Part `index` of the `of` parts of a build: shards index, index + of, ..."""

    index: int
    of: int


def build_records(
    stage: config.RecordsStage,
    tokenizer: Tokenizer,
    folder: epath.PathLike,
    *,
    name: str,
    workers: int | None = None,
) -> manifest.Manifest:
    """Returns the manifest of the dataset in `folder` after making what it lacks.

    `workers` processes share the work; by default as many as there are cores.

    Raises:
      ConfigError: where `name` cannot name shards, or task and columns do not fit each other.
      SourceError: on text or labels that cannot be used, naming file and line, or where a source
        changes meanwhile.
      RecordsError: where the folder cannot be written, or a worker process was killed.
    """
    run = functools.partial(processes.run, workers=workers or len(processes.available_cores()))
    whole = build_share(stage, tokenizer, folder, name=name, run=run, share=Share(0, 1))
    assert whole is not None, "one share is everything"
    return whole


def build_share(
    stage: config.RecordsStage,
    tokenizer: Tokenizer,
    folder: epath.PathLike,
    *,
    name: str,
    run: Run,
    share: Share,
) -> manifest.Manifest | None:
    """Makes a share; returns the manifest if all shards exist then, else None.

    `run` carries out jobs: in processes of this machine (`processes.run`) or elsewhere
    (`beam.run`). Shares may be made at the same time, by processes that have nothing in common
    but the folder.

    Raises:
      As `build_records`.
    """
    manifest.check_name(name)
    check(stage)
    places.check(folder, tokenizer)
    plan = make_plan(stage, tokenizer, folder, name=name)
    mine = [task for task in plan.tasks if task.index % share.of == share.index]
    done = {task.index: whole for task in mine if (whole := task.whole()) is not None}
    missing = [task for task in mine if task.index not in done]
    if missing or not finished_with(folder, tokenizer):
        begin(folder, tokenizer)
    if missing:
        all_names = _prepare_filters(plan, run, share)
        missing = [dataclasses.replace(task, all_names=all_names) for task in missing]
        done |= {task.index: info for task, info in _each(build_shard, missing, run)}
    for task in plan.tasks:
        if task.index not in done:
            whole = task.whole()
            if whole is None and share.of == 1:
                raise RecordsError(
                    f"{folder} lacks shard {task.index} of {task.of} though the build has ended; "
                    "run the same command again"
                )
            if whole is None:
                return None
            done[task.index] = whole
    found = [done[task.index] for task in plan.tasks]
    return _finish(stage, tokenizer, plan, found)


def begin(folder: epath.PathLike, tokenizer: Tokenizer) -> None:
    """Prepares a folder for a build with this tokenizer, which `places.check` allows.

    An earlier manifest is removed first: shards and tokenizers of two builds must never pass for
    one dataset.
    """
    (epath.Path(folder) / manifest.FILE).unlink(missing_ok=True)
    tokenizer.save(epath.Path(folder) / manifest.TOKENIZER_FOLDER)


def finished_with(folder: epath.PathLike, tokenizer: Tokenizer) -> bool:
    """Returns whether a folder holds a finished dataset with this tokenizer."""
    folder = epath.Path(folder)
    there = (folder / manifest.FILE).exists()
    return there and places.holds(folder / manifest.TOKENIZER_FOLDER, tokenizer)


def build_shard(task: Task, count: processes.Count) -> shards.ShardInfo:
    """Writes a shard and returns its description; `count` gets the bytes of text read.

    Raises:
      As `build_records`. A shard is noted as whole only where no source has changed meanwhile.
    """
    meter = Meter(task.size, count)
    left_out = dict.fromkeys(kinds_left_out(task.stage), 0)
    made = records(task, _tokenizer(task.folder, task.tokenizer), meter, left_out)
    info = shards.write_shard(
        task.folder,
        task.name,
        index=task.index,
        of=task.of,
        records=task.watched.read(made),
        made_from=task.made_from,
        left_out=left_out,
    )
    meter.finish()
    return info


def records(
    task: Task, tokenizer: Tokenizer, meter: "Meter", left_out: dict[str, int]
) -> Iterator[shards.Record]:
    """Yields the examples of a shard: a pure function of the task.

    In the end, `left_out` has the count of each kind that it has a key for.
    """
    layout, max_length = task.stage.examples, task.stage.max_length
    filter_ = filters.ShardFilter(task.left_out, task.all_names) if task.left_out else None
    skipped = Skipped()
    if isinstance(layout, config.Rows):
        rows = meter.rows(row for piece in task.pieces for row in corpora.rows(piece, skipped))
        rows = filter_.rows(rows) if filter_ else rows
        yield from layouts.row_records(rows, tokenizer, layout=layout, max_length=max_length)
    else:
        found = (one for piece in task.pieces for one in corpora.documents(piece, skipped))
        documents = meter.documents(found)
        documents = filter_.documents(documents) if filter_ else documents
        yield from layouts.corpus_records(
            documents, tokenizer, layout=layout, max_length=max_length, shard=task.index
        )
    counts = {"broken_rows": skipped.count, **(filter_.counts if filter_ else {})}
    left_out.update((kind, counts[kind]) for kind in left_out)


class Meter:
    """Counts the bytes of text read; in the end the sum is the expected size, whatever was read."""

    def __init__(self, size: float, count: processes.Count):
        self._left, self._count = size, count
        self._waiting = 0

    def rows(self, rows: Iterator[corpora.Row]) -> Iterator[corpora.Row]:
        """Yields the rows, counted."""
        for row in rows:
            yield row
            self._add(row.text)

    def documents(self, documents: Iterator[corpora.Document]) -> Iterator[corpora.Document]:
        """Yields the documents, counted."""
        for document in documents:
            yield document
            for sentence in document.sentences:
                self._add(sentence)

    def finish(self) -> None:
        """Counts what is left of the size."""
        self._count(self._left)

    def _add(self, content: str) -> None:
        self._waiting += len(content) if content.isascii() else len(content.encode("utf-8"))
        if self._waiting >= _COUNT_BYTES:
            read = min(self._left, self._waiting)
            self._count(read)
            self._left, self._waiting = self._left - read, 0


def _prepare_filters(plan: Plan, run: Run, share: Share) -> str | None:
    """Writes the lists of what to leave out; returns the digest in the duplicate lists' names."""
    if not plan.filters:
        return None
    stage = plan.tasks[0].stage
    filters.write_excluded(plan.filters[0], stage.exclude, plan.excluded)
    if not stage.deduplicate:
        return None
    # Of shares that are made at the same time, each begins with its own text and, once it comes to
    # the others', finds that done.
    ordered = sorted(plan.tasks, key=lambda task: (task.index - share.index) % share.of)
    unread = [task for task in ordered if not _scanned(task)]
    for _ in _each(_scan, unread, run, title="looking for duplicates"):
        pass
    return filters.match(plan.filters)


def _scan(task: Task, count: processes.Count) -> None:
    """Writes the names of a shard's rows or documents, unless another share has written them."""
    assert task.left_out is not None
    if _scanned(task):
        count(task.size)
        return
    meter, skipped = Meter(task.size, count), Skipped()
    if isinstance(task.stage.examples, config.Rows):
        found = (row for piece in task.pieces for row in corpora.rows(piece, skipped))
        filters.scan(task.left_out, task.watched.read(meter.rows(found)))
    else:
        found = (one for piece in task.pieces for one in corpora.documents(piece, skipped))
        filters.scan(task.left_out, task.watched.read(meter.documents(found)))
    meter.finish()


def _scanned(task: Task) -> bool:
    return task.left_out is not None and task.left_out.names_file.exists()


def _each(
    job: processes.Job, tasks: Sequence[Task], run: Run, *, title: str = "building records"
) -> Iterator[tuple]:
    """Yields what `run` yields for a job of each task, showing its progress."""
    if not tasks:
        return
    pieces = [piece for task in tasks for piece in task.pieces]
    # The size of a compressed file does not give the length of its text.
    zipped = any(file.zipped for piece in pieces for file in piece.files)
    total = None if zipped else sum(task.size for task in tasks) / 1e6
    with Progress(title, total, unit="MB") as progress:
        yield from run(job, tasks, report=lambda read: progress.set(read / 1e6))


def _finish(
    stage: config.RecordsStage, tokenizer: Tokenizer, plan: Plan, found: Sequence[shards.ShardInfo]
) -> manifest.Manifest:
    """Returns the manifest, written last of all.

    Raises:
      SourceError: where the sources had no text.
    """
    arguments, folder = to_json(stage), plan.tasks[0].folder
    if kinds := kinds_left_out(stage):
        notes = [shards.left_out(folder, shard) for shard in found]
        arguments[_LEFT_OUT] = {kind: sum(note[kind] for note in notes) for kind in kinds}
    if not any(shard.rows for shard in found):
        names = ", ".join(plan.sources)
        if any(arguments.get(_LEFT_OUT, {}).values()):
            raise SourceError(
                f"{names}: all of the text was left out ({arguments[_LEFT_OUT]}); relax the "
                "filters, or give more text"
            )
        raise SourceError(f"{names}: there is no text; give text that is not blank")
    layout = stage.examples
    rows = layout if isinstance(layout, config.Rows) else config.Rows()
    whole = shards.finish(
        folder,
        found,
        name=plan.tasks[0].name,
        tokenizer=tokenizer,
        max_length=stage.max_length,
        task=rows.task,
        labels=rows.labels,
        sources=dict(plan.sources),
        arguments=arguments,
    )
    filters.tidy(epath.Path(folder) / FILTERS_FOLDER)
    return whole


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: str, fingerprint: str) -> Tokenizer:
    """Returns the dataset's tokenizer, loaded once in each process.

    Raises:
      TokenizerError: where the folder now holds another one.
    """
    place = epath.Path(folder) / manifest.TOKENIZER_FOLDER
    found = load_tokenizer(place)
    if found.fingerprint != fingerprint:
        raise TokenizerError(
            f"{place} has a different tokenizer from the one its records are to be made with;"
            " remove that folder and build again"
        )
    return found
