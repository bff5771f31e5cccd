"""Rows of an evaluation set that a model also learns from."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.shards import ID_BYTES

_MANY = 0.01
"""From this share of an evaluation set's rows on, a sentence is yielded."""


def told(evaluated: Mapping[str, Dataset], learnt: Sequence[Dataset]) -> Iterator[str]:
    """Yields a sentence for each evaluation set with a hundredth or more of its rows in `learnt`.

    A set that is itself among the datasets of `learnt` gets none: its user has named it there.
    Datasets too large to be held in memory are not compared, which would take a pass over them.

    Args:
      evaluated: the evaluation sets by name.
      learnt: the datasets that a model learns from.
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
