"""Builds records from a large corpus twice, once killed repeatedly, and compares the bytes.

    python -m benchmarks.build_at_scale --text corpus/*.txt --tokenizer vocab.txt --megabytes 1000

The text is repeated with variations (the words of each sentence rotate) in one file of the
requested size. It is built by --workers processes: --kills times, one of them, chosen at random,
gets SIGKILL and the same command is run again. It is then built by one process, left alone,
elsewhere. The manifests must agree in the digest of every shard and index. The results are MB of
text per second of processor time, which a busy machine changes little, and the largest memory of
any process.
"""

import argparse
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import side_by_side
from pd_jax import files
from pd_jax.data.records import manifest

_POLL_SECONDS = 0.1
_TRACKER = 40_000_000
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass
class Usage:
    """What the processes of one command have used so far, by process id."""

    processor_seconds: dict[int, float] = dataclasses.field(default_factory=dict)
    peak_bytes: dict[int, int] = dataclasses.field(default_factory=dict)

    def look(self, group: int) -> list[int]:
        """Returns a group's living processes, after recording what they have used."""
        living = []
        for folder in pathlib.Path("/proc").iterdir():
            if folder.name.isdigit() and (seconds := _seconds_in(folder, group)) is not None:
                living.append(int(folder.name))
                self.processor_seconds[living[-1]] = seconds
                known = self.peak_bytes.get(living[-1], 0)
                self.peak_bytes[living[-1]] = max(known, side_by_side.peak_bytes(living[-1]))
        return living


def _seconds_in(process: pathlib.Path, group: int) -> float | None:
    """Returns the processor seconds of a process if it lives and belongs to the group."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, its_group, times = fields[0], int(fields[2]), fields[11:13]
    return sum(map(int, times)) / _TICKS if its_group == group and state != "Z" else None


def write_corpus(target: pathlib.Path, texts: Sequence[pathlib.Path], size: int) -> int:
    """Writes complete documents of at least `size` bytes made from the texts; returns the bytes."""
    written = 0
    with target.open("w", encoding="utf-8") as stream:
        for line in _varied(texts):
            written += len(line.encode("utf-8"))
            stream.write(line)
            if written >= size and line == "\n":
                return written
    raise AssertionError("the lines never end")


def _varied(texts: Sequence[pathlib.Path]) -> Iterator[str]:
    """Yields the texts' lines endlessly; in copy n, each sentence starts n words later."""
    copy = 0
    while True:
        for path in texts:
            with path.open(encoding="utf-8") as stream:
                for line in stream:
                    words = line.split()
                    turn = copy % len(words) if words else 0
                    yield " ".join(words[turn:] + words[:turn]) + "\n"
            yield "\n"
        copy += 1


def build(
    command: Sequence[str], output: pathlib.Path, *, shards: int, kill_at: int | None, chance: Any
) -> dict[str, Any]:
    """Returns what one attempt took; with `kill_at`, one of its processes is killed once that many
    shards are complete.
    """
    began, usage, killed = time.monotonic(), Usage(), None
    child = subprocess.Popen(command, start_new_session=True)
    while living := usage.look(child.pid):
        whole = len(list(output.glob("*.shard.json")))
        if kill_at is not None and killed is None and whole >= kill_at:
            time.sleep(chance.uniform(0, 2))
            living = usage.look(child.pid) or living
            # Python's resource tracker is among them, but killing it would test nothing.
            victim = chance.choice([one for one in living if usage.peak_bytes[one] > _TRACKER])
            killed = "the command" if victim == child.pid else "a worker"
            os.kill(victim, signal.SIGKILL)
        child.poll()
        time.sleep(_POLL_SECONDS)
    return {
        "exit": child.wait(),
        "killed": killed,
        "shards_whole": len(list(output.glob("*.shard.json"))),
        "of_shards": shards,
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(sum(usage.processor_seconds.values()), 1),
        "peak_mb": sorted(round(peak / 1e6) for peak in usage.peak_bytes.values()),
    }


def digests(folder: pathlib.Path) -> list[tuple[str, str]]:
    """Returns the digests of every shard and its index, from a complete dataset's manifest."""
    return [(shard.digest, shard.index_digest) for shard in manifest.read(folder).shards]


def prove(arguments: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Returns the figures of both builds; `equal` is whether their bytes agree."""
    corpus = folder / "corpus.txt"
    size = write_corpus(corpus, arguments.text, int(arguments.megabytes * 1e6))
    shards = max(8, size // 16_000_000)
    print(f"{size / 1e6:,.1f} MB of text in {corpus}, {shards} shards", flush=True)

    def attempt(name: str, workers: int, kill_at: int | None = None) -> dict[str, Any]:
        command = [
            sys.executable, "-m", "pd_jax.tools.build_records", "--input", str(corpus),
            "--layout", "corpus", "--tokenizer", str(arguments.tokenizer), "--shards", str(shards),
            "--workers", str(workers), "--output", str(folder / name),
        ]  # fmt: skip
        found = build(command, folder / name, shards=shards, kill_at=kill_at, chance=chance)
        print(f"{name}: {found}", flush=True)
        return found

    chance = random.Random(arguments.seed)
    moments = sorted(chance.randrange(shards - 1) for _ in range(arguments.kills))
    killed = [attempt("killed", arguments.workers, moment) for moment in moments]
    killed.append(attempt("killed", arguments.workers))
    alone = attempt("alone", 1)
    seconds = sum(one["processor_seconds"] for one in killed)
    return {
        "text_mb": round(size / 1e6, 1),
        "examples": manifest.read(folder / "alone").rows,
        "killed": killed,
        "alone": alone,
        "mb_per_processor_second": {
            "killed, work that was lost included": round(size / 1e6 / seconds, 2),
            "alone": round(size / 1e6 / alone["processor_seconds"], 2),
        },
        "largest_process_mb": max(peak for one in (*killed, alone) for peak in one["peak_mb"]),
        "equal": digests(folder / "killed") == digests(folder / "alone"),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if both builds produced the same bytes, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.build_at_scale", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add(
        "--text",
        nargs="+",
        type=pathlib.Path,
        required=True,
        help="plain text, a blank line between documents",
    )
    add("--tokenizer", type=pathlib.Path, required=True, help="vocab.txt or another tokenizer")
    add("--megabytes", type=float, default=1000.0)
    add("--workers", type=int, default=2)
    add("--kills", type=int, default=3)
    add("--seed", type=int, default=0, help="decides what is killed, and when")
    add("--folder", type=pathlib.Path, default=pathlib.Path("build_at_scale"), help="for scratch")
    add("--output", type=pathlib.Path, default=side_by_side.own_folder() / "build_at_scale.json")
    arguments = parser.parse_args(argv)
    arguments.folder.mkdir(parents=True)
    try:
        found = prove(arguments, arguments.folder)
    finally:
        shutil.rmtree(arguments.folder)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(arguments.output, {"machine": side_by_side.machine(), **found})
    verdict = "the same bytes" if found["equal"] else "OTHER BYTES"
    print(f"{found['text_mb']:,.1f} MB of text, killed {arguments.kills} times: {verdict};"
          f" {found['mb_per_processor_second']} MB per second of processor time, at most"
          f" {found['largest_process_mb']} MB a process: {arguments.output}")  # fmt: skip
    return 0 if found["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
