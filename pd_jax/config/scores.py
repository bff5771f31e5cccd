"""What is known of a score by its name: which sets have it, which way is better, how it is written.

`evaluation/scores.py` computes them.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from pd_jax.config.kinds import Task


@dataclasses.dataclass(frozen=True)
class Score:
    """A score of an evaluation set.

    Attributes:
      tasks: the tasks of the sets that may have it; none for a score of masked text alone.
      more: whether more is better.
      share: whether it lies in [0, 1], and is written as percent.
      mean: whether it is the mean of something known of each row, so that several sets can be
        taken together, and two models compared row by row.
      two_classes: whether it is defined for two classes only.
      taught: whether it needs a teacher's outputs for the set.
      of_teacher: whether it is the teacher's own, which training does not change.
    """

    tasks: tuple[Task, ...] = ()
    more: bool = True
    share: bool = False
    mean: bool = False
    two_classes: bool = False
    taught: bool = False
    of_teacher: bool = False


_CLASSIFICATION: tuple[Task, ...] = ("classification",)
_MULTILABEL: tuple[Task, ...] = ("multilabel",)
_REGRESSION: tuple[Task, ...] = ("regression",)
_BOTH = _CLASSIFICATION + _MULTILABEL

SCORES: Mapping[str, Score] = {
    "accuracy": Score(_BOTH, share=True, mean=True),
    "label_accuracy": Score(_MULTILABEL, share=True),
    "macro_f1": Score(_BOTH, share=True),
    "f1": Score(_CLASSIFICATION, share=True, two_classes=True),
    "matthews": Score(_CLASSIFICATION, two_classes=True),
    "pearson": Score(_REGRESSION),
    "spearman": Score(_REGRESSION),
    "calibration_error": Score(_CLASSIFICATION, more=False, share=True),
    "agreement": Score(_BOTH, share=True, mean=True, taught=True),
    "kl": Score(_CLASSIFICATION, more=False, mean=True, taught=True),
    "teacher_calibration_error": Score(_CLASSIFICATION, more=False, share=True, taught=True),
    "teacher_accuracy": Score(_BOTH, share=True, mean=True, taught=True, of_teacher=True),
    "teacher_pearson": Score(_REGRESSION, taught=True, of_teacher=True),
    "mlm_accuracy": Score(share=True),
    "nsp_accuracy": Score(share=True),
}

BEST_BY = tuple(name for name, score in SCORES.items() if score.more and not score.of_teacher)
"""The scores that the best evaluation may be told by."""

_JUDGES = ("accuracy", "pearson", "loss")


def is_loss(quantity: str) -> bool:
    """Returns whether a quantity is the loss or one of its terms, by any objective's name for it:
    the only one whose name does not end in `loss` is `patience`.
    """
    return quantity.endswith("loss") or quantity == "patience"


def judged_by(metrics: Iterable[str]) -> tuple[str, ...]:
    """Returns the one metric of each evaluation set that a model is judged by: of `dev/accuracy`,
    `dev/pearson` and `dev/loss` the first that is there.
    """
    names = dict.fromkeys(metrics)
    sets = dict.fromkeys(name.rpartition("/")[0] for name in names)
    found = []
    for of in sets:
        if of != "train":
            found += [f"{of}/{last}" for last in _JUDGES if f"{of}/{last}" in names][:1]
    return tuple(found)
