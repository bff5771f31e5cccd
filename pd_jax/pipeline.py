"""Runs a pipeline: its stages in order, each in a folder named by what it depends on.

Equal stages are run once, whatever pipelines name them (`planning.py`); `done.json`, written last,
says that a folder is whole.
"""

import contextlib
import functools
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from pd_jax import config as config_lib
from pd_jax import files, locks, record, versions
from pd_jax import jobs as jobs_lib
from pd_jax.config import reading
from pd_jax.errors import ConfigError, DivergenceError, PdError, StageError, did_you_mean, no_space
from pd_jax.parallel import distributed
from pd_jax.planning import Planned, check_unchanged, located, plan, vmap_groups
from pd_jax.stages.context import OUTPUT, Context, Done
from pd_jax.stages.declared import check_labels
from pd_jax.stages.faults import with_remedy
from pd_jax.stages.runners import carry_out
from pd_jax.stages.train import BEST


def run(
    pipeline: config_lib.Pipeline,
    workdir: epath.Path,
    *,
    only: Sequence[str] = (),
    changed: bool = False,
    wait: bool = False,
    jobs: int = 1,
    vmap: int = 1,
    command: str = "",
    say: Callable[[str], None] = print,
) -> None:
    """Runs what is not done yet; one process (or one group of processes) runs a stage at a time.

    Without a study the first fault ends the run. In a study a stage that failed is left out, with
    those that need it, and all others are run before the error is raised.

    Args:
      pipeline: the stages.
      workdir: where stages and records of pipelines live.
      only: names of stages to run; empty for all.
      changed: go on in a workdir that holds this pipeline with another config; equal stages are
        reused.
      wait: wait for a stage that another process runs, and take what it makes, instead of refusing.
      jobs: how many stages to run at once, each in a process of its own; 1 runs them in this one.
      vmap: at most how many training stages to train by one program, where they differ in seed,
        learning rate and first weights alone.
      command: how the user called, for the record.
      say: where a line for the user goes.

    Raises:
      LockError: another process runs one of the stages.
      ConfigError, StageError, and whatever a stage raises: nothing half-made is marked as done.
    """
    kept, planned, left = _begin(pipeline, workdir, command, only=only, changed=changed, say=say)

    def work(group: jobs_lib.Group) -> jobs_lib.Work:
        items = [planned[name] for name in group]
        inputs = {need: planned[need] for item in items for need in item.inputs}
        how = {"workdir": workdir, "wait": wait, "changed": changed}
        return functools.partial(_run_group, items, inputs, run_config=pipeline.run, **how)

    groups = vmap_groups(left, vmap)
    if vmap > 1:
        say(_groups_line(groups))
    running = jobs_lib.run(_needs(left), work, jobs=jobs, say=say, groups=groups)
    with contextlib.closing(running) as outcomes:
        _follow(outcomes, planned, kept, study=pipeline.study is not None, count=len(left), say=say)


def _groups_line(groups: Sequence[jobs_lib.Group]) -> str:
    if not groups:
        return (
            "--vmap has nothing to do: no two stages with one padded length differ in seed, "
            "learning rate and first weights alone"
        )
    return f"trained by one program: {'; '.join(', '.join(group) for group in groups)}"


def _begin(
    pipeline: config_lib.Pipeline,
    workdir: epath.Path,
    command: str,
    *,
    only: Sequence[str],
    changed: bool,
    say: Callable[[str], None],
) -> tuple[record.Record, dict[str, Planned], list[Planned]]:
    """Returns the run's record, written, all stages as planned, and those to run, in order."""
    _check_names(pipeline, only)
    kept = record.Record(workdir, pipeline, command)
    kept.check_unchanged(changed=changed)
    with distributed.all_or_none("reading what the stages need"):
        planned = plan(pipeline, workdir)
        for item in planned.values():
            if not item.done:
                check_labels(pipeline, item.name)
    distributed.same_everywhere(
        "pipeline", files.digest_json([item.fingerprint for item in planned.values()])
    )
    selected = [item for item in planned.values() if not only or item.name in only]
    finished = _finished(planned)
    _check_inputs(selected, finished)
    left = [item for item in _in_order(pipeline, selected) if item.name not in finished]
    say(
        f"pipeline {pipeline.name}: {len(selected)} stages, {len(selected) - len(left)} done, "
        f"{len(left)} to run"
    )
    for item in planned.values():
        kept.place(item.name, item.folder, done=item.name in finished)
    kept.write()
    return kept, planned, left


