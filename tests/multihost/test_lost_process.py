"""Runs over two processes: one is killed, the other ends in time; and runs that change their count
on the way.
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from unittest import mock

import jax
import numpy as np
import pytest

from pd_jax import jobs, pipeline
from pd_jax.data.logits.store import LogitStore
from pd_jax.data.records.dataset import Dataset
from pd_jax.errors import PREEMPTED_EXIT_CODE, DivergenceError, StageError
from pd_jax.models.weights import hf
from pd_jax.parallel import distributed
from pd_jax.training import driver
from tests import tiny
from tests.e2e.chain import write_text
from tests.multihost.test_distributed import free_port, start

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = """
import pathlib
from configs import common
from tests.e2e.chain import small_chain

def get_config(arg=""):
    config = small_chain(pathlib.Path({text!r}))
    kept = ("vocabulary", "train", "dev", "teacher", "transfer", "labels")
    config["stages"]["transfer"]["shards"] = 16
    config["stages"] = {{name: config["stages"][name] for name in kept}}
    # Two processes round their sums otherwise, which a high rate enlarges from step to step.
    config["stages"]["teacher"]["optimizer"] = {{"learning_rate": 1e-4}}
    config["report"] = {{"rows": (("Teacher", "teacher"),)}}
    return common.locked(config)
