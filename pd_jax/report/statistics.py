"""How sure a comparison is: summaries over seeds, paired differences, bootstrap, and verdicts.

Everything here is numpy on small arrays and a function of its arguments alone. A value that is
missing or not finite (a stage that failed, a seed that diverged) never enters an average: it is
left out by name, and the name is returned.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import TypeGuard

import numpy as np
from scipy import special

LEVEL = 0.95
"""Confidence of every interval in a report."""

_NORMAL_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""

_BLOCK = 1 << 21
"""The most numbers in one block of bootstrap resamples."""

_MOST_BOOTSTRAPPED = 1000
"""The most distinct values for which resampling is quick."""


class Verdict(enum.StrEnum):
    """The verdict of an interval on a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval, from `count` seeds or examples."""

    estimate: float
    low: float
    high: float
    count: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """A summary of values by seed.

    `deviation` is the sample's (divisor n - 1) and, like `interval`, None where fewer than two
    values are left. `left_out` names the seeds whose value was missing or not finite.
    """

    mean: float | None
    deviation: float | None
    interval: Interval | None
    used: Mapping[str, float]
    left_out: tuple[str, ...]


# ---- over seeds --------------------------------------------------------------------------------


def summarise(values: Mapping[str, float | None]) -> Summary:
    """Returns mean, sample deviation and t-interval of values by seed."""
    used = {seed: float(value) for seed, value in values.items() if _finite(value)}
    left_out = tuple(seed for seed in values if seed not in used)
    if not used:
        return Summary(None, None, None, used, left_out)
    sample = np.array(list(used.values()), np.float64)
    mean = float(sample.mean())
    if len(sample) < 2:
        return Summary(mean, None, None, used, left_out)
    deviation = float(sample.std(ddof=1))
    quantile = float(special.stdtrit(len(sample) - 1, (1 + LEVEL) / 2))  # of Student's t
    half = quantile * deviation / math.sqrt(len(sample))
    interval = Interval(mean, mean - half, mean + half, len(sample))
    return Summary(mean, deviation, interval, used, left_out)


def sign_test(differences: Summary) -> float:
    """Returns the two-sided probability of signs at least as unequal, were both equally likely.

    Differences of exactly zero count for neither side; without any other difference the answer is
    1.
    """
    positive = sum(value > 0 for value in differences.used.values())
    negative = sum(value < 0 for value in differences.used.values())
    count = positive + negative
    tail = sum(math.comb(count, k) for k in range(max(positive, negative), count + 1))
    return min(1.0, 2.0 * tail / 2**count)


# ---- over examples -----------------------------------------------------------------------------


def wilson_interval(fraction: float, count: int) -> Interval:
    """Returns Wilson's 95 % interval for a fraction observed over `count` examples.

    It stays within [0, 1] and keeps its width at 0 and 1, where the usual plus-minus shrinks to
    nothing.
    """
    if count < 1 or not 0.0 <= fraction <= 1.0:
        raise ValueError(
            f"a fraction over examples needs 0 <= {fraction} <= 1 and count {count} > 0"
        )
    square = _NORMAL_95**2
    centre = (fraction + square / (2 * count)) / (1 + square / count)
    half = (
        _NORMAL_95
        * math.sqrt(fraction * (1 - fraction) / count + square / (4 * count**2))
        / (1 + square / count)
    )
    # Rounding may leave the fraction itself just outside at 0 and 1.
    low, high = min(fraction, max(0.0, centre - half)), max(fraction, min(1.0, centre + half))
    return Interval(fraction, low, high, count)


def bootstrap_mean(values: np.ndarray, *, seed: int, resamples: int = 10_000) -> Interval:
    """Returns the mean of values by example and its 95 % percentile interval over examples.

    Args:
      values: [examples].
      seed: of the generator; equal arguments give equal intervals.
      resamples: how many samples of as many examples are drawn, with replacement.
    """
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("values must be finite and not empty; leave a diverged seed out by name")
    # Drawing n rows of n is a multinomial draw over the distinct values: the same distribution, and
    # for right/wrong answers three numbers in place of n.
    distinct, counts = np.unique(values, return_counts=True)
    examples = values.size
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(distinct))
    means = np.concatenate(
        [
            generator.multinomial(examples, counts / examples, size=min(block, resamples - start))
            @ distinct
            / examples
            for start in range(0, resamples, block)
        ]
    )
    return Interval(float(values.mean()), *percentiles(means), examples)


def percentiles(resampled: np.ndarray) -> tuple[float, float]:
    """Returns the ends between which the middle 95 % of a bootstrap's values lie."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def interval_over_examples(values: np.ndarray, *, seed: int) -> Interval:
    """Returns the mean of values by example and its 95 % interval over examples.

    By bootstrap if there are few distinct values, as with sums of right and wrong answers;
    otherwise by the normal distribution, which the mean of so many follows.
    """
    values = np.asarray(values, np.float64)
    if len(np.unique(values)) <= _MOST_BOOTSTRAPPED:
        return bootstrap_mean(values, seed=seed)
    mean = float(values.mean())
    half = _NORMAL_95 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


# ---- verdicts ----------------------------------------------------------------------------------


def judge_positive(interval: Interval | None) -> Verdict:
    """Returns whether a quantity is above 0, decided where all of the interval agrees.

    Without an interval (fewer than two seeds) the answer is undecided.
    """
    if interval is None:
        return Verdict.UNDECIDED
    if interval.low > 0:
        return Verdict.HOLDS
    return Verdict.FAILS if interval.high < 0 else Verdict.UNDECIDED


def judge_near_zero(interval: Interval | None, *, margin: float) -> Verdict:
    """Returns whether a quantity lies within `margin` of 0, by the same rule."""
    if interval is None:
        return Verdict.UNDECIDED
    if -margin <= interval.low and interval.high <= margin:
        return Verdict.HOLDS
    outside = interval.high < -margin or interval.low > margin
    return Verdict.FAILS if outside else Verdict.UNDECIDED


def both(first: Verdict, second: Verdict) -> Verdict:
    """Returns the joint verdict of two intervals: undecided unless they agree."""
    return first if first == second else Verdict.UNDECIDED


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
