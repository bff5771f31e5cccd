"""The feed: which rows come when, and how they are laid out."""

import itertools

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax import config, files
from pd_jax.data.feed import batches as batches_lib
from pd_jax.data.feed.order import MIXTURE_BLOCK, Order, Permutation
from pd_jax.data.records import dataset as dataset_lib
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.row_cache import Gathered
from pd_jax.data.wire import remote
from pd_jax.errors import ConfigError, PdError, RecordsError


def data(**arguments):
    return config.Data(**({"records": "set", "batch": 4, "lengths": (8,)} | arguments))


def feed_of(datasets, settings, **arguments):
    defaults = {"seed": 1, "first_step": 0, "steps": 8, "process_index": 0, "process_count": 1}
    return list(
        batches_lib.make_feed(datasets, settings, **(defaults | {"prefetch": 2} | arguments))
    )


def numbers(batches):
    """Returns the row numbers that `record` wrote into the tokens, in the order of the batches."""
    return [int(row) - 1000 for batch in batches for row in batch["input_ids"][:, 1]]


# ---- the permutation ---------------------------------------------------------------------------


@given(st.integers(1, 5000), st.integers(0, 2**31), st.text(max_size=5))
@settings(max_examples=100, deadline=None)
def test_every_number_comes_once(size, seed, name):
    images = Permutation(size, (seed, name))(np.arange(size))
    assert sorted(images.tolist()) == list(range(size))


def test_a_permutation_is_the_same_everywhere_and_for_ever():
    # Written down once: a change here reshuffles every run that is under way.
    assert Permutation(10, (0, "epoch", 0))(np.arange(10)).tolist() == FIRST_TEN
    assert Permutation(10**12, (7, "epoch", 3))(np.array([0, 1, 10**12 - 1])).tolist() == FAR


FIRST_TEN = [7, 2, 8, 6, 3, 4, 0, 1, 5, 9]
FAR = [370133668730, 408569228118, 738849620413]


def test_all_orders_of_four_are_about_equally_frequent():
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    draws = 6000
    for seed in range(draws):
        counts[tuple(Permutation(4, (seed, "x"))(np.arange(4)).tolist())] += 1
    expected = draws / 24
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    # 23 degrees of freedom: 49.7 is exceeded once in a thousand by a fair shuffle.
    assert chi_squared < 49.7


def test_neighbours_are_torn_apart():
    size = 100_003
    images = Permutation(size, (3, "x"))(np.arange(size))
    # Of a random permutation, neighbours are on average a third of the range apart.
    assert abs(np.abs(np.diff(images)).mean() / size - 1 / 3) < 0.01
    assert abs(np.corrcoef(np.arange(size), images)[0, 1]) < 0.01


# ---- order -------------------------------------------------------------------------------------


def test_each_epoch_holds_every_row_once_in_another_order():
    order = Order([3, 4], seed=5)
    epochs = [order.at(np.arange(7 * epoch, 7 * epoch + 7)) for epoch in range(3)]
    pairs = [list(zip(e.datasets.tolist(), e.rows.tolist(), strict=True)) for e in epochs]
    every = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert all(sorted(epoch) == every for epoch in pairs)
    assert pairs[0] != pairs[1] != pairs[2]
    assert order.rows_per_epoch == 7


def test_far_positions_cost_nothing_and_any_cut_gives_the_same():
    order = Order([1000], seed=0)
    far = 10**13
    whole = order.at(np.arange(far, far + 50)).rows
    assert order.at(np.arange(far + 20, far + 30)).rows.tolist() == whole[20:30].tolist()
    assert order.at(np.array([far + 49, far])).rows.tolist() == [whole[49], whole[0]]


