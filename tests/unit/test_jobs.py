"""Jobs that wait for each other: in one process or several, failing, killed, and asked to stop."""

import functools
import os
import signal
import time

import pytest

from pd_jax import jobs
from pd_jax.data.workers import available_cores
from pd_jax.errors import StageError
from pd_jax.training.signals import Stopped


def work(name: str, say: jobs.Say) -> tuple[str, int]:
    """What a job of these tests does, by the beginning of its name."""
    say(f"began {name}")
    if name.startswith("bad"):
        raise StageError(f"{name} is bad")
    if name.startswith("bug"):
        raise KeyError(name)
    if name.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("long"):
        time.sleep(60)
    return name, len(available_cores())


def outcomes(needs: dict[str, tuple[str, ...]], *, count: int, said: list[str]) -> dict:
    found = jobs.run(needs, lambda name: functools.partial(work, name), jobs=count, say=said.append)
    return {outcome.name: outcome for outcome in found}


NEEDS = {
    "last": ("bad", "first"),
    "first": ("known before",),
    "bad": ("first",),
    "after last": ("last",),
    "second": ("first",),
}


def test_one_process_takes_the_first_that_is_ready_and_leaves_out_what_needs_a_failed_one():
    said: list[str] = []
    found = outcomes(NEEDS, count=1, said=said)
    assert said == ["began first", "began bad", "began second"]
    assert list(found) == ["first", "bad", "last", "second", "after last"]
    assert str(found["bad"].fault) == "bad is bad"
    assert found["last"].lacks == "bad"
    assert found["after last"].lacks == "last"
    assert found["second"].result[0] == "second"


def test_a_stop_is_no_fault_of_the_job():
    def stop(say: jobs.Say) -> None:
        raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        list(jobs.run({"a": ()}, lambda name: stop, jobs=1, say=print))


def test_processes_share_the_cores_and_outlive_failed_and_killed_jobs():
    said: list[str] = []
    needs = {**NEEDS, "killed": (), "bug": (), "after killed": ("killed",)}
    found = outcomes(needs, count=2, said=said)
    assert set(found) == set(needs)
    assert str(found["bad"].fault) == "bad is bad"
    assert "its process was ended by SIGKILL, perhaps for want of memory" in str(
        found["killed"].fault
    )
    assert "stage 'bug' ended by KeyError: 'bug'" in str(found["bug"].fault)
    assert found["after killed"].lacks == "killed"
    assert found["after last"].lacks == "last"
    assert found["second"].result == ("second", max(1, len(available_cores()) // 2))
    assert "began first" in said


def test_closing_stops_the_processes_at_once():
    said: list[str] = []
    needs = {"first": (), "long": ()}
    found = jobs.run(needs, lambda name: functools.partial(work, name), jobs=2, say=said.append)
    assert next(found).name == "first"
    began = time.monotonic()
    found.close()
    assert time.monotonic() - began < 40
    assert "stopping 1 running stage, which save first" in said
