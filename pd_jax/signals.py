"""Stop requests: SIGTERM (preemption) and the first SIGINT end a run after its next save, a second
SIGINT at once.
"""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from pd_jax.errors import PREEMPTED_EXIT_CODE

_INTERRUPTED_EXIT_CODE = 130
_AGAIN_SECONDS = 0.1


class Stopped(BaseException):
    """Work stopped because a signal asked for it; training saved its state before.

    Like KeyboardInterrupt, not an Exception: it may be raised anywhere, including code that reports
    any Exception as a damaged file.
    """

    def __init__(self, number: int):
        self.exit_code = PREEMPTED_EXIT_CODE if number == signal.SIGTERM else _INTERRUPTED_EXIT_CODE
        super().__init__(signal.Signals(number).name)


def stop_on(number: int) -> None:
    """Makes a signal raise `Stopped` in whatever runs outside a training loop.

    Python swallows what is raised while a finaliser or a callback of the garbage collection runs;
    the signal is then sent again.
    """
    before = sys.unraisablehook

    def again(unraisable: "sys.UnraisableHookArgs") -> None:
        swallowed = {Stopped: number, KeyboardInterrupt: signal.SIGINT}
        kind = type(unraisable.exc_value)
        if kind in swallowed:
            threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), swallowed[kind])).start()
        else:
            before(unraisable)

    sys.unraisablehook = again
    signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    raise Stopped(number)


class StopRequest:
    """Inside the block, the signal that asked this process to stop, or 0."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: a library caller keeps its own handlers
                return self
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
