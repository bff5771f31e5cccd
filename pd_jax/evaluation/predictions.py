"""What a model said of every row of its evaluation sets, kept beside its metrics.

`predictions/SET.npz` holds `logits` (float32 [rows, outputs], in the dataset's order) and, where
they are known, `label` and `teacher`: a comparison of two models needs them row by row.
"""

import dataclasses
import io
import zipfile
from collections.abc import Mapping

import numpy as np
from etils import epath
from jaxtyping import Float, Shaped

from pd_jax import files
from pd_jax.errors import ReportError
from pd_jax.evaluation.scores import task_scores, teacher_scores

FOLDER = "predictions"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A model's outputs for every row of a dataset, in its order, and what they are held against.

    `label` and `teacher` (a teacher's outputs) are None where the dataset has none.
    """

    logits: Float[np.ndarray, "rows outputs"]
    label: Shaped[np.ndarray, "rows *labels"] | None
    teacher: Float[np.ndarray, "rows outputs"] | None

    def scores(self, task: str) -> dict[str, float]:
        """Returns every score that suits a task, by name."""
        found: dict[str, float] = {}
        if self.label is not None:
            found |= task_scores(self.logits, self.label, task=task)
        if self.teacher is not None:
            found |= teacher_scores(self.logits, self.teacher, task=task)
        return found


def write(folder: epath.Path, by_set: Mapping[str, Predictions | None]) -> None:
    """Writes the predictions of every set that has some into a stage's folder."""
    for name, found in by_set.items():
        if found is not None:
            parts = {"logits": found.logits, "label": found.label, "teacher": found.teacher}
            held = io.BytesIO()
            np.savez_compressed(held, **{k: v for k, v in parts.items() if v is not None})
            files.write_bytes(folder / FOLDER / f"{name}.npz", held.getvalue())


def read(folder: epath.Path, name: str) -> Predictions | None:
    """Returns the predictions of a set, or None where there are none.

    Raises:
      ReportError: the file is damaged.
    """
    path = folder / FOLDER / f"{name}.npz"
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as held:
            return Predictions(held["logits"], held.get("label"), held.get("teacher"))
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as fault:
        raise ReportError(
            f"{path} does not read as predictions ({fault}); remove the stage's folder and run the "
            "pipeline again"
        ) from None
