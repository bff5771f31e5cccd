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
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.data.building.layouts import Passage, frame
from pd_jax.data.text.tables import Row
from pd_jax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from pd_jax.data.tokenizers.vocabulary import SPECIAL
from pd_jax.errors import ConfigError, WeightsError
from pd_jax.models.bert import first_states
from pd_jax.models.heads import TaskModel
from pd_jax.models.weights import hf, hf_config
from pd_jax.objectives.classify import task_outputs
from pd_jax.parallel import sharding
from pd_jax.parallel.mesh import make_mesh
from pd_jax.parallel.sharding import put_batch
from pd_jax.training.arrays import place

_WINDOW_BATCHES = 16
_LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Padded lengths: each is compiled once, and little of each is padding."""
_UNNAMED_OUTPUTS = 2
"""Outputs of a classifier whose config.json names none: transformers omits the default of two."""

_Batch = dict[str, np.ndarray]


class Predicted(NamedTuple):
    """Rows in input order, and the logits of each."""

    rows: list[Row]
    logits: Float32[np.ndarray, "rows outputs"]


class _Window(NamedTuple):
    """Rows in input order, and the batches they are in: (row numbers in the window, logits)."""

    rows: list[Row]
    parts: list[tuple[np.ndarray, jax.Array]]


def load_classifier(folder: str) -> tuple[hf.SavedModel, Tokenizer]:
    """Returns a model and its tokenizer, with transformers' default task and labels if unnamed.

    Raises:
      ConfigError: the model has no classifier.
      WeightsError: the tokenizer belongs to another model.
    """
    model, tokenizer = hf.load(folder), load_tokenizer(folder)
    if "classifier" not in model.params:
        raise ConfigError(f"{folder} has no classifier; name a fine-tuned or distilled model")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise WeightsError(
            f"{folder} has a tokenizer with {tokenizer.vocab_size} entries and a model with "
            f"{model.config.vocab_size}; take both from the same source"
        )
    if tokenizer.vocab_size <= len(SPECIAL):
        raise WeightsError(
            f"{folder} has a tokenizer with no words, only special tokens; save its whole "
            "vocabulary there"
        )
    outputs = model.params["classifier"]["bias"].shape[0]
    task, labels = _as_transformers(model.task, model.labels, outputs)
    check_values(folder, task, outputs)
    return hf.SavedModel(model.config, model.params, labels, task, model.fingerprint), tokenizer


def check_pairs(model: hf.SavedModel, *, pairs: bool, name: str = "the model") -> None:
    """Raises ConfigError where rows have two texts and a model cannot tell one from the other."""
    if pairs and model.config.token_types < 2:
        raise ConfigError(
            f"{name} has type_vocab_size=1, so that it cannot tell a row's second text from its "
            "first; name a model that was trained on pairs, or leave the second text out"
        )


def declared_task(folder: epath.Path) -> tuple[str, tuple[str, ...]]:
    """Returns the task and labels of a classifier of any architecture, from its `config.json`.

    They are those of `load_classifier`, except that a regression has no labels.

    Raises:
      WeightsError: the file is damaged or names no such task or labels.
    """
    path = folder / hf.CONFIG_FILE
    values = files.read_object(path, WeightsError)
    named = values.get("id2label")
    outputs = len(named) if isinstance(named, dict) and named else _UNNAMED_OUTPUTS
    head = {"classifier": {"bias": np.zeros(outputs)}}
    labels, task = hf_config.labels_from(values, head, path)
    task, labels = _as_transformers(task, labels, outputs)
    check_values(str(folder), task, outputs)
    return task, () if task == "regression" else labels


def check_values(model: str, task: str, outputs: int) -> None:
    """Raises WeightsError where a regression gives several values: a task has one."""
    if task == "regression" and outputs > 1:
        raise WeightsError(
            f"{model} gives {outputs} values of a regression, and one can be learnt; correct "
            "problem_type in its config.json, or name a model with one output"
        )


def output_names(model: str, labels: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names of a model's outputs: its `own` (a regression has none), or the `labels`
    that a stage gives them.
    """
    named = labels or own
    if not all(isinstance(name, str) for name in named) or len(set(named)) < len(named):
        raise ConfigError(
            f"the outputs of {model} are called {named}, but outputs are distinguished by name; "
            "give each its own name, in their order, with labels"
        )
    if named == own:
        return own
    if set(labels) == set(own):
        raise ConfigError(
            f"labels={labels}, but {model} calls its outputs {own}; leave labels out, and list "
            "labelled rows' in the model's order in examples.labels"
        )
    if len(labels) != len(own):
        raise ConfigError(
            f"labels names {len(labels)} labels, but {model} has {len(own)} outputs; name each "
            "output once"
        )
    return labels


