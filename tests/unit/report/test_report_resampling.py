"""Scores of resamples against those of their rows written out, and the intervals they give."""

import math

import numpy as np
import pytest

from pd_jax.evaluation.predictions import Predictions
from pd_jax.report import resampling

GENERATOR = np.random.default_rng(5)
LABEL = GENERATOR.integers(0, 2, 300)
RATED = GENERATOR.integers(0, 6, 300) / 2  # with many ties


def classified(right: float) -> Predictions:
    sides = np.where(np.random.default_rng(6).random(300) < right, LABEL, 1 - LABEL)
    return Predictions(np.eye(2, dtype=np.float32)[sides], LABEL, None)


def guessed(noise: float) -> Predictions:
    logits = RATED + noise * np.random.default_rng(7).normal(size=300)
    return Predictions(np.round(logits, 1)[:, None].astype(np.float32), RATED, None)


@pytest.mark.parametrize(
    ("quantity", "kept", "task"),
    [
        ("f1", classified(0.8), "classification"),
        ("matthews", classified(0.8), "classification"),
        ("pearson", guessed(1.0), "regression"),
        ("spearman", guessed(1.0), "regression"),
    ],
)
def test_a_resample_is_scored_as_its_rows_written_out(quantity, kept, task):
    score = resampling.score_of(quantity, kept)
    assert score is not None
    drawn = np.random.default_rng(8).integers(300, size=(4, 300))
    counts = np.stack([np.bincount(one, minlength=300) for one in drawn]).astype(float)
    by_hand = [
        Predictions(kept.logits[rows], kept.label[rows], None).scores(task)[quantity]
        for rows in drawn
    ]
    assert score(counts) == pytest.approx(by_hand, abs=1e-12)
    found = resampling.interval_over_resamples(score, rows=300, seed=0)
    assert found.estimate == pytest.approx(kept.scores(task)[quantity], abs=1e-12)
    assert found.low < found.estimate < found.high
    assert found == resampling.interval_over_resamples(score, rows=300, seed=0)
    assert found != resampling.interval_over_resamples(score, rows=300, seed=1)


def test_where_one_side_is_constant_there_is_no_correlation():
    one = Predictions(np.eye(2, dtype=np.float32)[LABEL * 0], LABEL, None)
    for quantity in ("f1", "matthews"):
        score = resampling.score_of(quantity, one)
        assert score is not None
        assert score(np.ones((2, 300))).tolist() == [0.0, 0.0]


def test_a_score_that_predictions_have_not_is_none():
    assert resampling.score_of("pearson", classified(0.8)) is None
    assert resampling.score_of("f1", guessed(1.0)) is None
    assert resampling.score_of("f1", Predictions(np.zeros((3, 2)), None, None)) is None
    several = Predictions(np.zeros((3, 2)), np.zeros((3, 2)), None)
    assert resampling.score_of("f1", several) is None


def test_the_width_of_a_correlation_is_fishers(monkeypatch):
    """Fisher: of atanh(r) the deviation is 1 / sqrt(rows - 3), for normal pairs."""
    monkeypatch.setattr(resampling, "_BLOCK", 300 * 900)  # which does not divide the resamples
    pairs = np.random.default_rng(9).normal(size=(2, 300))
    first, second = pairs[0], 0.6 * pairs[0] + 0.8 * pairs[1]
    kept = Predictions(first[:, None].astype(np.float32), second, None)
    score = resampling.score_of("pearson", kept)
    assert score is not None
    found = resampling.interval_over_resamples(score, rows=300, seed=0)
    half = 1.96 / math.sqrt(297)
    middle = math.atanh(found.estimate)
    assert found.low == pytest.approx(math.tanh(middle - half), abs=0.02)
    assert found.high == pytest.approx(math.tanh(middle + half), abs=0.02)
