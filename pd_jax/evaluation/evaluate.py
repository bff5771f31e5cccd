"""Scores a model on whole datasets: every row once, the last batch filled with rows of weight 0."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from pd_jax.evaluation.predictions import Predictions
from pd_jax.parallel.mesh import row_share
from pd_jax.parallel.sharding import put_batch
from pd_jax.training import rng
from pd_jax.training.arrays import one_behind, whole
from pd_jax.training.metrics import Totals, ratios

_EVALUATION_SEED = 0
"""Masks of an MLM evaluation are the same at every evaluation, so that its values compare: they
follow from this seed and the row's number, not from the batch or the mesh.
"""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Metrics of one dataset by name, with `rows`, and the predictions where there is a task."""

    metrics: dict[str, float]
    predictions: Predictions | None


class _Sent(NamedTuple):
    """A batch, of which the devices are still computing sums and logits. It stays on the host where
    this process holds all of its rows.
    """

    batch: Mapping[str, np.ndarray | jax.Array]
    sums: Any
    predicted: jax.Array | None


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
    are needed for the scores against them only. A batch is read while the devices are at the next.
    """
    totals, rows = Totals(), 0
    kept: dict[str, list[np.ndarray]] = {}
    for sent in one_behind(_send(step, params, batches, mesh)):
        totals.add(jax.device_get(sent.sums))
        real = _on_host(sent.batch["weight"]) > 0
        rows += int(real.sum())
        if sent.predicted is not None and task is not None:
            kept.setdefault("logits", []).append(np.asarray(sent.predicted)[real])
            # In one order on all processes: each is gathered by all of them together.
            for name in ("row", "label", "teacher_logits"):
                if name in sent.batch:
                    kept.setdefault(name, []).append(_on_host(sent.batch[name])[real])
    found = ratios(totals.take(), terms)
    predictions = _in_order({name: np.concatenate(parts) for name, parts in kept.items()})
    if predictions is not None and task is not None:
        found |= predictions.scores(task)
    return Evaluated({**found, "rows": rows}, predictions)


def _send(
    step: Callable, params: Any, batches: Iterator[dict[str, np.ndarray]], mesh: Mesh
) -> Iterator[_Sent]:
    """Yields each batch as soon as it is dispatched."""
    key = rng.stream(rng.root_key(_EVALUATION_SEED), "evaluate", 0)
    has_all_rows = row_share(mesh)[1] == 1
    for batch in batches:
        given = {**batch, "row": batch["row"].astype(np.int32)}
        inputs = put_batch(given, mesh)
        yield _Sent(given if has_all_rows else inputs, *step(params, inputs, key))


def _on_host(values: np.ndarray | jax.Array) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else whole(values)


def _in_order(kept: Mapping[str, np.ndarray]) -> Predictions | None:
    if not kept:
        return None
    order = np.argsort(kept["row"])
    label, teacher = (
        kept[name][order] if name in kept else None for name in ("label", "teacher_logits")
    )
    return Predictions(kept["logits"][order].astype(np.float32), label, teacher)
