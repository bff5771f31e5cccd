"""Measures peers in alternation on equal work, with what a reader needs to trust the figures.

A machine's speed drifts: with other users, with heat, with the clock. Only runs next to each other
are comparable, so every repetition runs each peer once, in rotating order, and ratios are taken
within a repetition. The medians of those ratios are the result; seconds are printed beside them.
"""

import argparse
import dataclasses
import importlib.metadata
import multiprocessing
import os
import pathlib
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pd_jax import files

RESULTS = pathlib.Path(__file__).parent / "results"
OURS = "pd_jax"
PACKAGES = (
    "pd_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "grain",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "tensorflow-cpu",
)
WARM_UP = 1
"""Warm-up runs of each peer before those that are measured."""
_SETTLE_SECONDS = 0.25
"""Seconds between peers: threads of one that still spin would slow down the next."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """One way to do the work. `run` does it once, and returns when it is done.

    `work` is how much `run` does, in the case's unit: a slow peer may do a part of what a fast one
    does, and is compared by its rate. `close` is called when the case is over.
    """

    name: str
    run: Callable[[], Any]
    work: float
    close: Callable[[], None] = lambda: None


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A peer that could not take part, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison: equal work for every peer, of which the first is ours.

    Attributes:
      name: what is compared, one row of a table.
      unit: of the work, for rates (`examples`).
      peers: in the order of the table's columns.
      facts: what else a reader should know (tokens, lengths, FLOPs).
      clock: the seconds that rates are measured in: wall clock or processor time.
    """

    name: str
    unit: str
    peers: Sequence[Peer | Skipped]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    clock: Callable[[], float] = time.perf_counter


def apart(name: str, make: Callable[..., tuple[Callable[[], Any], float]], *given: Any) -> Peer:
    """Returns a peer that runs in a process of its own and shares no threads or memory.

    There, `make(*given)` returns what to run and how much work that is.

    Raises:
      RuntimeError: with what `make` raised.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make, given), name=name, daemon=True)
    process.start()
    theirs.close()

    def ask(wish: str) -> Any:
        try:
            ours.send(wish)
            fault, answer = ours.recv()
        except (EOFError, BrokenPipeError):
            raise RuntimeError(f"the process of {name} ended by itself") from None
        if fault:
            raise RuntimeError(fault)
        return answer

    def close() -> None:
        ours.close()
        process.join()

    try:
        work = ask("make")
    except RuntimeError:
        close()
        raise
    return Peer(name, lambda: ask("run"), work, close)


def _serve(pipe: Any, make: Callable[..., Any], given: Sequence[Any]) -> None:
    """Makes a peer and runs it whenever the other end of the pipe asks, until that end closes."""
    run = None
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        try:
            if run is None:
                run, answer = make(*given)
            else:
                run()
                answer = None
        except Exception as fault:
            pipe.send((f"{type(fault).__name__}: {fault}".splitlines()[0], None))
        else:
            pipe.send((None, answer))


def apart_or_skipped(name: str, make: Callable[..., Any], *given: Any) -> Peer | Skipped:
    """Returns `apart`'s peer, or why it could not take part."""
    try:
        return apart(name, make, *given)
    except RuntimeError as fault:
        return Skipped(name, str(fault))


