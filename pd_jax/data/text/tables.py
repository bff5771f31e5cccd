"""Readers of text in rows: one class per format, each naming the place of every row it gives.

`items` yields rows as they come from the file, cheaply; `row` makes a `Row` of one. So a reader
that shares a file with others skips their rows without decoding them.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pd_jax.config import Source
from pd_jax.data.text import lines
from pd_jax.errors import BrokenRowError, SourceError

LABEL_SEPARATOR = "|"
"""Separates the labels of a row that has several."""

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair of UTF-16, which JSON can write alone and UTF-8 cannot."""
_SHOWN_LETTERS = 40
_WHOLE_NUMBER = re.compile(r"(-?[0-9]{1,18})\.0+")


class Row(NamedTuple):
    """A row of text. `label` is text too: its meaning depends on the task. It is None where the
    source names no column of labels, or the column has null.
    """

    text: str
    pair: str | None
    label: str | None
    origin: lines.Origin
    number: int

    @property
    def where(self) -> str:
        """`file:line`, for messages."""
        return self.origin.name(self.number)


class Item(NamedTuple):
    """A row as it came from its file, and its number from 1 where reading began."""

    number: int
    value: Any


class Table(Protocol):
    """A file of rows, or a part of one, open for reading."""

    def items(self) -> Iterator[Item]:
        """Yields the rows that begin in this part."""
        ...

    def row(self, item: Item) -> Row:
        """Returns an item's text, pair and label; raises SourceError where it lacks one."""
        ...


@runtime_checkable
class NamedTable(Table, Protocol):
    """A table that gives all of its columns by name."""

    def named(self, item: Item) -> Mapping[str, Any]:
        """Returns an item's values by column; raises SourceError where it cannot be read."""
        ...


class Plain:
    """Text without columns: every line that is not blank is a row."""

    def __init__(self, path: str, source: Source, *, zipped: bool, begin: int, end: int | None):
        if source.pair is not None or source.label is not None:
            named = source.pair or source.label
            raise SourceError(
                f"{path} is plain text, which has no column {named!r};"
                " give a TSV, CSV, JSONL or Parquet file"
            )
        self._path, self._zipped, self._begin, self._end = path, zipped, begin, end
        self._origin = lines.Origin(path, begin=max(0, begin - 1))

    def items(self) -> Iterator[Item]:
        """Yields the rows that begin in this part."""
        with lines.opened(self._path, zipped=self._zipped) as stream:
            for line in lines.row_lines(stream, begin=self._begin, end=self._end):
                if line.content.strip():
                    yield Item(*line)

    def row(self, item: Item) -> Row:
        """Returns an item's text, pair and label."""
        text = lines.plain(lines.Line(item.number, item.value), self._origin)
        return Row(text, None, None, self._origin, item.number)


class Tsv:
    """Tab-separated columns, no quoting, under a header unless the source names the columns.

    `more` are columns that are wanted besides the source's own.
    """

    def __init__(
        self,
        path: str,
        source: Source,
        *,
        zipped: bool,
        begin: int,
        end: int | None,
        more: Sequence[str] = (),
    ):
        self._path, self._zipped, self._begin, self._end = path, zipped, begin, end
        self._origin = lines.Origin(path, begin=max(0, begin - 1))
        self._headed = not source.columns
        if not self._headed:
            self._columns = _Columns(path, source.columns, source, more)
            return
        with self._lines(begin=0, end=1) as first:
            header = next(first, None)
        if header is None:
            raise SourceError(f"{path} is empty; a TSV file begins with a line of column names")
        names = lines.decode_header(header.content, lines.Origin(path)).split("\t")
        self._columns = _Columns(path, names, source, more)

    def items(self) -> Iterator[Item]:
        """Yields the rows that begin in this part."""
        with self._lines(begin=self._begin, end=self._end) as found:
            if self._headed and not self._begin:
                next(found, None)  # the header
            for line in found:
                if line.content.strip():
                    yield Item(*line)

    def row(self, item: Item) -> Row:
        """Returns an item's text, pair and label."""
        cells = lines.decode(item.value, self._origin, item.number).split("\t")
        return self._columns.row(cells, self._origin, item.number, separator="tab")

    def named(self, item: Item) -> Mapping[str, str]:
        """Returns an item's cells by column."""
        cells = lines.decode(item.value, self._origin, item.number).split("\t")
        return self._columns.named(cells, self._origin, item.number, separator="tab")

    @contextmanager
    def _lines(self, *, begin: int, end: int | None) -> Iterator[Iterator[lines.Line]]:
        with lines.opened(self._path, zipped=self._zipped) as stream:
            yield lines.row_lines(stream, begin=begin, end=end)


