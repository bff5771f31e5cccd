"""Rows kept in memory: the same as those on disk, read once, and checked when they are read."""

import pathlib
import threading

import numpy as np
import pytest

from pd_jax.data.records import dataset as dataset_lib
from pd_jax.data.records import row_cache
from pd_jax.errors import RecordsError


@pytest.fixture
def dataset(make_dataset, record):
    """Pairs of several lengths with labels and next sentences, in two shards."""
    generator = np.random.default_rng(0)
    rows = []
    for number, size in enumerate(generator.integers(4, 20, 60).tolist()):
        segments = (np.arange(size) >= size // 2).astype(np.int32)
        rows.append(
            record(number, size, segment_ids=segments, label=number % 2, next_sentence=number % 2)
        )
    return make_dataset(rows, shards=(25, 35), task="classification", labels=("a", "b"))


def assert_same(one: row_cache.Gathered, other: row_cache.Gathered) -> None:
    for name in ("tokens", "lengths", "segments", "labels", "next_sentence", "example_ids"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


def test_held_rows_equal_those_on_disk_and_are_read_once(dataset):
    read: list[int] = []

    def reading(rows):
        read.extend(rows.tolist())
        yield rows, dataset._read(rows)

    kept = row_cache.RowCache(dataset.lengths, reading)
    # None here, some here, all here; a row may come twice.
    for rows in ([7, 3, 59], [3, 4, 7, 58], [58, 59, 3], list(range(60)), [0, 0, 31]):
        assert_same(kept.gather(np.array(rows)), dataset._read(np.array(rows)))
    assert sorted(read) == list(range(60))


def test_a_whole_shard_is_kept_at_the_first_of_its_rows(dataset, monkeypatch):
    read = []
    whole = dataset_lib.Dataset._whole
    monkeypatch.setattr(
        dataset_lib.Dataset,
        "_whole",
        lambda self, shard: (read.append(shard), whole(self, shard))[1],
    )
    monkeypatch.setattr(dataset_lib, "_ROWS_AT_ONCE", 10)
    for rows in ([30, 59], [26, 31], [3], list(range(60))):
        assert_same(dataset.gather(np.array(rows)), dataset._read(np.array(rows)))
    assert read == [1, 0]


def test_of_a_damaged_shard_the_rows_that_are_whole_are_read(dataset):
    path = dataset.folder / "set-00001-of-00002.tfrecord"
    content = bytearray(path.read_bytes())
    content[int(np.load(path.with_suffix(".index.npy"))["offset"][3])] ^= 1
    path.write_bytes(content)
    opened = dataset_lib.Dataset.open(dataset.folder)
    assert_same(opened.gather(np.arange(28)), dataset._read(np.arange(28)))
    with pytest.raises(RecordsError, match=r"set-00001-of-00002\.tfrecord row 3 is damaged"):
        opened.gather(np.array([27, 28]))
    assert_same(opened.gather(np.array([27, 59])), dataset._read(np.array([27, 59])))


def test_what_was_taken_may_be_changed(dataset):
    first = dataset.gather(np.array([5, 6]))
    first.tokens[:] = 0
    again = dataset.gather(np.array([5, 6]))
    again.labels[:] = 9
    assert_same(dataset.gather(np.array([5, 6])), dataset._read(np.array([5, 6])))


def test_threads_that_read_the_same_rows_all_get_them(dataset):
    wanted = dataset._read(np.arange(60))
    failed: list[BaseException] = []

    def gather(seed: int) -> None:
        rows = np.random.default_rng(seed).permutation(60)
        try:
            found = dataset.gather(rows)
            np.testing.assert_array_equal(found.example_ids, wanted.example_ids[rows])
            assert found.tokens.sum() == wanted.tokens.sum()
        except BaseException as fault:
            failed.append(fault)

    for repetition in range(20):
        dataset = dataset_lib.Dataset.open(dataset.folder)
        threads = [threading.Thread(target=gather, args=(8 * repetition + n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []


def test_labels_count_for_what_fits_in_memory(make_dataset, record, monkeypatch):
    names = tuple(f"label {number}" for number in range(100))
    rows = [record(number, 4, label=(1, *99 * (0,))) for number in range(10)]
    dataset = make_dataset(rows, shards=(10,), task="multilabel", labels=names)
    size = 10 * (4 * 4 + 16 + 100 * 4)
    for limit, kept in ((size, True), (size - 1, False)):
        monkeypatch.setattr(dataset_lib, "_CACHE_BYTES", limit)
        assert (dataset_lib.Dataset.open(dataset.folder)._cache is not None) == kept


def test_a_dataset_too_large_is_read_anew_and_checked_every_time(dataset, monkeypatch):
    before = dataset.gather(np.array([3]))
    monkeypatch.setattr(dataset_lib, "_CACHE_BYTES", 100)
    opened = dataset_lib.Dataset.open(dataset.folder)
    assert_same(opened.gather(np.array([3])), before)
    path = dataset.folder / "set-00000-of-00002.tfrecord"
    content = bytearray(path.read_bytes())
    at = int(np.load(dataset.folder / "set-00000-of-00002.index.npy")["offset"][3])
    content[at] ^= 1
    with pathlib.Path(path).open("r+b") as stream:  # in place, under the map that is open
        stream.write(content)
    with pytest.raises(RecordsError, match=r"set-00000-of-00002\.tfrecord row 3 is damaged"):
        opened.gather(np.array([3]))
    # The dataset that holds the row has checked it already, and has what was written.
    assert dataset.gather(np.array([3])).tokens[1] == 1003
