"""Text to a dataset: shards made in parallel, each atomically, each skipped when it is whole.

A shard is a pure function of the text in its pieces, the tokenizer and the settings (`Task`), so
any number of processes or machines makes the same dataset. A build that was interrupted is repeated
with the same arguments and makes only what is missing.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence

from etils import epath

from pd_jax import config, files
from pd_jax.config.reading import to_json
from pd_jax.data import layouts, manifest, shards, text
from pd_jax.data import workers as pool
from pd_jax.data.tokenizers import Tokenizer, load_tokenizer
from pd_jax.errors import ConfigError, SourceError
from pd_jax.progress import Progress

_SHORTEST = 8
_COUNT_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Task:
    """Everything that makes one shard. `made_from` is a digest of what decides its content."""

    stage: config.RecordsStage
    pieces: tuple[text.Piece, ...]
    folder: str
    name: str
    index: int
    tokenizer: str
    """Its fingerprint; the files are in the folder."""
    made_from: str

    @property
    def size(self) -> float:
        """Its part of the sources' sizes."""
        return sum(piece.size for piece in self.pieces)


def build_records(
    stage: config.RecordsStage,
    tokenizer: Tokenizer,
    folder: epath.PathLike,
    *,
    name: str,
    workers: int | None = None,
) -> manifest.Manifest:
    """Returns the manifest of the dataset in `folder` after making what is missing of it.

    `workers` processes share the work; by default as many as there are cores.

    Raises:
      SourceError: on text or labels that cannot be used, naming file and line.
      RecordsError: where the folder cannot be written, or a worker process was killed.
    """
    check(stage)
    tasks, sources = plan(stage, tokenizer, folder, name=name)
    tokenizer.save(epath.Path(folder) / manifest.TOKENIZER_FOLDER)
    found = make(tasks, workers=workers)
    return finish(stage, tokenizer, folder, found, name=name, sources=sources)


def check(stage: config.RecordsStage) -> None:
    """Raises ConfigError where task and columns do not fit each other."""
    layout = stage.examples
    for source in _sources(stage.source):
        if isinstance(layout, config.Rows) and layout.task and source.label is None:
            raise ConfigError(
                f"task={layout.task!r} needs a column of labels in {source.path}; name it"
            )
        if source.label is not None and not (isinstance(layout, config.Rows) and layout.task):
            raise ConfigError(
                f"label={source.label!r} names a column of labels in {source.path}, but there is no"
                " task; name the task or leave the label out"
            )
    if stage.max_length < _SHORTEST:
        raise ConfigError(
            f"max_length={stage.max_length} leaves no room for text; take at least {_SHORTEST}"
        )


def plan(
    stage: config.RecordsStage, tokenizer: Tokenizer, folder: epath.PathLike, *, name: str
) -> tuple[list[Task], dict[str, str]]:
    """Returns a task for every shard, and the digest of every source file by path."""
    divided = text.split(_sources(stage.source), stage.shards)
    found = {file.path: file for pieces in divided for piece in pieces for file in piece.files}
    digests = {path: text.digest(file) for path, file in found.items()}
    settings = {
        "tokenizer": tokenizer.fingerprint,
        "examples": to_json(stage.examples),
        "max_length": stage.max_length,
        "shards": stage.shards,
    }
    tasks = []
    for index, pieces in enumerate(divided):
        made_from = files.digest_json(
            {**settings, "index": index, "pieces": [_described(piece, digests) for piece in pieces]}
        )
        tasks.append(
            Task(stage, tuple(pieces), str(folder), name, index, tokenizer.fingerprint, made_from)
        )
    return tasks, digests


def make(tasks: Sequence[Task], *, workers: int | None = None) -> list[shards.ShardInfo]:
    """Returns what the tasks made, in their order; shards that are there and whole stay."""
    done = {task.index: whole for task in tasks if (whole := _whole(task)) is not None}
    missing = [task for task in tasks if task.index not in done]
    if missing:
        count = min(workers or os.cpu_count() or 1, len(missing))
        pieces = [piece for task in missing for piece in task.pieces]
        # A compressed file does not tell the length of its text.
        zipped = any(file.zipped for piece in pieces for file in piece.files)
        total = None if zipped else sum(task.size for task in missing) / 1e6
        with Progress("building records", total, unit="MB") as progress:
            for task, info in pool.run(
                build_shard, missing, workers=count, report=lambda read: progress.set(read / 1e6)
            ):
                done[task.index] = info
    return [done[task.index] for task in tasks]


