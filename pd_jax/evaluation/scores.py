"""Scores of predictions against labels, computed on the host in float64.

Definitions are GLUE's: Matthews correlation (CoLA), F1 of class 1 (MRPC, QQP), Pearson and Spearman
(STS-B). These four also take `counts`, how often each row counts: of many resamples of the rows at
once, the score of each.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import special

Values = Shaped[np.ndarray, "rows"]
Counts = Float[np.ndarray, "*resamples rows"]
Score = Float[np.ndarray, "*resamples"]


def f1(predicted: Values, label: Values, counts: Counts | None = None) -> Score:
    """Returns the harmonic mean of precision and recall of class 1; 0 where neither is defined."""
    counts, claimed, true = _counted(counts, predicted == 1, label == 1)
    return _ratio(2 * (counts @ (claimed * true)), counts @ (claimed + true))


def macro_f1(
    hits: Int[np.ndarray, "classes"],
    claimed: Int[np.ndarray, "classes"],
    true: Int[np.ndarray, "classes"],
) -> float:
    """Returns the mean over classes of F1, from how many rows each is right for, predicted for and
    true of; classes that no row has and none is said to have are left out.
    """
    whole = claimed + true
    return float(np.mean(2.0 * hits[whole > 0] / whole[whole > 0])) if whole.any() else 0.0


def matthews(predicted: Values, label: Values, counts: Counts | None = None) -> Score:
    """Returns Matthews' correlation of two binary sequences; 0 where one of them is constant."""
    counts, claimed, true = _counted(counts, predicted, label)
    rows = counts.sum(axis=-1)
    hits, claimed, true = (counts @ side for side in (claimed * true, claimed, true))
    scale = np.sqrt(claimed * (rows - claimed) * true * (rows - true))
    return _ratio(rows * hits - claimed * true, scale)


def pearson(first: Values, second: Values, counts: Counts | None = None) -> Score:
    """Returns the linear correlation; 0 where one side is constant. A side may also have its values
    for each resample, as ranks do.
    """
    counts, first, second = _counted(counts, first, second)
    rows = counts.sum(axis=-1, keepdims=True)
    first, second = (
        side - np.sum(counts * side, axis=-1, keepdims=True) / rows for side in (first, second)
    )
    together, *alone = (
        np.sum(counts * one * other, axis=-1)
        for one, other in ((first, second), (first, first), (second, second))
    )
    return _ratio(together, np.sqrt(alone[0] * alone[1]))


def spearman(first: Values, second: Values, counts: Counts | None = None) -> Score:
    """Returns the correlation of ranks."""
    return pearson(ranks(first, counts), ranks(second, counts), counts)


def ranks(values: Values, counts: Counts | None = None) -> Counts:
    """Returns each row's rank from 1, ties sharing their mean rank."""
    counts, values = _counted(counts, values)
    order = np.argsort(values, kind="stable")
    distinct, inverse = np.unique(values, return_inverse=True)
    starts = np.searchsorted(values[order], distinct)
    tied = np.add.reduceat(counts[..., order], starts, axis=-1)
    return (np.cumsum(tied, axis=-1) - (tied - 1) / 2)[..., inverse]


def _counted(counts: Counts | None, *sides: Shaped[np.ndarray, "..."]) -> list[np.ndarray]:
    """Returns the counts, by default 1 for each row, and the sides in float64."""
    counted = np.ones(sides[0].shape[-1]) if counts is None else counts
    return [counted, *(side.astype(np.float64) for side in sides)]


def _ratio(part: Score, whole: Score) -> Score:
    """Returns part / whole; 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def calibration_error(
    probabilities: Float[np.ndarray, "rows classes"],
    label: Int[np.ndarray, "rows"],
    *,
    bins: int = 15,
) -> float:
    """Returns the expected calibration error: |accuracy - confidence| over equal-width bins of
    confidence.
    """
    confidence = probabilities.max(-1)
    right = probabilities.argmax(-1) == label
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = [abs(np.sum(right[index == b]) - np.sum(confidence[index == b])) for b in range(bins)]
    return float(np.sum(gap) / len(label))


def softmax(logits: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, "rows classes"]:
    """Returns each row's probabilities."""
    return special.softmax(logits, axis=-1)


