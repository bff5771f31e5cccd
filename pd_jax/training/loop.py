"""The training loop. Its order is the contract; do not change it.

1. evaluate the state at hand, 2. save it, with clock and position, 3. only then take the next
batch, 4. dispatch the step, 5. read the metrics of the step before, while this one runs. The step
number is a Python int; the loop never waits for the step it has just dispatched.
"""

import dataclasses
import faulthandler
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.errors import CheckpointError, DivergenceError
from pd_jax.parallel import distributed
from pd_jax.parallel.sharding import put_batch
from pd_jax.progress import Progress
from pd_jax.training import rng
from pd_jax.training.checkpoint import Checkpoints, Note
from pd_jax.training.clock import Clock
from pd_jax.training.metrics import MetricsFile, Totals, drop_from, ratios
from pd_jax.training.signals import Stopped, StopRequest
from pd_jax.training.state import TrainState
from pd_jax.training.step import Step

NONFINITE_FILE = "nonfinite.jsonl"
"""One line for each step whose loss or gradient was not finite, with the examples of its batch."""

_AGREE_STEPS = 10
"""With several processes, how often they agree on saving and stopping (a collective)."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One training stage, ready to run.

    Attributes:
      step: the jitted step. terms: the objective's loss terms.
      state: () -> the state before the first step; called only without a checkpoint.
      like: shapes and shardings of the state, to restore into.
      feed: first step -> this process's batches from there on.
      examples: step -> dataset, row and id of each example of its batch.
      steps, batch: the stage's length, and examples a step over all processes.
      flops: (rows, padded length) of a batch -> operations of the model in a step over it.
      evaluate: params -> metrics by `split/quantity`, run every `evaluate_every` steps and at the
        end; None for none.
      best: the metric whose largest value marks the weights to keep; None keeps the last.
      keep_best: (step, params) -> None, stores candidate weights durably.
    """

    name: str
    step: Step
    terms: Mapping[str, float]
    state: Callable[[], TrainState]
    like: TrainState
    feed: Callable[[int], Iterator[dict[str, np.ndarray]]]
    examples: Callable[[int], list[dict[str, str | int]]]
    steps: int
    batch: int
    seed: int
    flops: Callable[[int, int], float]
    evaluate: Callable[[Any], dict[str, float]] | None = None
    evaluate_every: int | None = None
    best: str | None = None
    keep_best: Callable[[int, Any], None] | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished loop leaves: the last state, last metrics, the step of the best weights
    (None: the last), how many steps were left out because they were not finite, and what it cost:
    seconds in all and by span, and the model's operations.
    """

    state: TrainState
    metrics: dict[str, float]
    best_step: int | None
    skipped_steps: int
    seconds: float
    spans: Mapping[str, float]
    flops: float


@dataclasses.dataclass
class _Standing:
    """What the loop carries besides the state, saved in a checkpoint's progress."""

    totals: Totals
    metrics: dict[str, float]
    best_step: int | None = None
    best_value: float | None = None
    flops: float = 0.0
    skipped_steps: int = 0


