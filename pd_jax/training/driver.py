"""Drives training loops: feeds their batches to the step on the devices, and returns its sums.

One run takes its own step; several that differ only in seed, learning rate and first weights take
theirs together, in one program (`training/many.py`).
"""

import faulthandler
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from pd_jax import config as config_lib
from pd_jax.errors import DivergenceError
from pd_jax.objectives.objective import Sums
from pd_jax.parallel import distributed
from pd_jax.parallel.sharding import put_batch
from pd_jax.progress import Progress
from pd_jax.signals import Stopped, StopRequest
from pd_jax.training import rng
from pd_jax.training.job import Job, Outcome
from pd_jax.training.loop import Loop, begin
from pd_jax.training.many import StackedRuns
from pd_jax.training.state import TrainState


class RunStates(Protocol):
    """The newest states of some runs on the devices, and their next step."""

    def state(self, run: int, /) -> TrainState:
        """Returns a run's state; it is gone with the next step."""
        ...

    def norms(self, run: int, /) -> dict[str, jax.Array]:
        """Returns the norms of a run's state, dispatched before its next step."""
        ...

    def step(self, batches: Sequence[Mapping[str, np.ndarray]], /) -> Callable[[int], Sums]:
        """Dispatches one step of every run. Returns a function that waits for the step and returns
        one run's sums.
        """
        ...


def train(jobs: Sequence[Job], run: config_lib.Run, mesh: Mesh) -> list[Outcome | Exception]:
    """Runs jobs from their newest checkpoints, or their start, to their end: one by its own step,
    several in one program.

    Jobs that run together differ only in seed, learning rate and first weights. They need not be at
    the same step, and a fault of one does not affect the others. The clock of each counts its share
    of the time of all; what the others do while its step is running counts as stepping.

    Returns:
      The outcome of each job, or the fault that ended it: DivergenceError where a loss or gradient
      was not finite (the state before it was saved), CheckpointError where a save failed or no
      checkpoint can be trusted, and whatever else a job raised.

    Raises:
      Stopped: a signal asked to stop, and every state was saved.
    """
    loops: dict[int, Loop] = {}
    states: dict[int, TrainState] = {}
    found: dict[int, Outcome | Exception] = {}
    try:
        with jax.set_mesh(mesh):
            for index, job in enumerate(jobs):
                try:
                    loops[index], states[index] = begin(job, run, clocks=len(jobs))
                except Exception as fault:
                    found[index] = fault
            if not loops:
                return list(found.values())
            ready = list(loops.values())
            newest = _run_states([loop.job for loop in ready], list(states.values()), mesh)
            states.clear()  # a stack holds copies
            with StopRequest() as stop, _progress(ready) as progress:
                ended = _drive(ready, newest, stop, progress)
                found |= zip(loops, ended, strict=True)
            if not _alone_at_fault(ended) and (number := distributed.agree(stop.number)):
                raise Stopped(number)  # in the last steps: the stage is complete, others wait
    finally:
        faulthandler.cancel_dump_traceback_later()
    return [outcome for _, outcome in sorted(found.items())]


def _alone_at_fault(outcomes: Sequence[Outcome | Exception]) -> bool:
    """Returns whether, of several processes, this one may be the only one with a fault. The others
    are in their next step and wait for this one, which must end, not wait for them.

    A loss that is not finite is seen by all.
    """
    return jax.process_count() > 1 and any(
        isinstance(outcome, Exception) and not isinstance(outcome, DivergenceError)
        for outcome in outcomes
    )


def _run_states(jobs: Sequence[Job], states: Sequence[TrainState], mesh: Mesh) -> RunStates:
    if len(jobs) == 1:
        return _OneRun(jobs[0], states[0], mesh)
    steps, seeds = [job.step for job in jobs], [job.seed for job in jobs]
    return StackedRuns(jobs[0].many, steps, states, seeds=seeds)


def _progress(loops: Sequence[Loop]) -> Progress:
    jobs = [loop.job for loop in loops]
    return Progress(
        jobs[0].name + (f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""),
        total=jobs[0].steps,
        unit="steps",
        start=min(loop.first for loop in loops),
        shown=distributed.is_writer(),
    )


def _drive(
    loops: Sequence[Loop], states: RunStates, stop: StopRequest, progress: Progress
) -> list[Outcome | Exception]:
    """Returns the outcome of every loop. The state of one that has ended still takes part in the
    others' steps, with a batch of theirs, and nobody reads it.
    """
    running = {
        index: loop.run(
            functools.partial(states.state, index),
            functools.partial(states.norms, index),
            stop,
            progress,
        )
        for index, loop in enumerate(loops)
    }
    found: dict[int, Outcome | Exception] = {}
    batches: dict[int, Mapping[str, np.ndarray]] = {}
    read: Callable[[int], Sums] | None = None
    stopped: Stopped | None = None
    while True:
        for index, loop in list(running.items()):
            try:
                batches[index] = loop.send(functools.partial(read, index)) if read else next(loop)
                continue
            except StopIteration as end:
                found[index] = end.value
            except Exception as fault:
                found[index] = fault
            except Stopped as request:
                stopped = request  # the others see the same signal, and save as well
            del running[index]
        if not running:
            break
        spare = batches[next(iter(running))]
        read = states.step([batches.get(index, spare) for index in range(len(loops))])
    if stopped is not None:
        raise stopped
    return [found[index] for index in range(len(loops))]


class _OneRun:
    """The state of one run."""

    def __init__(self, job: Job, state: TrainState, mesh: Mesh):
        self._job, self._state, self._mesh = job, state, mesh
        self._root = rng.root_key(job.seed)

    def state(self, run: int) -> TrainState:
        del run
        return self._state

    def norms(self, run: int) -> dict[str, jax.Array]:
        del run
        return self._job.step.norms(self._state)

    def step(self, batches: Sequence[Mapping[str, np.ndarray]]) -> Callable[[int], Sums]:
        batch = put_batch(batches[0], self._mesh)
        self._state, sums = self._job.step(self._state, batch, self._root)
        return lambda run: jax.device_get(sums)