"""


# A checkpoint is whole when it has its last name, a number.
RUNS = ("whole", "killed")
SAVED = "killed/stages/teacher-*/checkpoints/*[0-9]"


class Together:
    """Processes of the main program with the same command; their words go to files."""

    def __init__(
        self,
        folder: pathlib.Path,
        workdir: str,
        *,
        save_seconds: float,
        devices: int = 1,
        count: int = 2,
        stages: str = "vocabulary,train,dev,teacher",
    ):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "pd_jax.main", f"--config={folder / 'config.py'}"]
        command += [f"--workdir={folder / workdir}", f"--config.run.save_seconds={save_seconds}"]
        command.append(f"--stages={stages}")
        self.logs = [folder / f"{workdir}-{port}-{index}.log" for index in range(count)]
        self.processes = []
        for index, log in enumerate(self.logs):
            variables = {
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": str(devices),
                "PD_JAX_COORDINATOR": f"127.0.0.1:{port}",
                "PD_JAX_PROCESSES": str(count),
                "PD_JAX_PROCESS_ID": str(index),
            }
            with log.open("w") as stream:
                self.processes.append(
                    subprocess.Popen(
                        command,
                        cwd=ROOT,
                        env={**os.environ, **variables},
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                    )
                )

    def printed(self, index: int) -> str:
        return self.logs[index].read_text()

    def end_well(self) -> None:
        for index, process in enumerate(self.processes):
            assert process.wait(timeout=500) == 0, self.printed(index)

    def until_saved(self, pattern: str, before: Sequence[pathlib.Path] = ()) -> None:
        """Returns when a file is there of a pattern, that is none of those before."""
        while not set(self.logs[0].parent.glob(pattern)) - set(before):
            assert all(process.poll() is None for process in self.processes), self.printed(0)
            time.sleep(0.02)


def write_config(folder: pathlib.Path, transfer: int = 1) -> None:
    """Writes the texts, the transfer set so many times over, and the config."""
    write_text(folder / "text")
    rows = (folder / "text" / "transfer.txt").read_text().splitlines() * transfer
    numbered = "".join(f"{row} {number}\n" for number, row in enumerate(rows))
    (folder / "text" / "transfer.txt").write_text(numbered)
    config = textwrap.dedent(CONFIG).format(text=str(folder / "text"))
    (folder / "config.py").write_text(config)


def model(folder: pathlib.Path) -> hf.SavedModel:
    (found,) = (folder / "stages").glob("teacher-*/model")
    return hf.load(found)


def metrics(folder: pathlib.Path, name: str) -> list[float]:
    """Returns what the teacher's training wrote of a quantity."""
    (found,) = (folder / "stages").glob("teacher-*/metrics.jsonl")
    lines = [json.loads(line) for line in found.read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("fault", [jax.errors.JaxRuntimeError, ValueError])
def test_a_collective_whose_peer_is_gone_ends_the_process_and_other_faults_do_not(
    fault, monkeypatch, capsys
):
    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as left, distributed.leaving_with_the_lost():
        raise fault("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
    assert left.value.code == PREEMPTED_EXIT_CODE
    assert capsys.readouterr().err.startswith("error: UNKNOWN: Gloo AllGather failed")
    with pytest.raises(fault, match="another fault"), distributed.leaving_with_the_lost():
        raise fault("another fault")


@pytest.mark.parametrize("fault", [OSError("the disk went away"), DivergenceError("not finite")])
def test_a_process_at_fault_waits_for_the_others_only_where_all_are(fault, monkeypatch):
    asked = []
    begun = mock.Mock(job=None)
    monkeypatch.setattr(driver, "begin", lambda job, run, *, clocks: (begun, "state"))
    monkeypatch.setattr(driver, "_run_states", lambda *_: None)
    monkeypatch.setattr(driver, "_progress", lambda loops: contextlib.nullcontext())
    monkeypatch.setattr(driver, "_drive", lambda *_: [fault])
    monkeypatch.setattr(distributed, "agree", lambda value: asked.append(value) or value)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    assert driver.train([None], tiny.run_options(), mesh) == [fault]
    assert asked == ([0] if isinstance(fault, DivergenceError) else [])


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("fault", [OSError("the disk went away"), DivergenceError("not finite")])
def test_a_study_over_processes_goes_on_only_after_a_fault_of_all(count, fault, monkeypatch):
    printed: list[str] = []
    outcomes = iter([jobs.Outcome("a", fault=fault), jobs.Outcome("b", lacks="a")])
    kept = mock.Mock(faults=["a", "b"])
    ends = count == 2 and isinstance(fault, OSError)
    monkeypatch.setattr(jax, "process_count", lambda: count)
    with pytest.raises(OSError if ends else StageError):
        pipeline._follow(outcomes, {}, kept, study=True, count=2, say=printed.append)
    assert len(printed) == (0 if ends else 1)
    assert len(list(outcomes)) == (1 if ends else 0)


FAULT = """
import os, pathlib
import jax
from etils import epath
from pd_jax.parallel import distributed
from pd_jax.stages import train
from pd_jax.stages.context import Context
from tests import tiny

distributed.initialise("on")
feed = train._Work.feed

def failing(self, first_step):
    for step, batch in enumerate(feed(self, first_step)):
        if step == 5 and jax.process_index() == 1:
            raise OSError("the disk of process 1 went away")
        yield batch

train._Work.feed = failing
folder = pathlib.Path(os.environ["FOLDER"])
context = Context("job", epath.Path(folder / "job"), tiny.run_options())
with distributed.leaving_with_the_lost():
    train.run_train(tiny.stage(folder / "train"), context)
"""


@pytest.mark.slow
def test_a_fault_of_one_process_is_told_and_ends_all(tmp_path):
    tiny.dataset(tmp_path / "train", rows=200)
    port = free_port()
    processes = [start(FAULT, port, 2, index, FOLDER=str(tmp_path)) for index in range(2)]
    errors = [process.communicate(timeout=400)[1] for process in processes]
    assert all(process.returncode for process in processes)
    assert "OSError: the disk of process 1 went away" in errors[1]
    assert not (tmp_path / "job" / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "devices"), [(1, 1), (0, 1), (1, 2)])
def test_one_killed_the_other_ends_and_the_same_command_continues(victim, devices, tmp_path):
    write_config(tmp_path)
    whole = Together(tmp_path, "whole", devices=devices, save_seconds=300.0)
    whole.end_well()

    pair = Together(tmp_path, "killed", devices=devices, save_seconds=0.01)
    pair.until_saved(SAVED)
    pair.processes[victim].send_signal(signal.SIGKILL)
    began = time.monotonic()
    pair.processes[victim].wait()
    status = pair.processes[1 - victim].wait(timeout=120)
    assert time.monotonic() - began < 120
    assert status not in (0, 2, 130), pair.printed(1 - victim)
    last = pair.printed(1 - victim).splitlines()[-1]
    assert re.fullmatch(
        f"error: process {1 - victim} of 2 was ended from outside: .*run the same command again.*",
        last,
    )
    assert not list(tmp_path.glob("killed/stages/teacher-*/done.json"))

    again = Together(tmp_path, "killed", devices=devices, save_seconds=300.0)
    again.end_well()
    assert "continuing in" in again.printed(0)
    # Only process 0 speaks of the work.
    assert "teacher: " in again.printed(0) and "teacher: " not in again.printed(1)
    assert model(tmp_path / "killed").fingerprint == model(tmp_path / "whole").fingerprint


@pytest.mark.slow
def test_a_run_over_one_then_two_then_one_process_is_the_undisturbed_one(tmp_path):
    write_config(tmp_path)
    whole = Together(tmp_path, "whole", save_seconds=300.0, count=1)
    whole.end_well()

    for count in (1, 2):
        before = list(tmp_path.glob(SAVED))
        together = Together(tmp_path, "killed", save_seconds=0.01, count=count)
        together.until_saved(SAVED, before)
        for process in together.processes:
            process.send_signal(signal.SIGTERM)
        ends = [process.wait(timeout=120) for process in together.processes]
        assert ends == [PREEMPTED_EXIT_CODE] * count, together.printed(0)
        assert not list(tmp_path.glob("killed/stages/teacher-*/done.json"))
    last = Together(tmp_path, "killed", save_seconds=300.0, count=1)
    last.end_well()
    assert "continuing in" in last.printed(0)

    losses = [metrics(tmp_path / name, "train/loss") for name in RUNS]
    assert len(losses[0]) > 2
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-6)
    undisturbed, changed = (model(tmp_path / name).params for name in RUNS)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), undisturbed, changed
    )