def train(
    job: Job,
    folder: epath.Path,
    run: config_lib.Run,
    mesh: Mesh,
    *,
    warn: Callable[[str], None],
) -> Outcome:
    """Runs a job from its newest checkpoint, or its start, to its end.

    Raises:
      Stopped: a signal asked to stop, and the state was saved.
      DivergenceError: a loss or gradient was not finite; the state before it was saved.
      CheckpointError: a save failed, or no checkpoint can be trusted.
    """
    checkpoints = Checkpoints(folder / "checkpoints", keep=run.keep_checkpoints, warn=warn)
    try:
        with jax.set_mesh(mesh):
            restored = checkpoints.restore(job.like)
            state, saved = restored if restored else (job.state(), {})
            first = int(saved.get("step", 0))
            clock = Clock(earlier_seconds=saved.get("seconds", 0.0), earlier=saved.get("spans"))
            standing = _standing(saved)
            writer = None
            if distributed.is_writer():
                writer = MetricsFile(folder, first_step=first, tensorboard=run.tensorboard)
                drop_from(folder / NONFINITE_FILE, first)
            with (
                StopRequest() as stop,
                Progress(
                    job.name,
                    total=job.steps,
                    unit="steps",
                    start=first,
                    shown=distributed.is_writer(),
                ) as progress,
            ):
                loop = _Loop(
                    job, folder, run, mesh, checkpoints, writer, clock, standing, stop, progress
                )
                state = loop.run(state, first)
            checkpoints.wait()
            if asked := distributed.agree(stop.number):
                raise Stopped(asked)  # during the last steps: the stage is whole, the rest waits
    finally:
        faulthandler.cancel_dump_traceback_later()
    checkpoints.close()
    return Outcome(
        state,
        standing.metrics,
        standing.best_step,
        standing.skipped_steps,
        clock.seconds,
        spans=dict(clock.sums),
        flops=standing.flops,
    )


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
            f"the checkpoint of step {saved.get('step')} does not say how far its stage had come "
            f"({fault}); move it away and run the same command again"
        ) from fault


