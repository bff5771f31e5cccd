"""Intervals of scores that are not means over rows, from many resamples of the rows at once.

A resample is given by how often it contains each row (`evaluation/scores.py`, `counts`).
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

from pd_jax.evaluation import scores
from pd_jax.evaluation.predictions import Predictions
from pd_jax.report.statistics import Interval, percentiles

Counts = Float[np.ndarray, "resamples rows"]
Values = Float[np.ndarray, "resamples"]
Score = Callable[[Counts], Values]

_RESAMPLES = 2_000
_BLOCK = 1 << 21
"""The most numbers in one block of resamples."""
_OF_CLASSES = {"f1": scores.f1, "matthews": scores.matthews}
_OF_RATINGS = {"pearson": scores.pearson, "spearman": scores.spearman}


def score_of(quantity: str, kept: Predictions) -> Score | None:
    """Returns f1, matthews, pearson or spearman of predictions as a function of resamples.

    None if they have no such score.
    """
    outputs = kept.logits.shape[-1]
    if kept.label is None or kept.label.ndim != 1:
        return None
    if quantity in _OF_CLASSES and outputs == 2:
        return functools.partial(_OF_CLASSES[quantity], kept.logits.argmax(-1), kept.label)
    if quantity in _OF_RATINGS and outputs == 1:
        return functools.partial(_OF_RATINGS[quantity], kept.logits[:, 0], kept.label)
    return None


def interval_over_resamples(total: Score, *, rows: int, seed: int) -> Interval:
    """Returns a score of all rows, and its 95 % percentile interval over resamples of them."""
    estimate = float(total(np.ones((1, rows)))[0])
    values = np.concatenate([total(counts) for counts in _resamples(rows, seed)])
    return Interval(estimate, *percentiles(values), rows)


def _resamples(rows: int, seed: int) -> Iterator[Counts]:
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // rows)
    for start in range(0, _RESAMPLES, block):
        drawn = generator.integers(rows, size=(min(block, _RESAMPLES - start), rows))
        yield np.stack([np.bincount(one, minlength=rows) for one in drawn]).astype(np.float64)