@pytest.mark.parametrize(("size", "window"), [(23, 5), (20, 5), (3, 5), (5, 5), (1, 1)])
def test_a_windowed_epoch_takes_one_window_after_the_other(size, window):
    order = Order([size], window=window, seed=3)
    epochs = [order.at(np.arange(n * size, (n + 1) * size)).rows for n in range(40)]
    first_windows = set()
    for rows in epochs:
        assert sorted(rows.tolist()) == list(range(size))
        windows = rows // window
        # Each window comes as one run: it changes as often as there are windows, less one.
        assert np.count_nonzero(np.diff(windows)) == -(-size // window) - 1
        first_windows.add(int(windows[0]))
    # Every window, the short one too, is first at some time, and rows within it are shuffled.
    assert first_windows == set(range(-(-size // window)))
    assert size == 1 or len({tuple(rows) for rows in epochs}) > 1
    every = order.at(np.arange(40 * size)).rows
    assert order.at(np.arange(7 * size + 1, 9 * size)).rows.tolist() == (
        every[7 * size + 1 : 9 * size].tolist()
    )


def test_a_window_with_chosen_rows_is_refused():
    with pytest.raises(pydantic.ValidationError, match="rows draws from the entire dataset"):
        data(rows=3, window=2)


def test_a_windowed_feed_reads_a_remote_dataset_once_an_epoch(make_dataset, record, monkeypatch):
    dataset = make_dataset([record(n, 4) for n in range(200)], shards=(90, 110))
    settings = data(window=50)
    plain = feed_of([dataset], settings, steps=100)
    assert sorted(numbers(plain[:50])) == sorted(numbers(plain[50:])) == list(range(200))
    parts = [feed_of([dataset], settings, process_index=n, process_count=2) for n in (0, 1)]
    for step, both in enumerate(zip(*parts, strict=True)):
        joined = np.concatenate([part["input_ids"] for part in both])
        np.testing.assert_array_equal(joined, plain[step]["input_ids"])
    resumed = feed_of([dataset], settings, first_step=73, steps=75)
    np.testing.assert_array_equal(resumed[0]["input_ids"], plain[73]["input_ids"])

    asked = []

    def read_range(path, begin, size):
        asked.append((path.name, begin))
        return path.read_bytes()[begin : begin + size]

    monkeypatch.setattr(files, "is_remote", lambda path: True)
    monkeypatch.setattr(remote, "read_range", read_range)
    monkeypatch.setattr(remote, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(dataset_lib, "_CACHE_BYTES", 0)
    # Room for two windows of 50 rows.
    size = sum(shard.bytes for shard in dataset.manifest.shards)
    monkeypatch.setattr(remote, "KEPT_BYTES", size // 2)
    far = feed_of([Dataset.open(dataset.folder)], data(window=50), steps=50, prefetch=1)
    assert sorted(numbers(far)) == list(range(200))
    # Neighbouring windows share the block in which they meet, and may both read it.
    blocks = sum(-(-shard.bytes // 1000) for shard in dataset.manifest.shards)
    assert blocks == len(set(asked)) <= len(asked) <= blocks + 4
    asked.clear()
    feed_of([Dataset.open(dataset.folder)], data(), steps=50, prefetch=1)
    assert len(asked) > 4 * blocks  # without windows, blocks come and go


def test_smaller_subsets_lie_inside_larger_ones():
    def used(rows, seed=0):
        return set(Order([1000], rows=rows, seed=seed).at(np.arange(rows)).rows.tolist())

    assert len(used(10)) == 10 and len(used(100)) == 100
    assert used(10) < used(100) < used(999) < used(1000) == set(range(1000))
    assert used(100, seed=1) != used(100)
    with pytest.raises(ConfigError, match="data.rows=1001 asks for more rows than a dataset has"):
        Order([1000], rows=1001, seed=0)


def test_a_mixture_keeps_its_weights_and_each_datasets_own_epochs():
    order = Order([300, 50], weights=(3, 1), seed=2)
    places = order.at(np.arange(2 * MIXTURE_BLOCK))
    for block in (slice(0, MIXTURE_BLOCK), slice(MIXTURE_BLOCK, None)):
        assert np.bincount(places.datasets[block]).tolist() == [7500, 2500]
    # 15,000 draws are exactly 50 epochs of the first dataset, 5,000 exactly 100 of the second.
    assert set(np.bincount(places.rows[places.datasets == 0])) == {50}
    assert set(np.bincount(places.rows[places.datasets == 1])) == {100}
    # Well mixed: any hundred in a row hold about 25 of the second.
    counts = places.datasets.reshape(-1, 100).sum(axis=1)
    assert 5 < counts.min() and counts.max() < 50


@given(st.integers(0, 99), st.integers(1, 30_000), st.integers(1, 30_000), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_an_epoch_of_a_mixture_ends_before_a_row_comes_twice(seed, first, second, weight):
    order = Order([first, second], weights=(weight, 10 - weight), seed=seed)
    count = order.rows_per_epoch

    def largest(examples):
        places = order.at(np.arange(examples))
        return np.unique(places.datasets * 10**6 + places.rows, return_counts=True)[1].max()

    assert largest(count) == 1
    assert largest(count + 1) == 2


def test_another_weight_needs_no_other_records(make_dataset, record):
    first = make_dataset([record(n, 4) for n in range(40)], name="first")
    second = make_dataset([record(n, 4) for n in range(40, 80)], name="second")
    before = [dataset.fingerprint for dataset in (first, second)]
    shares = {}
    for weights in ((1, 3), (3, 1)):
        mixed = data(records=("a", "b"), weights=weights, batch=1000)
        seen = np.array(numbers(feed_of([first, second], mixed, steps=10)))
        shares[weights] = int((seen < 40).sum())
    assert shares == {(1, 3): 2500, (3, 1): 7500}
    assert before == [Dataset.open(one.folder).fingerprint for one in (first, second)]


def test_weights_that_cannot_be_kept_are_refused():
    assert set(Order([5, 5], weights=(0, 2), seed=0).at(np.arange(100)).datasets.tolist()) == {1}
    for weights in ((1, -1), (0, 0), (1, 2, 3)):
        with pytest.raises(ConfigError, match="must be 2 numbers, none below 0"):
            Order([5, 5], weights=weights, seed=0)
    with pytest.raises(ConfigError, match="a share is below 1 in 10000"):
        Order([5, 5], weights=(1, 1e-6), seed=0)


# ---- batches -----------------------------------------------------------------------------------


def test_padding_by_hand():
    gathered = Gathered(
        tokens=np.array([101, 7, 102, 101, 1, 2, 3, 4, 102, 101, 5, 6, 102], np.int32),
        lengths=np.array([3, 6, 4], np.int32),
        segments=np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1], np.uint8),
        labels=None,
        next_sentence=None,
        example_ids=np.zeros((3, 16), np.uint8),
    )
    batch = batches_lib.pad(gathered, length=4, pad_id=9, sep_id=102)
    # The row of six is cut to four, the last of which is [SEP].
    assert batch["input_ids"].tolist() == [[101, 7, 102, 9], [101, 1, 2, 102], [101, 5, 6, 102]]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
    assert batch["input_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert {values.dtype for values in batch.values()} == {np.dtype(np.int32)}
    wide = batches_lib.pad(gathered, length=8, pad_id=0, sep_id=102)
    assert wide["input_mask"].sum(axis=1).tolist() == [3, 6, 4]
    assert wide["input_ids"][1].tolist() == [101, 1, 2, 3, 4, 102, 0, 0]


def test_a_batch_has_what_the_dataset_has(make_dataset, record):
    rows = [record(n, 5, label=n % 2, next_sentence=n % 2) for n in range(6)]
    dataset = make_dataset(rows, task="classification", labels=("a", "b"))
    for batch in feed_of([dataset], data()):
        row = batch["input_ids"][:, 1] - 1000
        assert batch["input_ids"].shape == batch["input_mask"].shape == (4, 8)
        assert batch["label"].tolist() == (row % 2).tolist()
        assert batch["next_sentence"].tolist() == (row % 2).tolist()
        assert batch["weight"].tolist() == [1, 1, 1, 1]
        assert set(batch) == {
            "input_ids", "segment_ids", "input_mask", "weight", "label", "next_sentence",
        }  # fmt: skip


def test_epochs_follow_each_other_without_a_gap(make_dataset, record):
    dataset = make_dataset([record(n, 4) for n in range(6)])
    seen = numbers(feed_of([dataset], data(), steps=6))
    assert len(seen) == 24
    for epoch in range(4):
        assert sorted(seen[6 * epoch : 6 * epoch + 6]) == list(range(6))
    assert batches_lib.rows_per_epoch([dataset], data(), seed=1) == 6
    assert (
        batches_lib.rows_per_epoch([dataset, dataset], data(records=("a", "b"), rows=2), seed=1)
        == 4
    )


@pytest.mark.parametrize("lengths", [(16,), (4, 8, 16)])
def test_resuming_and_dividing_change_nothing(make_dataset, record, lengths):
    generator = np.random.default_rng(0)
    rows = [record(n, int(generator.integers(3, 20))) for n in range(101)]
    dataset = make_dataset(rows, shards=(40, 61))
    settings = data(lengths=lengths)
    whole = feed_of([dataset], settings, steps=150)
    resumed = feed_of([dataset], settings, first_step=97, steps=150)
    assert len(resumed) == 53
    for one, other in zip(whole[97:], resumed, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    parts = [
        feed_of([dataset], settings, steps=150, process_index=index, process_count=4)
        for index in range(4)
    ]
    for step, one in enumerate(whole):
        for name in one:
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(one[name], joined)


def test_another_seed_is_another_order(make_dataset, record):
    dataset = make_dataset([record(n, 4) for n in range(50)])
    assert numbers(feed_of([dataset], data())) != numbers(feed_of([dataset], data(), seed=2))


def test_lengths_fit_the_rows_and_save_padding(make_dataset, record):
    generator = np.random.default_rng(1)
    sizes = generator.integers(3, 33, 256)
    dataset = make_dataset([record(n, int(size)) for n, size in enumerate(sizes)])
    settings = data(lengths=(8, 16, 32))
    batches = feed_of([dataset], settings, steps=64)
    assert sorted(numbers(batches)) == list(range(256))
    for batch in batches:
        longest = batch["input_mask"].sum(axis=1).max()
        expected = 8 if longest <= 8 else 16 if longest <= 16 else 32
        assert batch["input_ids"].shape[1] == expected
    filled = sum(batch["input_mask"].sum() for batch in batches)
    places = sum(batch["input_mask"].size for batch in batches)
    assert 1 - filled / (256 * 32) > 0.44  # padding when all batches are 32 long
    assert 1 - filled / places < 0.25
    # Batches of one length do not follow each other, and rows are not sorted within them.
    shapes = [batch["input_ids"].shape[1] for batch in batches]
    assert shapes != sorted(shapes)
    within = [batch["input_mask"].sum(axis=1).tolist() for batch in batches]
    assert sum(one != sorted(one) for one in within) > 32


@pytest.mark.parametrize(("rows", "epochs"), [(500, 3), (22, 1), (1100, 1)])
def test_batches_of_several_lengths_hold_every_row_once_an_epoch(
    make_dataset, record, rows, epochs
):
    sizes = np.random.default_rng(1).integers(3, 33, rows)
    dataset = make_dataset([record(n, int(size)) for n, size in enumerate(sizes)])
    steps = -(-epochs * rows // 4)
    batches = feed_of([dataset], data(lengths=(8, 16, 32)), steps=steps)
    times = np.bincount(numbers(batches), minlength=rows)
    assert np.count_nonzero(times == epochs + 1) == 4 * steps - epochs * rows  # fill the last batch
    assert set(times.tolist()) <= {epochs, epochs + 1}
    assert rows % 4 or all(len(set(numbers([batch]))) == 4 for batch in batches)
    again = feed_of([dataset], data(lengths=(8, 16, 32)), first_step=steps - 2, steps=steps)
    assert numbers(again) == numbers(batches[-2:])


def test_several_datasets_make_one_batch(make_dataset, record):
    first = make_dataset([record(n, 4) for n in range(4)], name="first")
    second = make_dataset([record(n, 4) for n in range(4, 12)], name="second")
    seen = numbers(feed_of([first, second], data(records=("a", "b")), steps=3))
    assert sorted(seen) == list(range(12))
    mixed = data(records=("a", "b"), weights=(0, 1), batch=8)
    assert sorted(numbers(feed_of([first, second], mixed, steps=1))) == list(range(4, 12))


def test_labels_are_left_out_where_not_every_dataset_has_them(make_dataset, record):
    first = make_dataset(
        [record(0, 4, label=0)], name="first", task="classification", labels=("a", "b")
    )
    second = make_dataset([record(1, 4)], name="second")
    assert "label" in feed_of([first], data())[0]
    assert "label" not in feed_of([first, second], data(records=("a", "b")))[0]


def test_datasets_of_different_tokenizers_are_refused(make_dataset, record, vocabulary):
    other = type(vocabulary)(fingerprint="other")
    first = make_dataset([record(0, 4)], name="first")
    second = make_dataset([record(0, 4)], name="second", tokenizer=other)
    with pytest.raises(RecordsError, match="first and .*second were made with different token"):
        feed_of([first, second], data(records=("a", "b")))


def test_a_batch_that_cannot_be_divided_is_refused(make_dataset, record):
    dataset = make_dataset([record(0, 4)])
    with pytest.raises(ConfigError, match="data.batch=4 cannot be divided among 3 processes"):
        feed_of([dataset], data(), process_count=3)
    with pytest.raises(ConfigError, match="a batch of 4 cannot be divided among 3 processes"):
        batches_lib.evaluation_batches(dataset, batch=4, lengths=(8,), process_count=3)


def test_damage_met_in_a_thread_stops_the_run_with_its_sentence(make_dataset, record):
    dataset = make_dataset([record(n, 4) for n in range(6)])
    path = dataset.folder / "set-00000-of-00001.tfrecord"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(PdError, match=r"set-00000-of-00001\.tfrecord row 5 is damaged"):
        feed_of([dataset], data())


# ---- evaluation --------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
def test_an_evaluation_holds_every_row_once(make_dataset, record, processes):
    sizes = [9, 3, 12, 5, 4, 7, 3, 16, 20, 6]
    dataset = make_dataset(
        [record(n, size, label=float(n)) for n, size in enumerate(sizes)],
        shards=(3, 7),
        task="regression",
    )
    parts = [
        list(
            batches_lib.evaluation_batches(
                dataset,
                batch=4,
                lengths=(4, 8, 16),
                process_index=index,
                process_count=processes,
            )
        )
        for index in range(processes)
    ]
    whole = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    rows = np.concatenate([batch["row"] for batch in whole])
    weights = np.concatenate([batch["weight"] for batch in whole])
    labels = np.concatenate([batch["label"] for batch in whole])
    assert weights.tolist() == [1] * 10 + [0, 0]
    assert sorted(rows[weights == 1].tolist()) == list(range(10))
    assert rows.dtype == np.int64 and labels.tolist() == rows.tolist()
    assert [batch["input_ids"].shape for batch in whole] == [(4, 8), (4, 16), (4, 16)]
    assert np.diff(np.array(sizes)[rows]).min() >= 0