class _Loop:
    """The loop's moving parts; one object a stage, used once."""

    def __init__(
        self,
        job: Job,
        folder: epath.Path,
        run: config_lib.Run,
        mesh: Mesh,
        checkpoints: Checkpoints,
        writer: MetricsFile | None,
        clock: Clock,
        standing: _Standing,
        stop: StopRequest,
        progress: Progress,
    ):
        self.job, self.folder, self.run_config, self.mesh = job, folder, run, mesh
        self.checkpoints, self.writer, self.clock = checkpoints, writer, clock
        self.standing, self.stop, self.progress = standing, stop, progress
        self.root = rng.root_key(job.seed)
        self.saved_at = time.monotonic()

    def run(self, state: TrainState, first: int) -> TrainState:
        """Returns the state after the last step."""
        job, pending = self.job, None
        feed = job.feed(first)
        for number in range(first, job.steps):
            self._alive()
            if self._due_to_evaluate(number) and number > first:
                pending = self._read(pending, state)
                self._evaluate(state, number)
            wish = self._wish(number)
            if wish.save and number > first:
                pending = self._read(pending, state)
                self._save(state, number)
            if wish.stop:
                pending = self._read(pending, state)
                if number > first:
                    self._save(state, number)
                self.checkpoints.wait()
                raise Stopped(wish.stop)
            with self.clock.span("wait for data"):
                batch = put_batch(next(feed), self.mesh)
            # The first step of a session compiles; afterwards dispatching returns at once and
            # reading waits.
            with self.clock.span("compile" if number == first else "step"):
                state, sums = job.step(state, batch, self.root)
            self.standing.flops += job.flops(*batch["input_ids"].shape)
            pending = self._read(pending, state, then=(number, sums))
        self._read(pending, state)
        self._finish(state, first)
        return state

    def _finish(self, state: TrainState, first: int) -> None:
        steps = self.job.steps
        if first < steps or self.checkpoints.latest_step != steps:
            self._evaluate(state, steps)
            self._save(state, steps)
        if self.writer is not None:
            self.clock.flush(self.folder / "spans.jsonl", steps)

    def _read(self, pending: Any, state: TrainState, then: Any = None) -> Any:
        """Adds up the pending step's metrics, writes a line when one is due, and returns what is
        pending next. `state` is the newest there is.
        """
        if pending is None:
            return then
        number, sums = pending
        with self.clock.span("step"):
            sums = jax.device_get(sums)
        if sums["healthy"][0]:
            self.standing.totals.add(sums)
        else:
            self._nonfinite(number, state)
        done = number + 1
        if done % self.run_config.log_steps == 0 or done == self.job.steps:
            self._log(done)
        return then

    def _nonfinite(self, number: int, state: TrainState) -> None:
        """Writes down a step whose loss or gradient is not finite, and leaves it out, or ends."""
        self.standing.skipped_steps += 1
        most = self.run_config.skip_nonfinite
        skipped = self.standing.skipped_steps <= most
        examples = self.job.examples(number)
        path = self.folder / NONFINITE_FILE
        if self.writer is not None:
            line = {"step": number + 1, "skipped": skipped, "examples": examples}
            files.append_lines(path, [json.dumps(line)])
        if skipped:
            return
        self.standing.skipped_steps -= 1
        if not most:
            # No update was made since: this is the state before the fault.
            state = dataclasses.replace(state, healthy=state.healthy | ~state.healthy)
            self._save(state, number)
            self.checkpoints.wait()
        shown = ", ".join(str(example["id"])[:8] for example in examples[:3])
        raise DivergenceError(
            f"stage {self.job.name}: loss or gradient of step {number + 1} is not finite (examples "
            f"{shown}, ...: {path}); "
            + (
                f"{most} such steps were left out before it, as run.skip_nonfinite={most} allows: "
                if most
                else "nothing was updated with it, and the state before it is saved: "
            )
            + "lower optimizer.learning_rate or lengthen optimizer.warmup to start anew, or go on "
            f"from there without such steps by --config.run.skip_nonfinite={max(10, 10 * most)}"
        )

    def _log(self, done: int) -> None:
        means = ratios(self.standing.totals.take(), self.job.terms)
        means.pop("healthy", None)  # without an entry where every step since was left out
        line = {f"train/{name}": value for name, value in means.items()}
        if self.run_config.skip_nonfinite:
            line["train/skipped_steps"] = self.standing.skipped_steps
        self.standing.metrics |= line
        if self.writer is not None:
            stamp = {
                "step": done,
                "examples": done * self.job.batch,
                "seconds": round(self.clock.seconds, 3),
            }
            self.writer.write({**stamp, **line})
            self.clock.flush(self.folder / "spans.jsonl", done)
        self.progress.set(done, **({"loss": means["loss"]} if "loss" in means else {}))

    def _due_to_evaluate(self, number: int) -> bool:
        every = self.job.evaluate_every
        return every is not None and number % every == 0

    def _evaluate(self, state: TrainState, number: int) -> None:
        if self.job.evaluate is None:
            return
        with self.clock.span("evaluate"):
            found = self.job.evaluate(state.params)
        self.standing.metrics |= found
        if self.writer is not None:
            self.writer.write({"step": number, "seconds": round(self.clock.seconds, 3), **found})
        if self.job.best is None:
            return
        value = found[self.job.best]
        if self.standing.best_value is None or value > self.standing.best_value:
            self.standing.best_value, self.standing.best_step = value, number
            assert self.job.keep_best is not None
            self.job.keep_best(number, state.params)

    def _save(self, state: TrainState, number: int) -> None:
        if self.checkpoints.latest_step == number:
            return
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
        }
        with self.clock.span("save"):
            self.checkpoints.save(number, state, note)
        self.saved_at = time.monotonic()

    def _wish(self, number: int) -> "_Wish":
        """Returns whether to save and to stop now, the same answer on every process."""
        late = time.monotonic() - self.saved_at >= self.run_config.save_seconds
        if jax.process_count() == 1:
            return _Wish(late, self.stop.number)
        if number % _AGREE_STEPS:
            return _Wish(False, 0)
        return _Wish(bool(distributed.agree(int(late))), distributed.agree(self.stop.number))

    def _alive(self) -> None:
        """Arms the watchdog anew: without another call in time, all stacks are dumped and the
        process ends.
        """
        faulthandler.dump_traceback_later(
            self.run_config.watchdog_seconds, exit=True, file=sys.__stderr__ or sys.stderr
        )


@dataclasses.dataclass(frozen=True)
class _Wish:
    save: bool
    stop: int