def _follow(
    outcomes: Iterator[jobs_lib.Outcome],
    planned: dict[str, Planned],
    kept: record.Record,
    *,
    study: bool,
    count: int,
    say: Callable[[str], None],
) -> None:
    """Records and tells what becomes of the stages; in a study raises only after the last one, but
    for faults of several processes that are no divergence.
    """
    failed = []
    for number, outcome in enumerate(outcomes, start=1):
        kept.settle(outcome)
        if outcome.fault is not None:
            # Where the disk is full, the record of the start stays: it says "waiting".
            full = contextlib.suppress(OSError) if no_space(outcome.fault) else None
            with full or contextlib.nullcontext():
                kept.write()
            diverged = isinstance(outcome.fault, DivergenceError)
            # Any other fault need not be met by all processes, who would part ways here.
            if not study or (jax.process_count() > 1 and not diverged):
                raise outcome.fault
            failed.append(outcome.name)
            say(f"stage {outcome.name} failed: {outcome.fault}")
            if not isinstance(outcome.fault, PdError):
                traceback.print_exception(outcome.fault)
        elif outcome.lacks is None:
            item, done = outcome.result
            planned[item.name] = item
            kept.place(item.name, item.folder, done=True)
            say((f"[{number}/{count}] " if study else "") + _closing_line(item, done))
        kept.write()
    if failed:
        others = len(kept.faults) - len(failed)
        raise StageError(
            f"{len(failed)} stages failed ({', '.join(failed)}) and {others} that need them were "
            "left out; all else is done: mend what they say, and run the same command again"
        )


def _needs(left: Sequence[Planned]) -> dict[str, tuple[str, ...]]:
    """Returns what each stage waits for: its inputs, and an equal stage of another name."""
    first: dict[str, str] = {}
    found = {}
    for item in left:
        equal = first.setdefault(item.fingerprint, item.name)
        found[item.name] = (*item.inputs, *((equal,) if equal != item.name else ()))
    return found


def _in_order(pipeline: config_lib.Pipeline, selected: Sequence[Planned]) -> list[Planned]:
    """Returns stages such that a study's cells come in turn, each behind what it needs."""
    if pipeline.study is None:
        return list(selected)
    by_name = {item.name: item for item in selected}
    found: dict[str, Planned] = {}

    def add(name: str) -> None:
        if name in by_name and name not in found:
            for need in by_name[name].inputs:
                add(need)
            found[name] = by_name[name]

    for name in (*(cell.stage for cell in pipeline.study.cells), *by_name):
        add(name)
    return list(found.values())


def _run_group(
    items: Sequence[Planned],
    inputs: Mapping[str, Planned],
    say: Callable[[str], None],
    *,
    run_config: config_lib.Run,
    workdir: epath.Path,
    wait: bool,
    changed: bool,
) -> list[tuple[Planned, dict[str, Any]] | Exception]:
    """Returns each stage where it lives by now, and its `done.json`, which is made if missing; or
    the fault that ended it.
    """
    with contextlib.ExitStack() as locked:
        for item in items:
            locked.enter_context(_one_writer(item, wait=wait, say=say))
        # Whoever held a lock before may have run an equal stage, under another name.
        items = [located(item, workdir) for item in items]
        finished = _finished({item.name: item for item in items})
        left = [item for item in items if item.name not in finished]
        for item in left:
            versions.check(item.folder, item.name, changed=changed, say=say)
            _explain_change(item, workdir, say)
            if distributed.is_writer():
                files.remove_partial(item.folder)
        made = iter(_run_said(left, inputs, run_config, workdir))
        found: list[tuple[Planned, dict[str, Any]] | Exception] = []
        for item in items:
            if item.name in finished:
                done = files.read_json(item.folder / "done.json", StageError)
            else:
                done = next(made)
            found.append(done if isinstance(done, Exception) else (item, done))
        return found


def _run_said(
    items: Sequence[Planned],
    inputs: Mapping[str, Planned],
    run_config: config_lib.Run,
    workdir: epath.Path,
) -> list[dict[str, Any] | Exception]:
    """Returns what `run_stages` does; a fault for want of space or memory says what to do."""
    try:
        found = run_stages(items, inputs, run_config, workdir) if items else []
    except Exception as fault:
        found = [fault] * len(items)
    return [
        with_remedy(one, item.name, item.stage, item.folder) if isinstance(one, Exception) else one
        for item, one in zip(items, found, strict=True)
    ]


