"""Assembles records into batches: which rows, padded to which length, with what beside them.

A batch is a function of (seed, step) and the length of the stage alone. Every process works out the
whole batch's rows, which is cheap, and reads its own contiguous slice of them; a change of process
count changes nothing.

With several lengths, the rows of a window of 64 batches are sorted by the length they are padded
to (rows of one length stay in random order), cut into batches, and the batches are shuffled. A
window is no longer than an epoch of 16 batches or more (except of a mixture), and the last one ends
with the stage: batches left out of it would take their rows, all of one length, from the last
epoch. With packing, a step's examples share rows of the longest length (`packing.py`).

Batches are prefetched in threads, not in worker processes: on two cores, taking a ready batch of
256 x 128 from a grain worker cost this process 0.7 ms of CPU time, making it from rows in memory
0.6 to 0.9 ms, and from disk 1.4 to 1.8 ms. A worker would save nothing, hold a second copy of the
rows, and outlive a process that is killed.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np
from jaxtyping import Int64

from pd_jax import config
from pd_jax.data.building.layouts import shortened
from pd_jax.data.feed.order import Order, Permutation, Places
from pd_jax.data.feed.packing import Packing, make_packing, pack
from pd_jax.data.logits.store import LogitStore
from pd_jax.data.logits.teachers import Teachers
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.row_cache import Gathered
from pd_jax.data.wire import tfrecord
from pd_jax.errors import ConfigError, LogitsError, RecordsError

Batch = dict[str, np.ndarray]

WINDOW_BATCHES = 64
_FEWEST_BATCHES = 16
"""A window of fewer would sort little: it then has several epochs."""

_EVALUATION_PREFETCH = 2
_MAX_THREADS = 2
"""Assembling a batch holds the interpreter most of the time: more threads only wait for it."""
_FRAME = 3
"""Special tokens of a pair: `[CLS] first [SEP] second [SEP]`."""


@dataclasses.dataclass(frozen=True)
class _Slice:
    """The rows of one step's batch that a process reads, the length all are padded to, and where
    they lie if they are packed.
    """

    places: Places
    length: int
    packing: Packing | None = None

    def share(self, index: int, of: int) -> "_Slice":
        """Returns part `index` of `of` equal parts of the batch."""
        if self.packing is not None:
            chosen, packing = self.packing.share(index, of)
            return _Slice(self.places[chosen], self.length, packing)
        return _Slice(self.places[_share(len(self.places.rows), index, of)], self.length)


def make_feed(
    datasets: Sequence[Dataset],
    data: config.Data,
    *,
    stores: Sequence[Sequence[LogitStore]] = (),
    seed: int,
    first_step: int,
    steps: int,
    process_index: int,
    process_count: int,
    prefetch: int,
    rows_multiple: int = 1,
) -> Iterator[Batch]:
    """Returns this process's part of the batches of steps first_step, ..., steps - 1.

    `stores` holds, for each dataset, its stores (one per teacher, the same number for all).
    A batch has `input_ids`, `segment_ids`, `input_mask` (int32 [rows, length]), `weight` (float32
    ones, 0 where a teacher gave no answer), and where every dataset has them: `label`,
    `next_sentence`, `teacher_logits` (the mean over teachers by `data.logit_weights`). With
    `data.packing` it has the shapes of `packing.pack`, and a multiple of `rows_multiple` rows over
    all processes.

    Raises:
      ConfigError: where the batch cannot be divided among the processes, or weights do not fit.
      RecordsError: where the datasets have different tokenizers.
      LogitsError: where a store does not belong to its dataset.
    """
    if data.batch % process_count:
        raise ConfigError(
            f"data.batch={data.batch} cannot be divided among {process_count} processes; make it "
            f"a multiple of {process_count}"
        )
    reader = _Reader(datasets, _teachers(datasets, stores, data), packing=data.packing)
    order = _order(datasets, data, seed)
    rows_multiple = math.lcm(rows_multiple, process_count)
    plan = _Plan(order, datasets, data, seed=seed, steps=steps, rows_multiple=rows_multiple)

    def batch_at(step: int) -> Batch:
        return reader.read(plan.at(step).share(process_index, process_count))

    return _prefetched(batch_at, range(first_step, steps), prefetch)


def examples_of(
    datasets: Sequence[Dataset], data: config.Data, *, seed: int, step: int, steps: int
) -> list[dict[str, str | int]]:
    """Returns the dataset, row and id of every example in the batch of a step of `steps`, in no
    order.
    """
    order = _order(datasets, data, seed)
    plan = _Plan(order, datasets, data, seed=seed, steps=steps, rows_multiple=1)
    places = plan.at(step).places
    found: list[dict[str, str | int]] = []
    for number, dataset in enumerate(datasets):
        rows = np.sort(places.rows[places.datasets == number])
        ids = dataset.gather(rows).example_ids
        found += [
            {"dataset": str(dataset.folder), "row": int(row), "id": one.tobytes().hex()}
            for row, one in zip(rows, ids, strict=True)
        ]
    return found


def rows_per_epoch(datasets: Sequence[Dataset], data: config.Data, *, seed: int) -> int:
    """Returns the number of examples in an epoch.

    An epoch has every row of every dataset once, after `data.rows` has cut each; with weights, as
    many examples as can be drawn before a row comes a second time.
    """
    return _order(datasets, data, seed).rows_per_epoch


def evaluation_batches(
    dataset: Dataset,
    *,
    batch: int,
    lengths: Sequence[int],
    teachers: Teachers | None = None,
    rows: Int64[np.ndarray, " rows"] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Returns batches that hold every row once, shortest first, each with `row` (int64) as well.

    `rows` restricts them to some rows. The last batch is filled up with its last row at weight 0.
    """
    if batch % process_count:
        raise ConfigError(
            f"a batch of {batch} cannot be divided among {process_count} processes; make it a "
            f"multiple of {process_count}"
        )
    reader = _Reader([dataset], [teachers] if teachers else ())
    chosen = np.arange(len(dataset)) if rows is None else rows
    ordered = chosen[np.argsort(dataset.lengths[chosen], kind="stable")]
    mine = _share(batch, process_index, process_count)

    def batch_at(number: int) -> Batch:
        real = ordered[number * batch : (number + 1) * batch]
        whole = np.concatenate([real, np.repeat(real[-1:], batch - len(real))])
        length = _padded_length(int(dataset.lengths[real].max()), lengths)
        places = Places(np.zeros(batch, np.int64), whole)[mine]
        weight = (np.arange(batch) < len(real)).astype(np.float32)[mine]
        return reader.read(_Slice(places, length)) | {"row": places.rows, "weight": weight}

    return _prefetched(batch_at, range(-(-len(ordered) // batch)), _EVALUATION_PREFETCH)


def _prefetched(make: Callable[[int], Batch], numbers: range, prefetch: int) -> Iterator[Batch]:
    if not len(numbers):
        return iter(())
    options = grain.ReadOptions(
        num_threads=min(prefetch, _MAX_THREADS), prefetch_buffer_size=prefetch
    )
    dataset = grain.MapDataset.range(numbers.start, numbers.stop).map(make)
    return iter(dataset.to_iter_dataset(options))


def _order(datasets: Sequence[Dataset], data: config.Data, seed: int) -> Order:
    sizes = [len(dataset) for dataset in datasets]
    return Order(sizes, weights=data.weights, rows=data.rows, window=data.window, seed=seed)


def _share(batch: int, process_index: int, process_count: int) -> slice:
    size = batch // process_count
    return slice(process_index * size, (process_index + 1) * size)


def _padded_length(longest: int, lengths: Sequence[int]) -> int:
    return next((length for length in lengths if length >= longest), lengths[-1])


class _Plan:
    """Which rows each step's batch has, over all processes, and the length it is padded to."""

    def __init__(
        self,
        order: Order,
        datasets: Sequence[Dataset],
        data: config.Data,
        *,
        seed: int,
        steps: int,
        rows_multiple: int,
    ):
        self._order = order
        self._datasets = datasets
        self._batch = data.batch
        self._lengths = np.asarray(data.lengths)
        self._packing = data.packing
        self._seed = seed
        self._steps = steps
        epoch = max(1, order.rows_per_epoch // data.batch)
        epochs = epoch * -(-_FEWEST_BATCHES // epoch)
        self._window = WINDOW_BATCHES if data.weights else min(WINDOW_BATCHES, epochs)
        self._rows_multiple = rows_multiple
        # Threads work on neighbouring steps, at most in two windows at once.
        self._places = functools.lru_cache(maxsize=2)(self._make_places)
        self._buckets = functools.lru_cache(maxsize=2)(self._make_buckets)

    def at(self, step: int) -> _Slice:
        length = int(self._lengths[-1])
        window, number = divmod(step, self._window)
        if len(self._lengths) > 1 and self._packing == 1:
            return self._buckets(window)[number]
        places = self._places(window)[number * self._batch : (number + 1) * self._batch]
        if self._packing == 1:
            return _Slice(places, length)
        packing = make_packing(
            self._tokens(places), room=length, most=self._packing, multiple=self._rows_multiple
        )
        return _Slice(places, length, packing)

    def _make_places(self, window: int) -> Places:
        first = window * self._window
        last = min(first + self._window, self._steps)
        return self._order.at(np.arange(first * self._batch, last * self._batch))

    def _make_buckets(self, window: int) -> list[_Slice]:
        places = self._make_places(window)
        buckets = np.searchsorted(self._lengths, self._tokens(places))
        buckets = np.minimum(buckets, len(self._lengths) - 1)
        batches = np.argsort(buckets, kind="stable").reshape(-1, self._batch)
        order = Permutation(len(batches), (self._seed, "window", window))
        return [
            _Slice(places[chosen], int(self._lengths[buckets[chosen].max()]))
            for chosen in batches[order(np.arange(len(batches)))]
        ]

    def _tokens(self, places: Places) -> Int64[np.ndarray, " n"]:
        tokens = np.empty(len(places.rows), np.int64)
        for number in np.unique(places.datasets):
            here = places.datasets == number
            tokens[here] = self._datasets[number].lengths[places.rows[here]]
        return tokens


class _Reader:
    """Turns rows into arrays: reads them from their datasets and stores, and pads them."""

    def __init__(
        self, datasets: Sequence[Dataset], teachers: Sequence[Teachers], *, packing: int = 1
    ):
        _check_tokenizers(datasets)
        self._datasets = datasets
        self._teachers = teachers
        self._packing = packing
        self._tokenizer = datasets[0].manifest.tokenizer
        manifests = [dataset.manifest for dataset in datasets]
        tasks = {(one.task, one.labels) for one in manifests}
        self._has_labels = len(tasks) == 1 and manifests[0].task is not None
        self._has_next_sentence = all(one.holds("next_sentence_labels") for one in manifests)

    def read(self, wanted: _Slice) -> Batch:
        """Returns the batch of these rows, in their order or packed."""
        batch: Batch = {}
        if not len(wanted.places.rows):  # packed rows without an example: take the form of one
            one = self._read_from(0, np.zeros(1, np.int64), wanted.length)
            batch = {name: values[:0] for name, values in one.items()}
        for number in np.unique(wanted.places.datasets):
            here = np.flatnonzero(wanted.places.datasets == number)
            part = self._read_from(int(number), wanted.places.rows[here], wanted.length)
            for name, values in part.items():
                shape = (len(wanted.places.rows), *values.shape[1:])
                batch.setdefault(name, np.empty(shape, values.dtype))[here] = values
        if wanted.packing is None:
            return batch
        return pack(batch, wanted.packing, most=self._packing, pad_id=self._tokenizer.pad_id)

    def _read_from(self, number: int, rows: np.ndarray, length: int) -> Batch:
        gathered = self._datasets[number].gather(rows)
        tokenizer = self._tokenizer
        batch = pad(gathered, length=length, pad_id=tokenizer.pad_id, sep_id=tokenizer.sep_id)
        batch["weight"] = np.ones(len(rows), np.float32)
        if self._has_labels and gathered.labels is not None:
            batch["label"] = gathered.labels
        if self._has_next_sentence and gathered.next_sentence is not None:
            batch["next_sentence"] = gathered.next_sentence
        if self._teachers:
            batch |= self._teachers[number].read(rows, gathered.example_ids)
        return batch


def pad(gathered: Gathered, *, length: int, pad_id: int, sep_id: int) -> Batch:
    """Returns `input_ids`, `segment_ids` and `input_mask`, int32 [rows, length].

    A longer row is cut as when records are made: at the end of its text, or of the longer of its
    two texts. Its last place is given to [SEP].
    """
    lengths = gathered.lengths.astype(np.int64)
    filled = np.arange(length) < lengths[:, None]
    tokens, segment_ids = gathered.tokens, gathered.segments
    if lengths.max(initial=0) > length:
        fits = _fitting(lengths, segment_ids, length)
        tokens = tokens[fits]
        segment_ids = None if segment_ids is None else segment_ids[fits]
    ids = np.full(filled.shape, pad_id, np.int32)
    ids[filled] = tokens
    ids[lengths > length, length - 1] = sep_id
    segments = np.zeros(filled.shape, np.int32)
    if segment_ids is not None:
        segments[filled] = segment_ids
    return {"input_ids": ids, "segment_ids": segments, "input_mask": filled.astype(np.int32)}


def _fitting(
    lengths: Int64[np.ndarray, " rows"], segments: np.ndarray | None, length: int
) -> np.ndarray:
    """Returns for every token whether it stays when rows longer than `length` are cut to it."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    fits = np.arange(lengths.sum()) - np.repeat(starts, lengths) < length
    if segments is None or length < _FRAME:
        return fits
    before = np.concatenate([[0], np.cumsum(segments > 0)])
    seconds = before[ends] - before[starts]
    pairs = np.flatnonzero((lengths > length) & (seconds > 0) & (lengths - seconds > 1))
    starts, ends = starts[pairs], ends[pairs]
    middles = ends - seconds[pairs]  # after the first [SEP]
    sizes = zip((middles - starts - 2).tolist(), (ends - middles - 1).tolist(), strict=True)
    kept = [shortened(first, second, room=length - _FRAME) for first, second in sizes]
    first, second = np.array(kept, np.int64).reshape(-1, 2).T
    fits[tfrecord.spans(starts, ends - starts)] = True
    fits[tfrecord.spans(starts + 1 + first, middles - starts - 2 - first)] = False
    fits[tfrecord.spans(middles + second, ends - middles - 1 - second)] = False
    return fits


def _check_tokenizers(datasets: Sequence[Dataset]) -> None:
    first = datasets[0]
    for other in datasets[1:]:
        if other.manifest.tokenizer != first.manifest.tokenizer:
            raise RecordsError(
                f"{first.folder} and {other.folder} were made with different tokenizers;"
                " build them with the same one"
            )


def _teachers(
    datasets: Sequence[Dataset], stores: Sequence[Sequence[LogitStore]], data: config.Data
) -> list[Teachers]:
    """Returns each dataset's teachers, all with their outputs in one order of labels."""
    if not stores:
        return []
    if (
        len(stores) != len(datasets)
        or len({len(of_one) for of_one in stores}) != 1
        or not stores[0]
    ):
        raise LogitsError(
            "each dataset needs a logit store from each teacher; name them in data.logits"
        )
    labels = datasets[0].manifest.labels or stores[0][0].manifest.labels
    return [
        Teachers(
            dataset,
            of_one,
            labels=labels,
            weights=data.logit_weights,
            average=data.logit_average,
        )
        for dataset, of_one in zip(datasets, stores, strict=True)
    ]
