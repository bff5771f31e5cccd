"""Accounts for a stage's time: every second belongs to a named span."""

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from etils import epath

from pd_jax import files


class Clock:
    """Adds up named spans, and counts the seconds of earlier sessions of the same stage."""

    def __init__(
        self,
        *,
        earlier_seconds: float = 0.0,
        earlier: Mapping[str, float] | None = None,
        now: Callable[[], float] = time.monotonic,
    ):
        self._now = now
        self.sums: dict[str, float] = defaultdict(float, earlier or {})
        """Seconds by span over all sessions."""
        self._start = now() - earlier_seconds
        self.spans: dict[str, float] = defaultdict(float)

    @property
    def seconds(self) -> float:
        """Seconds spent on this stage, over all its sessions."""
        return self._now() - self._start

    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Counts the time inside the block under `name`."""
        begin = self._now()
        try:
            yield
        finally:
            spent = self._now() - begin
            self.spans[name] += spent
            self.sums[name] += spent

    def flush(self, path: epath.Path, step: int) -> None:
        """Appends the spans since the last flush to a JSONL file, and resets them."""
        lines = [
            json.dumps({"name": name, "seconds": round(seconds, 6), "step": step})
            for name, seconds in self.spans.items()
        ]
        self.spans.clear()
        files.append_lines(path, lines)