def run_stages(
    items: Sequence[Planned],
    planned: Mapping[str, Planned],
    run_config: config_lib.Run,
    workdir: epath.Path,
) -> list[dict[str, Any] | Exception]:
    """Runs one stage whose inputs are done, or several that go together, marks each as done, and
    returns what its `done.json` says, or the fault that ended it.
    """

    def path(reference: str) -> str:
        if not reference.startswith("@"):
            return reference
        source, _, inside = reference[1:].partition("/")
        output = planned[source].folder / OUTPUT[planned[source].stage.kind]
        return str(output / inside) if inside else str(output)

    _check_unchanged(items, planned, workdir)
    resolved = [reading.map_references(item.stage, path) for item in items]
    contexts = [Context(item.name, item.folder, run_config) for item in items]
    if distributed.is_writer():
        for item in items:
            item.folder.mkdir(parents=True, exist_ok=True)
            files.write_json(item.folder / "config.json", reading.to_json(item.stage))
            files.write_json(item.folder / "versions.json", versions.versions())
    begin = time.monotonic()
    ended = carry_out(resolved, contexts)
    _check_unchanged(items, planned, workdir)
    seconds = (time.monotonic() - begin) / len(items)
    return [
        done if isinstance(done, Exception) else _mark_done(item, done, planned, seconds)
        for item, done in zip(items, ended, strict=True)
    ]


def _check_unchanged(
    items: Sequence[Planned], planned: Mapping[str, Planned], workdir: epath.Path
) -> None:
    with distributed.all_or_none("comparing what the stages read"):
        for item in items:
            check_unchanged(item, planned, workdir)


def _mark_done(
    item: Planned, done: Done, planned: Mapping[str, Planned], seconds: float
) -> dict[str, Any]:
    """Writes a stage's `done.json`, removes what only an unfinished stage needs, and returns what
    `done.json` says.
    """
    found = {
        "stage": item.name,
        "kind": item.stage.kind,
        "fingerprint": item.fingerprint,
        "seconds": round(done.seconds if done.seconds is not None else seconds, 3),
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
        files.write_json(item.folder / "done.json", found)
        # Only now: a stage that is killed before must find the weights that its checkpoint names.
        if (best := item.folder / BEST).exists():
            best.rmtree()
    distributed.barrier(f"done {item.fingerprint}")
    return found


def _one_writer(
    item: Planned, *, wait: bool, say: Callable[[str], None]
) -> contextlib.AbstractContextManager[None]:
    """Returns a block in which no other run works on a stage, whatever name it has there."""
    return locks.held(
        item.folder.parent / f"{item.fingerprint}.lock",
        f"stage {item.name!r}",
        wait=say if wait else None,
        writer=distributed.is_writer(),
        agree=distributed.agree,
    )


def _check_names(pipeline: config_lib.Pipeline, only: Sequence[str]) -> None:
    named = [(name, "--stages") for name in only] + [
        (name, f"config.report.rows.{label}") for label, name in pipeline.report.rows
    ]
    for name, where in named:
        if name not in pipeline.stages:
            raise ConfigError(
                f"{where} names {name!r}, which is no stage of this pipeline "
                f"({', '.join(pipeline.stages)})" + did_you_mean(name, pipeline.stages)
            )


def _finished(planned: Mapping[str, Planned]) -> set[str]:
    """Returns the names of the stages that are done, as process 0 sees it before it begins."""
    seen = np.asarray([item.done for item in planned.values()], np.int32)
    return {name for name, done in zip(planned, distributed.from_writer(seen), strict=True) if done}


def _check_inputs(selected: Sequence[Planned], finished: Collection[str]) -> None:
    there = {item.name for item in selected} | set(finished)
    for item in selected:
        for need in item.inputs:
            if item.name not in finished and need not in there:
                raise StageError(
                    f"stage {item.name!r} needs {need!r}, which is not done; add it to --stages"
                )


def _explain_change(item: Planned, workdir: epath.Path, say: Callable[[str], None]) -> None:
    """Says which keys differ from an earlier run of a stage of the same name, before a new folder
    is begun.
    """
    if item.folder.exists():
        say(f"stage {item.name}: continuing in {item.folder}")
        return
    stages = workdir / "stages"
    earlier = sorted(stages.glob(f"{item.name}-*/config.json")) if stages.exists() else []
    for path in earlier:
        now = reading.to_json(item.stage)
        changes = record.differences(files.read_json(path, StageError), now, item.name) or [
            "its inputs changed"
        ]
        say(
            f"stage {item.name}: not the one in {path.parent.name} ({'; '.join(changes[:3])}); "
            "starting anew"
        )


def _closing_line(item: Planned, done: Mapping[str, Any]) -> str:
    shown = [f"{name} {value:.4g}" for name, value in done["metrics"].items() if _headline(name)]
    made = {
        name: value
        for name, value in done["outputs"].items()
        if isinstance(value, (str, int, float))
    }
    what = ", ".join(shown) or ", ".join(
        f"{name} {value}" for name, value in list(made.items())[:2]
    )
    if used := done.get("utilisation"):
        what += f"; MFU {used['mfu']:.1%}, goodput {used['goodput']:.0%}"
    return f"stage {item.name}: done in {done['seconds']:.1f} s" + (f" ({what})" if what else "")


def _headline(name: str) -> bool:
    return name == "train/loss" or name.endswith(("/accuracy", "/mlm_accuracy", "/spearman"))
