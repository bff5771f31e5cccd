"""Scores against numbers worked out by hand or by scipy 1.17, of predictions written down here."""

import math

import numpy as np
import pytest

from pd_jax.config.scores import SCORES
from pd_jax.evaluation import scores
from pd_jax.evaluation.predictions import Predictions

# 3 hits, 1 miss, 1 false alarm, 5 right rejections.
LABEL = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
FOUND = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0])
RATED = np.array([2.5, 0.5, 3.0, 3.0, 4.5, 1.0, 5.0, 0.0])
GUESSED = np.array([3.0, 0.0, 2.0, 4.0, 4.0, 1.5, 5.0, 0.0])
PEARSON, SPEARMAN = 0.937877769168734, 0.9394111922831737


def logits_for(found: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[found]


def test_binary_scores_are_those_of_the_confusion_matrix():
    found = scores.task_scores(logits_for(FOUND, 2), LABEL, task="classification")
    assert found["accuracy"] == 8 / 10
    assert scores.f1(FOUND, LABEL) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    matthews = (3 * 5 - 1 * 1) / math.sqrt((3 + 1) * (3 + 1) * (5 + 1) * (5 + 1))
    assert scores.matthews(FOUND, LABEL) == pytest.approx(matthews)  # 14 / 24


def test_f1_is_of_class_one_and_not_of_class_zero():
    assert scores.f1(1 - FOUND, 1 - LABEL) == pytest.approx(2 * 5 / (2 * 5 + 1 + 1))


@pytest.mark.parametrize("constant", [0, 1])
def test_a_constant_prediction_has_no_correlation(constant):
    found = np.full(10, constant)
    assert scores.matthews(found, LABEL) == 0.0
    assert scores.f1(found, LABEL) == (pytest.approx(8 / 14) if constant else 0.0)
    assert scores.pearson(found.astype(float), RATED[:1].repeat(10)) == 0.0
    assert scores.f1(np.zeros(4, int), np.zeros(4, int)) == 0.0


def test_correlations_are_scipys():
    """scipy.stats.pearsonr and spearmanr of these eight pairs, ties among them."""
    assert scores.pearson(GUESSED, RATED) == pytest.approx(PEARSON, abs=1e-12)
    assert scores.spearman(GUESSED, RATED) == pytest.approx(SPEARMAN, abs=1e-12)


def test_ties_share_their_mean_rank():
    values = np.array([3.0, 1.0, 3.0, 2.0, 3.0])
    assert scores.ranks(values).tolist() == [4.0, 1.0, 4.0, 2.0, 4.0]


def test_correlations_hold_far_from_zero_in_float32():
    """Sums in float32 would lose these digits."""
    values = (1e4 + RATED).astype(np.float32)
    assert scores.pearson(values, RATED) == pytest.approx(1.0, abs=1e-6)


def test_calibration_error_is_the_gap_of_each_bin_by_its_rows():
    """Confidences 0.9, 0.9 (one right), 0.6, 0.6 (both right): (|1 - 1.8| + |2 - 1.2|) / 4."""
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]])
    label = np.array([0, 0, 0, 1])
    assert scores.calibration_error(probabilities, label) == pytest.approx(0.4)
    certain = np.eye(2)[label]
    assert scores.calibration_error(certain, label) == 0.0


def test_a_task_is_scored_by_what_suits_it():
    binary = scores.task_scores(logits_for(FOUND, 2), LABEL, task="classification")
    assert set(binary) == {"accuracy", "macro_f1", "calibration_error", "f1", "matthews"}
    assert binary["matthews"] == pytest.approx(14 / 24)
    three = scores.task_scores(logits_for(LABEL + FOUND, 3), LABEL, task="classification")
    assert set(three) == {"accuracy", "macro_f1", "calibration_error"}
    rated = scores.task_scores(GUESSED[:, None].astype(np.float32), RATED, task="regression")
    assert rated == {"pearson": pytest.approx(PEARSON), "spearman": pytest.approx(SPEARMAN)}
    several = np.array([[1.0, -1.0], [1.0, 1.0]], np.float32)
    found = scores.task_scores(several, np.array([[1, 0], [1, 0]]), task="multilabel")
    # Of the first label both rows are right, the second is never true and said once: (1 + 0) / 2.
    assert found == {"accuracy": 0.5, "label_accuracy": 0.75, "macro_f1": 0.5}


