"""Processes over loopback lose, and score, what one process with one device does."""

import functools
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import pytest

from pd_jax import config
from pd_jax.parallel.mesh import make_mesh
from tests.multihost import same_losses

ROOT = pathlib.Path(__file__).resolve().parents[2]


@functools.cache
def on_one_device() -> tuple[dict[str, list[float]], dict[str, float]]:
    mesh = make_mesh(config.Mesh(), jax.devices()[:1])
    losses = {job: same_losses.losses(job, mesh) for job in same_losses.JOBS}
    return losses, same_losses.scores(mesh)


@pytest.mark.parametrize(("count", "fsdp"), [(2, 2), pytest.param(4, 1, marks=pytest.mark.slow)])
def test_processes_lose_what_one_loses(count: int, fsdp: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.multihost.same_losses", str(fsdp)],
            cwd=ROOT,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": "2" if count == 2 else "1",
                "PD_JAX_COORDINATOR": f"127.0.0.1:{port}",
                "PD_JAX_PROCESSES": str(count),
                "PD_JAX_PROCESS_ID": str(index),
                "PYTHONHASHSEED": str(index),  # a set's order is a process's own
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    outputs = [process.communicate(timeout=500) for process in processes]
    for process, (out, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err
        found = json.loads(out.splitlines()[-1])
        losses, scores = on_one_device()
        for job, expected in losses.items():
            assert found[job] == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert found["scores"] == pytest.approx(scores, rel=1e-5, abs=1e-6)
