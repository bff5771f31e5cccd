"""The metrics file of a stage: JSONL is the truth, TensorBoard a view of it.

One line a write, in order of steps. On resume, lines of steps that will be computed again are
dropped first, so that no line is doubled and none is missing.
"""

import json
import math
import os
import platform
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from pd_jax import files
from pd_jax.data.wire import tfrecord
from pd_jax.errors import StageError
from pd_jax.workdir import METRICS, SPANS

_HELD_SECONDS = 60.0
"""How long lines for a file in a bucket are held back."""


def ratios(sums: Mapping[str, tuple[Any, Any]], terms: Mapping[str, float]) -> dict[str, float]:
    """Returns name -> sum / count, with `loss` as the weighted sum of the terms.

    A quantity with a count of 0 has no mean, except for a term of the loss, whose mean is then 0.
    """
    means = {
        name: float(total) / max(float(count), 1.0)
        for name, (total, count) in sums.items()
        if count or name in terms
    }
    if all(name in means for name in terms):
        means["loss"] = sum(weight * means[name] for name, weight in terms.items())
    return means


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Returns metrics by name, None for NaN and infinity, which JSON does not have."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


class Totals:
    """Adds named (sum, count) pairs on the host, in float64."""

    def __init__(self) -> None:
        self._pairs: dict[str, np.ndarray] = {}

    def add(self, sums: Mapping[str, tuple[Any, Any]]) -> None:
        """Adds one step's or one batch's pairs."""
        for name, pair in sums.items():
            self._pairs[name] = self._pairs.get(name, np.zeros(2)) + np.asarray(pair, np.float64)

    def take(self) -> dict[str, tuple[float, float]]:
        """Returns the pairs so far and resets them."""
        pairs, self._pairs = self._pairs, {}
        return {name: (float(total), float(count)) for name, (total, count) in pairs.items()}


class MetricsFile:
    """Appends metrics and spans of one stage; used by the writing process only.

    In a bucket they appear with the first line after a minute, or when they are flushed.
    """

    def __init__(
        self, folder: epath.Path, *, first_step: int, tensorboard: bool, evaluated: bool = True
    ):
        drop_from(folder / METRICS, first_step, evaluated=evaluated)
        if not files.is_remote(folder):
            files.append_lines(folder / SPANS, [])  # removes a line that a kill cut
        self._metrics, self._spans = _Growing(folder / METRICS), _Growing(folder / SPANS)
        self._board = _Board(folder / "tensorboard", first_step) if tensorboard else None

    def write(self, values: Mapping[str, float | None]) -> None:
        """Appends one line; `values` has `step`, and `split/quantity` names."""
        shown = {name: _rounded(value) for name, value in values.items()}
        self._metrics.add_line(shown)
        if self._board is not None:
            self._board.write(shown)

    def write_spans(self, spans: Mapping[str, float], step: int) -> None:
        """Appends a line for each span of seconds up to a step."""
        for name, seconds in spans.items():
            self._spans.add_line({"name": name, "seconds": round(seconds, 6), "step": step})

    def flush(self) -> None:
        """Writes what is held back."""
        for growing in (self._metrics, self._spans, *([self._board.file] if self._board else [])):
            growing.flush()


class _Growing:
    """A file that is appended to. One in a bucket is written anew each time, so its new content is
    held back for a while.
    """

    def __init__(self, path: epath.Path):
        self._path = path
        self._held: list[bytes] = []
        self._seconds = _HELD_SECONDS if files.is_remote(path) else 0.0
        self._written_at = time.monotonic()

    def add_line(self, value: Any) -> None:
        """Adds a JSON value in a line of its own."""
        self.add(json.dumps(value, allow_nan=False).encode() + b"\n")

    def add(self, content: bytes) -> None:
        """Adds bytes, all or none of which are written."""
        self._held.append(content)
        if time.monotonic() - self._written_at >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Writes what is held back."""
        content = b"".join(self._held)
        self._held.clear()
        if content:
            files.append(self._path, content)
            self._written_at = time.monotonic()


class _Board:
    """TensorBoard's file of one session, written by the caller's own thread.

    The library's SummaryWriter has a thread that ends silently when the disk is full; the next
    calls then wait for it forever.

    A reader drops whole steps only. An evaluation that is made again, because a signal cut it off,
    may therefore be shown twice, if the session that made it again ended before its next
    checkpoint. In metrics.jsonl it stands once.
    """

    def __init__(self, folder: epath.Path, first_step: int):
        from tensorboardX import summary
        from tensorboardX.proto import event_pb2

        protos: Any = event_pb2  # its names are made at run time
        self._event, self._scalar = protos.Event, summary.scalar
        name = f"events.out.tfevents.{int(time.time())}.{platform.node()}.{os.getpid()}"
        self.file = _Growing(folder / name)
        folder.mkdir(parents=True, exist_ok=True)
        # A reader drops what earlier sessions wrote from this step on: it will be written again.
        start = protos.SessionLog(status=protos.SessionLog.START)
        self._append(
            self._event(wall_time=time.time(), file_version="brain.Event:2"),
            self._event(wall_time=time.time(), step=first_step + 1, session_log=start),
        )

    def write(self, values: Mapping[str, float | int | None]) -> None:
        """Appends the values that have a `split/quantity` name."""
        self._append(
            *(
                self._event(
                    wall_time=time.time(), step=values["step"], summary=self._scalar(name, value)
                )
                for name, value in values.items()
                if "/" in name and value is not None
            )
        )

    def _append(self, *events: Any) -> None:
        payloads = [event.SerializeToString() for event in events]
        frames = [tfrecord.frame(payload, tfrecord.crc32c(payload)) for payload in payloads]
        self.file.add(b"".join(frames))


def _rounded(value: float | None) -> float | int | None:
    return value if value is None or isinstance(value, int) else float(f"{value:.8g}")


def drop_from(path: epath.Path, first_step: int, *, evaluated: bool = True) -> None:
    """Removes a file's lines of steps after `first_step`, and a last line truncated by a kill;
    unless the first step was `evaluated`, also the line of its evaluation, which has no `examples`.
    """
    if not path.exists():
        return
    kept = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            held = json.loads(line)
            step = held["step"]
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise StageError(
                f"{path}, line {number} is not a metrics line; remove the stage's folder"
            ) from None
        if step < first_step or (step == first_step and (evaluated or "examples" in held)):
            kept.append(line)
    files.write_text(path, "".join(line + "\n" for line in kept))
