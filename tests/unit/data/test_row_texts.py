"""Texts found again by id: a shard's are read once, in whatever parts they are asked for."""

import itertools

import numpy as np
import pytest

from pd_jax import config
from pd_jax.data.records.row_texts import RowTexts
from pd_jax.data.text import corpora
from pd_jax.errors import SourceError
from tests import tiny

TEXTS = [f"w{n % 59} w{n // 59}" for n in range(120)]


@pytest.fixture
def dataset(tmp_path):
    return tiny.text_dataset(tmp_path / "set", [(text,) for text in TEXTS])


@pytest.fixture
def read(monkeypatch):
    """A list that grows by every row that is read of a source."""
    seen = []
    rows = corpora.rows
    monkeypatch.setattr(
        corpora, "rows", lambda *piece: (seen.append(row.text) or row for row in rows(*piece))
    )
    return seen


def by_shard(dataset, size):
    """Yields the rows of each shard in parts."""
    first = 0
    for shard in dataset.manifest.shards:
        for at in range(first, first + shard.rows, size):
            yield np.arange(at, min(at + size, first + shard.rows))
        first += shard.rows


def test_each_text_is_read_once_however_small_the_parts(dataset, read):
    texts = RowTexts(dataset)
    found = [row.text for part in by_shard(dataset, 5) for row in texts.of(part)]
    assert found == TEXTS and read == TEXTS


def test_rows_out_of_order_and_twice_are_found_too(dataset):
    texts = RowTexts(dataset)
    for part in ([7, 3], [3, 8], [119, 0], [9], [9], [8], [118], [5, 5]):
        assert [row.text for row in texts.of(np.array(part))] == [TEXTS[n] for n in part]


def test_texts_that_occur_several_times(tmp_path, read):
    several = list(itertools.islice(itertools.cycle(TEXTS[:7]), 90))
    dataset = tiny.text_dataset(tmp_path / "several", [(text,) for text in several])
    read.clear()
    texts = RowTexts(dataset)
    found = [row.text for part in by_shard(dataset, 4) for row in texts.of(part)]
    assert found == several and len(read) <= len(several)


def test_sources_in_another_order_are_searched_whole(dataset, tmp_path):
    path = tmp_path / "turned.csv"
    path.write_text("\n".join(["text", *reversed(TEXTS)]) + "\n")
    texts = RowTexts(dataset, config.Source(path=str(path)))
    assert [row.text for part in by_shard(dataset, 50) for row in texts.of(part)] == TEXTS
    path.write_text("\n".join(["text", *TEXTS[1:]]) + "\n")
    texts = RowTexts(dataset, config.Source(path=str(path)))
    with pytest.raises(SourceError, match="row 0: its text is not in the sources of the dataset"):
        texts.of(np.arange(3))
