"""Work that depends on other work, done by several processes, each with its share of the cores.

Jobs of a group are done at once, by one piece of work, and what becomes of each is told apart. A
process does one group after another, so that it is started and warmed up once. A job that fails, or
whose process is killed, is an outcome like any other: who waits for it is left out, the rest goes
on. Asked to stop, every process is, too, and may save first.
"""

import contextlib
import dataclasses
import io
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

from pd_jax.errors import ConfigError, PdError, StageError
from pd_jax.processes import available_cores, light_main
from pd_jax.training.signals import Stopped, stop_on

SAVE_SECONDS = 120.0
"""How long a process that was asked to stop may take to save."""

_GPU_MEMORY = "XLA_CLIENT_MEM_FRACTION"
"""Where XLA reads how much of a GPU a process takes at its start, in place of three quarters."""
_GPU_MEMORY_ONCE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
"""Its name of before, which XLA reads too, but not beside the other."""

Say = Callable[[str], None]
Work = Callable[[Say], Sequence[Any]]
"""What the jobs of a group do: it may tell the user something, and returns the result of each, or
the exception that ended it. For other processes it must be picklable.
"""
Group = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job: its result, or its fault, or the job that it waited for in vain."""

    name: str
    result: Any = None
    fault: Exception | None = None
    lacks: str | None = None


def run(
    needs: Mapping[str, Sequence[str]],
    work: Callable[[Group], Work],
    *,
    jobs: int,
    say: Say,
    groups: Sequence[Group] = (),
) -> Generator[Outcome, None, None]:
    """Yields what became of every job, as they end; the first that is ready is begun first.

    Args:
      needs: job -> the jobs that must succeed before it, in the order to prefer. Names that are no
        jobs are taken as done.
      work: what jobs do, asked for when they begin.
      jobs: how many processes; with 1, everything happens in this one.
      say: where a line for the user goes.
      groups: jobs to do at once, none of which needs another of its group; the rest stand alone. A
        job whose need failed is left out, and the others of its group go on.

    Raises:
      Stopped, KeyboardInterrupt: this process was asked to stop; the others have stopped, too.
    """
    waiting = {name: [need for need in wanted if need in needs] for name, wanted in needs.items()}
    group_of = {name: group for group in groups for name in group}
    done: set[str] = set()
    failed: set[str] = set()
    runner = _Here(say) if jobs == 1 else _Processes(jobs, say)
    try:
        while waiting or runner.busy:
            for name, lacks in _in_vain(waiting, failed):
                failed.add(name)
                del waiting[name]
                yield Outcome(name, lacks=lacks)
            ready = {name for name, wanted in waiting.items() if done.issuperset(wanted)}
            left = [
                tuple(name for name in group_of.get(first, (first,)) if name in waiting)
                for first in waiting
            ]
            for group in dict.fromkeys(group for group in left if ready.issuperset(group)):
                if runner.free:
                    for name in group:
                        del waiting[name]
                    runner.begin(group, work(group))
            for outcome in runner.ended():
                (done if outcome.fault is None else failed).add(outcome.name)
                yield outcome
    finally:
        runner.stop()


def _in_vain(waiting: Mapping[str, Sequence[str]], failed: set[str]) -> Iterator[tuple[str, str]]:
    """Yields jobs that can no more begin, each with the job that failed; directly or not."""
    failed = set(failed)
    for name, wanted in list(waiting.items()):
        lacks = next((need for need in wanted if need in failed), None)
        if lacks is not None:
            yield name, lacks


def _outcomes(group: Group, results: Sequence[Any]) -> Iterator[Outcome]:
    """Yields what became of each job of a group, by its result or exception."""
    for name, result in zip(group, results, strict=True):
        if isinstance(result, Exception):
            yield Outcome(name, fault=result)
        else:
            yield Outcome(name, result=result)


def check_platforms(jobs: int) -> None:
    """Raises ConfigError where several processes cannot share what jax is told to run on, or its
    memory.
    """
    if jobs == 1:
        return
    gpu_memory(jobs)
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if "tpu" in platforms.split(","):
        raise ConfigError(
            f"--jobs={jobs} with JAX_PLATFORMS={platforms}: one process alone can open a host's "
            f"TPU chips; leave --jobs out, and train stages by one program with --vmap={jobs}"
        )


def gpu_memory(places: int) -> str:
    """Returns the share of a GPU's memory for each of so many processes, as XLA reads it; together
    they take what the environment grants one, or nine tenths.

    Raises:
      ConfigError: where the environment grants what is no number.
    """
    name = _GPU_MEMORY_ONCE if _GPU_MEMORY_ONCE in os.environ else _GPU_MEMORY
    granted = os.environ.get(name, "0.9")
    try:
        return f"{float(granted) / places:.3f}"
    except ValueError:
        raise ConfigError(
            f"{name}={granted!r} is no number; set it to a share of a GPU's memory, like 0.9"
        ) from None


class _Here:
    """Does jobs in this process, one at a time."""

    def __init__(self, say: Say):
        self._say = say
        self._next: tuple[Group, Work] | None = None

    @property
    def busy(self) -> bool:
        return self._next is not None

    @property
    def free(self) -> int:
        return 1 if self._next is None else 0

    def begin(self, group: Group, work: Work) -> None:
        self._next = group, work

    def ended(self) -> Iterator[Outcome]:
        if self._next is None:
            return
        (group, work), self._next = self._next, None
        try:
            results = work(self._say)
        except Exception as fault:
            results = [fault] * len(group)
        yield from _outcomes(group, results)

    def stop(self) -> None:
        """There is nothing to stop."""


class _Processes:
    """Does jobs in other processes."""

    def __init__(self, count: int, say: Say):
        self._say = say
        self._idle: list[_Worker] = []
        self._places = list(range(count))
        self._count = count
        self._running: dict[Group, _Worker] = {}

    @property
    def busy(self) -> bool:
        return bool(self._running)

    @property
    def free(self) -> int:
        return self._count - len(self._running)

    def begin(self, group: Group, work: Work) -> None:
        worker = self._take()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `ended` tells of it
            worker.connection.send((group, work))
        self._running[group] = worker

    def _take(self) -> "_Worker":
        """Returns an idle process, or a new one where none is left that was not killed."""
        while self._idle:
            worker = self._idle.pop()
            if worker.process.is_alive():
                return worker
            self._places.append(worker.place)
        return _Worker(self._places.pop(), self._count)

    def ended(self) -> Iterator[Outcome]:
        groups = {worker.connection: group for group, worker in self._running.items()}
        for connection in multiprocessing.connection.wait(list(groups)) if groups else ():
            group = groups[connection]  # type: ignore[index]
            worker = self._running[group]
            try:
                kind, said = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                del self._running[group]
                self._places.append(worker.place)
                yield from _outcomes(group, [worker.loss(name) for name in group])
                continue
            if kind == "say":
                self._say(said)
                continue
            self._idle.append(self._running.pop(group))
            yield from _outcomes(group, said)

    def stop(self) -> None:
        """Asks every process to stop, and returns when all have; a signal meanwhile kills them."""
        workers = [*self._idle, *self._running.values()]
        if self._running:
            count = len(self._running)
            self._say(f"stopping {count} running stage{'s' * (count > 1)}, which save first")
        try:
            for worker in self._idle:
                worker.connection.close()
            for worker in self._running.values():
                worker.process.terminate()
            deadline = time.monotonic() + SAVE_SECONDS
            for worker in workers:
                # What it still has to say must be read, or it could not end.
                while worker.process.is_alive() and time.monotonic() < deadline:
                    worker.drain(seconds=0.2)
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.join()


class _Worker:
    """One process, and the line to it."""

    def __init__(self, place: int, places: int):
        self.place = place
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, place, places, os.getpid()), daemon=False
        )
        with light_main():
            self.process.start()
        theirs.close()

    def drain(self, *, seconds: float) -> None:
        """Reads and forgets what the process says within some time."""
        try:
            while not self.connection.closed and self.connection.poll(seconds):
                self.connection.recv()
        except (EOFError, ConnectionResetError):
            pass
        self.process.join(seconds)

    def loss(self, name: str) -> StageError:
        """Returns what to say of a process that ended without a word."""
        self.process.join()
        code = self.process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return StageError(
            f"stage {name!r}: its process {how}{hint}; run the same command again, with a smaller "
            "--jobs if it happens again"
        )


# ---- in the other processes --------------------------------------------------------------------


def _serve(
    connection: multiprocessing.connection.Connection, place: int, places: int, parent: int
) -> None:
    """Does what comes over the connection until asked to stop."""
    _prepare(place, places, parent)
    from pd_jax import compilation
    from pd_jax.allocation import keep_memory
    from pd_jax.training.checkpoint import quiet_failed_saves

    stop_on(signal.SIGTERM)
    quiet_failed_saves()
    keep_memory()
    try:
        compilation.use_cache()
        while True:
            group, work = connection.recv()
            told = _answer(group, work, lambda line: connection.send(("say", line)))
            connection.send(("done", told))
    except (Stopped, EOFError, BrokenPipeError):
        return


def _answer(group: Group, work: Work, say: Say) -> list[Any]:
    """Returns every job's result or fault; a bug, or a limit of the machine, is a fault as well."""
    try:
        results = work(say)
    except Exception as fault:
        results = [fault] * len(group)
    return [
        _told(name, result) if isinstance(result, Exception) else result
        for name, result in zip(group, results, strict=True)
    ]


