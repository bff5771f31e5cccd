"""Probabilities among numbers that other programs wrote: recognised, checked, made into logits."""

import numpy as np
from jaxtyping import Bool, Float32, Float64

_NOISE = 1e-3
"""How far a sum of float16 probabilities may be from 1."""

_ROUNDING = 0.005
"""How much each probability may add to that: as much as rounding to two decimals changes it."""

_MOST = 0.5
"""However many there are: numbers whose sum is off by more are something else."""

_SMALLEST = 1e-7
"""Probabilities nearer to 0 (or, for independent labels, to 1) are set to this distance: a logit
must be finite."""


def add_up(values: np.ndarray) -> Bool[np.ndarray, " rows"]:
    """Returns which rows add up to 1, but for rounding to two decimals, and by 0.5 at most."""
    tolerance = min(_MOST, _NOISE + _ROUNDING * values.shape[1])
    return np.abs(values.sum(axis=1, dtype=np.float64) - 1) <= tolerance


def taken_for_logits(values: np.ndarray, task: str) -> tuple[str, str] | None:
    """Returns what every row does that probabilities or percentages do and logits do not, and what
    makes probabilities of them; None for logits.
    """
    if task == "multilabel" and np.all((values >= 0) & (values <= 1)):
        return "lies between 0 and 1", ""
    if task != "classification" or not np.all(values >= 0):
        return None
    if np.all(add_up(values)):
        return "adds up to 1", ""
    return ("adds up to 100", "divide by 100 and ") if np.all(add_up(values / 100)) else None


def logits(
    values: Float64[np.ndarray, "rows outputs"], task: str
) -> Float32[np.ndarray, "rows outputs"]:
    """Returns the logits whose softmax (or logistic function) gives these probabilities, those of
    classes divided by their sum.
    """
    inside = np.clip(values, _SMALLEST, 1.0 if task == "classification" else 1 - _SMALLEST)
    if task == "classification":
        return np.log(inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
    return (np.log(inside) - np.log1p(-inside)).astype(np.float32)
