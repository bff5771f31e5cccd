"""Accounts for a stage's time: every second belongs to a named span."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping


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

    def take(self) -> dict[str, float]:
        """Returns the seconds by span since they were last taken, and resets them."""
        spans = dict(self.spans)
        self.spans.clear()
        return spans
