"""Runs trained by one program end as each would alone: weights, metrics, files; stopped or not."""

import dataclasses
import json
import signal

import jax
import numpy as np
import pytest
from etils import epath

from pd_jax.errors import DivergenceError, WeightsError
from pd_jax.models.weights import hf
from pd_jax.parallel import mesh
from pd_jax.signals import Stopped
from pd_jax.stages import train
from pd_jax.stages.context import Context
from pd_jax.stages.train import run_together, run_train
from pd_jax.training import loop
from tests import tiny

RUNS = ((0, 1e-3), (1, 3e-3))
"""Seeds and learning rates."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    train = tiny.dataset(folder / "train", rows=200)
    tiny.dataset(folder / "dev", rows=50, seed=1)
    teacher = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    tiny.logit_store(folder / "logits", train, teacher)
    return folder


def stages(data, kind: str, **changes):
    evaluation = {"sets": {"dev": str(data / "dev")}, "every": {"steps": 5}, "best": "dev/accuracy"}
    settings = {"records": str(data / "train"), "batch": 16, "lengths": (16,)}
    if kind == "distill":
        settings["logits"] = str(data / "logits")
    fields = {"objective": {"kind": kind}, "data": settings, "evaluation": evaluation}
    return [
        tiny.stage(
            data / "train", **{**fields, **changes}, seed=seed, optimizer={"learning_rate": rate}
        )
        for seed, rate in RUNS
    ]


def contexts(folder, **options):
    run = tiny.run_options(mesh={"data": 1}, **options)
    return [
        Context(f"job-{number}", epath.Path(folder) / str(number), run)
        for number in range(len(RUNS))
    ]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """A mesh of the first device: what is compared is the stack, not the mesh."""
    monkeypatch.setattr(train, "mesh_for", lambda run: mesh.mesh_for(run, jax.devices()[:1]))


def lines(folder) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in found]


def assert_like(folder, alone) -> None:
    """Weights, every line of metrics and predictions are those of the run alone."""
    first, second = (hf.load(path / "model").params for path in (folder, alone))
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), first, second
    )
    for one, other in zip(lines(folder), lines(alone), strict=True):
        assert one == pytest.approx(other, abs=1e-5, rel=1e-5)
    assert {path.name for path in folder.iterdir()} == {path.name for path in alone.iterdir()}


def assert_each_as_alone(data, tmp_path, kind: str, together: list) -> None:
    """Compares every run in tmp_path/together with the same run alone."""
    for number, (stage, context) in enumerate(
        zip(stages(data, kind), contexts(tmp_path / "alone"), strict=True)
    ):
        done = run_train(stage, context)
        found = together[number]
        assert dict(found.metrics) == pytest.approx(dict(done.metrics), abs=1e-5, rel=1e-5)
        same = ("steps", "examples", "parameters", "megabytes", "outputs")
        assert [getattr(found, name) for name in same] == [getattr(done, name) for name in same]
        assert_like(tmp_path / "together" / str(number), tmp_path / "alone" / str(number))


def test_stopped_and_continued_each_ends_as_alone(data, tmp_path, monkeypatch):
    wish = loop.Loop._wish

    def stopping(self, number):
        # The signal reaches the second run at its step 6, the first a step later: as it may.
        at = 6 if self.job.seed == 1 else 7
        return loop._Wish(False, signal.SIGTERM) if number == at else wish(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Loop, "_wish", stopping)
        with pytest.raises(Stopped):
            run_together(stages(data, "classify"), contexts(tmp_path / "together"))
    saved = [tmp_path / "together" / str(number) / "checkpoints" for number in range(len(RUNS))]
    assert [sorted(path.name for path in folder.iterdir()) for folder in saved] == [["7"], ["6"]]
    together = run_together(stages(data, "classify"), contexts(tmp_path / "together"))
    assert_each_as_alone(data, tmp_path, "classify", together)


def test_what_all_read_is_opened_once(data, tmp_path, monkeypatch):
    opened = []
    whole = train.open_material
    monkeypatch.setattr(train, "open_material", lambda given: opened.append(given) or whole(given))
    done = run_together(stages(data, "classify", length={"steps": 2}), contexts(tmp_path))
    assert [one.steps for one in done] == [2, 2] and len(opened) == 1


def test_one_that_cannot_begin_is_no_fault_of_the_other(data, tmp_path):
    good, bad = stages(data, "classify", length={"steps": 2})
    bad = dataclasses.replace(bad, init={"source": str(tmp_path / "none")})
    done, fault = run_together([good, bad], contexts(tmp_path))
    assert isinstance(fault, WeightsError) and done.steps == 2
    assert [isinstance(one, WeightsError) for one in run_together([bad], contexts(tmp_path)[1:])]


@pytest.mark.slow
def test_distilled_together_each_ends_as_alone(data, tmp_path):
    together = run_together(stages(data, "distill"), contexts(tmp_path / "together"))
    assert_each_as_alone(data, tmp_path, "distill", together)


@pytest.mark.slow
def test_one_that_diverges_is_no_fault_of_the_other(data, tmp_path):
    good, bad = stages(data, "classify")
    bad = dataclasses.replace(bad, optimizer={"learning_rate": 1e30, "clip": None, "warmup": 0.0})
    good = dataclasses.replace(good, optimizer={"learning_rate": 1e-3, "clip": None, "warmup": 0.0})
    first, second = contexts(tmp_path / "together")
    done, fault = run_together([good, bad], [first, second])
    assert isinstance(fault, DivergenceError)
    alone = run_train(good, contexts(tmp_path / "alone")[0])
    assert dict(done.metrics) == pytest.approx(dict(alone.metrics), abs=1e-5, rel=1e-5)
    assert_like(tmp_path / "together" / "0", tmp_path / "alone" / "0")
