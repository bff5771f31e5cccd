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

_DIVISIBLE = ("text", "tsv", "jsonl", "parquet", "tfds")
_COLUMNED = ("tsv", "csv")
_STRIPE_ROWS = 64
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


def split(sources: Source | tuple[Source, ...], shards: int = 1) -> list[list[Piece]]:
    """Returns for every shard the pieces it consists of; shards are about equal in size.

    Raises:
      SourceError: where the sources are missing or empty.
    """
    units = []
    for source in several(sources):
        found = source_files(source)
        # A limit concerns a source's whole sequence, which must be counted from its top.
        units += (
            [Piece(source, found)] if source.limit else [Piece(source, (file,)) for file in found]
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
            if unit.source.limit is None and divisible(unit.files[0]):
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
      SourceError: at the first row that cannot be read, naming file and line; where the source is
        limited to so many documents.
    """
    piece, kept = _whole(source), skipped or Skipped()
    check_limit(piece.source, piece.files, as_rows=True)
    opened = (_rows_of(piece, file) for file in piece.files)
    yield from _made(piece, (_Reader(_STRIPE_ROWS, items, row) for items, row in opened), kept)
    if skipped is None:
        kept.tell()


def documents(source: Source | Piece, skipped: Skipped | None = None) -> Iterator[Document]:
    """Yields documents.

    In plain text, a document is the text between blank lines; in any other file, those of a row.
    `skipped` is as in `rows`; of plain text, broken lines are skipped alone.

    Raises:
      SourceError: at the first line that cannot be read, naming file and line; where the source is
        plain text that is limited to so many rows.
    """
    piece, kept = _whole(source), skipped or Skipped()
    check_limit(piece.source, piece.files, as_rows=False)
    yield from _made(piece, (_document_reader(piece, file, kept) for file in piece.files), kept)
    if skipped is None:
        kept.tell()


def check_limit(source: Source, found: Sequence[SourceFile], *, as_rows: bool) -> None:
    """Raises SourceError where a source is limited to so many documents, but read as rows, or
    limited to so many rows and plain text that is read as documents.
    """
    for file in found:
        if as_rows and source.documents is not None:
            raise SourceError(
                f"{file.path}: documents={source.documents} is for text that is read as documents,"
                " and this is read as rows; limit it by rows"
            )
        if not as_rows and source.rows is not None and file.format == "text":
            raise SourceError(
                f"{file.path}: rows={source.rows} is for text that is read as rows, and this is"
                " read as documents; limit it by documents"
            )


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
    for found in paths.expanded(path):
        zipped = found.name.endswith(".gz")
        kind = paths.format_by_ending(found) if form == "auto" else form
        if kind == "parquet" and zipped:
            raise SourceError(
                f"{found}: Parquet is compressed internally and must not be gzipped;"
                " unpack it with gunzip"
            )
        yield SourceFile(str(found), kind, zipped, files.size(found))


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
    """Yields what is made of the piece's stripes among the first `source.limit` items of all files.

    Each item is in one share, by its number among all, whatever the stripes of other files.
    """
    found = ((reader, item) for reader in readers for item in reader.items)
    for index, (reader, item) in enumerate(itertools.islice(found, piece.source.limit)):
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

    def line(parts: Iterable[lines.Line]) -> list[str]:
        return [lines.plain(part, origin) for part in parts]

    def document(item: Item) -> Document | None:
        texts: list[str] = []
        for _, parts in itertools.groupby(item.value, lambda part: part.number):
            texts += skipped.made(piece.source, line, parts) or ()
        kept = tuple(text for text in texts if text)
        return Document(kept, origin, item.number) if kept else None

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
