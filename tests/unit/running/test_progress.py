"""The progress line, held to the letters it writes."""

import io
import os
import pty
import subprocess
import sys

import pytest

from pd_jax.progress import Progress


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_every_half_minute_and_at_the_end():
    stream, clock = io.StringIO(), Clock()
    with Progress("reading", 4_000, unit="rows", stream=stream, clock=clock) as progress:
        for _ in range(4):
            clock.now += 20.0
            progress.advance(1_000, loss=0.123456)
    assert stream.getvalue().splitlines() == [
        "reading: 2,000 of 4,000 rows (50 %), 50 rows/s, 40.0 s left, loss 0.1235",
        "reading: 4,000 of 4,000 rows (100 %), 50 rows/s, 0.0 s left, loss 0.1235",
        "reading: 4,000 rows in 1:20 min (50 rows/s), loss 0.1235",
    ]


def test_a_terminal_line_is_rewritten_and_leaves_nothing_behind():
    stream, clock = Terminal(), Clock()
    with Progress("reading", unit="rows", stream=stream, clock=clock) as progress:
        clock.now += 1.0
        progress.set(1_000_000, phase="long")
        clock.now += 0.1
        progress.set(1_100_000)  # too soon to be drawn
        clock.now += 9.0
        progress.set(10, phase="")
    first, second, last = stream.getvalue().lstrip("\r").split("\r")
    assert first == "reading: 1,000,000 rows, 1,000,000 rows/s, phase long"
    assert second.rstrip() == "reading: 10 rows, 0.99 rows/s, phase"
    assert len(second) == len(first), "the shorter line must cover the longer one"
    assert last == "reading: 10 rows in 10.1 s (0.99 rows/s), phase \n"


def test_a_resumed_run_does_not_count_earlier_work_towards_its_rate():
    stream, clock = io.StringIO(), Clock()
    with Progress(
        "training", 2_000, unit="steps", start=1_000, stream=stream, clock=clock
    ) as progress:
        clock.now += 40.0
        progress.set(1_040)
    assert stream.getvalue().splitlines() == [
        "training: 1,040 of 2,000 steps (52 %), 1 steps/s, 16:00 min left",
        "training: 1,040 steps in 40.0 s (1 steps/s)",
    ]


def test_the_rate_is_that_of_the_last_half_minute():
    stream, clock = io.StringIO(), Clock()
    with Progress("training", 10_000, unit="steps", stream=stream, clock=clock) as progress:
        clock.now += 300.0  # a long compile before the first step
        progress.set(1)
        for _ in range(4):
            clock.now += 30.0
            progress.advance(300)
    assert "10 steps/s" in stream.getvalue().splitlines()[-2]


def test_a_failure_is_said_to_be_one():
    stream, clock = io.StringIO(), Clock()
    with pytest.raises(ValueError), Progress("reading", 10, stream=stream, clock=clock) as progress:
        progress.set(3)
        raise ValueError
    assert stream.getvalue() == "reading: stopped after 3 rows in 0.0 s\n"


def test_in_a_real_terminal_the_line_is_cut_to_its_width():
    program = (
        "import time\nfrom pd_jax.progress import Progress\n"
        "with Progress('x' * 60, 10) as p:\n    time.sleep(0.3)\n    p.set(5, note='y' * 60)\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "40"}
    subprocess.run([sys.executable, "-c", program], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 4096):
            written += chunk
    except OSError:  # Linux ends a terminal whose other side is closed with EIO
        pass
    finally:
        os.close(ours)
    running = written.decode().split("\r")[1]
    assert running.startswith("xxxx") and len(running) == 39
