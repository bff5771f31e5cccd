"""The training loop. Its order is the contract; do not change it.

1. evaluate the current state, 2. save it, with clock and position, 3. only then take the next
batch, 4. dispatch the step, 5. read the metrics of the step before, while this one runs. The step
number is a Python int; the loop never waits for the step it has just dispatched.

A request to stop (SIGTERM, the first Ctrl-C) is met at 2: the state is saved and the run ends. One
that comes during an evaluation does not wait for its end, unless there are several processes: the
state is saved with `owed` in the checkpoint's note, and who continues from there evaluates first.

A loop is a generator: it yields a batch, and is sent a function that waits for the step with that
batch and returns its sums. What drives it (`training/driver.py`) holds the state on the devices.
"""

import dataclasses
import faulthandler
import json
import sys
import time
from collections.abc import Callable, Generator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.errors import CheckpointError, ConfigError, DivergenceError
from pd_jax.objectives.objective import Sums
from pd_jax.parallel import distributed
from pd_jax.progress import Progress
from pd_jax.signals import Stopped, StopRequest
from pd_jax.training.checkpoint import Checkpoints, Note
from pd_jax.training.clock import Clock
from pd_jax.training.job import Job, Outcome
from pd_jax.training.metrics import MetricsFile, Totals, drop_from, finite, ratios
from pd_jax.training.state import TrainState
from pd_jax.workdir import CHECKPOINTS

NONFINITE_FILE = "nonfinite.jsonl"
"""One line for each step whose loss or gradient was not finite, with the examples of its batch."""

_AGREE_STEPS = 10
"""With several processes, how often they agree on saving and stopping (a collective)."""


@dataclasses.dataclass
class _Standing:
    """What the loop keeps besides the state, saved in a checkpoint's note."""

    totals: Totals
    metrics: dict[str, float | None]
    best_step: int | None = None
    best_value: float | None = None
    flops: float = 0.0
    skipped_steps: int = 0


def _standing(saved: Note) -> _Standing:
    totals = Totals()
    try:
        totals.add(saved.get("totals", {}))
        return _Standing(
            totals,
            dict(saved.get("metrics", {})),
            saved.get("best_step"),
            saved.get("best_value"),
            saved.get("flops", 0.0),
            saved.get("skipped_steps", 0),
        )
    except (AttributeError, TypeError, ValueError) as fault:
        raise CheckpointError(
            f"the checkpoint of step {saved.get('step')} does not state its stage's progress "
            f"({fault}); move it away and run the same command again"
        ) from fault


Read = Callable[[], Sums]
"""Waits for a step's sums, and returns them on the host."""

Norms = dict[str, jax.Array]

_Steps = Generator[Mapping[str, np.ndarray], Read, Outcome]


class _Pending(NamedTuple):
    """A step that was dispatched, and the norms after it where a line of metrics is due."""

    number: int
    read: Read
    norms: Norms | None


