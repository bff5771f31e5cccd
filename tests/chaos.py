"""Interrupts a chain again and again, and compares what it leaves with an undisturbed run's.

    python -m tests.chaos                          25 ends of the quick start's smoke run
    python -m tests.chaos --kills 100 --config configs/quickstart.py

Each time the same command is started again. It is ended by SIGKILL, by SIGTERM, or by a disk that
fills up, at a moment drawn from the seed. A completed chain is compared with the quiet run's, stage
by stage, and started from scratch until there were enough interruptions. Filling a disk requires
the right to mount a tmpfs; without it that kind is left out, and a message says so.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from etils import epath

from pd_jax import files
from pd_jax.errors import EXIT_CODE, PREEMPTED_EXIT_CODE
from pd_jax.stages import compare
from pd_jax.workdir import OUTPUT

ROOT = pathlib.Path(__file__).resolve().parents[1]
TIMEOUT_SECONDS = 3600
_DISK_MEGABYTES = 512


@dataclasses.dataclass(frozen=True)
class Arena:
    """Where the chain runs, and how."""

    folder: pathlib.Path
    config: str
    full_disks: bool

    @property
    def workdir(self) -> pathlib.Path:
        return self.folder / "work"

    def start(self) -> subprocess.Popen[str]:
        """Starts the command and returns once it has printed what it will do."""
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pd_jax.main", f"--config={self.config}"),
                *(f"--workdir={self.workdir}", "--config.run.save_seconds=0.2"),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("pipeline "):
                return process
        raise SystemExit(f"the command ended with {process.wait()} before it began")


def stage_digests(workdir: pathlib.Path) -> dict[str, dict[str, str]]:
    """Returns stage -> what it left -> digest: its output's files, its metrics without times."""
    found = {}
    for done_file in sorted(workdir.glob("stages/*/done.json")):
        folder = done_file.parent
        done = json.loads(done_file.read_text())
        output = folder / OUTPUT[done["kind"]]
        digests = {
            str(path.relative_to(str(output))): _digest(path) for path in files.files_below(output)
        }
        metrics = folder / "metrics.jsonl"
        if metrics.exists():
            lines = [json.loads(line) for line in metrics.read_text().splitlines()]
            steps = [{key: line[key] for key in line if key != "seconds"} for line in lines]
            digests["metrics.jsonl"] = files.digest_json(steps)
        digests["done.json"] = files.digest_json({"metrics": done["metrics"]})
        found[folder.name] = digests
    return found


def _digest(path: epath.Path) -> str:
    """Returns a file's digest; of a comparison of models without the times, which vary."""
    if path.name != compare.FILE:
        return files.digest_file(path)
    found = json.loads(path.read_text())
    for model in found["models"]:
        del model["milliseconds"], model["rows_per_second"]
    return files.digest_json(found)


def differences(quiet: dict, disturbed: dict) -> list[str]:
    """Returns what is missing, unexpected, or different."""
    names = sorted(
        {(stage, name) for side in (quiet, disturbed) for stage in side for name in side[stage]}
    )
    return [
        f"{stage}/{name}"
        for stage, name in names
        if quiet.get(stage, {}).get(name) != disturbed.get(stage, {}).get(name)
    ]


