"""Broken rows, which are left out where a source says so."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from pd_jax.config import Source
from pd_jax.errors import BrokenRowError
from pd_jax.progress import warn

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclasses.dataclass
class Skipped:
    """How many rows were left out, and what is wrong with the first of them."""

    count: int = 0
    first: str = ""

    def made(self, source: Source, make: Callable[[Item], Made], item: Item) -> Made | None:
        """Returns what `make` makes of an item; None where that is broken, and left out.

        Raises:
          BrokenRowError: where it is broken, and the source refuses such rows.
        """
        try:
            return make(item)
        except BrokenRowError as fault:
            if source.broken_rows == "refuse":
                raise
            self.first = self.first or fault.problem
            self.count += 1
            return None

    def tell(self) -> None:
        """Warns of what was left out, if anything was."""
        if self.count:
            rows = "1 row was" if self.count == 1 else f"{self.count:,} rows were"
            warn(f"{rows} skipped, the first because {self.first}")