class Loop:
    """The loop's moving parts; one object a stage, used once."""

    def __init__(
        self,
        job: Job,
        run: config_lib.Run,
        checkpoints: Checkpoints,
        saved: Note,
        *,
        clocks: int,
    ):
        """Sets the files of the stage to the step that was `saved`, or to the first one."""
        self.job, self.run_config, self.checkpoints = job, run, checkpoints
        self.first = int(saved.get("step", 0))
        self.clock = Clock(
            earlier_seconds=saved.get("seconds", 0.0),
            earlier=saved.get("spans"),
            now=lambda: time.monotonic() / clocks,
        )
        self.standing = _standing(saved)
        # A signal cut off the evaluation of this step, which is therefore made again.
        self.owed = bool(saved.get("owed"))
        self.candidates = [] if self.standing.best_step is None else [self.standing.best_step]
        self.writer = None
        if distributed.is_writer():
            self.writer = MetricsFile(
                job.folder,
                first_step=self.first,
                evaluated=not self.owed,
                tensorboard=run.tensorboard,
            )
            drop_from(job.folder / NONFINITE_FILE, self.first)
        self.saved_at = time.monotonic()

    def run(
        self,
        state: Callable[[], TrainState],
        norms: Callable[[], Norms],
        stop: StopRequest,
        progress: Progress,
    ) -> _Steps:
        """Yields each step's batch, is sent what reads the step's sums, and returns the outcome."""
        self.state, self.stop, self.progress = state, stop, progress
        job, first, pending = self.job, self.first, None
        feed, compiled = job.feed(first), set()
        for number in range(first, job.steps):
            self._alive()
            if self._due_to_evaluate(number) and (number > first or self.owed):
                pending = self._read(pending)
                self._evaluate(number)
            wish = self._wish(number)
            if wish.save and number > first:
                pending = self._read(pending)
                self._save(number)
            if wish.stop:
                pending = self._read(pending)
                if number > first:
                    self._save(number)
                self.checkpoints.wait()
                raise Stopped(wish.stop)
            with self.clock.span("wait for data"):
                batch = next(feed)
            # The first step of a shape compiles; afterwards dispatching returns at once and
            # reading waits.
            shape = batch["input_ids"].shape
            with self.clock.span("step" if shape in compiled else "compile"):
                read = yield batch
                newest = norms() if self._due_to_log(number + 1) else None
            if shape in compiled:
                self.standing.flops += job.flops(*shape)
            compiled.add(shape)
            pending = self._read(pending, then=_Pending(number, read, newest))
        self._read(pending)
        return self._finish(first)

    def _finish(self, first: int) -> Outcome:
        steps, standing = self.job.steps, self.standing
        if first < steps or self.checkpoints.latest_step != steps or self.owed:
            self._alive()
            self._evaluate(steps)
            self._alive()
            self._save(steps)
        if self.writer is not None:
            self.writer.write_spans(self.clock.take(), steps)
            self.writer.flush()
        self.checkpoints.close()
        return Outcome(
            self.state(),
            standing.metrics,
            standing.best_step,
            standing.skipped_steps,
            self.clock.seconds,
            spans=dict(self.clock.sums),
            flops=standing.flops,
        )

    def _read(self, pending: _Pending | None, then: _Pending | None = None) -> _Pending | None:
        """Adds up the pending step's metrics, writes a line when one is due, and returns what is
        pending next.
        """
        if pending is None:
            return then
        with self.clock.span("step"):
            sums = pending.read()
        if sums["healthy"][0]:
            self.standing.totals.add(sums)
        else:
            self._nonfinite(pending.number)
        if pending.norms is not None:
            self._log(pending.number + 1, jax.device_get(pending.norms))
        return then

    def _nonfinite(self, number: int) -> None:
        """Records a step whose loss or gradient is not finite, and skips it or ends the run."""
        self.standing.skipped_steps += 1
        most = self.run_config.skip_nonfinite
        skipped = self.standing.skipped_steps <= most
        examples = self.job.examples(number)
        path = self.job.folder / NONFINITE_FILE
        if self.writer is not None:
            line = {"step": number + 1, "skipped": skipped, "examples": examples}
            files.append_lines(path, [json.dumps(line)])
        if skipped:
            return
        self.standing.skipped_steps -= 1
        if self.writer is not None:
            self.writer.flush()
        if not most:
            # No update was made since: this is the state before the fault.
            state = self.state()
            healthy = dataclasses.replace(state, healthy=state.healthy | ~state.healthy)
            self._save(number, healthy)
            self.checkpoints.wait()
        shown = ", ".join(str(example["id"])[:8] for example in examples[:3])
        raise DivergenceError(
            f"stage {self.job.name}: loss or gradient of step {number + 1} is not finite (examples "
            f"{shown}, ...: {path}); "
            + (
                f"{most} such steps were skipped before it, as run.skip_nonfinite={most} allows: "
                if most
                else "nothing was updated with it, and the state before it is saved: "
            )
            + "lower optimizer.learning_rate or lengthen optimizer.warmup to start again, or "
            "continue from there and skip such steps with "
            f"--config.run.skip_nonfinite={max(10, 10 * most)}"
        )

    def _due_to_log(self, done: int) -> bool:
        return done % self.run_config.log_steps == 0 or done == self.job.steps

    def _log(self, done: int, norms: Mapping[str, np.ndarray]) -> None:
        means = ratios(self.standing.totals.take(), self.job.terms)
        means.pop("healthy", None)  # without an entry where every step since was left out
        means |= {name: float(norm) for name, norm in norms.items()}
        line = finite({f"train/{name}": value for name, value in means.items()})
        if self.run_config.skip_nonfinite:
            line["train/skipped_steps"] = self.standing.skipped_steps
        self.standing.metrics |= line
        if self.writer is not None:
            stamp = {
                "step": done,
                "examples": done * self.job.batch,
                "seconds": round(self.clock.seconds, 3),
            }
            with self.clock.span("log"):
                self.writer.write({**stamp, **line})
                self.writer.write_spans(self.clock.take(), done)
        self.progress.set(done, **({"loss": means["loss"]} if "loss" in means else {}))

    def _due_to_evaluate(self, number: int) -> bool:
        every = self.job.evaluate_every
        return every is not None and number % every == 0

    def _evaluate(self, number: int) -> None:
        if self.job.evaluate is None:
            return
        params = self.state().params
        try:
            with self.clock.span("evaluate"):
                found = finite(self.job.evaluate(params, self._alive_unless_stopped))
        except Stopped:
            self._save(number, owed=True)
            self.checkpoints.wait()
            raise
        self.standing.metrics |= found
        if self.writer is not None:
            self.writer.write({"step": number, "seconds": round(self.clock.seconds, 3), **found})
        if self.job.best is None:
            return
        if self.job.best not in found:
            raise ConfigError(
                f"best={self.job.best!r}, but the evaluation has {', '.join(sorted(found))}; "
                "name one of these"
            )
        value = found[self.job.best]
        if value is None:
            return
        if self.standing.best_value is None or value > self.standing.best_value:
            self.standing.best_value, self.standing.best_step = value, number
            self.job.keep_best(number, params)
            self.candidates.append(number)

    def _save(self, number: int, state: TrainState | None = None, *, owed: bool = False) -> None:
        """Saves a state; `owed` says that its evaluation is still to be made."""
        if self.checkpoints.latest_step == number:
            return
        self._drop_candidates()
        standing = self.standing
        totals = standing.totals.take()
        standing.totals.add(totals)
        note = {
            "step": number,
            "seconds": round(self.clock.seconds, 3),
            "metrics": standing.metrics,
            "totals": totals,
            "best_step": standing.best_step,
            "best_value": standing.best_value,
            "flops": standing.flops,
            "spans": dict(self.clock.sums),
            "skipped_steps": standing.skipped_steps,
            "owed": owed,
        }
        with self.clock.span("save"):
            if self.writer is not None:
                self.writer.flush()
            self.checkpoints.save(number, self.state() if state is None else state, note)
        self.saved_at = time.monotonic()

    def _drop_candidates(self) -> None:
        """Removes candidates for the best weights that were beaten before the step of the oldest
        checkpoint: no checkpoint that a run may continue from names them.
        """
        oldest = self.checkpoints.oldest_step
        while oldest is not None and len(self.candidates) > 1 and self.candidates[1] < oldest:
            self.job.drop_best(self.candidates.pop(0))

    def _wish(self, number: int) -> "_Wish":
        """Returns whether to save and to stop now, the same answer on every process."""
        late = time.monotonic() - self.saved_at >= self.run_config.save_seconds
        if jax.process_count() == 1:
            return _Wish(late, self.stop.number)
        if number % _AGREE_STEPS:
            return _Wish(False, 0)
        save, stop = distributed.agree_each(int(late), self.stop.number)
        return _Wish(bool(save), stop)

    def _alive(self) -> None:
        """Resets the watchdog: without another call in time, all stacks are dumped and the process
        ends.
        """
        faulthandler.dump_traceback_later(
            self.run_config.watchdog_seconds, exit=True, file=sys.__stderr__ or sys.stderr
        )

    def _alive_unless_stopped(self) -> None:
        """Resets the watchdog; raises Stopped where a signal asked for it.

        Of several processes, none may leave an evaluation alone: the others would wait for it.
        """
        self._alive()
        if self.stop.number and jax.process_count() == 1:
            raise Stopped(self.stop.number)


@dataclasses.dataclass(frozen=True)
class _Wish:
    save: bool
    stop: int


def begin(job: Job, run: config_lib.Run, *, clocks: int) -> tuple[Loop, TrainState]:
    """Returns a job's loop, and the state it starts from: of the newest checkpoint, or the first.

    Its clock runs as one of `clocks` that share the time.
    """
    checkpoints = Checkpoints(job.folder / CHECKPOINTS, keep=run.keep_checkpoints, warn=job.warn)
    restored = checkpoints.restore(job.like)
    state, saved = restored if restored else (job.state(), {})
    return Loop(job, run, checkpoints, saved, clocks=clocks), state
