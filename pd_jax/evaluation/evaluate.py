"""Scores a model on whole datasets: every row once, the last batch filled with rows of weight 0."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pd_jax.evaluation.scores import task_scores
from pd_jax.parallel.sharding import put_batch
from pd_jax.training import rng
from pd_jax.training.metrics import Totals, ratios

_EVALUATION_SEED = 0
"""Masks of an MLM evaluation are the same at every evaluation, so that its values compare."""


def evaluate(
    step: Callable,
    params: Any,
    batches: Iterator[dict[str, np.ndarray]],
    mesh: Mesh,
    *,
    terms: Mapping[str, float],
    task: str | None,
) -> dict[str, float]:
    """Returns metrics by name for one dataset, with `rows`, the number of rows counted.

    `step` is `make_evaluation_step`'s. Batches carry `weight`; labels are needed for the task's
    scores only.
    """
    totals, logits, labels, rows = Totals(), [], [], 0
    root = rng.root_key(_EVALUATION_SEED)
    for number, batch in enumerate(batches):
        placed = put_batch(batch, mesh)
        sums, predicted = step(params, placed, rng.stream(root, "evaluate", number))
        totals.add(jax.device_get(sums))
        if jax.process_count() > 1:
            batch = {name: _whole(placed[name]) for name in ("weight", "label") if name in placed}
        real = batch["weight"] > 0
        rows += int(real.sum())
        if predicted is not None and task is not None and "label" in batch:
            logits.append(np.asarray(predicted)[real])
            labels.append(batch["label"][real])
    found = ratios(totals.take(), terms)
    if logits:
        found |= task_scores(np.concatenate(logits), np.concatenate(labels), task=task)
    return {**found, "rows": rows}


def _whole(array: jax.Array) -> np.ndarray:
    """Returns a global array on every process."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
