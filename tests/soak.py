"""Trains for an hour and watches the process: memory, open files, threads and speed stay flat.

    python -m tests.soak                      an hour of the quick start's pre-training
    python -m tests.soak --minutes 10 --config configs/pd/sst2.py \
        --stages vocabulary,corpus_general,pretrain_L2_H128

The last stage is watched; those before it are what it needs. When the time is over, its process is
ended by SIGTERM, so that its last save is checked, too. A level is flat if its median over the last
quarter of the time equals that over the second; the first is for warming up.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from pd_jax import files
from pd_jax.errors import PREEMPTED_EXIT_CODE
from pd_jax.report.curves import Curve, curve_chart, thinned
from pd_jax.report.svg import Frame

ROOT = pathlib.Path(__file__).resolve().parents[1]
ALLOWED = 0.03
"""By how much a level may rise, and the speed may fall."""
_SAMPLE_SECONDS = 5.0
_SPEED_SAMPLES = 24
"""Speed is measured over this many samples: over two minutes."""
_LEVELS = ("own_megabytes", "open_files", "threads")


@dataclasses.dataclass(frozen=True)
class Sample:
    """The resources a process holds at a moment, and how far it has come."""

    minutes: float
    own_megabytes: float
    """Resident, without pages of mapped files, which grow with what was read and can be dropped."""
    open_files: int
    threads: int
    cpu_seconds: float
    step: int


def sample(pid: int, workdir: pathlib.Path, stage: str, began: float) -> Sample:
    """Returns a process's current sample; raises OSError if it has ended."""
    process = pathlib.Path(f"/proc/{pid}")
    # The command's name, in brackets, may contain spaces; utime and stime are fields 14 and 15.
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    # A stage that was run before with another config has a folder of the same name.
    written = list(workdir.glob(f"stages/{stage}-*/metrics.jsonl"))
    newest = max(written, key=lambda path: path.stat().st_mtime, default=None)
    lines = newest.read_text().splitlines() if newest else []
    return Sample(
        minutes=(time.monotonic() - began) / 60,
        own_megabytes=_own_kilobytes(process) / 1024,
        open_files=len(list((process / "fd").iterdir())),
        threads=int(fields[17]),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        step=json.loads(lines[-1])["step"] if lines else 0,
    )


def _own_kilobytes(process: pathlib.Path) -> int:
    (line,) = re.findall(r"RssAnon:\s+(\d+) kB", (process / "status").read_text())
    return int(line)


def speeds(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Returns (minutes, steps per CPU second): other processes of the machine hardly change it."""
    ends = samples[::_SPEED_SAMPLES]
    return [
        (later.minutes, (later.step - sooner.step) / (later.cpu_seconds - sooner.cpu_seconds))
        for sooner, later in zip(ends, ends[1:], strict=False)
    ]


def judge(samples: Sequence[Sample]) -> dict[str, dict]:
    """Returns level -> its medians over the second and the last quarter, and whether it is flat."""
    found = {}
    for name in _LEVELS:
        second, last = _quarters([getattr(one, name) for one in samples])
        flat = last <= second * (1 + ALLOWED)
        found[name] = {"second": round(second, 1), "last": round(last, 1), "flat": flat}
    second, last = _quarters([speed for _, speed in speeds(samples)])
    flat = last >= second * (1 - ALLOWED)
    found["steps_per_cpu_second"] = {
        "second": round(second, 3),
        "last": round(last, 3),
        "flat": flat,
    }
    return found


def _quarters(values: Sequence[float]) -> tuple[float, float]:
    quarter = max(1, len(values) // 4)
    return float(np.median(values[quarter : 2 * quarter])), float(np.median(values[-quarter:]))


def watch(command: list[str], workdir: pathlib.Path, stage: str, minutes: float) -> list[Sample]:
    """Returns the samples of a training command, which is then asked to stop and must save."""
    began = time.monotonic()
    samples: list[Sample] = []
    with subprocess.Popen(command, cwd=ROOT) as process:
        while time.monotonic() < began + 60 * minutes and process.poll() is None:
            time.sleep(_SAMPLE_SECONDS)
            with contextlib.suppress(OSError):
                samples.append(sample(process.pid, workdir, stage, began))
        process.send_signal(signal.SIGTERM)
        status = process.wait()
    if status not in (0, PREEMPTED_EXIT_CODE):
        raise SystemExit(f"the command ended with {status}; see above")
    if status == 0:
        raise SystemExit(f"it ended by itself within {minutes} minutes; give it more steps")
    return samples


def page(samples: Sequence[Sample], found: dict) -> str:
    """Returns a page with a chart of every level over the minutes."""
    series = {name: [(one.minutes, getattr(one, name)) for one in samples] for name in _LEVELS}
    series["steps_per_cpu_second"] = speeds(samples)
    charts = [
        curve_chart(
            Frame(name, name.replace("_", " "), json.dumps(found[name]), 720, 240),
            [Curve(name, thinned(points, limit=200), 0)],
            x_label="minutes",
            y_label=name.replace("_", " "),
            logarithmic=False,
            named=False,
        )
        for name, points in series.items()
    ]
    return "<!doctype html><meta charset=utf-8><title>Soak</title>" + "".join(charts)


def main() -> int:
    """Returns 0 if every level stayed flat."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--stages", default="text,vocabulary,corpus,pretrain")
    parser.add_argument("--steps", type=int, default=1_000_000, help="more than the time is for")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/soak"))
    arguments = parser.parse_args()
    *needed, watched = arguments.stages.split(",")
    command = [
        *(sys.executable, "-m", "pd_jax.main", f"--config={arguments.config}"),
        f"--workdir={arguments.workdir.resolve()}",
        f"--config.stages.{watched}.length.steps={arguments.steps}",
        *("--config.run.log_steps=20", "--config.run.save_seconds=60", "--changed"),
    ]
    subprocess.run([*command, f"--stages={','.join(needed)}"], cwd=ROOT, check=True)
    command.append(f"--stages={watched}")
    samples = watch(command, arguments.workdir, watched, arguments.minutes)
    found = judge(samples)
    files.write_text(arguments.workdir / "soak.html", page(samples, found))
    print(json.dumps({"minutes": arguments.minutes, "steps": samples[-1].step, **found}, indent=2))
    print(f"charts: {arguments.workdir / 'soak.html'}")
    return int(not all(level["flat"] for level in found.values()))


if __name__ == "__main__":
    sys.exit(main())