def _as_transformers(
    task: str | None, labels: tuple[str, ...], outputs: int
) -> tuple[str, tuple[str, ...]]:
    """Returns task and labels, with transformers' defaults where a config names none."""
    return (
        task or ("regression" if outputs == 1 else "classification"),
        labels or tuple(f"LABEL_{index}" for index in range(outputs)),
    )


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


def predict_rows(
    model: hf.SavedModel,
    tokenizer: Tokenizer,
    rows: Iterable[Row],
    *,
    batch: int = 64,
    max_length: int | None = None,
    dtype: str = "float32",
    cut: Callable[[int], None] = lambda count: None,
) -> Iterator[Predicted]:
    """Returns windows of the rows with their logits, as `make_predict_rows` yields them."""
    predict = make_predict_rows(
        model, tokenizer, batch=batch, max_length=max_length, dtype=dtype, cut=cut
    )
    return predict(rows)


def make_predict_rows(
    model: hf.SavedModel,
    tokenizer: Tokenizer,
    *,
    batch: int = 64,
    max_length: int | None = None,
    dtype: str = "float32",
    cut: Callable[[int], None] = lambda count: None,
) -> Callable[[Iterable[Row]], Iterator[Predicted]]:
    """Returns rows -> windows of them with their logits; devices compute one while the host makes
    the next. The model is placed and compiled once, however often it is called.

    Args:
      model: what `load_classifier` returns.
      tokenizer: the model's.
      batch: texts at once, rounded up to a multiple of the devices.
      max_length: texts are truncated to so many tokens; by default to the model's positions.
      dtype: float32 or bfloat16.
      cut: called with the number of texts in a window that are longer than `max_length`.

    Raises:
      ConfigError: at the first rows that are pairs, where the model is not made for them.
    """
    predict = _make_window_predict(
        model, tokenizer, batch=batch, max_length=max_length, dtype=dtype, cut=cut
    )

    def predicted(rows: Iterable[Row]) -> Iterator[Predicted]:
        for window in _ahead(map(predict, _windows(iter(rows), batch))):
            yield Predicted(window.rows, _in_order(window))

    return predicted


def _windows(rows: Iterator[Row], batch: int) -> Iterator[list[Row]]:
    """Yields lists of rows, small enough to fit in memory many times over."""
    while window := list(itertools.islice(rows, batch * _WINDOW_BATCHES)):
        yield window


def _make_window_predict(
    model: hf.SavedModel,
    tokenizer: Tokenizer,
    *,
    batch: int,
    max_length: int | None,
    dtype: str,
    cut: Callable[[int], None],
) -> Callable[[list[Row]], _Window]:
    """Returns rows -> a window whose logits the devices are still computing."""
    mesh = make_mesh(config_lib.Mesh())
    run = make_predict(model, mesh, dtype=dtype)
    longest = min(max_length or model.config.positions, model.config.positions)
    lengths = (*(length for length in _LENGTHS if length < longest), longest)
    batch = -(-batch // mesh.size) * mesh.size

    def predict(rows: list[Row]) -> _Window:
        check_pairs(model, pairs=any(row.pair is not None for row in rows))
        framed = _framed(rows, tokenizer, longest, cut)
        order = np.argsort([len(ids) for ids, _ in framed], kind="stable")
        parts = []
        for first in range(0, len(order), batch):
            numbers = order[first : first + batch]
            padded = _pad([framed[number] for number in numbers], batch, lengths, tokenizer.pad_id)
            parts.append((numbers, run(put_batch(padded, mesh))["logits"]))
        return _Window(rows, parts)

    return predict


def _framed(
    rows: list[Row], tokenizer: Tokenizer, longest: int, cut: Callable[[int], None]
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Returns ids and segments as the model was trained on them, truncated to `longest` tokens."""
    firsts = tokenizer.encode([row.text for row in rows], limit=longest)
    pairs = [row.pair for row in rows if row.pair is not None]
    seconds = iter(tokenizer.encode(pairs, limit=longest))
    passages = [
        Passage(first, None if row.pair is None else next(seconds))
        for row, first in zip(rows, firsts, strict=True)
    ]
    rooms = (longest - (2 if second is None else 3 + len(second)) for _, second, _ in passages)
    cut(sum(len(first) > room for (first, *_), room in zip(passages, rooms, strict=True)))
    return [frame(passage, tokenizer, max_length=longest) for passage in passages]


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


def _ahead(windows: Iterator[_Window]) -> Iterator[_Window]:
    """Yields each window after the next one was dispatched, so that devices and host overlap."""
    before = next(windows, None)
    for window in windows:
        if before is not None:
            yield before
        before = window
    if before is not None:
        yield before


def _in_order(window: _Window) -> np.ndarray:
    """Returns the window's logits, row for row."""
    outputs = window.parts[0][1].shape[1]
    logits = np.empty((len(window.rows), outputs), np.float32)
    for numbers, found in window.parts:
        logits[numbers] = np.asarray(found)[: len(numbers)]
    return logits
