"""Some stages of a chain are run, and the others later."""

import json
import shutil

import pytest
from etils import epath

from pd_jax import pipeline
from pd_jax.config import reading
from pd_jax.errors import ConfigError, StageError
from tests.e2e.chain import run, small_chain, write_text


def record_of(folder) -> dict:
    return json.loads((folder / "work" / "pipelines" / "chain.json").read_text())


def test_one_stage_needs_its_inputs(tmp_path):
    write_text(tmp_path / "text")
    config = reading.pipeline_from(small_chain(tmp_path / "text"))
    with pytest.raises(StageError, match="'student' needs 'transfer', which is not done"):
        pipeline.run(config, epath.Path(tmp_path / "work"), only=("student",))
    with pytest.raises(ConfigError, match="--stages names 'studnet'.*did you mean 'student'"):
        pipeline.run(config, epath.Path(tmp_path / "work"), only=("studnet",))


def test_some_stages_run_before_what_others_read_exists(tmp_path):
    """As logits that another program computes of the rows that the first stages make."""
    write_text(tmp_path / "text")
    config = small_chain(tmp_path / "text")
    config["stages"]["student"]["data"]["logits"] = str(tmp_path / "logits")
    message = "stage 'student' cannot read its input: .*logits does not"
    with pytest.raises(StageError, match=message):
        run(tmp_path, config)
    others = [name for name in config["stages"] if name != "student"]
    run(tmp_path, config, only=others)
    record = record_of(tmp_path)
    assert record["status"]["student"] == "waiting" and record["status"]["labels"] == "done"
    shutil.copytree(tmp_path / "work" / record["stages"]["labels"] / "logits", tmp_path / "logits")
    run(tmp_path, config)
    student = tmp_path / "work" / record_of(tmp_path)["stages"]["student"]
    assert json.loads((student / "done.json").read_text())["steps"] > 0
    # Where a stage was is not forgotten when what it read is gone.
    shutil.rmtree(tmp_path / "logits")
    shutil.rmtree(tmp_path / "work" / "inputs.json", ignore_errors=True)
    run(tmp_path, config, only=others)
    assert record_of(tmp_path)["stages"]["student"] == f"stages/{student.name}"
