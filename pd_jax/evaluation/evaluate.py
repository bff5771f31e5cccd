"""Scores a model on whole datasets: every row once, the last batch filled with rows of weight 0."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pd_jax.evaluation.predictions import Predictions
from pd_jax.parallel.sharding import put_batch
from pd_jax.training import rng
from pd_jax.training.arrays import whole
from pd_jax.training.metrics import Totals, ratios

_EVALUATION_SEED = 0
"""Masks of an MLM evaluation are the same at every evaluation, so that its values compare."""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Metrics of one dataset by name, with `rows`, and the predictions where there is a task."""

    metrics: dict[str, float]
    predictions: Predictions | None


def evaluate(
    step: Callable,
    params: Any,
    batches: Iterator[dict[str, np.ndarray]],
    mesh: Mesh,
    *,
    terms: Mapping[str, float],
    task: str | None,
) -> Evaluated:
    """Returns metrics by name for one dataset, with `rows`, the number of rows counted.

    `step` is `make_evaluation_step`'s. Batches carry `weight` and `row`; labels and teacher logits
    are needed for the scores against them only.
    """
    totals, rows = Totals(), 0
    kept: dict[str, list[np.ndarray]] = {}
    root = rng.root_key(_EVALUATION_SEED)
    for number, batch in enumerate(batches):
        placed = put_batch({**batch, "row": batch["row"].astype(np.int32)}, mesh)
        inputs = {name: values for name, values in placed.items() if name != "row"}
        sums, predicted = step(params, inputs, rng.stream(root, "evaluate", number))
        totals.add(jax.device_get(sums))
        real = whole(placed["weight"]) > 0
        rows += int(real.sum())
        if predicted is not None and task is not None:
            kept.setdefault("logits", []).append(np.asarray(predicted)[real])
            # In one order on all processes: each is gathered by all of them together.
            for name in ("row", "label", "teacher_logits"):
                if name in placed:
                    kept.setdefault(name, []).append(whole(placed[name])[real])
    found = ratios(totals.take(), terms)
    predictions = _in_order({name: np.concatenate(parts) for name, parts in kept.items()})
    if predictions is not None and task is not None:
        found |= predictions.scores(task)
    return Evaluated({**found, "rows": rows}, predictions)


def _in_order(kept: Mapping[str, np.ndarray]) -> Predictions | None:
    if not kept:
        return None
    order = np.argsort(kept["row"])
    label, teacher = (
        kept[name][order] if name in kept else None for name in ("label", "teacher_logits")
    )
    return Predictions(kept["logits"][order].astype(np.float32), label, teacher)
