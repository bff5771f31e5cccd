"""A run over two processes of which one is killed: the other ends in time, and all continue."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from pd_jax.models.weights import hf
from tests.e2e.test_pipeline import write_text

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = """
import pathlib
from configs import common
from tests.e2e.test_pipeline import small_chain

def get_config(arg=""):
    config = small_chain(pathlib.Path({text!r}))
    kept = ("vocabulary", "train", "dev", "teacher")
    config["stages"] = {{name: config["stages"][name] for name in kept}}
    config["report"] = {{"rows": (("Teacher", "teacher"),)}}
    return common.locked(config)
"""


class Pair:
    """Two processes of the main program with the same command; their words go to files."""

    def __init__(self, folder: pathlib.Path, workdir: str, *, devices: int, save_seconds: float):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "pd_jax.main", f"--config={folder / 'config.py'}"]
        command += [f"--workdir={folder / workdir}", f"--config.run.save_seconds={save_seconds}"]
        self.logs = [folder / f"{workdir}-{port}-{index}.log" for index in range(2)]
        self.processes = []
        for index, log in enumerate(self.logs):
            variables = {
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": str(devices),
                "PD_JAX_COORDINATOR": f"127.0.0.1:{port}",
                "PD_JAX_PROCESSES": "2",
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

    def said(self, index: int) -> str:
        return self.logs[index].read_text()

    def end_well(self) -> None:
        for index, process in enumerate(self.processes):
            assert process.wait(timeout=500) == 0, self.said(index)


def model(folder: pathlib.Path) -> hf.SavedModel:
    (found,) = (folder / "stages").glob("teacher-*/model")
    return hf.load(found)


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "devices"), [(1, 1), (0, 1), (1, 2)])
def test_one_killed_the_other_ends_and_the_same_command_continues(victim, devices, tmp_path):
    write_text(tmp_path / "text")
    config = textwrap.dedent(CONFIG).format(text=str(tmp_path / "text"))
    (tmp_path / "config.py").write_text(config)
    whole = Pair(tmp_path, "whole", devices=devices, save_seconds=300.0)
    whole.end_well()

    pair = Pair(tmp_path, "killed", devices=devices, save_seconds=0.01)
    checkpoints = "killed/stages/teacher-*/checkpoints/[0-9]*"
    while not any(path.name.isdecimal() for path in tmp_path.glob(checkpoints)):
        assert all(process.poll() is None for process in pair.processes), pair.said(victim)
        time.sleep(0.02)
    pair.processes[victim].send_signal(signal.SIGKILL)
    began = time.monotonic()
    pair.processes[victim].wait()
    status = pair.processes[1 - victim].wait(timeout=120)
    assert time.monotonic() - began < 120
    assert status not in (0, 2, 130), pair.said(1 - victim)
    last = pair.said(1 - victim).splitlines()[-1]
    assert re.fullmatch(
        f"error: process {1 - victim} of 2 was ended from outside: .*run the same command again.*",
        last,
    )
    assert not list(tmp_path.glob("killed/stages/teacher-*/done.json"))

    again = Pair(tmp_path, "killed", devices=devices, save_seconds=300.0)
    again.end_well()
    assert "continuing in" in again.said(0)
    # Only process 0 speaks of the work.
    assert "teacher: " in again.said(0) and "teacher: " not in again.said(1)
    assert model(tmp_path / "killed").fingerprint == model(tmp_path / "whole").fingerprint
