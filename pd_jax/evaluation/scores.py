"""Scores of predictions against labels, computed on the host in float64.

Definitions are GLUE's: Matthews correlation (CoLA), F1 of class 1 (MRPC, QQP), Pearson and Spearman
(STS-B).
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


def f1(predicted: Int[np.ndarray, "rows"], label: Int[np.ndarray, "rows"]) -> float:
    """Returns the harmonic mean of precision and recall of class 1; 0 where neither is defined."""
    hits = np.sum((predicted == 1) & (label == 1))
    claimed, true = np.sum(predicted == 1), np.sum(label == 1)
    return float(2 * hits / (claimed + true)) if claimed + true else 0.0


def matthews(predicted: Int[np.ndarray, "rows"], label: Int[np.ndarray, "rows"]) -> float:
    """Returns Matthews' correlation of two binary sequences; 0 where one of them is constant."""
    return pearson(predicted.astype(np.float64), label.astype(np.float64))


def pearson(first: Float[np.ndarray, "rows"], second: Float[np.ndarray, "rows"]) -> float:
    """Returns the linear correlation; 0 where one side is constant."""
    first, second = (
        values.astype(np.float64) - np.mean(values, dtype=np.float64) for values in (first, second)
    )
    scale = np.sqrt(np.sum(first**2) * np.sum(second**2))
    return float(np.sum(first * second) / scale) if scale > 0 else 0.0


def ranks(values: Float[np.ndarray, "rows"]) -> Float[np.ndarray, "rows"]:
    """Returns ranks from 1, ties sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2.0)[inverse]


def spearman(first: Float[np.ndarray, "rows"], second: Float[np.ndarray, "rows"]) -> float:
    """Returns the correlation of ranks."""
    return pearson(ranks(first), ranks(second))


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
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def kl_rows(
    student: Float[np.ndarray, "rows classes"], teacher: Float[np.ndarray, "rows classes"]
) -> Float[np.ndarray, "rows"]:
    """Returns KL(teacher || student) of each row's softmax at temperature 1, in nats."""
    target, predicted = (
        logits - logits.max(-1, keepdims=True) for logits in map(np.float64, (teacher, student))
    )
    target = target - np.log(np.exp(target).sum(-1, keepdims=True))
    predicted = predicted - np.log(np.exp(predicted).sum(-1, keepdims=True))
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
        return {"pearson": pearson(logits[:, 0], label), "spearman": spearman(logits[:, 0], label)}
    right = float(np.mean(right_rows(logits, label, task=task)))
    if task == "multilabel":
        return {
            "accuracy": right,
            "label_accuracy": float(np.mean((logits > 0) == (label > 0.5))),
        }
    predicted = logits.argmax(-1)
    found = {
        "accuracy": right,
        "calibration_error": calibration_error(softmax(logits), label),
    }
    if logits.shape[-1] == 2:
        found |= {"f1": f1(predicted, label), "matthews": matthews(predicted, label)}
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