def test_macro_f1_is_the_mean_over_the_classes_that_occur():
    found = scores.task_scores(logits_for(FOUND, 2), LABEL, task="classification")
    assert found["macro_f1"] == pytest.approx((2 * 3 / (3 + 1 + 4) + 2 * 5 / (2 * 5 + 2)) / 2)
    label, guessed = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 2, 4])
    of_five = scores.task_scores(logits_for(guessed, 5), label, task="classification")
    # Class 3 neither occurs nor is predicted; class 4 is predicted once, and never true.
    each = [2 * 1 / (1 + 2), 2 * 1 / (2 + 1), 2 * 2 / (2 + 3), 0.0]
    assert of_five["macro_f1"] == pytest.approx(np.mean(each))


ONE_OF_TWO = (logits_for(FOUND, 2), LABEL, logits_for(1 - LABEL, 2))
SEVERAL = (
    np.array([[1, -1], [1, 1], [-1, -1], [-1, 2]], np.float32),
    np.array([[1, 0], [1, 0], [0, 0], [1, 1]]),
    np.array([[2, -1], [2, 2], [1, -1], [-3, 1]], np.float32),
)


@pytest.mark.parametrize(
    ("task", "outputs"), [("classification", ONE_OF_TWO), ("multilabel", SEVERAL)]
)
def test_what_rows_say_one_by_one_has_the_score_as_its_mean(task, outputs):
    kept = Predictions(*outputs)
    found = kept.scores(task)
    for quantity in {"accuracy", "agreement", "kl"} & found.keys():
        assert np.mean(kept.by_row(quantity, task)) == pytest.approx(found[quantity])
    assert (kept.by_row("kl", task) is None) == (task == "multilabel")
    assert kept.by_row("f1", task) is None
    assert kept.by_row("accuracy", "regression") is None
    alone = Predictions(kept.logits, None, None)
    assert [alone.by_row(quantity, task) for quantity in ("accuracy", "agreement")] == [None, None]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("output", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
def test_outputs_that_are_not_finite_have_no_score(task, output):
    logits = np.full((10, 1 if task == "regression" else 2), output, np.float32)
    label = np.stack([LABEL, LABEL], axis=1) if task == "multilabel" else LABEL
    ones = np.ones_like(logits)
    found = Predictions(logits, label, ones).scores(task)
    assert set(found) == set(Predictions(ones, label, ones).scores(task))
    assert all(map(math.isnan, found.values()))


def test_the_table_of_scores_says_which_there_are():
    rated = (GUESSED[:, None].astype(np.float32), RATED, RATED[:, None].astype(np.float32))
    three = (np.eye(3, dtype=np.float32), np.arange(3), np.eye(3, dtype=np.float32))
    for task, outputs, two_classes in (
        ("classification", ONE_OF_TWO, True),
        ("classification", three, False),
        ("multilabel", SEVERAL, True),
        ("regression", rated, True),
    ):
        kept = Predictions(*outputs)
        known = {
            name: score
            for name, score in SCORES.items()
            if task in score.tasks and (two_classes or not score.two_classes)
        }
        assert set(kept.scores(task)) == set(known)
        alone = Predictions(kept.logits, kept.label, None).scores(task)
        assert set(alone) == {name for name, score in known.items() if not score.taught}
        for name, score in known.items():
            by_row = kept.by_row(name, task)
            assert (by_row is not None) == (score.mean and not score.of_teacher), name


def test_the_names_of_scores_tell_their_task():
    rated = (GUESSED[:, None].astype(np.float32), RATED, None)
    for task, (logits, label, teacher) in (
        ("classification", ONE_OF_TWO),
        ("multilabel", SEVERAL),
        ("regression", rated),
    ):
        assert scores.task_of(Predictions(logits, label, None).scores(task)) == task
        if teacher is not None:
            assert scores.task_of(Predictions(logits, None, teacher).scores(task)) == task
            assert scores.task_of(Predictions(logits, label, teacher).scores(task)) == task
    assert scores.task_of({"loss", "rows"}) is None
