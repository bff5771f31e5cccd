"""A training stage that is ready to run, and its outcome."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from pd_jax.training.many import ManyStep
from pd_jax.training.state import TrainState
from pd_jax.training.step import Step


@dataclasses.dataclass(frozen=True)
class Job:
    """One training stage, ready to run.

    Attributes:
      folder: the stage's. warn: tells its user something.
      step: the jitted step. many: the same for several runs at once.
      terms: the objective's loss terms.
      state: () -> the state before the first step; called only without a checkpoint.
      like: shapes and shardings of the state, to restore into.
      feed: first step -> this process's batches from there on.
      examples: step -> dataset, row and id of each example of its batch.
      steps, batch: the stage's length, and examples a step over all processes.
      flops: (rows, padded length) of this process's batch -> operations of the model in the step.
      evaluate: (params, alive) -> metrics by `split/quantity`, run every `evaluate_every` steps and
        at the end; None for none. It calls `alive` for every batch.
      best: the metric whose largest value marks the weights to keep; None keeps the last.
      keep_best: (step, params) -> None, stores candidate weights durably.
      drop_best: step -> None, removes a candidate that no checkpoint names any more.
    """

    name: str
    folder: epath.Path
    warn: Callable[[str], None]
    step: Step
    many: ManyStep
    terms: Mapping[str, float]
    state: Callable[[], TrainState]
    like: TrainState
    feed: Callable[[int], Iterator[dict[str, np.ndarray]]]
    examples: Callable[[int], list[dict[str, str | int]]]
    steps: int
    batch: int
    seed: int
    flops: Callable[[int, int], float]
    evaluate: Callable[[Any, Callable[[], None]], dict[str, float]] | None = None
    evaluate_every: int | None = None
    best: str | None = None
    keep_best: Callable[[int, Any], None] = lambda step, params: None
    drop_best: Callable[[int], None] = lambda step: None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a finished loop: the last state, last metrics, the step of the best weights
    (None: the last), how many steps were left out because they were not finite, and what it cost:
    seconds in all and by span, and the model's operations.
    """

    state: TrainState
    metrics: dict[str, float | None]
    best_step: int | None
    skipped_steps: int
    seconds: float
    spans: Mapping[str, float]
    flops: float
