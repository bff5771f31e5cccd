"""What a model card says of the way a model was trained."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from etils import epath

from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights.hf import SavedModel
from pd_jax.stages import model_card

SHAPE = BertConfig(8, layers=1, hidden=4, heads=1, intermediate=8)
MODEL = SavedModel(SHAPE, {"classifier": {"bias": np.zeros(2)}}, ("no", "yes"), None, "0" * 32)
METRICS = {"train/loss": 0.1, "dev/accuracy": 0.91234, "dev/rows": 12_345}
DONE = {"steps": 10, "examples": 320, "parameters": 5000, "metrics": METRICS, "inputs": {}}


def stage(folder: pathlib.Path, config: dict[str, Any], inputs: dict[str, str]) -> None:
    """Writes what is left of a finished stage for a card to read."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "done.json").write_text(json.dumps({**DONE, "inputs": inputs}))
    (folder / "versions.json").write_text("{}")


@pytest.mark.parametrize(
    ("objective", "stored", "method"),
    [
        ({"kind": "patient", "teacher": "@teacher"}, None, "patient distillation"),
        ({"kind": "patient", "teacher": None}, "@labels", "patient distillation"),
        ({"kind": "lm_distill", "teacher": "@teacher"}, None, "distillation of a teacher's masked"),
        ({"kind": "distill", "loss": "mse"}, "@labels", "distillation: squared error"),
        ({"kind": "distill", "loss": "cross_entropy"}, "@labels", "distillation: soft cross"),
    ],
)
def test_each_method_is_named_and_a_teacher_that_was_asked_or_reads_along(
    tmp_path: pathlib.Path, objective: dict[str, Any], stored: str | None, method: str
) -> None:
    sets = {"sets": {"dev": "@dev"}, "final": {}}
    trained = {
        "kind": "train",
        "model": {"size": "Mini"},
        "objective": objective,
        "init": {"source": None},
        "data": {"records": "words.tfrecord", "logits": stored},
        "evaluation": sets,
        "seed": 1,
    }
    stage(tmp_path / "student-1", trained, {"labels": "2", "teacher": "3"})
    stage(tmp_path / "labels-2", {"kind": "label", "teacher": "@teacher"}, {"teacher": "3"})
    stage(tmp_path / "other-3", {**trained, "objective": {"kind": "classify"}}, {})
    run = model_card.read_run(epath.Path(tmp_path) / "student-1" / "model")
    text = model_card.write_card(MODEL, run, name="m", format="hf", licence=None, checks=())
    assert f"* Method: {method}" in text
    assert "| dev/rows | 12,345 |" in text and "| dev/accuracy | 0.9123 |" in text
    assert "* Teacher: `teacher`: Mini, 5,000 parameters, supervised training on labels" in text


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        ("models/teacher/", "teacher"),
        ("/home/me/teacher", "teacher"),
        ("gs://bucket/models/base/", "base"),
    ],
)
def test_a_teacher_elsewhere_is_named_without_its_folders(
    tmp_path: pathlib.Path, named: str, shown: str
) -> None:
    trained = {
        "kind": "train",
        "objective": {"kind": "distill", "loss": "cross_entropy"},
        "init": {"source": named},
        "data": {"records": "tfds:glue/sst2:train", "logits": "@labels"},
        "evaluation": {"sets": {}, "final": {}},
        "seed": 1,
    }
    stage(tmp_path / "student-1", trained, {"labels": "2"})
    stage(tmp_path / "labels-2", {"kind": "label", "teacher": named}, {})
    run = model_card.read_run(epath.Path(tmp_path) / "student-1" / "model")
    text = model_card.write_card(MODEL, run, name="m", format="hf", licence=None, checks=())
    assert f"* First weights: {shown}\n" in text
    assert f"* Teacher: {shown}\n" in text + "\n"
    assert "* Data: tfds:glue/sst2:train\n" in text
    assert "/home" not in text
