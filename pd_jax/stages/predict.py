"""From rows of text to logits: reads windows of rows, and yields them with their logits, in order.

Texts are read in windows, batched by length within a window, and returned in input order: memory
does not grow with the input.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32

from pd_jax import config as config_lib
from pd_jax.data.building.layouts import Passage, frame
from pd_jax.data.text.tables import Row
from pd_jax.data.tokenizers.tokenizer import Tokenizer
from pd_jax.models.bert import first_states
from pd_jax.models.heads import TaskModel
from pd_jax.models.weights import hf
from pd_jax.objectives.classify import task_outputs
from pd_jax.parallel import sharding
from pd_jax.parallel.mesh import make_mesh
from pd_jax.parallel.sharding import put_batch
from pd_jax.stages.classifier import Read, check_pairs
from pd_jax.training.arrays import one_behind, place

_WINDOW_BATCHES = 16
_LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Padded lengths: each is compiled once, and little of each is padding."""

_Batch = dict[str, np.ndarray]


class Predicted(NamedTuple):
    """Rows in input order, and the logits of each."""

    rows: list[Row]
    logits: Float32[np.ndarray, "rows outputs"]
    read: Read


class _Window(NamedTuple):
    """Rows in input order, and the batches they are in: (row numbers in the window, logits)."""

    rows: list[Row]
    parts: list[tuple[np.ndarray, jax.Array]]
    read: Read


def make_predict(
    teacher: hf.SavedModel, mesh: Mesh, *, dtype: str, states: Sequence[int] = ()
) -> Callable[[dict[str, jax.Array]], dict[str, jax.Array]]:
    """Returns placed batch -> `logits` and, where layers are named, `states`: those of the first
    token after each of these layers [rows, layers, hidden]. Float32, on every device, no dropout.
    """
    config = dataclasses.replace(teacher.config, dtype=dtype)
    model = TaskModel(config, task_outputs(teacher.task, teacher.labels))

    def forward(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        inputs = (batch["input_ids"], batch["segment_ids"], batch["input_mask"])
        outputs: Any = model.apply({"params": params}, *inputs, method="logits_and_encoded")
        logits, encoded = outputs
        found = {"logits": logits.astype(jnp.float32)}
        if states:
            found["states"] = first_states(encoded, states)
        return found

    held = {name: teacher.params[name] for name in ("bert", "classifier")}
    return on_mesh(forward, held, mesh, dtype=dtype)


def on_mesh(
    forward: Callable[[Any, Any], dict[str, jax.Array]], held: Any, mesh: Mesh, *, dtype: str
) -> Callable[[dict[str, jax.Array]], dict[str, jax.Array]]:
    """Returns placed batch -> what `forward(params, batch)` gives, on every device; the parameters
    `held` are placed by the rules.

    Float32 is computed as float32 on any hardware: by default a TPU multiplies float32 in one pass
    of bfloat16 and a GPU in TF32, and the stored outputs would depend on it.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    precision = "float32" if dtype == "float32" and not on_cpu else None
    at = sharding.assign(held, sharding.RULES, mesh)
    params = place(held, at)
    step = jax.jit(
        forward,
        in_shardings=(at, sharding.batch_sharding(mesh)),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )

    def predict(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        with jax.set_mesh(mesh), jax.default_matmul_precision(precision):
            return step(params, batch)

    return predict


def make_predict_rows(
    model: hf.SavedModel,
    tokenizer: Tokenizer,
    *,
    batch: int = 64,
    max_length: int | None = None,
    dtype: str = "float32",
) -> Callable[[Iterable[Row]], Iterator[Predicted]]:
    """Returns rows -> windows of them with their logits; devices compute one while the host makes
    the next. The model is placed and compiled once, however often it is called.

    Args:
      model: what `load_classifier` returns.
      tokenizer: the model's.
      batch: texts at once, rounded up to a multiple of the devices.
      max_length: texts are cut to so many tokens; by default to those that the model has learnt to
        read.
      dtype: float32 or bfloat16.

    Raises:
      ConfigError: at the first rows that are pairs, where the model is not made for them.
    """
    mesh = make_mesh(config_lib.Mesh())
    run = make_predict(model, mesh, dtype=dtype)
    longest = min(max_length or model.reads, model.config.positions)
    lengths = (*(length for length in _LENGTHS if length < longest), longest)
    batch = -(-batch // mesh.size) * mesh.size

    def dispatched(rows: list[Row]) -> _Window:
        check_pairs(model, pairs=any(row.pair is not None for row in rows))
        framed, read = _framed(rows, tokenizer, longest)
        order = np.argsort([len(ids) for ids, _ in framed], kind="stable")
        parts = []
        for first in range(0, len(order), batch):
            numbers = order[first : first + batch]
            padded = _pad([framed[number] for number in numbers], batch, lengths, tokenizer.pad_id)
            parts.append((numbers, run(put_batch(padded, mesh))["logits"]))
        return _Window(rows, parts, read)

    def predict(rows: Iterable[Row]) -> Iterator[Predicted]:
        for window in one_behind(map(dispatched, _windows(iter(rows), batch))):
            yield Predicted(window.rows, _in_order(window), window.read)

    return predict


def _windows(rows: Iterator[Row], batch: int) -> Iterator[list[Row]]:
    """Yields lists of rows, small enough to fit in memory many times over."""
    while window := list(itertools.islice(rows, batch * _WINDOW_BATCHES)):
        yield window


def _framed(
    rows: list[Row], tokenizer: Tokenizer, longest: int
) -> tuple[list[tuple[np.ndarray, np.ndarray | None]], Read]:
    """Returns ids and segments as the model was trained on them, cut at `longest` tokens."""
    firsts = tokenizer.encode([row.text for row in rows], limit=longest)
    pairs = [row.pair for row in rows if row.pair is not None]
    seconds = iter(tokenizer.encode(pairs, limit=longest))
    passages = [
        Passage(first, None if row.pair is None else next(seconds))
        for row, first in zip(rows, firsts, strict=True)
    ]
    rooms = (longest - (2 if second is None else 3 + len(second)) for _, second, _ in passages)
    cut = sum(len(first) > room for (first, *_), room in zip(passages, rooms, strict=True))
    framed = [frame(passage, tokenizer, max_length=longest) for passage in passages]
    tokens = np.concatenate([ids for ids, _ in framed])
    unknown = int(np.count_nonzero(tokens == tokenizer.unk_id))
    read = Read(cut, len(tokens), unknown, max(len(ids) for ids, _ in framed))
    return framed, read


def _pad(
    framed: list[tuple[np.ndarray, np.ndarray | None]],
    batch: int,
    lengths: Sequence[int],
    pad_id: int,
) -> _Batch:
    """Returns a batch of a fixed number of rows, padded to the shortest of `lengths` that fits."""
    longest = max(len(ids) for ids, _ in framed)
    length = next(length for length in lengths if length >= longest)
    ids = np.full((batch, length), pad_id, np.int32)
    segments, mask = np.zeros_like(ids), np.zeros_like(ids)
    for row, (tokens, kinds) in enumerate(framed):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        if kinds is not None:
            segments[row, : len(tokens)] = kinds
    return {"input_ids": ids, "segment_ids": segments, "input_mask": mask}


def _in_order(window: _Window) -> np.ndarray:
    """Returns the window's logits, row for row."""
    outputs = window.parts[0][1].shape[1]
    logits = np.empty((len(window.rows), outputs), np.float32)
    for numbers, found in window.parts:
        logits[numbers] = np.asarray(found)[: len(numbers)]
    return logits
