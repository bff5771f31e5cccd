"""Numbers of this file are worked by hand or stand in printed tables of the t distribution."""

import math

import numpy as np
import pytest

from pd_jax.report import statistics
from pd_jax.report.statistics import Interval, Verdict

T_TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 30: 2.0423, 120: 1.9799}


@pytest.mark.parametrize("freedom", T_TABLE)
def test_intervals_over_seeds_are_those_of_the_t_tables(freedom: int) -> None:
    found = statistics.summarise({str(seed): float(seed) for seed in range(freedom + 1)})
    assert found.interval is not None and found.deviation is not None
    half = (found.interval.high - found.interval.low) / 2
    assert half * math.sqrt(freedom + 1) / found.deviation == pytest.approx(
        T_TABLE[freedom], abs=6e-5
    )


def test_summary_of_four_values() -> None:
    found = statistics.summarise({"0": 1.0, "1": 2.0, "2": 3.0, "3": 4.0})
    assert found.mean == 2.5
    assert found.deviation == pytest.approx(math.sqrt(5 / 3))
    half = 3.182446 * math.sqrt(5 / 3) / 2
    assert found.interval is not None
    assert found.interval.low == pytest.approx(2.5 - half, abs=1e-6)
    assert found.interval.high == pytest.approx(2.5 + half, abs=1e-6)
    assert found.interval.count == 4


def test_one_value_has_no_interval() -> None:
    found = statistics.summarise({"0": 0.8})
    assert (found.mean, found.deviation, found.interval) == (0.8, None, None)


def test_failed_and_diverged_seeds_are_left_out_by_name() -> None:
    found = statistics.summarise({"0": 0.8, "1": None, "2": math.nan, "3": 0.6, "4": math.inf})
    assert found.mean == pytest.approx(0.7)
    assert found.left_out == ("1", "2", "4")
    assert statistics.summarise({"0": None}).mean is None


@pytest.mark.parametrize(
    ("values", "probability"),
    [
        ([1, 1, 1, 1, 1], 2 / 32),
        ([1, 1, 1, 1, -1], 12 / 32),
        ([1, -1], 1.0),
        ([0, 0], 1.0),
        ([], 1.0),
    ],
)
def test_sign_test_counts_signs(values: list[float], probability: float) -> None:
    summary = statistics.summarise({str(seed): value for seed, value in enumerate(values)})
    assert statistics.sign_test(summary) == pytest.approx(probability)


def test_wilson_interval() -> None:
    found = statistics.wilson_interval(0.9, 100)
    assert (found.low, found.high) == pytest.approx((0.82563, 0.94477), abs=1e-5)
    certain = statistics.wilson_interval(1.0, 10)
    assert certain.low == pytest.approx(10 / (10 + 3.841459), abs=1e-6)
    assert certain.high == 1.0
    with pytest.raises(ValueError, match="count 0"):
        statistics.wilson_interval(0.5, 0)


def test_bootstrap_of_two_examples() -> None:
    # Resamples of {0, 1} have mean 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.
    found = statistics.bootstrap_mean(np.array([0.0, 1.0]), seed=0)
    assert found == Interval(0.5, 0.0, 1.0, 2)


def test_bootstrap_agrees_with_the_normal_approximation() -> None:
    # 100 examples won, 50 lost, 850 equal: mean 0.05, deviation sqrt(0.15 - 0.0025).
    differences = np.zeros(1000)
    differences[:100], differences[100:150] = 1, -1
    half = 1.96 * math.sqrt(0.1475 / 1000)
    found = statistics.bootstrap_mean(differences, seed=3)
    assert found.estimate == pytest.approx(0.05)
    assert found.low == pytest.approx(0.05 - half, abs=0.002)
    assert found.high == pytest.approx(0.05 + half, abs=0.002)
    assert found == statistics.bootstrap_mean(differences, seed=3)
    assert found != statistics.bootstrap_mean(differences, seed=4)


def test_bootstrap_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).normal(0.2, 1.0, 400)
    monkeypatch.setattr(statistics, "_BLOCK", 4000)
    found = statistics.bootstrap_mean(scores, seed=1, resamples=1005)
    half = 1.96 * scores.std() / 20
    assert found.low == pytest.approx(scores.mean() - half, abs=0.015)
    assert found.high == pytest.approx(scores.mean() + half, abs=0.015)


@pytest.mark.parametrize("values", [[], [0.0, math.nan]])
def test_bootstrap_refuses_what_has_no_mean(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        statistics.bootstrap_mean(np.array(values), seed=0)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.3, "holds"), (-0.1, 0.3, "undecided"), (-0.3, -0.1, "fails"), (0.0, 0.2, "undecided")],
)
def test_a_claim_is_judged_by_the_whole_interval(low: float, high: float, verdict: str) -> None:
    assert statistics.judge_positive(Interval((low + high) / 2, low, high, 3)) == verdict


def test_without_an_interval_nothing_is_decided() -> None:
    assert statistics.judge_positive(None) is Verdict.UNDECIDED
    assert statistics.judge_near_zero(None, margin=1.0) is Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.2, 0.4, "holds"), (-0.2, 0.6, "undecided"), (0.6, 0.9, "fails"), (-0.9, -0.6, "fails")],
)
def test_a_claim_of_equality_needs_a_margin(low: float, high: float, verdict: str) -> None:
    interval = Interval((low + high) / 2, low, high, 3)
    assert statistics.judge_near_zero(interval, margin=0.5) == verdict
