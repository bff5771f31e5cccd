"""Reads what a `config.Source` names as rows, documents or sentences, entire or in pieces.

`split` divides sources among shards without reading them. Files in which a reader can start
anywhere (text, TSV, JSONL, Parquet, TFDS) are divided by ranges. A gzip or CSV file can only be
read from its top, so each shard that has a part in it takes its own rows and skips the others. What
a shard holds depends on the files and on the number of shards, never on who reads it.
"""

import bisect
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from etils import epath

from pd_jax import files
from pd_jax.config import Source, several
from pd_jax.data.text import lines, parquet_rows, paths, tables, tfds
from pd_jax.data.text.broken import Skipped
from pd_jax.data.text.quotes import QuoteWarner
from pd_jax.data.text.tables import Item, Row
from pd_jax.errors import SourceError

_FORMATS = {
    ".txt": "text",
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_COMPRESSIONS = {".zst": "zstd", ".bz2": "bzip2", ".xz": "xz", ".zip": "zip"}
_DIVISIBLE = ("text", "tsv", "jsonl", "parquet", "tfds")
_COLUMNED = ("tsv", "csv")
_STRIPE_ROWS = 64
_GLOB = re.compile(r"[*?\[]")
_SPACED_ENDS = ".!?\u06d4\u0589"
"""Ends of sentences where a space follows: they are in numbers and abbreviations, too. The last two
are the full stops of Urdu and Armenian.
"""
_CJK_ENDS = "。！？"
_OTHER_ENDS = "\uff61\u0964\u0965\u061f\u1362\u1367\u104b\u17d4"
"""Ends of sentences that may have no space behind them: the narrow full stop of Japanese, Hindi's
danda and double danda, the Arabic question mark, full stop and question mark of Amharic, and the
full stops of Burmese and Khmer.
"""
_SENTENCE_END = re.compile(
    rf"(?<=[{_SPACED_ENDS}])\s+|(?<=[{_CJK_ENDS}])"
    rf"|(?<=[{_OTHER_ENDS}])(?![{_SPACED_ENDS}{_OTHER_ENDS}])|[\r\n]+"
)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file of a source, and its size in bytes."""

    path: str
    format: str
    zipped: bool
    size: int


@dataclasses.dataclass(frozen=True)
class Document:
    """Sentences that belong together."""

    sentences: tuple[str, ...]
    origin: lines.Origin
    number: int

    @property
    def where(self) -> str:
        """`file:line` of its first line, for messages; this may read the file up to there."""
        return self.origin.name(self.number)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a source: `begin` to `end` of one file's size, or a stripe of all its files."""

    source: Source
    files: tuple[SourceFile, ...]
    begin: int = 0
    end: int | None = None
    share: int = 0
    shares: int = 1

    @property
    def size(self) -> float:
        """Its part of the files' sizes, for progress and balance."""
        whole = sum(file.size for file in self.files)
        return (whole if self.end is None else self.end - self.begin) / self.shares


def source_files(source: Source) -> tuple[SourceFile, ...]:
    """Returns the files that a source names, globs expanded in order of name.

    Raises:
      SourceError: where a path names nothing, a folder, or a file of unknown format, or two name
        the same file.
    """
    found = [file for path in several(source.path) for file in _files(path, source.format)]
    paths.check(file.path for file in found)
    return tuple(found)


def expanded(path: str) -> list[epath.Path]:
    """Returns the files that a path or glob names, local or remote, in order of name.

    A path that exists is not a glob, whatever is in it; folders that a glob matches are skipped.

    Raises:
      SourceError: where it names nothing, a folder, or folders of any depth (`**`).
    """
    if epath.Path(path).is_dir():
        raise SourceError(
            f"{path} is a folder; name the files in it, for example {path.rstrip('/')}/*.txt"
        )
    if epath.Path(path).exists():
        return [epath.Path(path)]
    if "**" in path:
        raise SourceError(f"{path} has **, which is not supported; name each level with *")
    if not _GLOB.search(path):
        raise SourceError(f"{path} does not exist; check the path")
    parts = path.split("/")
    fixed = next(number for number, part in enumerate(parts) if _GLOB.search(part))
    folder = epath.Path("/".join(parts[:fixed]) or ("/" if path.startswith("/") else "."))
    found = sorted(file for file in _matching(folder, parts[fixed:]) if not file.is_dir())
    if not found:
        raise SourceError(f"{path} matches no file; check the path")
    for file in found:
        if not file.exists():
            raise SourceError(f"{file} is a link to a file that does not exist; remove the link")
    return found


def _matching(folder: epath.Path, parts: Sequence[str]) -> Iterator[epath.Path]:
    """Yields what is below a folder under names that match a pattern for each level. A name that
    exists is not a pattern.
    """
    first, *rest = parts
    named = folder / first
    for found in [named] if named.exists() else files.matching(folder, first):
        if not rest:
            yield found
        elif found.is_dir():
            yield from _matching(found, rest)


def format_of(path: str) -> str | None:
    """Returns the format that the ending of a path or glob stands for; None for another ending."""
    return _FORMATS.get(epath.Path(path.removesuffix(".gz")).suffix)


def split(sources: Source | tuple[Source, ...], shards: int = 1) -> list[list[Piece]]:
    """Returns for every shard the pieces it consists of; shards are about equal in size.

    Raises:
      SourceError: where the sources are missing or empty.
    """
    units = []
    for source in several(sources):
        found = source_files(source)
        # A limit on rows concerns a source's whole sequence, which must be counted from its top.
        units += (
            [Piece(source, found)] if source.rows else [Piece(source, (file,)) for file in found]
        )
    total = sum(file.size for unit in units for file in unit.files)
    if not total:
        named = ", ".join(file.path for unit in units for file in unit.files)
        raise SourceError(f"{named}: there is nothing to read; give text that is not empty")
    bounds = [index * total // shards for index in range(shards + 1)]
    result: list[list[Piece]] = [[] for _ in range(shards)]
    start = 0
    for unit in units:
        size = sum(file.size for file in unit.files)
        first = bisect.bisect_right(bounds, start, lo=1) - 1
        last = bisect.bisect_left(bounds, start + size, hi=shards)
        held = [i for i in range(first, last) if bounds[i] < bounds[i + 1]] if size else []
        for order, shard in enumerate(held):
            if unit.source.rows is None and divisible(unit.files[0]):
                begin, end = (min(max(bounds[i] - start, 0), size) for i in (shard, shard + 1))
                result[shard].append(dataclasses.replace(unit, begin=begin, end=end))
            else:
                result[shard].append(dataclasses.replace(unit, share=order, shares=len(held)))
        start += size
    return result


def rows(source: Source | Piece, skipped: Skipped | None = None) -> Iterator[Row]:
    """Yields the rows of a source, or of a piece of one.

    Broken rows that the source skips are counted in `skipped`; without it, a warning tells of them.

    Raises:
      SourceError: at the first row that cannot be read, naming file and line.
    """
    piece, kept = _whole(source), skipped or Skipped()
    opened = (_rows_of(piece, file) for file in piece.files)
    yield from _made(piece, (_Reader(_STRIPE_ROWS, items, row) for items, row in opened), kept)
    if skipped is None:
        kept.tell()


def documents(source: Source | Piece, skipped: Skipped | None = None) -> Iterator[Document]:
    """Yields documents.

    In plain text, a document is the text between blank lines; in any other file, those of a row.
    `skipped` is as in `rows`; of plain text, broken lines are skipped alone.

    Raises:
      SourceError: at the first line that cannot be read, naming file and line.
    """
    piece, kept = _whole(source), skipped or Skipped()
    yield from _made(piece, (_document_reader(piece, file, kept) for file in piece.files), kept)
    if skipped is None:
        kept.tell()


def sentences(source: Source | Piece) -> Iterator[str]:
    """Yields the sentences of a source's documents."""
    for document in documents(source):
        yield from document.sentences


def sampled(items: Iterable[T], *, limit: int, seed: int) -> list[T]:
    """Returns `limit` of the items, each equally likely, in their order; memory holds no more.

    The choice depends only on the seed and on the number of items.
    """
    chance = np.random.default_rng(seed)
    kept: list[tuple[int, T]] = []
    for number, item in enumerate(items):
        if number < limit:
            kept.append((number, item))
        elif (place := int(chance.random() * (number + 1))) < limit:
            kept[place] = (number, item)
    return [item for _, item in sorted(kept, key=lambda pair: pair[0])]


def digest(file: SourceFile, of_file: Callable[[epath.PathLike], str] = files.digest_file) -> str:
    """Returns the digest of a source's content, using `of_file` for each file that holds it."""
    return tfds.digest(file.path, of_file) if file.format == "tfds" else of_file(file.path)


def _files(path: str, form: str) -> Iterator[SourceFile]:
    if path.startswith(tfds.PREFIX) or form == "tfds":
        path = tfds.PREFIX + path.removeprefix(tfds.PREFIX)
        yield SourceFile(path, "tfds", False, tfds.size(path))
        return
    for found in expanded(path):
        zipped = found.name.endswith(".gz")
        kind = _format_by_ending(found) if form == "auto" else form
        if kind == "parquet" and zipped:
            raise SourceError(
                f"{found}: Parquet is compressed internally and must not be gzipped;"
                " unpack it with gunzip"
            )
        yield SourceFile(str(found), kind, zipped, files.size(found))


def _format_by_ending(path: epath.Path) -> str:
    """Returns the format that a file's ending stands for; raises SourceError for another ending."""
    ending = epath.Path(path.name.removesuffix(".gz")).suffix
    if ending in _FORMATS:
        return _FORMATS[ending]
    if ending in _COMPRESSIONS:
        raise SourceError(
            f"{path} is compressed by {_COMPRESSIONS[ending]}; unpack it, or compress it with gzip"
        )
    if ending == ".json":
        raise SourceError(
            f"{path} may be a single value over many lines, by its ending '.json'; if it has one"
            " object a line, name it .jsonl or give format='jsonl'"
        )
    known = ", ".join(_FORMATS)
    raise SourceError(
        f"{path}: the ending {ending!r} is not one of {known} (all but .parquet also with .gz);"
        " rename the file or give its format"
    )


def divisible(file: SourceFile) -> bool:
    """Returns whether a reader can start anywhere in a file."""
    return file.format in _DIVISIBLE and not file.zipped


def tables_of(piece: Piece, more: Sequence[str] = ()) -> Iterator[tables.Table]:
    """Yields the files of a piece, open for reading; tables also with the columns `more`."""
    return (_table(piece, file, more) for file in piece.files)


def _table(piece: Piece, file: SourceFile, more: Sequence[str] = ()) -> tables.Table:
    if piece.source.columns and file.format not in _COLUMNED:
        raise SourceError(
            f"{file.path}: columns is for TSV and CSV files without a header, and this"
            f" is {file.format}; leave columns out"
        )
    span = {"zipped": file.zipped, "begin": piece.begin, "end": piece.end}
    last = file.size if piece.end is None else piece.end
    part = (piece.begin / max(file.size, 1), last / max(file.size, 1))
    if file.format == "text":
        return tables.Plain(file.path, piece.source, **span)
    if file.format == "tsv":
        return tables.Tsv(file.path, piece.source, **span, more=more)
    if file.format == "jsonl":
        return tables.Jsonl(file.path, piece.source, **span)
    if file.format == "csv":
        return tables.Csv(file.path, piece.source, zipped=file.zipped, more=more)
    if file.format == "parquet":
        return parquet_rows.Parquet(file.path, piece.source, part=part, more=more)
    return tfds.TfdsRows(file.path, piece.source, part=part)


def _whole(source: Source | Piece) -> Piece:
    return source if isinstance(source, Piece) else Piece(source, source_files(source))


class _Reader(NamedTuple, Generic[T]):
    """A file's undecoded items, how many in a row make a stripe, and what makes a T of one."""

    width: int
    items: Iterator[Item]
    make: Callable[[Item], T | None]


def _made(piece: Piece, readers: Iterable[_Reader[T]], skipped: Skipped) -> Iterator[T]:
    """Yields what is made of the piece's stripes among the first `source.rows` items of all files.

    Each item is in one share, by its number among all, whatever the stripes of other files.
    """
    found = ((reader, item) for reader in readers for item in reader.items)
    for index, (reader, item) in enumerate(itertools.islice(found, piece.source.rows)):
        if (index // reader.width) % piece.shares != piece.share:
            continue
        made = skipped.made(piece.source, reader.make, item)
        if made is not None:
            yield made


def _rows_of(piece: Piece, file: SourceFile) -> tuple[Iterator[Item], Callable[[Item], Row]]:
    """Returns a file's items, and the function that makes a row of one."""
    table = _table(piece, file)
    make = QuoteWarner(file.path, table.row) if file.format == "tsv" else table.row
    return table.items(), make


def _document_reader(piece: Piece, file: SourceFile, skipped: Skipped) -> _Reader[Document]:
    if file.format != "text":
        items, row = _rows_of(piece, file)
        return _Reader(_STRIPE_ROWS, items, lambda item: _row_document(row(item)))
    origin = lines.Origin(file.path, begin=max(0, piece.begin - 1))

    def document(item: Item) -> Document:
        texts = (
            skipped.made(piece.source, lambda line: lines.plain(line, origin), line)
            for line in item.value
        )
        return Document(tuple(text for text in texts if text), origin, item.number)

    return _Reader(1, _plain_documents(piece, file), document)


def _row_document(row: Row) -> Document | None:
    """Returns a row's texts as a document; None where they are blank."""
    parts = _sentences(row.text) + _sentences(row.pair or "")
    return Document(parts, row.origin, row.number) if parts else None


def _plain_documents(piece: Piece, file: SourceFile) -> Iterator[Item]:
    """Yields the lines of each document, with the number of the first."""
    with lines.opened(file.path, zipped=file.zipped) as stream:
        for document in lines.documents(stream, begin=piece.begin, end=piece.end):
            yield Item(document[0].number, document)


def _sentences(text: str) -> tuple[str, ...]:
    """Returns the sentences of a running text, cut at line breaks and after full stops."""
    parts = (part.strip() for part in _SENTENCE_END.split(text))
    return tuple(part for part in parts if part)
