"""Scores that are not means over rows, on many resamples of the rows at once.

A resample is given by how often it contains each row; its score is that of the rows so repeated, by
the definitions of `evaluation/scores.py`.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

from pd_jax.evaluation.predictions import Predictions
from pd_jax.report.statistics import Interval, percentiles

Counts = Float[np.ndarray, "resamples rows"]
Values = Float[np.ndarray, "resamples"]
Score = Callable[[Counts], Values]

_RESAMPLES = 2_000
_BLOCK = 1 << 21
"""The most numbers in one block of resamples."""


def score_of(quantity: str, kept: Predictions) -> Score | None:
    """Returns f1, matthews, pearson or spearman of predictions as a function of resamples.

    None if they have no such score.
    """
    outputs = kept.logits.shape[-1]
    if kept.label is None or kept.label.ndim != 1:
        return None
    label = kept.label.astype(np.float64)
    if quantity in ("f1", "matthews") and outputs == 2:
        predicted = kept.logits.argmax(-1).astype(np.float64)
        chosen = _f1 if quantity == "f1" else _matthews
        return lambda counts: chosen(counts, predicted, label)
    if quantity in ("pearson", "spearman") and outputs == 1:
        rated = kept.logits[:, 0].astype(np.float64)
        chosen = _pearson if quantity == "pearson" else _spearman
        return lambda counts: chosen(counts, rated, label)
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


def _f1(counts: Counts, predicted: Values, label: Values) -> Values:
    hits, named = counts @ (predicted * label), counts @ (predicted + label)
    return _ratio(2 * hits, named)


def _matthews(counts: Counts, predicted: Values, label: Values) -> Values:
    rows = counts.sum(axis=-1)
    hits, claimed, true = (counts @ side for side in (predicted * label, predicted, label))
    scale = np.sqrt(claimed * (rows - claimed) * true * (rows - true))
    return _ratio(rows * hits - claimed * true, scale)


def _pearson(counts: Counts, first: np.ndarray, second: np.ndarray) -> Values:
    """Returns the linear correlation of two sides, each [rows] or [resamples, rows].

    It is 0 where one is constant.
    """
    first, second = (
        side - np.mean(counts * side, axis=-1, keepdims=True) for side in (first, second)
    )
    together, *alone = (
        np.sum(counts * one * other, axis=-1)
        for one, other in ((first, second), (first, first), (second, second))
    )
    return _ratio(together, np.sqrt(alone[0] * alone[1]))


def _ratio(part: Values, whole: Values) -> Values:
    """Returns part / whole; 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _spearman(counts: Counts, first: Values, second: Values) -> Values:
    return _pearson(counts, _ranks(counts, first), _ranks(counts, second))


def _ranks(counts: Counts, values: Values) -> Float[np.ndarray, "resamples rows"]:
    """Returns each row's rank in each resample, ties sharing their mean rank."""
    order = np.argsort(values, kind="stable")
    distinct, inverse = np.unique(values, return_inverse=True)
    starts = np.searchsorted(values[order], distinct)
    tied = np.add.reduceat(counts[:, order], starts, axis=-1)
    return (np.cumsum(tied, axis=-1) - (tied - 1) / 2)[:, inverse]
