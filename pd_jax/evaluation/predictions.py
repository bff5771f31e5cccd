"""A model's outputs for every row of its evaluation sets, kept beside its metrics.

`predictions/SET.npz` holds `logits` (float32 [rows, outputs], in the dataset's order) and, where
they are known, `label` and `teacher`: a comparison of two models needs them row by row.
"""

import dataclasses
import io
import math
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from etils import epath
from jaxtyping import Float, Shaped

from pd_jax import files
from pd_jax.errors import ReportError
from pd_jax.evaluation.scores import (
    agreeing_rows,
    kl_rows,
    right_rows,
    task_scores,
    teacher_scores,
)
from pd_jax.workdir import PREDICTIONS

_DAMAGE = (
    ValueError,
    KeyError,
    OSError,
    EOFError,
    RuntimeError,  # of which NotImplementedError is one: flags and methods that zipfile has not
    zlib.error,
    zipfile.BadZipFile,
)
"""What reading raises for a file that is truncated or has flipped bits."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A model's outputs for every row of a dataset, in its order, and what they are compared with.

    `label` and `teacher` (a teacher's outputs) are None where the dataset has none.
    """

    logits: Float[np.ndarray, "rows outputs"]
    label: Shaped[np.ndarray, "rows *labels"] | None
    teacher: Float[np.ndarray, "rows outputs"] | None

    def scores(self, task: str) -> dict[str, float]:
        """Returns every score that suits a task, by name; `teacher_accuracy`, for regression
        `teacher_pearson`, is the teacher's own. All are NaN where an output is not finite.
        """
        with np.errstate(invalid="ignore"):
            found = self._scores(task)
        return found if np.isfinite(self.logits).all() else dict.fromkeys(found, math.nan)

    def _scores(self, task: str) -> dict[str, float]:
        found: dict[str, float] = {}
        if self.label is not None:
            found |= task_scores(self.logits, self.label, task=task)
        if self.teacher is not None:
            found |= teacher_scores(self.logits, self.teacher, task=task)
            if self.label is not None:
                judged = "pearson" if task == "regression" else "accuracy"
                own = task_scores(self.teacher, self.label, task=task)
                found[f"teacher_{judged}"] = own[judged]
        return found

    def by_row(self, quantity: str, task: str | None) -> Float[np.ndarray, "rows"] | None:
        """Returns each row's part of accuracy, agreement or KL, of which the score is the mean;
        None where the task or the dataset has no such score.
        """
        if task not in ("classification", "multilabel"):
            return None
        if quantity == "accuracy" and self.label is not None:
            return right_rows(self.logits, self.label, task=task).astype(float)
        if quantity == "agreement" and self.teacher is not None:
            return agreeing_rows(self.logits, self.teacher, task=task).astype(float)
        if quantity == "kl" and self.teacher is not None and task == "classification":
            return kl_rows(self.logits, self.teacher)
        return None


def write(folder: epath.Path, by_set: Mapping[str, Predictions | None]) -> None:
    """Writes the predictions of every set that has some into a stage's folder."""
    for name, found in by_set.items():
        if found is not None:
            parts = {"logits": found.logits, "label": found.label, "teacher": found.teacher}
            held = io.BytesIO()
            np.savez_compressed(held, **{k: v for k, v in parts.items() if v is not None})
            files.write_bytes(folder / PREDICTIONS / f"{name}.npz", held.getvalue())


def read(folder: epath.Path, name: str) -> Predictions | None:
    """Returns the predictions of a set, or None where there are none.

    Raises:
      ReportError: the file is damaged.
    """
    path = folder / PREDICTIONS / f"{name}.npz"
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as held:
            if strange := set(held) - {"logits", "label", "teacher"}:
                raise ValueError(f"it holds {', '.join(sorted(strange))!r}")
            return Predictions(held["logits"], held.get("label"), held.get("teacher"))
    except _DAMAGE as fault:
        raise ReportError(
            f"{path} cannot be read as predictions ({fault}); remove the stage's folder and run "
            "the pipeline again"
        ) from None