def _told(name: str, fault: Exception) -> PdError:
    """Returns a fault as another process can read it."""
    if isinstance(fault, PdError):
        return fault
    traceback.print_exception(fault)
    said = (str(fault).strip().splitlines() or [""])[0][:300]
    return StageError(
        f"stage {name!r} ended by {type(fault).__name__}: {said} (the traceback is in the "
        "output); run the same command again after mending it"
    )


class _Lines(io.TextIOWrapper):
    """Standard error of one process among several: whole lines, none rewritten in place."""

    def isatty(self) -> bool:
        return False


def _prepare(place: int, places: int, parent: int) -> None:
    """Gives this process its share of the machine, and its parent the only say over its end."""
    os.setpgid(0, 0)  # ctrl-c reaches the parent alone, which then asks for a save
    sys.stderr = _Lines(os.fdopen(os.dup(2), "wb", 0), write_through=True, line_buffering=True)
    threading.Thread(target=_stop_with, args=(parent,), daemon=True).start()
    cores = sorted(available_cores())
    share = cores[place::places] or [cores[place % len(cores)]]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ[_GPU_MEMORY] = gpu_memory(places)
    os.environ.pop(_GPU_MEMORY_ONCE, None)
    from absl import logging

    logging.set_verbosity(logging.FATAL)


def _stop_with(parent: int) -> None:
    """Asks this process to save and stop when its parent was killed."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
