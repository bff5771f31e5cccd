"""Warns of TSV files whose cells are quoted as in CSV.

Here a TSV file keeps quotes as they are, but other programs write it differently.
"""

from collections.abc import Callable

from pd_jax.data.text.tables import Item, Row
from pd_jax.progress import warn

_QUOTED_ROWS = 100
"""If this many rows from the first on have a quoted cell, a program has quoted them all."""

_reported: set[str] = set()
"""Files already warned about: a process reads a file in several parts, and more than once."""


class QuoteWarner:
    """Makes rows of a TSV file's items, and warns of cells that look quoted as in CSV."""

    def __init__(self, path: str, make: Callable[[Item], Row]):
        self._path, self._make = path, make
        self._quoted, self._seen = 0, 0

    def __call__(self, item: Item) -> Row:
        """Returns the row of an item."""
        row = self._make(item)
        inner = [
            cell[1:-1]
            for cell in (row.text, row.pair, row.label)
            if cell and len(cell) > 1 and cell[0] == cell[-1] == '"'
        ]
        self._seen += 1
        self._quoted += bool(inner)
        doubled = any('""' in cell and '"' not in cell.replace('""', "") for cell in inner)
        if doubled or self._quoted == self._seen == _QUOTED_ROWS:
            self._warn(row)
        return row

    def _warn(self, row: Row) -> None:
        if self._path not in _reported:
            _reported.add(self._path)
            warn(
                f"{row.where} has a cell in quotes, which a TSV file keeps as they are; "
                "write it as .csv, with commas and these quotes, or remove the quotes"
            )
