"""Rows of an evaluation set that a model also learns from."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.shards import ID_BYTES

_MANY = 0.01
"""The share of an evaluation set's rows from which it is said."""


def told(evaluated: Mapping[str, Dataset], learnt: Sequence[Dataset]) -> Iterator[str]:
    """Yields a sentence on each evaluation set, given by name, whose texts are also learnt from;
    none where they are few, or where the set itself is learnt from, as its user knows.

    Datasets that do not fit into memory are not looked at: it would take a pass over all of them.
    """
    own = {dataset.fingerprint for dataset in learnt}
    others = {
        name: dataset
        for name, dataset in evaluated.items()
        if dataset.fingerprint not in own and dataset.in_memory
    }
    known = [dataset for dataset in learnt if dataset.in_memory]
    if not others or not known:
        return
    ids = np.concatenate([_ids(dataset) for dataset in known])
    for name, dataset in others.items():
        shared = int(np.isin(_ids(dataset), ids).sum())
        if shared >= _MANY * len(dataset):
            yield (
                f"{shared:,} of {len(dataset):,} rows of evaluation set {name} are also in "
                "data.records, so that its scores are those of texts it has seen; build "
                "data.records with exclude=(the set's source,) to leave them out"
            )


def _ids(dataset: Dataset) -> np.ndarray:
    """Returns the ids of all rows, each as one value."""
    found = dataset.gather(np.arange(len(dataset))).example_ids
    return np.ascontiguousarray(found).view(f"V{ID_BYTES}")[:, 0]