def finish(
    stage: config.RecordsStage,
    tokenizer: Tokenizer,
    folder: epath.PathLike,
    found: Sequence[shards.ShardInfo],
    *,
    name: str,
    sources: dict[str, str],
) -> manifest.Manifest:
    """Returns the manifest, written last of all.

    Raises:
      SourceError: where the sources held no text.
    """
    if not any(shard.rows for shard in found):
        raise SourceError(f"{', '.join(sources)}: no text in it; give text that is not blank")
    layout = stage.examples
    rows = layout if isinstance(layout, config.Rows) else config.Rows()
    return shards.finish(
        folder,
        found,
        name=name,
        tokenizer=tokenizer,
        max_length=stage.max_length,
        task=rows.task,
        labels=rows.labels,
        sources=sources,
        arguments=to_json(stage),
    )


def build_shard(task: Task, count: pool.Count) -> shards.ShardInfo:
    """Returns the shard it wrote; `count` is told the bytes of text that were read."""
    meter = _Meter(task.size, count)
    info = shards.write_shard(
        task.folder,
        task.name,
        index=task.index,
        of=task.stage.shards,
        records=records(task, _tokenizer(task.folder, task.tokenizer), meter),
        made_from=task.made_from,
    )
    meter.finish()
    return info


def records(task: Task, tokenizer: Tokenizer, meter: "_Meter") -> Iterator[shards.Record]:
    """Yields the examples of a shard: a pure function of the task."""
    layout, max_length = task.stage.examples, task.stage.max_length
    if isinstance(layout, config.Rows):
        rows = (row for piece in task.pieces for row in text.rows(piece))
        return layouts.row_records(
            meter.rows(rows), tokenizer, layout=layout, max_length=max_length
        )
    documents = (document for piece in task.pieces for document in text.documents(piece))
    return layouts.corpus_records(
        meter.documents(documents),
        tokenizer,
        layout=layout,
        max_length=max_length,
        shard=task.index,
    )


class _Meter:
    """Counts the bytes of text read; at the end its sum is the expected size, whatever was read."""

    def __init__(self, size: float, count: pool.Count):
        self._left, self._count = size, count
        self._waiting = 0

    def rows(self, rows: Iterator[text.Row]) -> Iterator[text.Row]:
        for row in rows:
            yield row
            self._add(row.text)

    def documents(self, documents: Iterator[text.Document]) -> Iterator[text.Document]:
        for document in documents:
            yield document
            for sentence in document.sentences:
                self._add(sentence)

    def finish(self) -> None:
        self._count(self._left)

    def _add(self, content: str) -> None:
        self._waiting += len(content) if content.isascii() else len(content.encode("utf-8"))
        if self._waiting >= _COUNT_BYTES:
            read = min(self._left, self._waiting)
            self._count(read)
            self._left, self._waiting = self._left - read, 0


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: str, fingerprint: str) -> Tokenizer:
    """Returns the dataset's tokenizer, loaded once in each process."""
    del fingerprint  # part of the key: the folder may come to hold another
    return load_tokenizer(epath.Path(folder) / manifest.TOKENIZER_FOLDER)


def _described(piece: text.Piece, digests: dict[str, str]) -> dict[str, object]:
    """Returns what of a piece decides its text: contents and columns, but no paths."""
    source = piece.source
    return {
        "files": [(digests[file.path], file.format, file.zipped) for file in piece.files],
        "columns": (source.text, source.pair, source.label),
        "rows": source.rows,
        "range": (piece.begin, piece.end, piece.share, piece.shares),
    }


def _whole(task: Task) -> shards.ShardInfo | None:
    return shards.whole_shard(
        task.folder, task.name, index=task.index, of=task.stage.shards, made_from=task.made_from
    )


def _sources(source: config.Source | tuple[config.Source, ...]) -> tuple[config.Source, ...]:
    return (source,) if isinstance(source, config.Source) else source
