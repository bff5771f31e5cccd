"""Processes that find each other over loopback, agree, compare, and never wait without end."""

import errno
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from pd_jax.errors import PREEMPTED_EXIT_CODE, ConfigError, MeshError, PeerError
from pd_jax.parallel import distributed

ROOT = pathlib.Path(__file__).resolve().parents[2]
VARIABLES = ("PD_JAX_COORDINATOR", "PD_JAX_PROCESSES", "PD_JAX_PROCESS_ID")

TALK = """
import time
import jax
import numpy as np
from pd_jax import config
from pd_jax.errors import MeshError
from pd_jax.parallel import distributed, sharding
from pd_jax.parallel.mesh import make_mesh, row_share

distributed.initialise("auto")
me = jax.process_index()
print(distributed.describe())
print("largest", distributed.agree(10 * me))
print("writer", distributed.is_writer())
distributed.same_everywhere("config", "same")
distributed.barrier("compared")
try:
    distributed.same_everywhere("dataset", f"other {me == 1}")
except MeshError as fault:
    print(fault)
print("first says", distributed.from_writer(np.asarray([me + 5])).tolist())
try:
    with distributed.all_or_none("reading"):
        if me == 1:
            raise OSError("mine")
except (OSError, MeshError) as fault:
    print(fault)
distributed._SIGN_SECONDS = 0.2
print("made", distributed.by_writer("a long stage", lambda: time.sleep(1) or "it"))
mesh = make_mesh(config.Mesh())
index, count = row_share(mesh)
rows = np.arange(16, dtype=np.int32).reshape(count, -1)[index]
total = jax.jit(lambda x: x * x.sum())(sharding.put_batch({"ids": rows}, mesh)["ids"])
print("mine", [int(x) for shard in total.addressable_shards for x in shard.data])
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(code: str, port: int, count: int, index: int, **extra: str) -> subprocess.Popen[str]:
    values = (f"127.0.0.1:{port}", str(count), str(index))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={
            **os.environ,
            **dict(zip(VARIABLES, values, strict=True)),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "2",
            **extra,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("count", [2, 4])
def test_processes_agree_and_compare(count: int) -> None:
    port = free_port()
    processes = [start(TALK, port, count, index) for index in range(count)]
    outputs = [process.communicate(timeout=240) for process in processes]
    for index, (process, (out, err)) in enumerate(zip(processes, outputs, strict=True)):
        assert process.returncode == 0, err
        lines = out.splitlines()
        assert any(line.startswith(f"process {index} of {count} on ") for line in lines)
        assert f"2 of {2 * count} devices" in out
        # Gloo writes to the same pipe, at times into the middle of a line.
        assert f"largest {10 * (count - 1)}\n" in out
        assert f"writer {index == 0}\n" in out
        assert any(line.startswith("dataset of process 1 differs from") for line in lines)
        assert "first says [5]" in lines
        failed = "reading failed in process 1; see that process's message, and run the same command"
        assert ("mine" if index == 1 else f"{failed} again, on all hosts") in lines
        assert f"made {'it' if index == 0 else None}" in lines
        # 0 + 1 + ... + 15 = 120, and each process has its own contiguous rows.
        share = 16 // count
        mine = [120 * row for row in range(index * share, (index + 1) * share)]
        assert f"mine {mine}" in lines


def test_sigterm_stays_with_whoever_handled_it_before() -> None:
    code = """
import os, signal, time
from pd_jax.parallel import distributed
from pd_jax.signals import Stopped, stop_on

stop_on(signal.SIGTERM)
distributed.initialise("on")
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    print("swallowed")
except Stopped as stopped:
    print(stopped)
"""
    process = start(code, free_port(), 1, 0)
    out, err = process.communicate(timeout=120)
    assert out == "SIGTERM\n", err


@pytest.mark.parametrize(
    ("index", "extra", "hint"),
    [
        (1, {}, "let them reach the coordinator's port"),
        (0, {"MEGASCALE_NUM_SLICES": "2"}, "unset MEGASCALE_NUM_SLICES=2"),
    ],
)
def test_a_process_that_stays_alone_ends_in_time(index: int, extra: dict, hint: str) -> None:
    code = "from pd_jax.parallel import distributed; distributed.initialise('on')"
    started = time.monotonic()
    process = start(code, free_port(), 2, index, PD_JAX_WAIT_SECONDS="3", **extra)
    out, err = process.communicate(timeout=120)
    # A late process is there at the next try.
    assert process.returncode == PREEMPTED_EXIT_CODE
    assert time.monotonic() - started < 60
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert f"process {index} of 2" in line
    assert "within 3 s" in line
    assert hint in line


FAILING = """
import sys
from pd_jax.parallel import distributed

def work():
    raise OSError("the disk went away")

distributed.initialise("on")
with distributed.leaving_with_the_lost():
    distributed.by_writer("a stage", work)