class Csv:
    """Comma-separated columns, quoted as in RFC 4180, so that a row may span lines; under a
    header unless the source names the columns. `more` are columns that are wanted besides the
    source's own.
    """

    def __init__(self, path: str, source: Source, *, zipped: bool, more: Sequence[str] = ()):
        self._path, self._source, self._zipped, self._more = path, source, zipped, more
        self._origin = lines.Origin(path)
        self._columns: _Columns | None = None
        self._faults: list[BrokenRowError] = []

    def items(self) -> Iterator[Item]:
        """Yields the rows that begin in this part."""
        with lines.opened(self._path, zipped=self._zipped) as stream:
            found = lines.row_lines(stream, begin=0, end=None)
            csv.field_size_limit(lines.ROW_BYTES)
            reader = csv.reader(self._text(found), strict=True)
            first = 1
            try:
                header = self._source.columns or next(reader, None)
                if self._faults:
                    raise SourceError("; ".join(self._faults[0].args))
                if header is None:
                    raise SourceError(
                        f"{self._path} is empty; a CSV file begins with a row of column names"
                    )
                self._columns = _Columns(self._path, header, self._source, self._more)
                first = reader.line_num + 1
                for cells in reader:
                    if cells:
                        yield Item(first, self._faults[0] if self._faults else cells)
                    first = reader.line_num + 1
                    self._faults.clear()
            except csv.Error as fault:
                if self._faults:  # quotes and line ends of what is no UTF-8 say nothing
                    raise SourceError("; ".join(self._faults[0].args)) from None
                if "new-line character" in str(fault):
                    where = self._origin.name(reader.line_num)
                    raise SourceError(
                        f"{where} has a carriage return inside a line; convert the file's line"
                        " endings, for example with tr '\\r' '\\n', or quote a cell that has it"
                    ) from None
                raise SourceError(
                    f"{self._origin.name(first)} begins a row that is not CSV ({fault});"
                    " quote cells that contain commas, quotes or line breaks"
                ) from None

    def row(self, item: Item) -> Row:
        """Returns an item's text, pair and label."""
        assert self._columns is not None, "items() reads the header"
        return self._columns.row(_cells(item), self._origin, item.number, separator="comma")

    def named(self, item: Item) -> Mapping[str, str]:
        """Returns an item's cells by column."""
        assert self._columns is not None, "items() reads the header"
        return self._columns.named(_cells(item), self._origin, item.number, separator="comma")

    def _text(self, found: Iterator[lines.Line]) -> Iterator[str]:
        """Yields the lines as text, and notes what is wrong with them in `_faults`."""
        for line in found:
            try:
                text = lines.decode(line.content, self._origin, line.number)
            except BrokenRowError as fault:
                if len(line.content) > lines.ROW_BYTES:  # where its quotes end is not known
                    raise SourceError("; ".join(fault.args)) from None
                self._faults.append(fault)
                text = line.content.decode("utf-8", "replace")
            yield text + "\n"


def _cells(item: Item) -> Sequence[str]:
    """Returns the cells of a row of CSV; raises what was wrong with its lines."""
    if isinstance(item.value, BrokenRowError):
        raise item.value
    return item.value


class Jsonl:
    """One JSON object a line."""

    def __init__(self, path: str, source: Source, *, zipped: bool, begin: int, end: int | None):
        self._path, self._source, self._zipped = path, source, zipped
        self._begin, self._end = begin, end
        self._origin = lines.Origin(path, begin=max(0, begin - 1))

    def items(self) -> Iterator[Item]:
        """Yields the rows that begin in this part."""
        with lines.opened(self._path, zipped=self._zipped) as stream:
            for line in lines.row_lines(stream, begin=self._begin, end=self._end):
                if line.content.strip():
                    yield Item(*line)

    def row(self, item: Item) -> Row:
        """Returns an item's text, pair and label."""
        return named_row(self.named(item), self._source, self._origin, item.number)

    def named(self, item: Item) -> Mapping[str, Any]:
        """Returns the object of a line."""
        content = lines.decode(item.value, self._origin, item.number)
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as fault:
            raise BrokenRowError(
                f"{self._origin.name(item.number)} is not JSON ({fault})", "correct the line"
            ) from None
        if not isinstance(value, dict):
            raise BrokenRowError(
                f"{self._origin.name(item.number)} is not a JSON object", "write one object a line"
            )
        return value


