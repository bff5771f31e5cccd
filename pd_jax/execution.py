"""Carries out planned stages whose inputs are done, and marks them as done.

`done.json`, written last, marks a stage's folder as complete.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from pd_jax import config as config_lib
from pd_jax import files, versions
from pd_jax.config import reading
from pd_jax.parallel import distributed
from pd_jax.planning import Planned, check_unchanged
from pd_jax.stages.context import Context, Done
from pd_jax.stages.faults import with_remedy
from pd_jax.stages.runners import carry_out
from pd_jax.workdir import CONFIG, DONE, VERSIONS

_SESSIONS = "sessions.jsonl"
"""The seconds of each session that worked on a stage."""


def run_with_remedies(
    items: Sequence[Planned],
    inputs: Mapping[str, Planned],
    run_config: config_lib.Run,
    workdir: epath.Path,
) -> list[dict[str, Any] | Exception]:
    """Returns what `run_stages` does; a lack of space or memory gets a message with its remedy."""
    try:
        found = run_stages(items, inputs, run_config, workdir) if items else []
    except Exception as fault:
        found = [fault] * len(items)
    made = [source.folder for source in inputs.values()]
    return [
        with_remedy(one, item.name, item.stage, item.folder, inputs=made)
        if isinstance(one, Exception)
        else one
        for item, one in zip(items, found, strict=True)
    ]


def run_stages(
    items: Sequence[Planned],
    planned: Mapping[str, Planned],
    run_config: config_lib.Run,
    workdir: epath.Path,
) -> list[dict[str, Any] | Exception]:
    """Runs one stage whose inputs are done, or several in one program, marks each as done, and
    returns the content of its `done.json`, or the fault that ended it.
    """

    def path(reference: str, _: Any) -> str:
        if (found := config_lib.referred(reference)) is None:
            return reference
        output = planned[found.stage].output
        return str(output / found.inside) if found.inside else str(output)

    _check_unchanged(items, planned, workdir)
    resolved = [reading.map_references(item.stage, path) for item in items]
    contexts = [Context(item.name, item.folder, run_config) for item in items]
    if distributed.is_writer():
        for item in items:
            item.folder.mkdir(parents=True, exist_ok=True)
            files.write_json(item.folder / CONFIG, reading.to_json(item.stage))
            files.write_json(item.folder / VERSIONS, versions.versions())
    with _timed([item.folder for item in items]):
        ended = carry_out(resolved, contexts)
        _check_unchanged(items, planned, workdir)
    return [
        done if isinstance(done, Exception) else _mark_done(item, done, planned)
        for item, done in zip(items, ended, strict=True)
    ]


def _check_unchanged(
    items: Sequence[Planned], planned: Mapping[str, Planned], workdir: epath.Path
) -> None:
    with distributed.all_or_none("comparing what the stages read"):
        for item in items:
            check_unchanged(item, planned, workdir)


@contextlib.contextmanager
def _timed(folders: Sequence[epath.Path]) -> Iterator[None]:
    """Writes each stage's share of a session's seconds into its folder, however the session ends;
    only one that is killed outright leaves none.
    """
    begin = time.monotonic()
    try:
        yield
    finally:
        seconds = round((time.monotonic() - begin) / len(folders), 3)
        for folder in folders if distributed.is_writer() else ():
            with contextlib.suppress(OSError):  # where the disk is full, that is the fault to raise
                files.append_lines(folder / _SESSIONS, [json.dumps({"seconds": seconds})])


def _seconds(folder: epath.Path) -> float:
    """Returns the seconds of all sessions of a stage, as process 0 wrote them; 0 in the others."""
    if not distributed.is_writer():
        return 0.0
    path = folder / _SESSIONS
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(json.loads(line)["seconds"] for line in lines)


def _mark_done(item: Planned, done: Done, planned: Mapping[str, Planned]) -> dict[str, Any]:
    """Writes a stage's `done.json`, removes what only an unfinished stage needs, and returns the
    content of `done.json`.
    """
    found = {
        "stage": item.name,
        "kind": item.stage.kind,
        "fingerprint": item.fingerprint,
        "seconds": round(_seconds(item.folder) if done.seconds is None else done.seconds, 3),
        "steps": done.steps,
        "examples": done.examples,
        "parameters": done.parameters,
        "megabytes": done.megabytes,
        "metrics": dict(done.metrics),
        "inputs": {name: planned[name].fingerprint for name in item.inputs},
        "outputs": dict(done.outputs),
        "utilisation": dict(done.utilisation),
    }
    if distributed.is_writer():
        files.write_json(item.folder / DONE, found)
        # Only now: a stage killed before this needs the weights that its checkpoint names.
        for folder in done.scratch:
            if folder.exists():
                folder.rmtree()
    distributed.barrier(f"done {item.fingerprint}")
    return found
