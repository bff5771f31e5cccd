"""What long-running work says on standard error: its progress, and warnings.

In a terminal the line of progress is rewritten in place, with rate and time left. Without one (a
log file, a batch job) a plain line is written now and then. Either way the last line states what
was done and how fast.
"""

import collections
import math
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO

_REDRAW_SECONDS = 0.2
_LINE_SECONDS = 30.0
_WINDOW_SECONDS = 30.0

Number = int | float


def warn(message: str) -> None:
    """Prints a warning to stderr: something to know that needs no action."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


class Progress:
    """A context manager that shows `done` of `total`, the rate, the time left, and named values.

    Args:
      title: what is being done, for example "tokenising".
      total: how much there is to do; None where that is not known.
      unit: what is counted, in the plural.
      start: how much an earlier session had done; it counts as done but not towards the rate.
      shown: whether this process is the one of several that reports for all.
      stream: where to write; standard error by default.
      clock: seconds, rising.
    """

    def __init__(
        self,
        title: str,
        total: Number | None = None,
        *,
        unit: str = "rows",
        start: Number = 0,
        shown: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._title, self._total, self._unit = title, total, unit
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._silent = not shown
        self._terminal = self._stream.isatty()
        self._start = self._done = start
        self._shown: dict[str, Any] = {}
        self._began = self._written = clock()
        self._recent: collections.deque[tuple[float, Number]] = collections.deque(
            [(self._began, start)]
        )
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        seconds = self._clock() - self._began
        work = self._done - self._start
        stopped = "stopped after " if kind is not None else ""
        line = f"{self._title}: {stopped}{_count(self._done)} {self._unit} in {_duration(seconds)}"
        if seconds > 0 and work > 0:
            line += f" ({_rate(work / seconds)} {self._unit}/s)"
        self._write(line + self._values(), last=True)

    def advance(self, amount: Number, **shown: Any) -> None:
        """Adds `amount` to what is done; `shown` values stay on the line until replaced."""
        self.set(self._done + amount, **shown)

    def set(self, done: Number, **shown: Any) -> None:
        """Sets how much is done; `shown` values stay on the line until replaced."""
        self._done = done
        self._shown.update(shown)
        now = self._clock()
        if now - self._written >= (_REDRAW_SECONDS if self._terminal else _LINE_SECONDS):
            self._written = now
            self._write(self._line(now))

    def _line(self, now: float) -> str:
        """Returns the running line: done, share, rate of the last half minute, time left."""
        self._recent.append((now, self._done))
        while len(self._recent) > 2 and now - self._recent[1][0] >= _WINDOW_SECONDS:
            self._recent.popleft()
        then, before = self._recent[0]
        rate = (self._done - before) / (now - then) if now > then else 0.0
        line = f"{self._title}: {_count(self._done)}"
        if self._total:
            share = math.floor(100 * self._done / self._total)
            line += f" of {_count(self._total)} {self._unit} ({share} %)"
        else:
            line += f" {self._unit}"
        if rate > 0:
            line += f", {_rate(rate)} {self._unit}/s"
            if self._total:
                line += f", {_duration(max(0.0, self._total - self._done) / rate)} left"
        return line + self._values()

    def _values(self) -> str:
        return "".join(f", {name} {_value(value)}" for name, value in self._shown.items())

    def _write(self, line: str, last: bool = False) -> None:
        if self._silent:
            return
        if not self._terminal:
            self._stream.write(line + "\n")
        else:
            # A carriage return cannot rewrite a line that wraps, so it is cut to the width.
            line = line if last else line[: shutil.get_terminal_size().columns - 1]
            self._stream.write("\r" + line.ljust(self._width) + ("\n" if last else ""))
            self._width = len(line)
        self._stream.flush()


def _count(number: Number) -> str:
    return f"{number:,d}" if isinstance(number, int) else f"{number:,.1f}"


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    """Returns 8.4 s, 2:03 min or 5:01 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"
    return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02d} h"
