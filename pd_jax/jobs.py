"""Jobs that depend on each other, run by several processes, each with its share of the cores.

The jobs of a group run together, as one piece of work, and each has its own outcome. A process runs
one group after another, so that it is started and warmed up once. A job that fails, or whose
process is killed, is an outcome like any other: the jobs that wait for it are left out, and the
rest go on. When asked to stop, so is every process, which may save first.
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

from pd_jax.errors import ConfigError, PdError, StageError, first_line
from pd_jax.processes import available_cores, light_main
from pd_jax.signals import Stopped, stop_on

SAVE_SECONDS = 120.0
"""How long a process that was asked to stop may take to save."""

_GPU_MEMORY = "XLA_CLIENT_MEM_FRACTION"
"""Tells XLA how much of a GPU's memory a process takes at its start; three quarters by default."""
_GPU_MEMORY_ONCE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
"""Its former name, which XLA reads too, but not beside the other."""

Say = Callable[[str], None]
Work = Callable[[Say], Sequence[Any]]
"""The work of a group's jobs: may send the user a line, and returns the result of each job, or the
exception that ended it. It must be picklable for other processes.
"""
Group = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job: its result, or its fault, or the failed job that it needed."""

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
    """Yields the outcome of every job, as they end; the first that is ready is started first.

    Args:
      needs: job -> the jobs that must succeed before it, in order of preference. Names that are not
        jobs count as done.
      work: returns the work of a group, when it is started.
      jobs: how many processes; with 1, everything happens in this one.
      say: called with a line for the user.
      groups: jobs to run together, none of which needs another of its group; the rest run alone. A
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
    """Yields jobs that can no longer start, each with the failed job that it needs."""
    failed = set(failed)
    for name, wanted in list(waiting.items()):
        lacks = next((need for need in wanted if need in failed), None)
        if lacks is not None:
            yield name, lacks


def _outcomes(group: Group, results: Sequence[Any]) -> Iterator[Outcome]:
    """Yields the outcome of each job of a group, given its result or exception."""
    for name, result in zip(group, results, strict=True):
        if isinstance(result, Exception):
            yield Outcome(name, fault=result)
        else:
            yield Outcome(name, result=result)


def check_platforms(jobs: int) -> None:
    """Raises ConfigError where several processes cannot share jax's platform, or its memory."""
    if jobs == 1:
        return
    gpu_memory(jobs)
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if "tpu" in platforms.split(","):
        raise ConfigError(
            f"--jobs={jobs} with JAX_PLATFORMS={platforms}: only one process can open a host's "
            f"TPU chips; leave --jobs out, and train stages in one program with --vmap={jobs}"
        )


def gpu_memory(places: int) -> str:
    """Returns each process's share of a GPU's memory, in XLA's format; together they take what the
    environment grants one process, or nine tenths.

    Raises:
      ConfigError: where the environment's value is not a number.
    """
    name = _GPU_MEMORY_ONCE if _GPU_MEMORY_ONCE in os.environ else _GPU_MEMORY
    granted = os.environ.get(name, "0.9")
    try:
        return f"{float(granted) / places:.3f}"
    except ValueError:
        raise ConfigError(
            f"{name}={granted!r} is not a number; set it to a share of a GPU's memory, like 0.9"
        ) from None


class _Here:
    """Runs jobs in this process, one at a time."""

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
    """Runs jobs in other processes."""

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
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `ended` reports it
            worker.connection.send((group, work))
        self._running[group] = worker

    def _take(self) -> "_Worker":
        """Returns an idle process that is still alive, or a new one."""
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
                kind, content = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                del self._running[group]
                self._places.append(worker.place)
                yield from _outcomes(group, [worker.loss(name) for name in group])
                continue
            if kind == "say":
                self._say(content)
                continue
            self._idle.append(self._running.pop(group))
            yield from _outcomes(group, content)

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
                # Its remaining messages must be read, or it could not end.
                while worker.process.is_alive() and time.monotonic() < deadline:
                    worker.drain(seconds=0.2)
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.join()


class _Worker:
    """One process, and the connection to it."""

    def __init__(self, place: int, places: int):
        self.place = place
        context = multiprocessing.get_context("spawn")
        self.connection, far_end = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(far_end, place, places, os.getpid()), daemon=False
        )
        with light_main():
            self.process.start()
        far_end.close()

    def drain(self, *, seconds: float) -> None:
        """Reads and discards what the process sends within some time."""
        try:
            while not self.connection.closed and self.connection.poll(seconds):
                self.connection.recv()
        except (EOFError, ConnectionResetError):
            pass
        self.process.join(seconds)

    def loss(self, name: str) -> StageError:
        """Returns the error for a process that ended without reporting a result."""
        self.process.join()
        code = self.process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        hint = ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
        return StageError(
            f"stage {name!r}: its process {how}{hint}; run the same command again, with a smaller "
            "--jobs if it happens again"
        )


# ---- in the other processes --------------------------------------------------------------------


def _serve(
    connection: multiprocessing.connection.Connection, place: int, places: int, parent: int
) -> None:
    """Runs the work that comes over the connection, until asked to stop."""
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
            results = _results(group, work, lambda line: connection.send(("say", line)))
            connection.send(("done", results))
    except (Stopped, EOFError, BrokenPipeError):
        return


def _results(group: Group, work: Work, say: Say) -> list[Any]:
    """Returns every job's result or fault; a bug, or a limit of the machine, is also a fault."""
    try:
        results = work(say)
    except Exception as fault:
        results = [fault] * len(group)
    return [
        _portable(name, result) if isinstance(result, Exception) else result
        for name, result in zip(group, results, strict=True)
    ]


def _portable(name: str, fault: Exception) -> PdError:
    """Returns a fault in a form that can be sent to another process."""
    if isinstance(fault, PdError):
        return fault
    traceback.print_exception(fault)
    return StageError(
        f"stage {name!r} ended by {type(fault).__name__}: {first_line(fault)} (the traceback is in "
        "the output); fix it and run the same command again"
    )


class _Lines(io.TextIOWrapper):
    """Standard error of one process among several: complete lines, none rewritten in place."""

    def isatty(self) -> bool:
        return False


def _prepare(place: int, places: int, parent: int) -> None:
    """Gives this process its share of the machine, and lets only its parent stop it."""
    os.setpgid(0, 0)  # ctrl-c reaches only the parent, which then asks for a save
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
