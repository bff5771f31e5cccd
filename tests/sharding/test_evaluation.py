"""Scoring over a mesh that the batch asked for does not divide."""

from etils import epath

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