def measure(
    case: Case,
    *,
    repetitions: int,
    warm_up: int = WARM_UP,
    clock: Callable[[], float] = time.perf_counter,
    rest: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Returns the case's figures: for each peer its rates, and our speed relative to it.

    `speed` of a peer is units per second, and `times` is ours over the peer's within a repetition
    (above 1: we are faster), each as median, least and greatest. A peer that fails while warming up
    is listed as skipped, with what it raised.
    """
    try:
        return _measure(case, repetitions, warm_up, clock, rest)
    finally:
        for peer in case.peers:
            if isinstance(peer, Peer):
                peer.close()


def _measure(
    case: Case,
    repetitions: int,
    warm_up: int,
    clock: Callable[[], float],
    rest: Callable[[float], None],
) -> dict[str, Any]:
    taking_part, skipped = [], [peer for peer in case.peers if isinstance(peer, Skipped)]
    for peer in case.peers:
        if isinstance(peer, Skipped):
            continue
        try:
            for _ in range(warm_up):
                peer.run()
        except Exception as fault:  # a peer's compiler may fail here; ours must not
            if peer is case.peers[0]:
                raise
            skipped.append(Skipped(peer.name, str(fault).splitlines()[0]))
            continue
        taking_part.append(peer)
    rates: dict[str, list[float]] = {peer.name: [] for peer in taking_part}
    for repetition in range(repetitions):
        turn = repetition % len(taking_part)
        for peer in (*taking_part[turn:], *taking_part[:turn]):
            rest(_SETTLE_SECONDS)
            begin = clock()
            peer.run()
            rates[peer.name].append(peer.work / (clock() - begin))
    ours = rates[taking_part[0].name]
    return {
        "name": case.name,
        "unit": case.unit,
        "facts": dict(case.facts),
        "repetitions": repetitions,
        "peers": {
            name: {
                "speed": _spread(found),
                "times": _spread([mine / its for mine, its in zip(ours, found, strict=True)]),
            }
            for name, found in rates.items()
        },
        "skipped": {peer.name: peer.reason for peer in skipped},
    }


def machine() -> dict[str, Any]:
    """Returns what the figures were measured on: hardware, software, and how busy it is."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def run(
    title: str, cases: Iterator[Case], *, repetitions: int, output: pathlib.Path, command: str
) -> dict[str, Any]:
    """Measures the cases, printing a line for each as it is done, and writes their JSON.

    Cases are made one at a time, so that each frees its memory before the next is made. The JSON is
    written after each case, so that an interrupted run keeps those that it measured; `whole` is
    true only once all are there.
    """
    result: dict[str, Any] = {"title": title, "command": command, "machine": machine()}
    result |= {"whole": False, "cases": []}
    output.parent.mkdir(parents=True, exist_ok=True)
    for case in cases:
        result["cases"].append(measure(case, repetitions=repetitions, clock=case.clock))
        result["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
        files.write_json(output, result)
        print(summary(result["cases"][-1]), flush=True)
    result["whole"] = True
    files.write_json(output, result)
    print(f"{title}: {len(result['cases'])} cases, {output}")
    return result


def summary(found: Mapping[str, Any]) -> str:
    """Returns a case's figures in one line."""
    parts = []
    for number, (name, peer) in enumerate(found["peers"].items()):
        low, middle, high = (peer["times"][key] for key in ("least", "median", "greatest"))
        parts.append(f"{name} {peer['speed']['median']:,.0f}/s")
        if number:
            parts[-1] += f" ({middle:.2f}x, {low:.2f} to {high:.2f})"
    parts += [f"{name} skipped: {reason}" for name, reason in found["skipped"].items()]
    return f"{found['name']} [{found['unit']}]: " + "; ".join(parts)


def arguments(doc: str, name: str, *, repetitions: int) -> argparse.ArgumentParser:
    """Returns a parser with the options that every benchmark takes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc.splitlines()[0]
    )
    parser.add_argument("--repetitions", type=int, default=repetitions)
    parser.add_argument("--output", type=pathlib.Path, default=own_folder() / f"{name}.json")
    return parser


def own_folder() -> pathlib.Path:
    """Returns where this kind of machine's results go, beside those of others."""
    kind = f"{_processor()} {os.cpu_count()} cores".lower()
    return RESULTS / "-".join(re.findall("[a-z0-9]+", kind))


def peak_bytes(process: int) -> int:
    """Returns the most memory that a living process has ever held; 0 for one that is gone."""
    try:
        lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return max([0, *(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))])


def command_line(name: str) -> str:
    """Returns the command that is running, for the result."""
    return " ".join(("python -m", f"benchmarks.{name}", *sys.argv[1:]))


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": float(f"{statistics.median(values):.4g}"),
        "least": float(f"{min(values):.4g}"),
        "greatest": float(f"{max(values):.4g}"),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