def named_row(value: Mapping[str, Any], source: Source, origin: lines.Origin, number: int) -> Row:
    """Returns the row whose columns are named values of any kind.

    Raises:
      SourceError: where a column is missing, or text is not text or cannot be encoded.
    """
    for name in (source.text, source.pair, source.label):
        if name is not None and name not in value:
            raise SourceError(_no_column(origin.name(number), name, list(value)))
    texts = []
    for name in (source.text, source.pair):
        text = None if name is None else value[name]
        if isinstance(text, bytes):
            text = lines.decode(text, origin, number)
        if name is not None and not isinstance(text, str):
            kind = "null" if text is None else type(text).__name__
            raise BrokenRowError(
                f"{origin.name(number)} has {kind} in column {name!r}, which must be text",
                "correct the row or name another column",
            )
        if text is not None and (half := _SURROGATE.search(text)):
            raise SourceError(
                f"{origin.name(number)} has \\u{ord(half[0]):04x} in column {name!r}, which is half"
                " a character; write the complete one, or remove it"
            )
        texts.append(text)
    label = None if source.label is None else value[source.label]
    label = None if label is None else label_text(label)
    return Row(
        texts[0].strip(), None if texts[1] is None else texts[1].strip(), label, origin, number
    )


def label_text(value: Any) -> str:
    """Returns a label as text; several labels are joined by `|`.

    A whole number is written without the `.0` that it has in columns that lack some values.
    """
    several = value if isinstance(value, (list, tuple)) else (value,)
    return LABEL_SEPARATOR.join(map(_one_label, several))


def _one_label(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if value is None or isinstance(value, (list, tuple, dict)):
        return type(value).__name__  # never a valid label, at any depth
    text = str(value)
    whole = _WHOLE_NUMBER.fullmatch(text)
    return str(int(whole[1])) if whole else text


class _Columns:
    """The positions of text, pair and label among a file's columns."""

    def __init__(self, path: str, names: Sequence[str], source: Source, more: Sequence[str]):
        self._names = [name.strip() for name in names]
        check_columns(path, self._names, source, more, headed=not source.columns)
        self._text = self._names.index(source.text)
        self._pair = None if source.pair is None else self._names.index(source.pair)
        self._label = None if source.label is None else self._names.index(source.label)

    def row(
        self, cells: Sequence[str], origin: lines.Origin, number: int, *, separator: str
    ) -> Row:
        self._check(cells, origin, number, separator)
        pair = None if self._pair is None else cells[self._pair].strip()
        label = None if self._label is None else label_text(cells[self._label].strip())
        return Row(cells[self._text].strip(), pair, label, origin, number)

    def named(
        self, cells: Sequence[str], origin: lines.Origin, number: int, *, separator: str
    ) -> dict[str, str]:
        self._check(cells, origin, number, separator)
        return dict(zip(self._names, cells, strict=True))

    def _check(
        self, cells: Sequence[str], origin: lines.Origin, number: int, separator: str
    ) -> None:
        if len(cells) != len(self._names):
            much = "few" if len(cells) < len(self._names) else "many"
            raise BrokenRowError(
                f"{origin.name(number)} has too {much} columns: {len(cells)} instead of"
                f" {len(self._names)} ({', '.join(map(_shown, self._names))})",
                f"look for a missing or stray {separator}",
            )


def check_columns(
    path: str,
    names: Sequence[str],
    source: Source,
    more: Sequence[str] = (),
    *,
    headed: bool = False,
) -> None:
    """Raises SourceError where a file lacks a column of the source, or has two of a name that the
    source or `more` wants; a file whose first row names the columns (`headed`) may really have no
    header.
    """
    for name in (source.text, source.pair, source.label):
        if name is not None and name not in names:
            remedy = (
                "; name one of them, or where the first row is no header, name the columns with"
                " columns=(...) in a config, --columns or --exclude-columns of build_records, or in"
                " a first line"
            )
            raise SourceError(_no_column(path, name, names) + (remedy if headed else ""))
    for name in (source.text, source.pair, source.label, *more):
        if name is not None and names.count(name) > 1:
            raise SourceError(
                f"{path} has {names.count(name)} columns {name!r}; give each a name of its own"
            )


def _no_column(where: str, name: str, names: Sequence[str]) -> str:
    known = ", ".join(repr(_shown(name)) for name in names)
    return f"{where} has no column {name!r}; its columns are {known or 'none'}"


def _shown(name: str) -> str:
    """Returns a column's name, cut where it is so long that it may be a text without a header."""
    return name if len(name) <= _SHOWN_LETTERS else f"{name[:_SHOWN_LETTERS]}..."