def run_chaos(arena: Arena, *, kills: int, seed: int) -> dict:
    """Returns what was done and found: ends by kind, rounds, stages, and the differences."""
    draw = random.Random(seed)
    began = time.monotonic()
    quiet = _quiet_run(arena)
    seconds = time.monotonic() - began
    kinds = ["SIGKILL", "SIGTERM", *(["full disk"] if arena.full_disks else [])]
    ends: collections.Counter[str] = collections.Counter()
    rounds, spoilt, wrong, faults = 0, 0, [], []
    while sum(ends.values()) < kills or rounds == 0:
        shutil.rmtree(arena.workdir)
        finished = False
        while not finished:
            process = arena.start()
            if sum(ends.values()) < kills:
                kind = draw.choice(kinds)
                # Most ends come early in what is left, so that a chain of many stages meets many.
                ended, out = _end(process, kind, draw.expovariate(4 / seconds), arena, faults)
                if ended:
                    ends[kind] += 1
                    print(f"{sum(ends.values())}: {kind}", flush=True)
                    continue
            else:
                out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
            if process.returncode:
                # A full disk may spoil a stage's only checkpoint: its user is told to move it away.
                told = re.search(r"checkpoints in (\S+) are damaged", out)
                if told is None:
                    raise SystemExit(f"a run ended with {process.returncode}:\n{out}")
                shutil.rmtree(told[1])
                spoilt += 1
            finished = not process.returncode
        rounds += 1
        wrong += differences(quiet, stage_digests(arena.workdir))
        print(f"round {rounds}: {sum(ends.values())} ends so far, differing: {wrong}", flush=True)
    return {
        "config": arena.config,
        "seed": seed,
        "ends": dict(ends),
        "rounds": rounds,
        "stages_begun_anew": spoilt,
        "stages": {stage: files.digest_json(digests) for stage, digests in quiet.items()},
        "differing": wrong,
        "faults": faults,
        "seconds": round(time.monotonic() - began),
    }


def _quiet_run(arena: Arena) -> dict[str, dict[str, str]]:
    """Returns the digests of every stage of a run that nothing disturbs."""
    began = time.monotonic()
    process = arena.start()
    out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    if process.returncode:
        raise SystemExit(f"the quiet run ended with {process.returncode}:\n{out}")
    quiet = stage_digests(arena.workdir)
    print(f"quiet run: {len(quiet)} stages in {time.monotonic() - began:.0f} s", flush=True)
    return quiet


def _end(
    process: subprocess.Popen[str], kind: str, delay: float, arena: Arena, faults: list[str]
) -> tuple[bool, str]:
    """Ends a run after a delay; returns whether it was still running then, and its output."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        out, _ = process.communicate(timeout=delay)
        return False, out
    ballast = arena.folder / "ballast"
    if kind == "full disk":
        _fill(ballast)
    else:
        process.send_signal(signal.SIGKILL if kind == "SIGKILL" else signal.SIGTERM)
    out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    ballast.unlink(missing_ok=True)
    if process.returncode == 0:  # it ended in the same moment, or needed no more room
        return False, out
    wanted = {
        "SIGKILL": -signal.SIGKILL,
        "SIGTERM": PREEMPTED_EXIT_CODE,
        "full disk": EXIT_CODE,
    }[kind]
    # Orbax's threads may print tracebacks of a save that failed; the last word is ours.
    words = {"SIGTERM": "stopped by SIGTERM; run the same", "full disk": "error: "}.get(kind, "")
    last = (out.splitlines() or [""])[-1]
    if process.returncode != wanted or not last.startswith(words):
        faults.append(f"{kind}: ended with {process.returncode}, wanted {wanted}: {out[-2000:]}")
        print(faults[-1], flush=True)
    return True, out


def _fill(ballast: pathlib.Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(1 << 20))


@contextlib.contextmanager
def arena(config: str) -> Iterator[Arena]:
    """Yields a folder for the chain: on a small disk of its own, if one may be mounted."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MEGABYTES}m", "tmpfs", name]
        mounted = not subprocess.run(mount, capture_output=True, check=False).returncode
        if not mounted:
            print("no disk can be mounted here: full disks are left out", flush=True)
        try:
            yield Arena(pathlib.Path(name), config, mounted)
        finally:
            if mounted:
                subprocess.run(["umount", "-l", name], check=True)


def main() -> int:
    """Returns 0 where every stage was equal and every end was clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--config", default="configs/quickstart.py:smoke")
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="where to write what was found, as JSON")
    arguments = parser.parse_args()
    with arena(arguments.config) as place:
        found = run_chaos(place, kills=arguments.kills, seed=arguments.seed)
    print(json.dumps(found, indent=2))
    if arguments.output:
        files.write_json(arguments.output, found)
    return int(bool(found["differing"] or found["faults"]))


if __name__ == "__main__":
    sys.exit(main())
