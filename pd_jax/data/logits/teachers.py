"""The outputs of one or several teachers for a dataset's rows, as a batch holds them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from scipy import special

from pd_jax.data.logits.logit_shards import unanswered
from pd_jax.data.logits.store import LogitStore
from pd_jax.data.records.dataset import Dataset
from pd_jax.errors import LogitsError


class Teachers:
    """The stores of one dataset, one per teacher, brought into one order of labels."""

    def __init__(
        self,
        dataset: Dataset,
        stores: Sequence[LogitStore],
        *,
        labels: tuple[str, ...] = (),
        weights: Sequence[float] = (),
        average: str = "logits",
    ):
        """Takes the mean by `weights` (equal where there are none) of the stores' answers.

        `labels` is the order of outputs to give; by default the dataset's, else the first store's.
        `average` is what the mean is taken of: `logits` or `probabilities`.

        Raises:
          LogitsError: where a store does not belong to the dataset, has other labels, or cannot be
            averaged with the others.
        """
        labels = labels or dataset.manifest.labels or stores[0].manifest.labels
        self._stores = [store.check(dataset, labels) for store in stores]
        given = np.asarray(weights if len(weights) else [1.0] * len(stores), np.float64)
        self._weights = given / given.sum()
        self._task = stores[0].manifest.task
        self._average = average
        self._silent = any(store.manifest.missing for store in stores)
        if len(stores) > 1 and any(len(store.manifest.fields) > 1 for store in stores):
            raise LogitsError(
                f"{stores[0].folder} and others have states or language, but only logits of "
                "several teachers can be averaged; name one store"
            )

    @property
    def complete(self) -> bool:
        """Whether every row has an answer from every teacher."""
        return not self._silent

    def read(
        self, rows: Int64[np.ndarray, " rows"], ids: UInt8[np.ndarray, "rows 16"]
    ) -> dict[str, np.ndarray]:
        """Returns `teacher_logits` (float32), what else a store has, and the `weight` of each row.

        A row without an answer from a teacher has zeros and weight 0, so it is not learnt from.

        Raises:
          LogitsError: as `LogitStore.read`.
        """
        outputs = [store.read(rows, ids) for store in self._stores]
        values = {f"teacher_{name}": array for name, array in outputs[0].items()}
        if len(outputs) > 1:
            values["teacher_logits"] = self._mean(np.stack([one["logits"] for one in outputs]))
        weight = np.ones(len(rows), np.float32)
        if self._silent:
            silent = unanswered(values)
            weight[silent] = 0.0
            for array in values.values():
                array[silent] = 0
        return {**values, "weight": weight}

    def _mean(
        self, logits: Float32[np.ndarray, "teachers rows outputs"]
    ) -> Float32[np.ndarray, "rows outputs"]:
        if self._average == "probabilities" and self._task != "regression":
            return probability_mean(logits, self._weights, task=self._task)
        return np.tensordot(self._weights.astype(np.float32), logits, axes=1)


def probability_mean(
    logits: Float32[np.ndarray, "teachers rows outputs"],
    weights: Sequence[float] | np.ndarray,
    *,
    task: str,
) -> Float32[np.ndarray, "rows outputs"]:
    """Returns logits whose probabilities are the weighted mean of the teachers' probabilities.

    `weights` sum to one. Of a softmax they are log-probabilities, of independent labels log-odds.
    """
    exact = logits.astype(np.float64)
    if task == "classification":
        return _log_mean(special.log_softmax(exact, axis=-1), weights).astype(np.float32)
    yes, no = (_log_mean(-np.logaddexp(0.0, sign * exact), weights) for sign in (-1.0, 1.0))
    return (yes - no).astype(np.float32)


def _log_mean(logs: np.ndarray, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns the logarithm of the weighted mean over teachers of exp(logs)."""
    return np.asarray(special.logsumexp(logs, axis=0, b=np.asarray(weights)[:, None, None]))
