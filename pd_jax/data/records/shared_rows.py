"""Rows of an evaluation set that a model also learns from."""

from collections.abc import Sequence

import numpy as np

from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.shards import ID_BYTES

_MANY = 0.01
"""The share of an evaluation set's rows from which it is said."""


def told(name: str, evaluated: Dataset, learnt: Sequence[Dataset]) -> str:
    """Returns a sentence on the rows of the evaluation set `name` whose texts are also learnt from;
    empty where they are few, or where the set itself is learnt from, as its user knows.

    Datasets that do not fit into memory are not looked at: it would take a pass over all of them.
    """
    known = [dataset for dataset in learnt if dataset.in_memory]
    if any(evaluated.fingerprint == dataset.fingerprint for dataset in learnt):
        return ""
    if not known or not evaluated.in_memory:
        return ""
    ids = np.concatenate([_ids(dataset) for dataset in known])
    shared = int(np.isin(_ids(evaluated), ids).sum())
    if shared < _MANY * len(evaluated):
        return ""
    return (
        f"{shared:,} of {len(evaluated):,} rows of evaluation set {name} are also in data.records, "
        "so that its scores are those of texts it has seen; build data.records with exclude="
        "(the set's source,) to leave them out"
    )


def _ids(dataset: Dataset) -> np.ndarray:
    """Returns the ids of all rows, each as one value."""
    found = dataset.gather(np.arange(len(dataset))).example_ids
    return np.ascontiguousarray(found).view(f"V{ID_BYTES}")[:, 0]
