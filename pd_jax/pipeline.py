"""Runs a pipeline: its stages in order, each in a folder named after its inputs.

Equal stages are run once, even across pipelines (`planning.py`); `done.json`, written last, marks a
folder as complete (`execution.py`).
"""

import contextlib
import functools
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from pd_jax import config as config_lib
from pd_jax import execution, files, locks, record, versions
from pd_jax import jobs as jobs_lib
from pd_jax.config import reading
from pd_jax.config.scores import judged_by
from pd_jax.errors import DivergenceError, LockError, PdError, StageError, no_space
from pd_jax.parallel import distributed
from pd_jax.planning import Planned, check_names, located, plan, vmap_groups
from pd_jax.stages.foreseen import check_labels, check_stages
from pd_jax.workdir import CONFIG, DONE, STAGES


def run(
    pipeline: config_lib.Pipeline,
    workdir: epath.Path,
    *,
    only: Sequence[str] = (),
    changed: bool = False,
    jobs: int = 1,
    vmap: int = 1,
    command: str = "",
    say: Callable[[str], None] = print,
) -> None:
    """Runs the stages that are not done yet; only one process (or group of processes) runs a stage.

    Without a study the first fault ends the run. In a study a stage that failed is left out, with
    those that need it, and all others are run before the error is raised.

    Args:
      pipeline: the stages.
      workdir: where stages and records of pipelines live.
      only: names of stages to run; empty for all.
      changed: continue in a workdir where this pipeline had another config; equal stages are
        reused.
      jobs: how many stages to run at once, each in its own process; 1 runs them in this one.
      vmap: how many training stages, at most, to train in one program, where they differ only in
        seed, learning rate and first weights.
      command: the user's command line, for the record.
      say: called with a line for the user.

    Raises:
      LockError: another process runs one of the stages.
      ConfigError, StageError, and whatever a stage raises: no incomplete stage is marked as done.
    """
    kept, planned, left = _begin(pipeline, workdir, command, only=only, changed=changed, say=say)
    # The stages' own processes, if they have any, may have other devices than this one.
    names = [item.name for item in left]
    built = {item.name: item.output for item in planned.values() if item.name not in names}
    check_stages(pipeline, names, on_devices=jobs == 1, built=built)

    def work(group: jobs_lib.Group) -> jobs_lib.Work:
        items = [planned[name] for name in group]
        inputs = {need: planned[need] for item in items for need in item.inputs}
        how = {"run_config": pipeline.run, "workdir": workdir, "changed": changed}
        return functools.partial(_run_group, items, inputs, **how)

    groups = vmap_groups(left, vmap)
    if vmap > 1:
        say(_groups_line(groups))
    running = jobs_lib.run(_needs(left), work, jobs=jobs, say=say, groups=groups)
    with contextlib.closing(running) as outcomes:
        _follow(outcomes, planned, kept, study=pipeline.study is not None, count=len(left), say=say)


def _groups_line(groups: Sequence[jobs_lib.Group]) -> str:
    if not groups:
        return (
            "--vmap has nothing to do: no two stages with one padded length differ only in seed, "
            "learning rate and first weights"
        )
    return f"trained in one program: {'; '.join(', '.join(group) for group in groups)}"


