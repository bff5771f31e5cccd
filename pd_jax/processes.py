"""Work distributed over processes of this machine, with one count of what they have done."""

import concurrent.futures
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from pd_jax.errors import WorkerError

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 10.0
"""How long a worker that is not needed may take to remove what it has half-written."""

Task = TypeVar("Task")
Result = TypeVar("Result")
Count = Callable[[float], None]
Job = Callable[[Task, Count], Result]


def run(
    job: Job[Task, Result],
    tasks: Sequence[Task],
    *,
    workers: int,
    report: Count = lambda done: None,
) -> Iterator[tuple[Task, Result]]:
    """Yields each task with its `job(task, count)` when done; at most `workers` run at a time.

    A job calls `count` with an amount of work; `report` is called now and then with the sum over
    all jobs. With one worker everything happens in this process.

    Raises:
      WorkerError: where a process was killed. What a job raises is raised here at once; the jobs
        that are still running end with it.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        total = _Total(report)
        for task in tasks:
            yield task, job(task, total.add)
        return
    context = multiprocessing.get_context("spawn")
    counter, unwanted = context.Value("d", 0.0), context.RawValue("b", False)
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start, initargs=(counter, unwanted, os.getpid())
    )
    running = {}
    try:
        with light_main():
            running = {pool.submit(_do, job, task): task for task in tasks}
        while running:
            done, _ = concurrent.futures.wait(running, _POLL_SECONDS, "FIRST_COMPLETED")
            report(counter.value)
            for future in done:
                yield running.pop(future), future.result()
    except BrokenProcessPool:
        raise WorkerError(
            "a worker process was killed, perhaps because memory ran out; run the same command"
            " again with fewer workers"
        ) from None
    finally:
        # After an error nobody wants the other results, for which shutdown would wait.
        unwanted.value = bool(running)
        pool.shutdown(cancel_futures=True)


def available_cores() -> set[int]:
    """Returns the cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


@contextmanager
def light_main() -> Iterator[None]:
    """Keeps processes that are spawned inside the block from importing the main module.

    A spawned process imports its parent's main module, here usually one that imports jax: that
    takes seconds, and more memory than the work needs. No job is defined in a main module.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _Total:
    """A running sum, reported at each addition."""

    def __init__(self, report: Count):
        self._report, self._done = report, 0.0

    def add(self, amount: float) -> None:
        self._done += amount
        self._report(self._done)


class _Ended(BaseException):
    """This worker was asked to end: what its job has half-written is removed on the way out."""


_counter: Any = None
"""The sum over all processes; set once in each worker."""
_working = False
"""Whether this worker has a job."""


def _start(counter: Any, unwanted: Any, parent: int) -> None:
    """Prepares a worker process."""
    global _counter
    _counter = counter
    # The tokenizers library would start a thread for every core in each of the processes.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ctrl-c ends it without a traceback of its own
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_leave, args=(unwanted, parent), daemon=True).start()


def _leave(unwanted: Any, parent: int) -> None:
    """Ends this process where nobody will use its results, or its parent was killed."""
    while os.getppid() == parent and not unwanted.value:
        time.sleep(_POLL_SECONDS / 2)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def _end(number: int, frame: types.FrameType | None) -> None:
    del number, frame
    if _working:
        raise _Ended
    os._exit(1)


def _do(job: Job[Task, Result], task: Task) -> Result:
    global _working
    _working = True
    try:
        return job(task, _add)
    except _Ended:
        os._exit(1)  # the pool would hand this worker another job
    finally:
        _working = False


def _add(amount: float) -> None:
    with _counter.get_lock():
        _counter.value += amount
