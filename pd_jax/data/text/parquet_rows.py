"""Rows of Parquet files."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pd_jax.config import Source
from pd_jax.data.text import lines
from pd_jax.data.text.tables import Item, Row, check_columns, named_row
from pd_jax.errors import SourceError

_ROWS = 1024
"""How many are read at once."""


class Parquet:
    """Columns of a Parquet file; a part of it is a range of rows."""

    def __init__(
        self,
        path: str,
        source: Source,
        *,
        part: tuple[float, float],
        more: Sequence[str] = (),
    ):
        self._path, self._source, self._part, self._more = path, source, part, more
        self._origin = lines.Origin(path, unit="row ")

    def items(self) -> Iterator[Item]:
        """Yields the rows that begin in this part."""
        import pyarrow
        from pyarrow import parquet

        with lines.opened(self._path, zipped=False) as stream:
            try:
                table = parquet.ParquetFile(stream)
                names = table.schema_arrow.names
                check_columns(self._path, names, self._source, self._more)
                yield from self._rows(table)
            except pyarrow.ArrowException as fault:
                reason = str(fault).splitlines()[0]
                raise SourceError(
                    f"{self._path} is not a Parquet file ({reason}); write it again"
                ) from None
            except UnicodeDecodeError as fault:
                raise SourceError(
                    f"{self._path} contains text that is not UTF-8 ({fault.reason}); write it again"
                ) from None

    def row(self, item: Item) -> Row:
        """Returns an item's text, pair and label."""
        return named_row(item.value, self._source, self._origin, item.number)

    def named(self, item: Item) -> Mapping[str, Any]:
        """Returns an item's values by column: those of the source, and the additional ones."""
        return item.value

    def _rows(self, table: Any) -> Iterator[Item]:
        """Yields the rows of the part, opening no row group that lies outside it."""
        begin, end = (round(share * table.metadata.num_rows) for share in self._part)
        wanted = [
            name
            for name in (self._source.text, self._source.pair, self._source.label, *self._more)
            if name is not None
        ]
        first = 0
        for group in range(table.metadata.num_row_groups):
            if first >= end:
                return
            last = first + table.metadata.row_group(group).num_rows
            if begin < last:
                batches = table.iter_batches(batch_size=_ROWS, row_groups=[group], columns=wanted)
                yield from _items_between(batches, first, begin, end)
            first = last


def _items_between(batches: Iterable[Any], first: int, begin: int, end: int) -> Iterator[Item]:
    """Yields the rows `begin` to `end` of batches that start at row `first`, reading no batch that
    begins after them and making values of no other row.
    """
    for batch in batches:
        low, high = max(begin - first, 0), min(end - first, len(batch))
        if low < high:
            values = batch.slice(low, high - low).to_pylist()
            yield from map(Item, itertools.count(first + low + 1), values)
        first += len(batch)
        if first >= end:
            return