"""


def test_a_fault_of_one_that_a_later_try_may_mend_is_final_for_none() -> None:
    port = free_port()
    processes = [start(FAILING, port, 2, index) for index in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, PREEMPTED_EXIT_CODE], errors
    assert "OSError: the disk went away" in errors[0]
    assert errors[1].splitlines()[-1].startswith("error: a stage failed in process 0; see that")
    assert "Traceback" not in errors[1]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (OSError("the disk went away"), PeerError),
        (PeerError("another one's"), PeerError),
        (ConfigError("no such key"), MeshError),
        (OSError(errno.ENOSPC, "No space left on device"), MeshError),
    ],
)
def test_the_others_end_as_the_one_at_fault(
    fault: Exception, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everyones(values: np.ndarray) -> np.ndarray:
        return np.stack([values, [distributed._end_by(fault)]])

    monkeypatch.setattr(distributed, "_everyones", everyones)
    with pytest.raises(MeshError, match="reading failed in process 1; see that process") as raised:
        with distributed.all_or_none("reading"):
            pass
    assert type(raised.value) is kind
    with pytest.raises(KeyError, match="mine"), distributed.all_or_none("reading"):
        raise KeyError("mine")


LOOP = """
import time
from pd_jax.parallel import distributed
distributed.initialise("on")
print("met", flush=True)
while True:
    distributed.agree(1)
    time.sleep(0.1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_loss_of_a_process_ends_the_others_in_time(victim: int) -> None:
    port = free_port()
    processes = [start(LOOP, port, 2, index) for index in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "met\n"
    time.sleep(5)
    started = time.monotonic()
    processes[victim].kill()
    _, err = processes[1 - victim].communicate(timeout=150)
    processes[victim].communicate()
    assert time.monotonic() - started < 120
    assert processes[1 - victim].returncode not in (0, 2)
    assert re.search("peer|another task died|[Hh]eartbeat|unavailable", err)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    launchers = ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "OMPI_MCA_orte_hnp_uri")
    for name in (*VARIABLES, "PD_JAX_WAIT_SECONDS", *launchers, "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    # Nothing here may reach out, whatever a test gets wrong.
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("joined"))
    return monkeypatch


def test_one_process_needs_no_one(alone: pytest.MonkeyPatch) -> None:
    distributed.initialise("auto")
    distributed.initialise("off")
    assert distributed.agree(7) == 7
    assert distributed.is_writer()
    distributed.same_everywhere("config", "any")
    distributed.barrier("any")
    with pytest.raises(MeshError, match="--distributed=on, but no setting names the other"):
        distributed.initialise("on")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("host:1", "2", ""), "PD_JAX_PROCESS_ID=''"),
        (("host:1", "two", "0"), "PD_JAX_PROCESSES='two'"),
        (("host", "2", "0"), "'host' has no port"),
        (("host:1", "2", "2"), "PD_JAX_PROCESS_ID=2 is not below PD_JAX_PROCESSES=2"),
    ],
)
def test_what_the_variables_must_say(
    values: tuple[str, str, str], message: str, alone: pytest.MonkeyPatch
) -> None:
    for name, value in zip(VARIABLES, values, strict=True):
        alone.setenv(name, value)
    with pytest.raises(MeshError) as refusal:
        distributed.initialise("auto")
    assert message in str(refusal.value)


def test_the_wait_must_be_a_number(alone: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("host:1", "2", "0"), strict=True):
        alone.setenv(name, value)
    alone.setenv("PD_JAX_WAIT_SECONDS", "soon")
    with pytest.raises(MeshError, match="PD_JAX_WAIT_SECONDS='soon'"):
        distributed.initialise("auto")


@pytest.mark.parametrize(
    ("mark", "count"),
    [("SLURM_STEP_NODELIST", "SLURM_NTASKS"), ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE")],
)
def test_a_launcher_that_started_one_process_satisfies_on(
    mark: str, count: str, alone: pytest.MonkeyPatch
) -> None:
    alone.setenv(count, "1")
    with pytest.raises(MeshError, match="no setting names the other"):  # sbatch without srun
        distributed.initialise("on")
    alone.setenv(mark, "given")
    distributed.initialise("on")


def test_slurm_tasks_join_and_a_lone_one_does_not(alone: pytest.MonkeyPatch) -> None:
    asked: list[dict] = []
    alone.setattr(jax.distributed, "initialize", lambda **given: asked.append(given))
    alone.setenv("SLURM_STEP_NODELIST", "node[1-2]")
    alone.setenv("SLURM_NTASKS", "1")
    distributed.initialise("auto")
    assert asked == []
    alone.setenv("SLURM_NTASKS", "16")
    distributed.initialise("auto")
    assert asked[0]["coordinator_address"] is None
    assert asked[0]["heartbeat_timeout_seconds"] <= 60
