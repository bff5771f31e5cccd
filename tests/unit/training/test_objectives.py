"""stages.objectives: what a stage reads and what its objective learns from belong together."""

import pathlib

import numpy as np
import pytest
from etils import epath

from pd_jax.errors import ConfigError
from pd_jax.stages.context import Context
from pd_jax.stages.train import run_train
from tests import tiny


@pytest.mark.parametrize("kind", ["mlm", "classify"])
def test_logits_that_nothing_would_learn_from_are_refused(
    kind: str, tmp_path: pathlib.Path
) -> None:
    dataset = tiny.dataset(tmp_path / "set", rows=16)
    tiny.logit_store(tmp_path / "store", dataset, np.zeros((16, 2), np.float32))
    read = {"records": str(tmp_path / "set"), "batch": 16, "lengths": (16,)}
    stage = tiny.stage(
        tmp_path / "set",
        objective={"kind": kind},
        data={**read, "logits": str(tmp_path / "store")},
    )
    (tmp_path / "run").mkdir()
    context = Context("run", epath.Path(tmp_path / "run"), tiny.run_options())
    message = f"objective.kind='{kind}' does not learn from data.logits; leave data.logits out"
    with pytest.raises(ConfigError, match=message):
        run_train(stage, context)
