"""An interrupted run ends as the undisturbed one: weights bit for bit, metrics line for line."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from etils import epath

from pd_jax.errors import CheckpointError
from pd_jax.models.weights import hf
from pd_jax.signals import Stopped
from pd_jax.stages import train
from pd_jax.stages.context import Context
from pd_jax.stages.train import run_train
from pd_jax.training import loop
from tests import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tiny.dataset(folder / "train", rows=200)
    tiny.dataset(folder / "dev", rows=50, seed=1)
    return folder


def stage(data, **changes):
    evaluation = {"sets": {"dev": str(data / "dev")}, "every": {"steps": 5}, "best": "dev/accuracy"}
    return tiny.stage(data / "train", evaluation=evaluation, **changes)


def context(folder, **options):
    return Context("job", epath.Path(folder), tiny.run_options(**options))


def lines(folder) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in found]


def stop_at(monkeypatch, step: int) -> None:
    """Asks the loop to stop before the given step, as a signal does."""
    wish = loop.Loop._wish

    def stopping(self, number):
        return loop._Wish(False, signal.SIGTERM) if number == step else wish(self, number)

    monkeypatch.setattr(loop.Loop, "_wish", stopping)


def test_stopped_and_continued_equals_undisturbed(data, tmp_path, monkeypatch):
    whole = run_train(stage(data), context(tmp_path / "whole"))
    with monkeypatch.context() as patched:
        stop_at(patched, 6)
        with pytest.raises(Stopped) as stopped:
            run_train(stage(data), context(tmp_path / "parts"))
    assert stopped.value.exit_code == 75
    assert not (tmp_path / "parts" / "model").exists()
    parts = run_train(stage(data), context(tmp_path / "parts"))

    first, second = (hf.load(tmp_path / name / "model") for name in ("whole", "parts"))
    assert first.fingerprint == second.fingerprint
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert whole.metrics == parts.metrics
    assert whole.outputs == parts.outputs


@pytest.mark.parametrize("step", [5, 12], ids=["on the way", "at the end"])
def test_stopped_while_it_evaluates_and_continued_equals_undisturbed(
    step, data, tmp_path, monkeypatch
):
    """The evaluation that was left is made again; so is one whose process was killed behind it."""
    made = stage(data)
    made = dataclasses.replace(made, evaluation=dataclasses.replace(made.evaluation, batch=8))
    whole = run_train(made, context(tmp_path / "whole"))
    evaluate, folder = loop.Loop._evaluate, tmp_path / "parts"

    def signalled(self, number):
        given, calls = self.job.evaluate, itertools.count()

        def stopped_at_the_second_batch(params, alive):
            def alive_then_signal():
                if number == step and next(calls) == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                alive()

            return given(params, alive_then_signal)

        self.job = dataclasses.replace(self.job, evaluate=stopped_at_the_second_batch)
        evaluate(self, number)

    def killed(self, number):
        evaluate(self, number)
        pytest.fail("killed")

    for ends, by in ((signalled, Stopped), (killed, pytest.fail.Exception)):
        with monkeypatch.context() as patched, pytest.raises(by):
            patched.setattr(loop.Loop, "_evaluate", ends)
            run_train(made, context(folder))
        assert [path.name for path in (folder / "checkpoints").iterdir()] == [str(step)]
        evaluated = [line["step"] for line in lines(folder) if "dev/accuracy" in line]
        assert (step in evaluated) is (ends is killed)
    parts = run_train(made, context(folder))
    first, second = (hf.load(tmp_path / name / "model") for name in ("whole", "parts"))
    assert first.fingerprint == second.fingerprint
    assert lines(tmp_path / "whole") == lines(folder)
    assert whole.metrics == parts.metrics
    assert whole.outputs == parts.outputs


def test_killed_by_sigkill_and_continued_equals_undisturbed(data, tmp_path):
    program = textwrap.dedent(
        """
        import os, pathlib, signal, sys
        from etils import epath
        from tests import tiny
        from tests.resume.test_resume import context, stage
        from pd_jax.stages.train import run_train
        from pd_jax.training import loop
        data, folder, at = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
        due = loop.Loop._due_to_evaluate
        def killed(self, number):
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return due(self, number)
        loop.Loop._due_to_evaluate = killed
        run_train(stage(data), context(folder, save_seconds=1e-6))
        """
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}

    def attempt(folder, at: int) -> int:
        command = [sys.executable, "-c", program, str(data), str(folder), str(at)]
        return subprocess.run(command, env=environment, timeout=300, check=False).returncode

    assert attempt(tmp_path / "killed", 7) == -signal.SIGKILL
    assert attempt(tmp_path / "killed", 10_000) == 0
    run_train(stage(data), context(tmp_path / "whole"))
    first, second = (hf.load(tmp_path / name / "model") for name in ("whole", "killed"))
    assert first.fingerprint == second.fingerprint
    assert lines(tmp_path / "whole") == lines(tmp_path / "killed")


def test_killed_after_its_model_was_written_and_continued_equals_undisturbed(
    data, tmp_path, monkeypatch
):
    whole = run_train(stage(data), context(tmp_path / "whole"))
    with monkeypatch.context() as patched:
        # What follows the model, and `done.json` behind it, is never reached.
        patched.setattr(train, "matmul_peak", lambda dtype: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            run_train(stage(data), context(tmp_path / "parts"))
    assert (tmp_path / "parts" / "model").exists()
    parts = run_train(stage(data), context(tmp_path / "parts"))
    first, second = (hf.load(tmp_path / name / "model") for name in ("whole", "parts"))
    assert first.fingerprint == second.fingerprint
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert whole.metrics == parts.metrics
    assert whole.outputs["best_step"] is not None


def test_another_mesh_continues_within_rounding(data, tmp_path, monkeypatch):
    run_train(stage(data), context(tmp_path / "whole"))
    with monkeypatch.context() as patched:
        stop_at(patched, 6)
        with pytest.raises(Stopped):
            run_train(stage(data), context(tmp_path / "parts"))
    run_train(stage(data), context(tmp_path / "parts", mesh={"data": 2, "fsdp": 2, "tensor": 2}))
    first, second = (hf.load(tmp_path / name / "model") for name in ("whole", "parts"))
    kernels = [model.params["classifier"]["kernel"] for model in (first, second)]
    np.testing.assert_allclose(*kernels, atol=1e-6)


@pytest.fixture
def with_two_checkpoints(data, tmp_path, monkeypatch):
    """A stage that was stopped at step 6 and has checkpoints of steps 5 and 6."""
    folder = tmp_path / "damaged"
    with monkeypatch.context() as patched:
        stop_at(patched, 6)
        with pytest.raises(Stopped):
            run_train(stage(data), context(folder, save_seconds=1e-6))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["5", "6"]
    return folder


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def harm(checkpoint, damage) -> None:
    """Damages every file that may hold arrays: Orbax also leaves copies that it never reads."""
    found = [path for path in checkpoint.rglob("*") if path.is_file()]
    large = [path for path in found if path.stat().st_size > 4096]
    assert large
    for path in large:
        damage(path)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    ],
    ids=["flipped bit", "emptied", "truncated"],
)
def test_a_damaged_newest_checkpoint_is_set_aside(
    with_two_checkpoints, data, damage, tmp_path, capsys
):
    harm(with_two_checkpoints / "checkpoints" / "6", damage)
    run_train(stage(data), context(with_two_checkpoints))
    assert "6 is damaged" in capsys.readouterr().err
    assert (with_two_checkpoints / "damaged_checkpoints" / "6").exists()
    run_train(stage(data), context(tmp_path / "whole"))
    models = [hf.load(folder / "model") for folder in (with_two_checkpoints, tmp_path / "whole")]
    assert models[0].fingerprint == models[1].fingerprint
    assert lines(with_two_checkpoints) == lines(tmp_path / "whole")


def test_when_every_checkpoint_is_damaged_the_user_is_told(with_two_checkpoints, data):
    for step in ("5", "6"):
        harm(with_two_checkpoints / "checkpoints" / step, flip)
    with pytest.raises(CheckpointError, match="all 2 checkpoints .* are damaged"):
        run_train(stage(data), context(with_two_checkpoints))
    assert sorted(path.name for path in (with_two_checkpoints / "checkpoints").iterdir()) == [
        "5",
        "6",
    ]


def test_candidates_for_the_best_weights_do_not_pile_up(data, tmp_path, monkeypatch):
    """Each evaluation is the best so far; what a kept checkpoint names stays at hand."""
    rising = itertools.count()
    monkeypatch.setattr(train, "_named", lambda scored: {"dev/accuracy": next(rising) / 100})
    at_hand, save = [], loop.Loop._save

    def saving(self, number, state=None):
        save(self, number, state)
        best = tmp_path / "job" / "best"
        at_hand.append(sorted(int(path.name) for path in best.iterdir()) if best.exists() else [])

    monkeypatch.setattr(loop.Loop, "_save", saving)
    evaluation = {"sets": {"dev": str(data / "dev")}, "every": {"steps": 1}, "best": "dev/accuracy"}
    made = tiny.stage(data / "train", evaluation=evaluation, length={"steps": 8})
    done = run_train(made, context(tmp_path / "job", save_seconds=1e-6, keep_checkpoints=2))
    assert done.outputs["best_step"] == 8
    for step, found in enumerate(at_hand, start=1):
        assert found[-1] == step and found[0] >= max(1, step - 3)
        assert found == list(range(found[0], step + 1))