def _begin(
    pipeline: config_lib.Pipeline,
    workdir: epath.Path,
    command: str,
    *,
    only: Sequence[str],
    changed: bool,
    say: Callable[[str], None],
) -> tuple[record.Record, dict[str, Planned], list[Planned]]:
    """Returns the run's record, written, the stages as planned, and those to run, in order."""
    check_names(pipeline, only)
    kept = record.Record(workdir, pipeline, command)
    kept.check_unchanged(changed=changed)
    with distributed.all_or_none("reading what the stages need"):
        planned = plan(pipeline, workdir, only=only)
        for item in planned.values():
            if not item.done:
                check_labels(pipeline, item.name)
    distributed.same_everywhere("the list of stages that can be planned", ", ".join(planned))
    distributed.same_everywhere(
        "pipeline", files.digest_json([item.fingerprint for item in planned.values()])
    )
    selected = [item for item in planned.values() if not only or item.name in only]
    finished = _finished(planned)
    with distributed.all_or_none("finding what the stages read"):
        _check_inputs(selected, planned, finished)
    left = [item for item in _in_order(pipeline, selected) if item.name not in finished]
    say(
        f"pipeline {pipeline.name}: {len(selected)} stages, {len(selected) - len(left)} done, "
        f"{len(left)} to run"
    )
    for name in pipeline.stages:
        if name in planned:
            kept.place(name, planned[name].folder, done=name in finished)
        else:
            kept.leave(name)
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
    """Records and reports the outcome of each stage; in a study raises only after the last one,
    except for faults other than divergence where several processes run.
    """
    failed, left_out, elsewhere = [], 0, []
    for number, outcome in enumerate(outcomes, start=1):
        kept.settle(outcome)
        if outcome.fault is not None:
            # Where the disk is full, the record keeps the stage's status "waiting".
            full = contextlib.suppress(OSError) if no_space(outcome.fault) else None
            with full or contextlib.nullcontext():
                kept.write()
            diverged = isinstance(outcome.fault, DivergenceError)
            # Any other fault may be one process's own: the processes would diverge here.
            if not study or (jax.process_count() > 1 and not diverged):
                raise outcome.fault
            (elsewhere if isinstance(outcome.fault, LockError) else failed).append(outcome.name)
            say(f"stage {outcome.name} failed: {outcome.fault}")
            if not isinstance(outcome.fault, PdError):
                traceback.print_exception(outcome.fault)
        elif outcome.lacks is not None:
            left_out += 1
        else:
            item, done = outcome.result
            planned[item.name] = item
            kept.place(item.name, item.folder, done=True)
            say((f"[{number}/{count}] " if study else "") + _closing_line(item, done))
        kept.write()
    if failed or elsewhere:
        parts = [f"{len(failed)} failed ({', '.join(failed)})"] if failed else []
        parts += [f"{len(elsewhere)} run elsewhere ({', '.join(elsewhere)})"] if elsewhere else []
        parts += [f"{left_out} need them and were left out"] if left_out else []
        raise StageError(
            f"of the stages, {', '.join(parts)}; all others are done: fix these faults and run the "
            "same command again"
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
    """Returns the stages in the order of a study's cells, each after the stages it needs."""
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
    changed: bool,
) -> list[tuple[Planned, dict[str, Any]] | Exception]:
    """Returns each stage with its current folder, and its `done.json`, running it if necessary; or
    the fault that ended it.
    """
    with contextlib.ExitStack() as locked:
        refused: dict[str, Exception] = {}
        for item in items:
            try:
                locked.enter_context(_one_writer(item))
            except LockError as fault:  # the others of the group can be run
                refused[item.name] = fault
        # The previous holder of a lock may have run an equal stage under another name.
        items = [located(item, workdir) for item in items]
        ours = {item.name: item for item in items if item.name not in refused}
        finished = _finished(ours)
        left = [item for item in ours.values() if item.name not in finished]
        for item in left:
            versions.check(item.folder, item.name, changed=changed, say=say)
            _explain_change(item, workdir, say)
            if distributed.is_writer():
                files.remove_partial(item.folder)
        made = iter(execution.run_with_remedies(left, inputs, run_config, workdir))
        found: list[tuple[Planned, dict[str, Any]] | Exception] = []
        for item in items:
            if item.name in refused:
                done = refused[item.name]
            elif item.name in finished:
                done = files.read_json(item.folder / DONE, StageError)
            else:
                done = next(made)
            found.append(done if isinstance(done, Exception) else (item, done))
        return found


def _one_writer(item: Planned) -> contextlib.AbstractContextManager[None]:
    """Returns a block in which no other run works on a stage, whatever that run calls it."""
    return locks.held(
        item.folder.parent / f"{item.fingerprint}.lock",
        f"stage {item.name!r}",
        writer=distributed.is_writer(),
        agree=distributed.agree,
    )


def _finished(planned: Mapping[str, Planned]) -> set[str]:
    """Returns the names of the stages that are done, as process 0 sees them before it starts."""
    seen = np.asarray([item.done for item in planned.values()], np.int32)
    return {name for name, done in zip(planned, distributed.from_writer(seen), strict=True) if done}


def _check_inputs(
    selected: Sequence[Planned], planned: Mapping[str, Planned], finished: Collection[str]
) -> None:
    """Raises StageError where a stage to run reads from one that is not done, and not to run, or
    whose output was removed since.
    """
    available = {item.name for item in selected} | set(finished)
    for item in selected:
        for need in item.inputs if item.name not in finished else ():
            if need not in available:
                raise StageError(
                    f"stage {item.name!r} needs {need!r}, which is not done; add it to --stages"
                )
            output = planned[need].output
            if need in finished and not output.exists():
                raise StageError(
                    f"stage {item.name!r} reads {output}, which is gone; remove {output.parent}, "
                    f"and {need!r} is run again"
                )


def _explain_change(item: Planned, workdir: epath.Path, say: Callable[[str], None]) -> None:
    """Reports which keys differ from an earlier run of a stage of the same name, before a new
    folder is started.
    """
    if item.folder.exists():
        say(f"stage {item.name}: continuing in {item.folder}")
        return
    for folder in files.matching(workdir / STAGES, f"{item.name}-*"):
        path = folder / CONFIG
        if not path.exists():
            continue
        now = reading.to_json(item.stage)
        changes = record.differences(files.read_json(path, StageError), now, item.name) or [
            "its inputs changed"
        ]
        say(
            f"stage {item.name}: not the one in {folder.name} ({'; '.join(changes[:3])}); "
            "starting from scratch"
        )


def _closing_line(item: Planned, done: Mapping[str, Any]) -> str:
    metrics = done["metrics"]
    shown = [
        f"{name} not finite" if metrics[name] is None else f"{name} {metrics[name]:.4g}"
        for name in ("train/loss", *judged_by(metrics))
        if name in metrics
    ]
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
