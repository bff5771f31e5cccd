"""The texts of a dataset's rows, found again by id.

Records hold tokens, from which a text cannot be had back. Where a teacher has another tokenizer,
the sources that the dataset was built from are read once more: a shard's rows from the part of them
that it was made of, and what is not found there from the rest.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pydantic
from jaxtyping import Int64

from pd_jax import config
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.shards import example_id
from pd_jax.data.text import corpora
from pd_jax.data.text.tables import Row
from pd_jax.errors import SourceError

Sources = config.Source | tuple[config.Source, ...]


class _Begun(NamedTuple):
    """Shards that are being read, the last of their rows asked for, and the texts after it."""

    shards: list[int]
    last: int
    texts: Iterator[Row]


class RowTexts:
    """The texts of a dataset, best asked for in the order of its rows; for one thread."""

    def __init__(self, dataset: Dataset, source: Sources | None = None):
        """Looks in `source`, by default in what the dataset's manifest says it was built from.

        Raises:
          SourceError: the manifest names no source of rows, or a source is not there.
        """
        self._dataset = dataset
        sources = _built_from(dataset) if source is None else source
        shards = dataset.manifest.shards
        self._pieces = corpora.split(sources, len(shards))
        self._ends = np.cumsum([shard.rows for shard in shards])
        self._begun = _Begun([], -1, iter(()))

    def of(self, rows: Int64[np.ndarray, " rows"]) -> list[Row]:
        """Returns the texts of these rows, in this order.

        Raises:
          SourceError: naming the first row whose text is nowhere in the sources.
        """
        ids = [name.tobytes() for name in self._dataset.gather(rows).example_ids]
        shards = np.searchsorted(self._ends, rows, side="right")
        wanted, found = set(ids), {}
        own = np.unique(shards).tolist()
        everywhere = self._rows([*own, *range(len(self._pieces))])
        for row in itertools.chain(self._following(rows, own), everywhere):
            name = example_id(row.text, row.pair)
            if name in wanted:
                found[name] = row
                if len(found) == len(wanted):
                    break
        for number, name in enumerate(ids):
            if name not in found:
                raise SourceError(
                    f"{self._dataset.place(int(rows[number]))}: its text is not in the sources of"
                    " the dataset, which have changed; name the texts with source"
                )
        return [found[name] for name in ids]

    def _following(self, rows: np.ndarray, own: list[int]) -> Iterator[Row]:
        """Returns the texts of these shards, from where the rows before these were found.

        A shard is asked for in parts, and its rows stand in the order of its texts: read from the
        top for every part, it would take a time that grows with the square of its rows.
        """
        before = self._begun
        follows = len(rows) > 0 and before.shards == own and rows[0] > before.last
        texts = before.texts if follows else self._rows(own)
        self._begun = _Begun(own, int(rows.max(initial=-1)), texts)
        return texts

    def _rows(self, shards: Iterable[int]) -> Iterator[Row]:
        for shard in shards:
            for piece in self._pieces[shard]:
                yield from corpora.rows(piece)


def _built_from(dataset: Dataset) -> Sources:
    said = dataset.manifest.arguments
    layout = (said.get("examples") or {}).get("layout")
    if layout != "rows" or "source" not in said:
        raise SourceError(
            f"{dataset.folder} does not say which texts its rows were made of; name them with"
            " source, or build the dataset again with layout 'rows'"
        )
    try:
        return pydantic.TypeAdapter(Sources).validate_python(said["source"])
    except pydantic.ValidationError as fault:
        raise SourceError(
            f"{dataset.folder} names its sources in a way that is not understood here"
            f" ({fault.errors()[0]['msg']}); name them with source"
        ) from None
