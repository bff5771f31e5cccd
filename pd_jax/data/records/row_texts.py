"""The texts of a dataset's rows, looked up in its sources by id.

Records hold tokens, from which the text cannot be recovered. Where a teacher has another tokenizer,
the sources that the dataset was built from are read again: a shard's rows are looked up in the part
of the sources that the shard was made from, and those not found there in the rest.
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


class _Reading(NamedTuple):
    """Shards that are being read, the last of their rows requested, and the texts after it."""

    shards: list[int]
    last: int
    texts: Iterator[Row]


class RowTexts:
    """The texts of a dataset, fastest when requested in row order; for use by one thread."""

    def __init__(self, dataset: Dataset, source: Sources | None = None):
        """Searches `source`; by default, the sources that the dataset's manifest lists.

        Raises:
          SourceError: where the manifest lists no source of rows, or a source is missing.
        """
        self._dataset = dataset
        sources = _built_from(dataset) if source is None else source
        shards = dataset.manifest.shards
        self._pieces = corpora.split(sources, len(shards))
        self._ends = np.cumsum([shard.rows for shard in shards])
        self._reading = _Reading([], -1, iter(()))

    def of(self, rows: Int64[np.ndarray, " rows"]) -> list[Row]:
        """Returns the texts of these rows, in this order.

        Raises:
          SourceError: where a row's text is not in the sources, naming the first such row.
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
                    " the dataset, which have changed; set source to the files with the texts"
                )
        return [found[name] for name in ids]

    def _following(self, rows: np.ndarray, own: list[int]) -> Iterator[Row]:
        """Returns the texts of these shards, continuing after the rows found before.

        A shard is requested in parts, and its rows are in the order of its texts. Reading it from
        the top for every part would take time that grows with the square of its rows.
        """
        before = self._reading
        follows = len(rows) > 0 and before.shards == own and rows[0] > before.last
        texts = before.texts if follows else self._rows(own)
        self._reading = _Reading(own, int(rows.max(initial=-1)), texts)
        return texts

    def _rows(self, shards: Iterable[int]) -> Iterator[Row]:
        for shard in shards:
            for piece in self._pieces[shard]:
                yield from corpora.rows(piece)


def _built_from(dataset: Dataset) -> Sources:
    arguments = dataset.manifest.arguments
    layout = (arguments.get("examples") or {}).get("layout")
    if layout != "rows" or "source" not in arguments:
        raise SourceError(
            f"{dataset.folder} does not state which texts its rows were made from; set source to"
            " them, or build the dataset again with layout 'rows'"
        )
    try:
        return pydantic.TypeAdapter(Sources).validate_python(arguments["source"])
    except pydantic.ValidationError as fault:
        raise SourceError(
            f"{dataset.folder} lists its sources in a form that is not understood"
            f" ({fault.errors()[0]['msg']}); set source to the files with the texts"
        ) from None
