"""What every training job has in common: an objective is a pure function from a batch to named
(sum, count) pairs.

Sums and counts add across devices, micro-batches and evaluation batches; means do not.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pd_jax.errors import ConfigError
from pd_jax.models.sizes import BertConfig

Batch = Mapping[str, jax.Array]
Params = Mapping[str, object]
Sums = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """One job: how its model begins, what it minimises, and what it predicts.

    Attributes:
      config: the model's shape.
      terms: name of a sum -> its weight in the loss, which is `sum over terms of weight * total /
        count`.
      init: key -> parameters.
      prepare: (batch, key) -> the batch with whatever is drawn per step (masked positions); runs on
        the whole global batch, before any split into micro-batches, so that the draw does not
        depend on the split.
      sums: (params, prepared batch, dropout key or None) -> named (total, count) pairs, counts
        independent of params and of a teacher's outputs.
      flops: (rows, length) -> floating-point operations of a training step in the student's matrix
        products; a teacher's are not counted.
      inputs: what a batch must have besides tokens and weights: name -> shape and type of one row.
      predict: (params, batch) -> the task's logits; None for objectives without a task.
      frozen: parameters that are read and never trained: an online teacher's (arrays, or their
        shapes where a step is only planned).
      teach: (frozen, prepared batch) -> the batch with the teacher's outputs for it; runs on each
        micro-batch separately.
    """

    config: BertConfig
    terms: Mapping[str, float]
    init: Callable[[jax.Array], Params]
    prepare: Callable[[Batch, jax.Array], Batch]
    sums: Callable[[Params, Batch, jax.Array | None], Sums]
    flops: Callable[[int, int], int]
    inputs: Mapping[str, jax.ShapeDtypeStruct] = dataclasses.field(default_factory=dict)
    predict: Callable[[Params, Batch], Float[Array, "batch outputs"]] | None = None
    frozen: Any = dataclasses.field(default_factory=dict)
    teach: Callable[[Params, Batch], Batch] = lambda frozen, batch: batch

    def taught(self, frozen: Any, teach: Callable[[Params, Batch], Batch]) -> "Objective":
        """Returns this objective with an online teacher, whose outputs no gradient enters."""

        def still(frozen: Params, batch: Batch) -> Batch:
            return jax.lax.stop_gradient(dict(teach(frozen, batch)))

        return dataclasses.replace(self, frozen=frozen, teach=still)


@dataclasses.dataclass(frozen=True)
class OnlineTeacher:
    """A model that reads every batch beside the student."""

    config: BertConfig
    params: Any
    """Its arrays, or their shapes where a step is only planned."""
    columns: tuple[int, ...] = ()
    """Of a task: which of its outputs stands for each of the student's labels."""

    @property
    def layers(self) -> int:
        """Its layers."""
        return self.config.layers

    @property
    def hidden(self) -> int:
        """Numbers in a state."""
        return self.config.hidden


@dataclasses.dataclass(frozen=True)
class StoredStates:
    """The first token's states of a teacher, as they come with a batch."""

    layers: int
    """The teacher's layers."""
    hidden: int
    held: tuple[int, ...]
    """The layers, from 0, whose states are there, in their order."""

    @property
    def shape(self) -> tuple[int, int]:
        """Of a row's states: how many there are, and the numbers in each."""
        return len(self.held), self.hidden

    def places(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the indices of these layers; raises ConfigError where one is missing."""
        if missing := [layer for layer in layers if layer not in self.held]:
            raise ConfigError(
                f"the logit store has states of layers {self.held}, but {tuple(missing)} are "
                f"needed; label with states={layers}"
            )
        return tuple(self.held.index(layer) for layer in layers)


@dataclasses.dataclass(frozen=True)
class StoredLanguage:
    """A masked language model's stored outputs for rows masked once, as they come with a batch."""

    temperature: float
    """The temperature for which its normalisers are stored."""
    mask_rate: float
    whole_word: bool
    length: int
    """Tokens that longer rows were cut to."""
    places: int
    """Masked tokens that a row has at most."""
    kept: int
    """Tokens whose logits are there, at each of them."""


def as_is(batch: Batch, key: jax.Array) -> Batch:
    """Returns the batch unchanged: nothing is drawn."""
    del key
    return batch


def tokens_of(batch: Batch) -> tuple[jax.Array | None, ...]:
    """Returns a BERT's inputs from a batch: ids, segments, mask, and, for packed rows, starts."""
    return batch["input_ids"], batch["segment_ids"], batch["input_mask"], batch.get("starts")


def dropout_stream(key: jax.Array | None) -> dict[str, jax.Array]:
    """Returns the random streams of a forward pass: dropout with a key, none without."""
    return {} if key is None else {"dropout": key}


def weighted(
    values: Float[Array, "*rows"] | Bool[Array, "*rows"], weight: Float[Array, "*rows"]
) -> tuple:
    """Returns the pair (sum of weighted values, sum of weights) in float32."""
    weight = weight.astype(jnp.float32)
    return jnp.sum(values.astype(jnp.float32) * weight), jnp.sum(weight)


def dummy_inputs() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns ids, segments and mask of the smallest batch, to initialise a model with."""
    zeros = jnp.zeros((1, 2), jnp.int32)
    return zeros, zeros, zeros + 1
