"""Fuzzing by coverage: an input that reaches new lines of pd_jax is kept and spoilt further."""

import dataclasses
import os
import pathlib
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any

import pd_jax
from pd_jax.errors import PdError
from tests.fuzzing import guard
from tests.fuzzing.mutate import Mutator

_CODE = os.path.dirname(os.path.abspath(pd_jax.__file__)) + os.sep


@dataclasses.dataclass(frozen=True)
class Target:
    """A parser at work in a folder.

    Attributes:
      seeds: good files. mutate: how to spoil one. read: writes a file's bytes to where the parser
        looks for it, and calls the parser.
      raises: what the parser may raise; by its documentation a PdError, unless it says otherwise.
    """

    seeds: Sequence[bytes]
    mutate: Mutator
    read: Callable[[bytes], object]
    raises: tuple[type[Exception], ...] = (PdError,)


def in_file(
    path: pathlib.Path,
    mutator: Mutator,
    parse: Callable[[], object],
    *,
    seeds: tuple[bytes, ...] = (),
    raises: tuple[type[Exception], ...] = (PdError,),
) -> Target:
    """Returns the target of a parser that reads the file at `path`, by default what lies there."""

    def read(content: bytes) -> object:
        path.write_bytes(content)
        return parse()

    return Target(seeds or (path.read_bytes(),), mutator, read, raises)


@dataclasses.dataclass(frozen=True)
class Finding:
    """An input on which a parser did what it must not."""

    what: str
    where: str
    content: bytes
    trace: str


@dataclasses.dataclass
class Outcome:
    """What a run of the fuzzer saw."""

    executions: int = 0
    refused: int = 0
    lines: int = 0
    kept: int = 0
    findings: dict[str, Finding] = dataclasses.field(default_factory=dict)


def fuzz(
    make: Callable[[pathlib.Path], Target],
    *,
    seed: int,
    seconds: float = float("inf"),
    executions: int = sys.maxsize,
    alive: Callable[[], object] = lambda: None,
) -> Outcome:
    """Returns what came of spoiling files for so long, or so often; equal seeds spoil equally.

    `alive` is called now and then.
    """
    chance, outcome = random.Random(seed), Outcome()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as name, guard.bounded():
        folder = pathlib.Path(name).resolve()
        target = make(folder)
        reached: set[tuple[CodeType, int]] = set()
        kept = list(target.seeds)
        for content in target.seeds:  # imports and caches are no part of what is watched
            target.read(content)
            reached |= _run(target, content, folder, outcome)
        end = time.monotonic() + seconds
        while outcome.executions < executions and time.monotonic() < end:
            if outcome.executions % 64 == 1:
                alive()
            # What was found last is spoilt more often: it lies deeper.
            place = max(chance.randrange(len(kept)), chance.randrange(len(kept)))
            content = target.mutate(chance, kept[place])
            lines = _run(target, content, folder, outcome)
            if not lines <= reached:
                reached |= lines
                kept.append(content)
    outcome.lines, outcome.kept = len(reached), len(kept)
    return outcome


def check(target: Target, content: bytes, folder: pathlib.Path) -> PdError | None:
    """Returns the error by which a file was refused, if any; raises whatever is a finding."""
    try:
        with guard.watched(folder):
            target.read(content)
    except target.raises as refusal:
        return refusal  # type: ignore[return-value]
    return None


def _run(target: Target, content: bytes, folder: pathlib.Path, outcome: Outcome) -> set[Any]:
    """Returns the lines of pd_jax that reading a file reached; notes a finding."""
    outcome.executions += 1
    lines: set[tuple[CodeType, int]] = set()

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            lines.add((frame.f_code, frame.f_lineno))
        return local

    def entered(frame: FrameType, event: str, argument: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(_CODE) else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        outcome.refused += check(target, content, folder) is not None
    except KeyboardInterrupt:
        raise
    except BaseException as fault:
        sys.settrace(before)
        finding = _finding(fault, content)
        outcome.findings.setdefault(finding.where, finding)
    finally:
        sys.settrace(before)
    return lines


def _finding(fault: BaseException, content: bytes) -> Finding:
    frames = traceback.extract_tb(fault.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_CODE)]
    at = f"{ours[-1].filename.removeprefix(_CODE)}:{ours[-1].lineno}" if ours else "outside"
    what = f"{type(fault).__name__}: {fault}"[:300]
    trace = "".join(traceback.format_exception(fault))
    return Finding(what, f"{at} {type(fault).__name__}", content, trace)