def kl_rows(
    student: Float[np.ndarray, "rows classes"], teacher: Float[np.ndarray, "rows classes"]
) -> Float[np.ndarray, "rows"]:
    """Returns KL(teacher || student) of each row's softmax at temperature 1, in nats."""
    target, predicted = (
        special.log_softmax(logits, axis=-1) for logits in map(np.float64, (teacher, student))
    )
    return np.sum(np.exp(target) * (target - predicted), axis=-1)


def right_rows(
    logits: Float[np.ndarray, "rows outputs"],
    label: Shaped[np.ndarray, "rows *labels"],
    *,
    task: str,
) -> Bool[np.ndarray, "rows"]:
    """Returns which rows are classified right; with several labels, those with all labels right."""
    if task == "multilabel":
        return ((logits > 0) == (label > 0.5)).all(-1)
    return logits.argmax(-1) == label


def agreeing_rows(
    logits: Float[np.ndarray, "rows outputs"],
    teacher: Float[np.ndarray, "rows outputs"],
    *,
    task: str,
) -> Bool[np.ndarray, "rows"]:
    """Returns which rows are classified as a teacher does; with several labels, in all of them."""
    if task == "multilabel":
        return ((logits > 0) == (teacher > 0)).all(-1)
    return logits.argmax(-1) == teacher.argmax(-1)


def teacher_scores(
    logits: Float[np.ndarray, "rows outputs"],
    teacher: Float[np.ndarray, "rows outputs"],
    *,
    task: str,
) -> dict[str, float]:
    """Returns how near the outputs are to a teacher's, where the task has them: agreement, KL at
    temperature 1, and calibration error (confidence against agreement, not against labels).
    """
    if task == "regression":
        return {}
    agreement = float(np.mean(agreeing_rows(logits, teacher, task=task)))
    if task == "multilabel":
        return {"agreement": agreement}
    return {
        "agreement": agreement,
        "kl": float(np.mean(kl_rows(logits, teacher))),
        "teacher_calibration_error": calibration_error(
            softmax(logits.astype(np.float64)), teacher.argmax(-1)
        ),
    }


def task_scores(
    logits: Float[np.ndarray, "rows outputs"], label: np.ndarray, *, task: str
) -> dict[str, float]:
    """Returns every score that suits a task, by name."""
    logits = logits.astype(np.float64)
    if task == "regression":
        return {
            "pearson": float(pearson(logits[:, 0], label)),
            "spearman": float(spearman(logits[:, 0], label)),
        }
    right = float(np.mean(right_rows(logits, label, task=task)))
    if task == "multilabel":
        claimed, true = logits > 0, label > 0.5
        return {
            "accuracy": right,
            "label_accuracy": float(np.mean(claimed == true)),
            "macro_f1": macro_f1((claimed & true).sum(0), claimed.sum(0), true.sum(0)),
        }
    predicted = logits.argmax(-1)
    counted = (label[predicted == label], predicted, label)
    found = {
        "accuracy": right,
        "macro_f1": macro_f1(*(np.bincount(of, minlength=logits.shape[-1]) for of in counted)),
        "calibration_error": calibration_error(softmax(logits), label),
    }
    if logits.shape[-1] == 2:
        found |= {
            "f1": float(f1(predicted, label)),
            "matthews": float(matthews(predicted, label)),
        }
    return found


def task_of(names: Iterable[str]) -> str | None:
    """Returns the task of a set with scores of these names, as `task_scores` and `teacher_scores`
    give them; None where they do not tell.
    """
    names = set(names)
    if "pearson" in names:
        return "regression"
    if "calibration_error" in names or "kl" in names:
        return "classification"
    return "multilabel" if {"label_accuracy", "agreement"} & names else None