@pytest.mark.slow
def test_two_processes_label_as_one_does_and_a_killed_labelling_keeps_its_shards(tmp_path):
    write_config(tmp_path, transfer=60)
    everything = "vocabulary,train,dev,transfer,teacher"
    Together(tmp_path, "whole", save_seconds=300.0, count=1, stages=everything).end_well()
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    Together(tmp_path, "whole", save_seconds=300.0, count=1, stages="labels").end_well()

    pair = Together(tmp_path, "killed", save_seconds=300.0, stages="labels")
    notes = "killed/stages/labels-*/logits/*.shard.json"
    pair.until_saved(notes)
    pair.processes[1].send_signal(signal.SIGKILL)
    assert [process.wait(timeout=120) for process in pair.processes][0] not in (0, 2, 130)
    assert not list(tmp_path.glob("killed/stages/labels-*/done.json")), "nothing was left to do"
    first = {path.with_suffix("").with_suffix(".tfrecord") for path in tmp_path.glob(notes)}
    written = {path: path.stat().st_mtime_ns for path in first}
    assert 0 < len(first) < 16
    Together(tmp_path, "killed", save_seconds=300.0, stages="labels").end_well()
    assert {path: path.stat().st_mtime_ns for path in first} == written

    stores = [sorted(tmp_path.glob(f"{name}/stages/labels-*/logits/*.tfrecord")) for name in RUNS]
    assert len(stores[0]) == 16
    dataset = Dataset.open(next(tmp_path.glob("whole/stages/transfer-*/records")))
    rows = np.arange(len(dataset))
    ids = dataset.gather(rows).example_ids
    one, two = (LogitStore.open(paths[0].parent).check(dataset).read(rows, ids) for paths in stores)
    # A product of half as many rows may add up in another order.
    np.testing.assert_allclose(one["logits"], two["logits"], rtol=1e-5, atol=1e-6)
