"""Jobs that wait for each other: in one process or several, failing, killed, and asked to stop."""

import functools
import multiprocessing
import os
import resource
import signal
import time

import pytest

from pd_jax import jobs
from pd_jax.errors import ConfigError, StageError
from pd_jax.processes import available_cores
from pd_jax.signals import Stopped


def work(group: jobs.Group, say: jobs.Say) -> list[tuple[str, int | str] | Exception]:
    """What jobs of these tests do, by the beginning of the first one's name."""
    name = group[0]
    say(f"began {' and '.join(group)}")
    if len(group) > 1:
        return [StageError(f"{one} is bad") if one == "bad" else (one, 0) for one in group]
    if name.startswith("bad"):
        raise StageError(f"{name} is bad")
    if name.startswith("bug"):
        raise KeyError(name)
    if name.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("long"):
        time.sleep(600)  # outlives the start of every other process, on a slow machine, too
    if name.startswith("memory"):
        assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ  # XLA takes one of both names
        return [(name, os.environ["XLA_CLIENT_MEM_FRACTION"])]
    if name.startswith("pages"):
        return [(name, page_faults())]
    return [(name, len(available_cores()))]


def page_faults() -> int:
    """Returns how many page faults 64 MB cost that are taken a second time."""
    before = []
    for _ in range(3):
        before.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        bytes(b"x" * (1 << 26))
    return before[-1] - before[-2]


def outcomes(needs, *, count: int, printed: list[str], groups=()) -> dict:
    found = jobs.run(
        needs,
        lambda group: functools.partial(work, group),
        jobs=count,
        say=printed.append,
        groups=groups,
    )
    return {outcome.name: outcome for outcome in found}


NEEDS = {
    "last": ("bad", "first"),
    "first": ("known before",),
    "bad": ("first",),
    "after last": ("last",),
    "second": ("first",),
}


def test_one_process_takes_the_first_that_is_ready_and_leaves_out_what_needs_a_failed_one():
    printed: list[str] = []
    found = outcomes(NEEDS, count=1, printed=printed)
    assert printed == ["began first", "began bad", "began second"]
    assert list(found) == ["first", "bad", "last", "second", "after last"]
    assert str(found["bad"].fault) == "bad is bad"
    assert found["last"].lacks == "bad"
    assert found["after last"].lacks == "last"
    assert found["second"].result[0] == "second"


@pytest.mark.parametrize("count", [1, 2])
def test_a_group_is_done_at_once_and_outlives_one_of_its_jobs(count):
    printed: list[str] = []
    needs = {"first": (), "bad": ("first",), "b": ("first",), "c": ("bad",), "d": ("b",), "e": ()}
    groups = (("bad", "b"), ("c", "d", "e"))
    found = outcomes(needs, count=count, printed=printed, groups=groups)
    assert printed == ["began first", "began bad and b", "began d and e"]
    assert str(found["bad"].fault) == "bad is bad"
    assert found["c"].lacks == "bad"
    assert [found[name].result for name in ("b", "d", "e")] == [("b", 0), ("d", 0), ("e", 0)]


def test_a_stop_is_no_fault_of_the_job():
    def stop(say: jobs.Say) -> None:
        raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        list(jobs.run({"a": ()}, lambda group: stop, jobs=1, say=print))


def test_processes_share_the_cores_and_outlive_failed_and_killed_jobs():
    printed: list[str] = []
    needs = {**NEEDS, "killed": (), "bug": (), "after killed": ("killed",)}
    found = outcomes(needs, count=2, printed=printed)
    assert set(found) == set(needs)
    assert str(found["bad"].fault) == "bad is bad"
    assert "its process was ended by SIGKILL, perhaps because memory ran out" in str(
        found["killed"].fault
    )
    assert "stage 'bug' ended by KeyError: 'bug'" in str(found["bug"].fault)
    assert found["after killed"].lacks == "killed"
    assert found["after last"].lacks == "last"
    assert found["second"].result == ("second", max(1, len(available_cores()) // 2))
    assert "began first" in printed


def test_processes_divide_the_memory_of_a_gpu_that_one_was_granted(monkeypatch):
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert jobs.gpu_memory(3) == "0.300"
    for name in names:
        monkeypatch.setenv(name, "0.92")  # launch/env/gpu.sh sets the first
        assert jobs.gpu_memory(4) == "0.230"
        found = outcomes({"memory": ()}, count=2, printed=[])
        assert found["memory"].result == ("memory", "0.460")
        monkeypatch.delenv(name)


def test_every_process_keeps_its_memory(monkeypatch):
    found = outcomes({"pages": ()}, count=2, printed=[])
    assert found["pages"].result[1] < 1_000  # 16,384 where the 64 MB are mapped anew


def test_a_share_of_memory_that_is_no_number_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "90%")
    with pytest.raises(ConfigError, match="XLA_PYTHON_CLIENT_MEM_FRACTION='90%' is not a number"):
        jobs.check_platforms(2)


def test_several_processes_cannot_open_the_chips_of_a_tpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    with pytest.raises(ConfigError, match="--jobs=3 with JAX_PLATFORMS=tpu,cpu.*with --vmap=3"):
        jobs.check_platforms(3)
    jobs.check_platforms(1)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    jobs.check_platforms(3)


def test_an_idle_process_that_was_killed_is_no_fault_of_the_next_job():
    needs = {"first": (), "second": ("first",)}
    found = jobs.run(needs, lambda group: functools.partial(work, group), jobs=2, say=print)
    assert next(found).name == "first"
    (idle,) = multiprocessing.active_children()
    idle.kill()
    idle.join()
    (second,) = found
    assert second.result == ("second", max(1, len(available_cores()) // 2))


def test_a_process_killed_as_its_job_begins_is_an_outcome(monkeypatch):
    take = jobs._Processes._take

    def killed(self):
        worker = take(self)
        worker.process.kill()
        worker.process.join()
        return worker

    monkeypatch.setattr(jobs._Processes, "_take", killed)
    found = outcomes({"first": (), "second": ("first",)}, count=2, printed=[])
    assert "its process was ended by SIGKILL" in str(found["first"].fault)
    assert found["second"].lacks == "first"


def test_closing_stops_the_processes_at_once():
    printed: list[str] = []
    needs = {"first": (), "long": ()}
    found = jobs.run(
        needs, lambda group: functools.partial(work, group), jobs=2, say=printed.append
    )
    assert next(found).name == "first"
    began = time.monotonic()
    found.close()
    assert time.monotonic() - began < 40
    assert "stopping 1 running stage, which save first" in printed
