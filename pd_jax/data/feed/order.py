"""The order in which rows are read: a function of (seed, epoch, index) and nothing else.

The whole order is never held in memory: a keyed permutation gives the row at any index, so
starting at step ten million costs what starting at step 0 does, on one process or on a thousand.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from pd_jax.errors import ConfigError

MIXTURE_BLOCK = 10_000
"""Examples within which each dataset of a mixture comes exactly as often as its weight demands."""

_ROUNDS = 8


class Permutation:
    """A permutation of 0 .. size - 1, decided by `key`, computed at any indices in constant memory.

    A Feistel network over the two digits of an index in a mixed radix: radices a and b lie near the
    square root of `size`. An image that falls outside the range is permuted again until it falls
    inside (cycle walking); this is rare, since a * b is hardly larger than `size`. Source: Black
    and Rogaway, Ciphers with Arbitrary Finite Domains (2002).
    """

    def __init__(self, size: int, key: Sequence[int | str]):
        self._size = size
        self._low_radix = max(1, int(np.ceil(np.sqrt(size))))
        self._high_radix = -(-size // self._low_radix)
        self._keys = _round_keys(key)

    def __call__(self, indices: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Returns the image of each index."""
        images = self._once(np.asarray(indices, np.int64))
        outside = np.flatnonzero(images >= self._size)
        while len(outside):
            images[outside] = self._once(images[outside])
            outside = outside[images[outside] >= self._size]
        return images

    def _once(self, numbers: np.ndarray) -> np.ndarray:
        high, low = np.divmod(numbers, self._low_radix)
        for number, key in enumerate(self._keys):
            if number % 2:
                high = (high + _mix(low, key, self._high_radix)) % self._high_radix
            else:
                low = (low + _mix(high, key, self._low_radix)) % self._low_radix
        return high * self._low_radix + low


def _mix(numbers: np.ndarray, key: np.uint64, radix: int) -> np.ndarray:
    """Returns a number below `radix` for each number: splitmix64's finaliser of it and the key."""
    bits = numbers.astype(np.uint64) ^ key
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ (bits >> np.uint64(31))) % np.uint64(radix)).astype(np.int64)


def _round_keys(key: Sequence[int | str]) -> np.ndarray:
    text = "/".join(map(str, key)).encode("utf-8")
    return np.frombuffer(hashlib.blake2b(text, digest_size=8 * _ROUNDS).digest(), "<u8")


@dataclasses.dataclass(frozen=True)
class Places:
    """The dataset and the row at each of some positions."""

    datasets: Int64[np.ndarray, " n"]
    rows: Int64[np.ndarray, " n"]

    def __getitem__(self, chosen: slice | np.ndarray) -> "Places":
        """Returns the places at these indices."""
        return Places(self.datasets[chosen], self.rows[chosen])


