"""Two real processes and one lock: refused, killed, taken over, lost."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from etils import epath

from pd_jax import locks
from pd_jax.errors import LockError

ROOT = pathlib.Path(__file__).resolve().parents[3]
HOLD = """
import sys, time
from pd_jax import locks
lock = locks.Lock(sys.argv[1], beat_seconds=float(sys.argv[2]))
owner = lock.take()
print("refused" if owner else "held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
"""


@contextlib.contextmanager
def holder(path: pathlib.Path, beat_seconds: float = 10.0) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(beat_seconds)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def as_if_from_elsewhere(path: pathlib.Path) -> None:
    """Rewrites a lock as one that a process of another machine holds."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"host": "elsewhere", "machine": "another boot"}))


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "stages" / "0123.lock"


def test_a_second_process_is_refused_by_name_until_the_first_releases(path):
    with holder(path) as first:
        began = time.monotonic()
        with pytest.raises(LockError) as refusal, locks.held(path, "stage 'pd'"):
            pytest.fail("two hold it")
        assert time.monotonic() - began < 1
        assert f"stage 'pd' is being written by process {first.pid} on " in str(refusal.value)
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)
        out, _ = first.communicate("\n")
        assert out == "released\n"
        assert list(path.parent.iterdir()) == []
    with locks.held(path, "stage 'pd'"):
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert list(path.parent.iterdir()) == []


def test_a_killed_holder_is_noticed_at_once(path):
    with holder(path) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert path.exists()
        began = time.monotonic()
        with locks.held(path, "stage 'pd'"):
            assert time.monotonic() - began < 1
            assert json.loads(path.read_text())["process"] == os.getpid()


def test_a_stopped_process_still_holds(path):
    with holder(path) as first:
        first.send_signal(signal.SIGSTOP)
        with pytest.raises(LockError), locks.held(path, "stage 'pd'"):
            pytest.fail("two hold it")
        first.send_signal(signal.SIGCONT)


def test_the_number_of_a_dead_process_in_new_use_is_no_holder(path):
    lock = locks.Lock(path)
    assert lock.take() is None
    lock.release()
    myself = locks._myself()
    path.write_text(json.dumps(vars(myself) | {"started": "1"}))
    assert lock.take() is None
    lock.release()


def test_a_fault_of_the_network_stops_no_beat(path, monkeypatch):
    lock = locks.Lock(path, beat_seconds=0.02)
    assert lock.take() is None
    faults = iter([RuntimeError("502: bad gateway")] * 3)  # of a client of gs://, no OSError
    read = locks.Lock._read

    def failing(self):
        for fault in faults:
            raise fault
        return read(self)

    monkeypatch.setattr(locks.Lock, "_read", failing)
    time.sleep(0.3)
    assert next(faults, None) is None
    assert lock._beating.is_alive()
    lock.release()


@pytest.mark.parametrize("local", [True, False])
def test_a_holder_on_another_machine_lives_by_its_beat(path, local, monkeypatch):
    if not local:  # as on gs://, where nothing but reading and writing is to be had
        monkeypatch.setattr(locks.Lock, "_take_by_link", locks.Lock._take_by_claim)
    monkeypatch.setattr(locks, "_SETTLE_SECONDS", 0.2)
    first = locks.Lock(path, beat_seconds=0.05)
    assert first.take() is None
    as_if_from_elsewhere(path)
    lost: list[locks.Owner] = []
    monkeypatch.setattr(locks, "_end_process", lambda path, owner: lost.append(owner))
    monkeypatch.setattr(locks, "_flock", lambda file: True)  # it does not reach the other machine

    second = locks.Lock(path, stale_seconds=2.0)
    owner = second.take()
    assert owner is not None
    assert owner.host == "elsewhere"
    assert not lost

    # Dead: the beat ends without the lock being released.
    first._ended.set()
    time.sleep(0.2)
    as_if_from_elsewhere(path)
    began = time.monotonic()
    assert second.take() is None
    assert 2.0 <= time.monotonic() - began < 4.0
    assert json.loads(path.read_text())["process"] == os.getpid()
    second.release()
    assert not path.exists()


def test_a_holder_that_was_given_up_ends_itself(path):
    """A process that slept for minutes must not go on to write beside its successor."""
    with holder(path, beat_seconds=0.1) as first:
        content = json.loads(path.read_text())
        successor = content | {"token": "other", "host": "elsewhere", "process": 7}
        replacement = path.with_suffix(".new")
        replacement.write_text(json.dumps(successor))
        replacement.replace(path)
        assert first.wait(timeout=10) == 2
        _, errors = first.communicate()
        assert errors.startswith("error: process 7 on elsewhere since ")
        assert "took the lock" in errors
        assert json.loads(path.read_text())["token"] == "other"


def test_of_many_at_once_exactly_one_gets_it(path):
    """Eight processes find a dead holder's lock in the same moment."""
    path.parent.mkdir()
    myself = locks._myself()
    path.write_text(json.dumps(vars(myself) | {"started": "1"}))
    race = (
        "import sys, time\n"
        "from pd_jax import locks\n"
        "lock = locks.Lock(sys.argv[1])\n"
        "time.sleep(max(0.0, float(sys.argv[2]) - time.time()))\n"
        "print('refused' if lock.take() else 'held', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", race, str(path), str(time.time() + 4.0)]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    printed = [process.stdout.readline() for process in processes]
    for process in processes:
        process.communicate("\n")
    assert sorted(printed) == ["held\n"] + ["refused\n"] * 7


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "stages").write_text("a file")
    with pytest.raises(LockError, match="stages/0.lock could not be written .*free some space"):
        locks.Lock(epath.Path(tmp_path / "stages" / "0.lock")).take()
