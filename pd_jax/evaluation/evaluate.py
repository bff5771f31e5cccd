"""Scores a model on whole datasets: every row once, the last batch filled with rows of weight 0."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pd_jax.evaluation.scores import task_scores
from pd_jax.parallel.sharding import put_batch
from pd_jax.training import rng
from pd_jax.training.arrays import whole
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
        batch = {name: values for name, values in batch.items() if name != "row"}
        placed = put_batch(batch, mesh)
        sums, predicted = step(params, placed, rng.stream(root, "evaluate", number))
        totals.add(jax.device_get(sums))
        real = whole(placed["weight"]) > 0
        rows += int(real.sum())
        if predicted is not None and task is not None and "label" in placed:
            logits.append(np.asarray(predicted)[real])
            labels.append(whole(placed["label"])[real])
    found = ratios(totals.take(), terms)
    if logits and task is not None:
        found |= task_scores(np.concatenate(logits), np.concatenate(labels), task=task)
    return {**found, "rows": rows}
