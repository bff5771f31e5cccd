"""A loss that is not finite stops a stage with the batch's examples and a state to go on from."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from pd_jax import config as config_lib
from pd_jax.data.records.dataset import Dataset
from pd_jax.errors import DivergenceError
from pd_jax.models.weights import hf
from pd_jax.pipeline import _closing_line
from pd_jax.planning import Planned
from pd_jax.signals import Stopped
from pd_jax.stages.train import _Work, run_train
from pd_jax.training import loop
from tests import tiny
from tests.resume.test_resume import context, lines, stop_at

BATCH = 16


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tiny.dataset(folder / "train", rows=200)
    return folder / "train"


def poison(monkeypatch, *steps: int) -> dict[int, np.ndarray]:
    """Makes the loss of these steps NaN; returns what will have been in their batches."""
    feed = _Work.feed
    seen: dict[int, np.ndarray] = {}

    def poisoned(self, first_step):
        for step, batch in enumerate(feed(self, first_step), start=first_step):
            if step + 1 in steps:
                seen[step + 1] = batch["input_ids"]
                batch = batch | {"weight": np.full_like(batch["weight"], np.nan)}
            yield batch

    monkeypatch.setattr(_Work, "feed", poisoned)
    return seen


def noted(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / loop.NONFINITE_FILE).read_text().splitlines()]


def test_the_stage_stops_with_the_examples_and_can_go_on_from_before(data, tmp_path, monkeypatch):
    folder = tmp_path / "job"
    for _ in range(2):  # the second time from the state that the first one saved
        with monkeypatch.context() as patched:
            seen = poison(patched, 7)
            with pytest.raises(DivergenceError) as refusal:
                run_train(tiny.stage(data), context(folder))
        (note,) = noted(folder)
        assert note["step"] == 7
        assert note["skipped"] is False
    dataset = Dataset.open(data)
    rows = np.array([example["row"] for example in note["examples"]])
    whole = dataset.gather(rows)
    assert [example["id"] for example in note["examples"]] == [
        one.tobytes().hex() for one in whole.example_ids
    ]
    words = [set(row[row > 0].tolist()) for row in seen[7]]
    found = [set(dataset.gather(rows[at : at + 1]).tokens.tolist()) for at in range(BATCH)]
    assert sorted(map(sorted, words)) == sorted(map(sorted, found))
    message = str(refusal.value)
    assert message.startswith("stage job: loss or gradient of step 7 is not finite (examples ")
    assert note["examples"][0]["id"][:8] in message
    assert "the state before it is saved" in message
    assert "--config.run.skip_nonfinite=10" in message
    assert (folder / "checkpoints" / "6").exists()

    run_train(tiny.stage(data), context(folder))
    run_train(tiny.stage(data), context(tmp_path / "whole"))
    first, second = (hf.load(one / "model") for one in (tmp_path / "whole", folder))
    assert first.fingerprint == second.fingerprint
    assert lines(tmp_path / "whole") == lines(folder)


def test_an_evaluation_that_is_not_finite_hides_no_divergence(data, tmp_path):
    stage = tiny.stage(
        data,
        model={"size": "L1_H8", "heads": 2, "positions": 16},
        length={"steps": 2},
        optimizer={"learning_rate": 1e30, "warmup": 0.0},
        evaluation={"sets": {"dev": str(data)}, "every": {"steps": 1}, "best": "dev/accuracy"},
    )
    with pytest.raises(DivergenceError, match="step 2 is not finite"):
        run_train(stage, context(tmp_path))
    assert (tmp_path / "checkpoints" / "1").exists()
    once = dataclasses.replace(stage, length=config_lib.Length(steps=1))
    done = run_train(once, context(tmp_path / "once"))
    assert done.metrics["dev/accuracy"] is None and np.isfinite(done.metrics["train/loss"])
    record = {"metrics": done.metrics, "outputs": {}, "seconds": 1.0}
    closing = _closing_line(Planned("job", once, (), "", epath.Path(tmp_path)), record)
    assert "dev/accuracy not finite" in closing


def test_steps_are_left_out_by_option_and_counted_once_over_restarts(data, tmp_path, monkeypatch):
    poison(monkeypatch, 3, 7)
    options = {"skip_nonfinite": 2, "save_seconds": 1e-6}
    done = run_train(tiny.stage(data), context(tmp_path / "whole", **options))
    with monkeypatch.context() as patched:
        stop_at(patched, 8)
        with pytest.raises(Stopped):
            run_train(tiny.stage(data), context(tmp_path / "parts", **options))
    again = run_train(tiny.stage(data), context(tmp_path / "parts", **options))
    assert done.outputs["skipped_steps"] == again.outputs["skipped_steps"] == 2
    assert done.metrics["train/skipped_steps"] == 2
    assert [line["train/skipped_steps"] for line in lines(tmp_path / "whole")] == [1, 2, 2]
    assert all(np.isfinite(line["train/loss"]) for line in lines(tmp_path / "whole"))
    for folder in (tmp_path / "whole", tmp_path / "parts"):
        assert [(note["step"], note["skipped"]) for note in noted(folder)] == [(3, True), (7, True)]
    first, second = (hf.load(tmp_path / name / "model") for name in ("whole", "parts"))
    assert first.fingerprint == second.fingerprint
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def test_more_than_the_option_allows_stops_the_stage(data, tmp_path, monkeypatch):
    poison(monkeypatch, 3, 7)
    with pytest.raises(DivergenceError, match="step 7 .* 1 such steps were skipped before it"):
        run_train(tiny.stage(data), context(tmp_path / "job", skip_nonfinite=1))
