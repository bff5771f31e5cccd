"""Packs several examples into a row: short texts then cost their own length, not the longest's.

Packing changes where a batch's examples lie and nothing else: the examples of each step are those
of the padded batch, each attends only to itself (`models/bert.py`), and so the losses are the same;
but MLM masks a share of each row, not of each example.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from pd_jax.data.wire import tfrecord

_TOKEN_FEATURES = ("input_ids", "segment_ids", "input_mask")
_SHAPES = 64
"""A batch's rows are rounded up to a 64th of its examples, since each new shape is compiled."""


@dataclasses.dataclass(frozen=True)
class Packing:
    """Where each of some examples lies: its row, its number in that row, and its first position."""

    rows: Int64[np.ndarray, " n"]
    slots: Int64[np.ndarray, " n"]
    starts: Int64[np.ndarray, " n"]
    height: int
    """Number of rows, some of them perhaps empty."""

    def share(self, index: int, of: int) -> tuple[np.ndarray, "Packing"]:
        """Returns the examples in part `index` of the rows, and where they lie in it."""
        size = self.height // of
        chosen = np.flatnonzero(self.rows // size == index)
        return chosen, Packing(
            self.rows[chosen] - index * size, self.slots[chosen], self.starts[chosen], size
        )


def make_packing(
    lengths: Int64[np.ndarray, " n"], *, room: int, most: int, multiple: int
) -> Packing:
    """Returns a place for every example: longest first, each in the first row that has room for it.

    A row holds `room` tokens and `most` examples; the number of rows is a multiple of `multiple`.
    """
    sizes = np.minimum(lengths, room)
    left = np.full(len(sizes), room)
    held = np.zeros(len(sizes), np.int64)
    rows, slots, starts = (np.empty(len(sizes), np.int64) for _ in range(3))
    used = 0
    for number in np.argsort(-sizes, kind="stable"):
        size = sizes[number]
        row = int(np.argmax(left[: used + 1] >= size))
        rows[number], slots[number], starts[number] = row, held[row], room - left[row]
        held[row] += 1
        # A row with its full number of examples has no room for another, not even an empty one.
        left[row] = left[row] - size if held[row] < most else -1
        used = max(used, row + 1)
    step = multiple * max(1, len(sizes) // (_SHAPES * multiple))
    return Packing(rows, slots, starts, -(-used // step) * step)


def pack(
    batch: Mapping[str, np.ndarray], packing: Packing, *, most: int, pad_id: int
) -> dict[str, np.ndarray]:
    """Returns a padded batch with its examples moved into shared rows.

    `input_ids`, `segment_ids`: int32 [rows, length]. `input_mask`: the number of each token's
    example in its row, from 1; 0 for padding. `starts`: int32 [rows, most], where each example
    begins. Whatever else the batch has, with one entry per example, becomes [rows, most, ...],
    with 0 in places without an example: `weight` is 0 there.
    """
    filled = batch["input_mask"] > 0
    sizes, length = filled.sum(axis=1), filled.shape[1]
    targets = tfrecord.spans(packing.rows * length + packing.starts, sizes)
    mask = np.broadcast_to(packing.slots[:, None] + 1, filled.shape)
    values = {**batch, "input_mask": mask, "starts": packing.starts.astype(np.int32)}
    packed = {}
    for name, given in values.items():
        if name in _TOKEN_FEATURES:
            whole = np.full(
                (packing.height, length), pad_id if name == "input_ids" else 0, np.int32
            )
            whole.reshape(-1)[targets] = given[filled]
        else:
            whole = np.zeros((packing.height, most, *given.shape[1:]), given.dtype)
            whole[packing.rows, packing.slots] = given
        packed[name] = whole
    return packed
