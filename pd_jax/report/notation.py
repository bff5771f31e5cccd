"""How numbers are written for people: scores, seconds, counts; and which scores are better."""

import math

from pd_jax.config.scores import SCORES, is_loss

MISSING = "–"
"""Shown in place of a missing number."""


def quantity(metric: str) -> str:
    """Returns `accuracy` of `dev/accuracy`."""
    return metric.rsplit("/", 1)[-1]


def split(metric: str) -> str:
    """Returns `dev` of `dev/accuracy`."""
    return metric.rsplit("/", 1)[0] if "/" in metric else ""


def readable(metric: str) -> str:
    """Returns `dev accuracy` of `dev/accuracy`."""
    return metric.replace("/", " ").replace("_", " ")


def titled(metric: str) -> str:
    """Returns `Dev accuracy` of `dev/accuracy`; a set's own capitals are kept."""
    text = readable(metric)
    return text[:1].upper() + text[1:]


def is_share(metric: str) -> bool:
    """Returns whether a metric is a fraction, written as percent."""
    score = SCORES.get(quantity(metric))
    return score is not None and score.share


def counts_examples(metric: str) -> bool:
    """Returns whether a metric is the share of examples that have some property, for which a
    binomial interval applies.
    """
    score = SCORES.get(quantity(metric))
    return score is not None and score.share and score.mean


def lower_is_better(metric: str) -> bool:
    """Returns whether the smaller value of a metric is the better one."""
    score = SCORES.get(quantity(metric))
    return not score.more if score else is_loss(quantity(metric))


def by_teacher(metric: str) -> bool:
    """Returns whether a metric exists only for models scored against a teacher's outputs."""
    score = SCORES.get(quantity(metric))
    return score is not None and score.taught


def scaled(metric: str, value: float) -> float:
    """Returns a metric's value in the unit it is shown in."""
    return 100.0 * value if is_share(metric) else value


def unit(metric: str) -> str:
    """Returns the unit a metric is shown in, with the space before it."""
    return " %" if is_share(metric) else ""


def score(metric: str, value: float | None) -> str:
    """Returns a metric's value without unit: one decimal for percent, else three or four digits."""
    if value is None or not math.isfinite(value):
        return MISSING
    if is_share(metric):
        return f"{100.0 * value:.1f}"
    if value == 0 or 0.01 <= abs(value) < 100:
        return f"{value:.3f}"
    return f"{value:.3g}" if abs(value) < 0.01 else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """Returns seconds as `0.4 s`, `12 s`, `3 min 05 s`, `10 min` or `2 h 07 min`."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two_parts(whole, "min", "s")
    return _two_parts(round(seconds / 60), "h", "min")


def _two_parts(amount: int, large: str, small: str) -> str:
    """Returns an amount in large and small units, sixty to one; small ones only if not 0."""
    rest = f" {amount % 60:02d} {small}" if amount % 60 else ""
    return f"{amount // 60} {large}{rest}"


def short(value: float | None) -> str:
    """Returns a count in at most four characters or so: `950`, `20k`, `4.4M`, `1.3B`."""
    if value is None or not math.isfinite(value):
        return MISSING
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            scaled_down = value / size
            return f"{scaled_down:.3g}{letter}"
    return f"{value:.3g}"


def grouped(value: int | None) -> str:
    """Returns an integer with its thousands separated."""
    return MISSING if value is None else f"{value:,}".replace(",", "\u202f")


def megabytes(value: float | None) -> str:
    """Returns megabytes without unit: one decimal below a hundred."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
