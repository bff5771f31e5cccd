"""Scoring over a mesh: batches that do not divide, and which weights the scores are of."""

import numpy as np
import pytest
from etils import epath

from pd_jax.data.records.dataset import Dataset
from pd_jax.evaluation import predictions
from pd_jax.stages.context import Context
from pd_jax.stages.train import run_train
from tests import tiny

SMALL = {"size": "L1_H32", "heads": 2, "positions": 16, "dropout": 0.0, "attention_dropout": 0.0}


def test_a_batch_that_does_not_divide_over_the_mesh_is_made_to(tmp_path):
    for name, rows in (("train", 32), ("dev", 20)):
        tiny.dataset(tmp_path / name, rows=rows)
    found = []
    for batch in (16, 15):
        stage = tiny.stage(
            tmp_path / "train",
            model=SMALL,
            length={"steps": 2},
            evaluation={"final": {"dev": str(tmp_path / "dev")}, "batch": batch},
        )
        folder = epath.Path(tmp_path / f"by{batch}")
        folder.mkdir()
        found.append(run_train(stage, Context("s", folder, tiny.run_options())).metrics)
    scores = [{name: one[name] for name in one if name.startswith("dev/")} for one in found]
    assert scores[0] == scores[1]
    assert scores[0]["dev/rows"] == 20


@pytest.mark.parametrize("best", [None, "dev/accuracy"])
def test_the_stages_scores_are_those_of_the_weights_it_leaves(tmp_path, best):
    """Whether they come from the evaluation that ended the training, or are worked out anew."""
    for name, rows in (("train", 32), ("dev", 20)):
        tiny.dataset(tmp_path / name, rows=rows)
    dev = str(tmp_path / "dev")
    stage = tiny.stage(
        tmp_path / "train",
        model=SMALL,
        length={"steps": 6},
        optimizer={"learning_rate": 0.03},
        evaluation={
            "sets": {"dev": dev},
            "final": {"anew": dev},
            "every": {"steps": 1},
            "best": best,
        },
    )
    folder = epath.Path(tmp_path / "stage")
    folder.mkdir()
    metrics = run_train(stage, Context("s", folder, tiny.run_options())).metrics
    kept, anew = (
        {key.split("/")[1]: value for key, value in metrics.items() if key.startswith(f"{name}/")}
        for name in ("dev", "anew")
    )
    assert kept == anew and kept["rows"] == 20
    found, again = (predictions.read(folder, name) for name in ("dev", "anew"))
    assert found is not None and again is not None and found.label is not None
    np.testing.assert_array_equal(found.logits, again.logits)
    rows = Dataset.open(dev).gather(np.arange(20))
    np.testing.assert_array_equal(found.label, rows.labels)
