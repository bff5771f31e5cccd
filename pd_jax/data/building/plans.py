"""Plans what makes each shard of a dataset: its pieces of text, and digests of what decides it."""

import dataclasses
import math
from collections.abc import Mapping

from etils import epath

from pd_jax import config, files
from pd_jax.config.reading import to_json
from pd_jax.data.building import filters
from pd_jax.data.building.watched import Watched, watch
from pd_jax.data.records import shards
from pd_jax.data.text import corpora
from pd_jax.data.tokenizers.tokenizer import Tokenizer
from pd_jax.errors import ConfigError, RecordsError
from pd_jax.progress import Progress

_SHORTEST = 8
FILTERS_FOLDER = "left_out"
DIGESTS_FILE = "digests.json"
_SHARD_BYTES = 1 << 23
_MOST_SHARDS = 1024
_SHOWN_BYTES = 1 << 28
"""Less is read in a moment, which needs no progress line."""
_MOST_READERS = 8
"""For text that every shard with a part in it must read from its top."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Everything needed to make one shard. `made_from` is a digest of what decides its content."""

    stage: config.RecordsStage
    pieces: tuple[corpora.Piece, ...]
    folder: str
    name: str
    index: int
    tokenizer: str
    """Its fingerprint; the files are in the folder."""
    left_out: filters.Filter | None
    all_names: str | None
    """Digest in the names of the lists of duplicates; None if duplicates stay."""
    made_from: str
    watched: Watched
    """The files of its pieces."""

    @property
    def size(self) -> float:
        """Its part of the sources' sizes."""
        return sum(piece.size for piece in self.pieces)

    @property
    def of(self) -> int:
        """How many shards the dataset has."""
        assert self.stage.shards is not None, "a task is made with a number of shards"
        return self.stage.shards

    def whole(self) -> shards.ShardInfo | None:
        """Returns the shard if it is complete and made from the same; else None."""
        return shards.whole_shard(
            self.folder, self.name, index=self.index, of=self.of, made_from=self.made_from
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """A task for every shard, the digest of every source file by path, and the evaluation sets'
    files.
    """

    tasks: tuple[Task, ...]
    sources: Mapping[str, str]
    excluded: Watched

    @property
    def filters(self) -> list[filters.Filter]:
        """The shards' filters; none where nothing is left out."""
        return [task.left_out for task in self.tasks if task.left_out is not None]


def with_shards(stage: config.RecordsStage) -> config.RecordsStage:
    """Returns the stage with a number of shards.

    By default it follows from the size of the sources alone, whatever the machine.

    Raises:
      SourceError: where sources are missing.
    """
    if stage.shards is not None:
        return stage
    wanted = sum(
        min(size / _SHARD_BYTES, limit)
        for source in config.several(stage.source)
        for size, limit in _sizes(source)
    )
    return dataclasses.replace(stage, shards=min(_MOST_SHARDS, max(1, math.ceil(wanted))))


def _sizes(source: config.Source) -> list[tuple[int, int]]:
    """Returns the sizes of a source's files, each with the most shards to divide it into."""
    found = corpora.source_files(source)
    if source.limit is not None:
        return [(sum(file.size for file in found), _MOST_READERS)]
    return [
        (file.size, _MOST_SHARDS if corpora.divisible(file) else _MOST_READERS) for file in found
    ]


def check(stage: config.RecordsStage) -> None:
    """Raises ConfigError where task and columns do not fit each other."""
    layout = stage.examples
    for source in config.several(stage.source):
        named = ", ".join(config.several(source.path))
        if isinstance(layout, config.Rows) and layout.task and source.label is None:
            raise ConfigError(f"task={layout.task!r} needs a column of labels in {named}; name it")
        if source.label is not None and not (isinstance(layout, config.Rows) and layout.task):
            raise ConfigError(
                f"label={source.label!r} names a column of labels in {named}, but there is no"
                " task; name the task or leave the label out"
            )
        if source.pair is not None and isinstance(layout, config.Corpus):
            raise ConfigError(
                f"pair={source.pair!r} names a column of second texts in {named}, but a"
                " corpus has no pairs; leave the pair out or use layout 'rows'"
            )
    _check_excluded(stage)
    if stage.max_length < _SHORTEST:
        raise ConfigError(
            f"max_length={stage.max_length} leaves no room for text; use at least {_SHORTEST}"
        )


def _check_excluded(stage: config.RecordsStage) -> None:
    """Raises ConfigError where rows are to be compared with documents, or pairs with single texts:
    nothing would match, and the dataset would contain what was to be left out.
    """
    if isinstance(stage.examples, config.Corpus):
        return
    pairs = all(source.pair is not None for source in config.several(stage.source))
    for source in stage.exclude:
        named = ", ".join(config.several(source.path))
        if source.documents is not None:
            raise ConfigError(
                f"exclude: {named} is limited to documents={source.documents}, which no row could"
                " match; limit it by rows"
            )
        if pairs and source.pair is None:
            raise ConfigError(
                f"exclude: {named} has no pair, so that no pair of texts could match its rows; name"
                " its column of second texts (pair=... in a config, --exclude-pair-column), or"
                " leave it out"
            )


def make_plan(
    stage: config.RecordsStage, tokenizer: Tokenizer, folder: epath.PathLike, *, name: str
) -> Plan:
    """Returns what makes each shard of the dataset in `folder`.

    Raises:
      SourceError: where sources are missing or empty.
    """
    stage = with_shards(stage)
    assert stage.shards is not None, "with_shards sets it"
    divided = corpora.split(stage.source, stage.shards)
    found = [file for pieces in divided for piece in pieces for file in piece.files]
    excluded = [file for source in stage.exclude for file in corpora.source_files(source)]
    watched = watch([*found, *excluded])
    digests = _digests({file.path: file for file in watched.states}, epath.Path(folder))
    described = [[_described(piece, digests) for piece in pieces] for pieces in divided]
    settings = {
        "tokenizer": tokenizer.fingerprint,
        "examples": to_json(stage.examples),
        "max_length": stage.max_length,
        "shards": stage.shards,
        "excluded": _excluded_digest(stage, digests),
        "duplicates": files.digest_json(described) if stage.deduplicate else None,
    }
    if counted := kinds_left_out(stage):
        settings["counted"] = counted
    tasks = []
    for index, (pieces, description) in enumerate(zip(divided, described, strict=True)):
        filter_ = None
        if stage.deduplicate or stage.exclude:
            named = [stage.examples.layout, description]  # rows and documents have different names
            names = files.digest_json(named) if stage.deduplicate else None
            place = str(epath.Path(folder) / FILTERS_FOLDER)
            filter_ = filters.Filter(place, index, names, settings["excluded"])
        made_from = files.digest_json({**settings, "index": index, "pieces": description})
        tasks.append(
            Task(
                stage, tuple(pieces), str(folder), name, index, tokenizer.fingerprint,
                filter_, None, made_from,
                watched.only(file for piece in pieces for file in piece.files),
            )
        )  # fmt: skip
    sources = {file.path: digests[file.path] for file in found}
    return Plan(tuple(tasks), sources, watched.only(excluded))


def kinds_left_out(stage: config.RecordsStage) -> list[str]:
    """Returns the kinds of text that may be left out of a dataset; its shards' notes count them."""
    counted = ["duplicates", "excluded"] if stage.deduplicate or stage.exclude else []
    skips = any(source.broken_rows == "skip" for source in config.several(stage.source))
    return [*counted, "broken_rows"] if skips else counted


def _excluded_digest(stage: config.RecordsStage, digests: Mapping[str, str]) -> str | None:
    if not stage.exclude:
        return None
    wholes = [corpora.Piece(source, corpora.source_files(source)) for source in stage.exclude]
    return files.digest_json([_described(whole, digests) for whole in wholes])


def _described(piece: corpora.Piece, digests: Mapping[str, str]) -> dict[str, object]:
    """Returns what decides a piece's text: contents and how they are read, but no paths."""
    named = {field.name for field in dataclasses.fields(piece.source)} - {"path", "format"}
    return {
        "files": [(digests[file.path], file.format, file.zipped) for file in piece.files],
        "source": {name: getattr(piece.source, name) for name in named},
        "range": (piece.begin, piece.end, piece.share, piece.shares),
    }


def _digests(found: Mapping[str, corpora.SourceFile], folder: epath.Path) -> dict[str, str]:
    """Returns the digest of each file, read again only where it has changed.

    The processes of an array job thus read a large corpus for its digest once, not once each.
    """
    cache = files.DigestCache(folder / DIGESTS_FILE, RecordsError)
    digests, size = {}, sum(file.size for file in found.values())
    shown = size >= _SHOWN_BYTES
    with Progress("reading the sources' digests", size / 1e6, unit="MB", shown=shown) as progress:
        for path, file in found.items():
            digests[path] = corpora.digest(file, cache.of)
            progress.advance(file.size / 1e6)
    cache.save()
    return digests