class Order:
    """The example at each position of an endless stream over some datasets.

    Without weights the datasets count as one: each epoch has every row once. With weights they are
    mixed so that each dataset gives its share of every 10,000 examples, and starts its own next
    epoch when it is used up.

    With a window, an epoch takes the rows in windows of that many neighbours: the windows in random
    order, and the rows of each in random order, all of them before those of the next window.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        weights: Sequence[float] = (),
        rows: int | None = None,
        window: int | None = None,
        seed: int,
    ):
        """Makes the order over datasets with `lengths` rows, using `rows` of each.

        Raises:
          ConfigError: where a dataset has fewer than `rows` rows, or a weight is unusable.
        """
        if rows is not None and rows > min(lengths):
            raise ConfigError(
                f"data.rows={rows} asks for more rows than a dataset has ({min(lengths)});"
                " lower it or leave it out"
            )
        self._seed = seed
        self._window = window
        self._lengths = list(lengths)
        self._used = [rows or length for length in lengths]
        self._first = np.cumsum([0, *self._used])
        self._shares = _shares(weights, len(lengths)) if weights else None
        self._block = functools.lru_cache(maxsize=4)(self._make_block)

    @property
    def rows_per_epoch(self) -> int:
        """Examples until each row has come once; with weights, until one would come twice."""
        if self._shares is None:
            return int(self._first[-1])
        used, shares = np.array(self._used), self._shares
        blocks = int((used[shares > 0] // shares[shares > 0]).min())
        block = self._block(blocks)
        again = block.rows >= (used - blocks * shares)[block.datasets]
        return blocks * MIXTURE_BLOCK + int(np.argmax(again))

    def at(self, positions: Int64[np.ndarray, " n"]) -> Places:
        """Returns the dataset and row at these positions."""
        if self._shares is None:
            indices = self._shuffled(positions, self.rows_per_epoch, "epoch")
            datasets = np.searchsorted(self._first, indices, side="right") - 1
            return Places(datasets, self._chosen(datasets, indices - self._first[datasets]))
        datasets, turns = self._mixed(positions)
        indices = np.empty_like(turns)
        for number in np.unique(datasets):
            here = datasets == number
            indices[here] = self._shuffled(turns[here], self._used[number], f"epoch of {number}")
        return Places(datasets, self._chosen(datasets, indices))

    def _shuffled(self, positions: np.ndarray, size: int, name: str) -> np.ndarray:
        epochs, indices = np.divmod(positions, size)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            key = (self._seed, name, int(epoch))
            if self._window is None:
                indices[here] = Permutation(size, key)(indices[here])
            else:
                indices[here] = _in_windows(indices[here], size, window=self._window, key=key)
        return indices

    def _mixed(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns for each position its dataset, and how many of that dataset came before it."""
        assert self._shares is not None
        blocks, slots = np.divmod(positions, MIXTURE_BLOCK)
        datasets = np.empty_like(slots)
        for block in np.unique(blocks):
            here = blocks == block
            mixed = self._block(int(block))
            datasets[here] = mixed.datasets[slots[here]]
            slots[here] = mixed.rows[slots[here]]
        return datasets, blocks * self._shares[datasets] + slots

    def _make_block(self, block: int) -> Places:
        """Returns for each slot of a block its dataset, and that dataset's count before it."""
        assert self._shares is not None
        images = Permutation(MIXTURE_BLOCK, (self._seed, "mixture", block))(
            np.arange(MIXTURE_BLOCK)
        )
        datasets = np.searchsorted(np.cumsum(self._shares), images, side="right")
        turns = np.empty(MIXTURE_BLOCK, np.int64)
        for number, share in enumerate(self._shares):
            turns[datasets == number] = np.arange(share)
        return Places(datasets, turns)

    def _chosen(self, datasets: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Returns row numbers for indices into the used part: the first ones of a permutation."""
        rows = indices.copy()
        for number in np.unique(datasets):
            if self._used[number] < self._lengths[number]:
                here = datasets == number
                key = (self._seed, "subset", int(number))
                rows[here] = Permutation(self._lengths[number], key)(indices[here])
        return rows


def _in_windows(
    places: Int64[np.ndarray, " n"], size: int, *, window: int, key: Sequence[int | str]
) -> Int64[np.ndarray, " n"]:
    """Returns the index at each place of an epoch of `size` that is shuffled within windows.

    The last window may be shorter. Its turn is drawn among those of the others, and they keep
    theirs beside it, so that a place's window is found by two divisions.
    """
    whole, left = divmod(size, window)
    turn = int(Permutation(whole + 1, (*key, "short"))(np.zeros(1, np.int64))[0])
    begin = turn * window
    after = places >= begin + left
    windows, offsets = np.divmod(np.where(after, places - left, places), window)
    if whole:
        windows = Permutation(whole, (*key, "windows"))(np.minimum(windows, whole - 1))
    short = (places >= begin) & ~after
    windows[short], offsets[short] = whole, places[short] - begin
    for number in np.unique(windows):
        here = windows == number
        rows = Permutation(left if number == whole else window, (*key, "window", int(number)))
        offsets[here] = rows(offsets[here])
    return windows * window + offsets


def _shares(weights: Sequence[float], datasets: int) -> np.ndarray:
    """Returns how many of `MIXTURE_BLOCK` examples each dataset gives (largest remainders)."""
    exact = np.asarray(weights, np.float64)
    if len(exact) != datasets or exact.min() < 0 or exact.sum() <= 0:
        raise ConfigError(
            f"data.weights={tuple(weights)} must be {datasets} numbers, none below 0 and at"
            " least one above"
        )
    exact = exact / exact.sum() * MIXTURE_BLOCK
    shares = np.floor(exact).astype(np.int64)
    order = np.argsort(shares - exact, kind="stable")
    shares[order[: MIXTURE_BLOCK - shares.sum()]] += 1
    if np.any((shares == 0) & (exact > 0)):
        raise ConfigError(
            f"data.weights={tuple(weights)}: a share is below 1 in {MIXTURE_BLOCK}; raise it, or "
            "set it to 0"
        )
    return shares
