"""Reads a workdir: one pipeline and its stage folders, from their files.

Only the files of the stage contract are read: `pipelines/NAME.json`, and of every stage folder
`config.json`, `versions.json`, `metrics.jsonl`, `spans.jsonl` and `done.json` (by a study also its
predictions). A report can therefore be made years later.

A process that was killed leaves an incomplete last line, which is ignored. Anything else that
cannot be read is damage, and raises a ReportError that names the file.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import pydantic
from etils import epath

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.errors import ReportError
from pd_jax.workdir import CONFIG, DONE, METRICS, PIPELINES, SPANS, VERSIONS

Status = Literal["done", "failed", "unfinished", "not run"]


class _Record(pydantic.BaseModel):
    """A JSON object of which only the named keys matter."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")


_Kind = TypeVar("_Kind", bound=_Record)


class Done(_Record):
    """The content of `done.json`: what a finished stage reached, and what it cost.

    `seconds` is the stage's own work over all its sessions; `metrics` is `split/quantity` -> value,
    None or NaN where a quantity is not a number.
    """

    kind: str
    seconds: pydantic.FiniteFloat
    steps: pydantic.NonNegativeInt | None = None
    examples: pydantic.NonNegativeInt | None = None
    parameters: pydantic.NonNegativeInt | None = None
    megabytes: pydantic.FiniteFloat | None = None
    metrics: Mapping[str, float | None] = {}
    inputs: Mapping[str, str] = {}
    outputs: Mapping[str, Any] = {}
    utilisation: Mapping[str, pydantic.FiniteFloat] = {}


class ReportWishes(_Record):
    """What the pipeline's config asks of the report (`config.Report`)."""

    title: str = ""
    rows: Mapping[str, str] = {}
    metrics: Sequence[str] = ()
    reference: str = ""


class _PipelineFile(_Record):
    stages: Mapping[str, str]
    report: ReportWishes = ReportWishes()
    status: Mapping[str, str] = {}
    faults: Mapping[str, str] = {}
    command: str = ""
    config: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage as found on disk.

    `folder` is relative to the workdir; `present` is whether it exists. `note` is empty, or one
    sentence on what is missing or went wrong. `history` holds each metric's values by step, as last
    written. `examples` is the number of examples seen by step. `spans` are seconds by name.
    """

    name: str
    folder: str
    present: bool
    status: Status
    note: str
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    done: Done | None
    history: Mapping[str, Mapping[int, float]]
    examples: Mapping[int, int]
    spans: Mapping[str, float]

    @property
    def kind(self) -> str:
        """The stage's kind (`train`, `records`, ...), or an empty text if no file has it."""
        return self.done.kind if self.done else str(self.config.get("kind", ""))


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A pipeline and its stages by name, in the order of the chain."""

    name: str
    wishes: ReportWishes
    command: str
    stages: Mapping[str, Stage]
    study: config_lib.Study | None = None


def pipeline_names(workdir: epath.PathLike) -> tuple[str, ...]:
    """Returns the names of the pipelines that were run in `workdir`, sorted."""
    folder = epath.Path(workdir) / PIPELINES
    if not folder.exists():
        return ()
    return tuple(sorted(path.stem for path in folder.iterdir() if path.suffix == ".json"))


def load_pipeline(workdir: epath.PathLike, name: str) -> Pipeline:
    """Returns the pipeline `name` of `workdir`.

    Raises:
      ReportError: the pipeline was not run here, or a file is damaged or names a folder outside of
        the workdir.
    """
    workdir = epath.Path(workdir)
    path = workdir / PIPELINES / f"{name}.json"
    if not path.exists():
        known = ", ".join(pipeline_names(workdir)) or "none"
        raise ReportError(
            f"{path} does not exist: no pipeline {name!r} was run in this workdir (it has: "
            f"{known}); check the workdir and the pipeline's name"
        )
    content = _checked(_PipelineFile, files.read_json(path, ReportError), path)
    for label, stage in content.report.rows.items():
        if stage not in content.stages:
            raise ReportError(
                f"{path}: report.rows[{label!r}] names {stage!r}, which is not a stage of the "
                "pipeline; run the pipeline again"
            )
    stages = {
        stage: _load_stage(
            workdir,
            stage,
            _inside(folder, path),
            status=content.status.get(stage),
            fault=content.faults.get(stage, ""),
            config=_part(_part(content.config, "stages"), stage),
        )
        for stage, folder in content.stages.items()
    }
    return Pipeline(name, content.report, content.command, stages, _study(content, path))


def _part(value: Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
    """Returns a mapping inside another; None where there is none."""
    found = None if value is None else value.get(name)
    return found if isinstance(found, Mapping) else None


def _study(content: _PipelineFile, path: epath.Path) -> config_lib.Study | None:
    """Returns what the pipeline's study asks for, or None if it is not a study."""
    asked = content.config.get("study")
    if asked is None:
        return None
    try:
        study = pydantic.TypeAdapter(config_lib.Study).validate_python(asked)
    except pydantic.ValidationError as fault:
        raise ReportError(
            f"{path}: its study is not valid ({fault.errors()[0]['msg']}); run the pipeline again"
        ) from None
    for cell in study.cells:
        if cell.stage not in content.stages:
            raise ReportError(
                f"{path}: its study names {cell.stage!r}, which is not a stage of the pipeline; "
                "run the pipeline again"
            )
    return study


# ---- one stage ---------------------------------------------------------------------------------


def _load_stage(
    workdir: epath.Path,
    name: str,
    folder: str,
    *,
    status: str | None,
    fault: str,
    config: Mapping[str, Any] | None,
) -> Stage:
    """Returns a stage; its config is this pipeline's, as another that made the folder may have had
    other names for the stages that it refers to.
    """
    path = workdir / folder
    done_path, config_path, versions_path = (path / file for file in (DONE, CONFIG, VERSIONS))
    done = None
    if done_path.exists():
        done = _checked(Done, files.read_json(done_path, ReportError), done_path)
    # The files that a stage writes first may be missing only where it did not get far.
    made, versions = (
        _object(file) if done or file.exists() else {} for file in (config_path, versions_path)
    )
    history, examples = _history(_lines(path / METRICS))
    # A fault of this pipeline's is past where another one has finished the stage.
    fault = ("" if done else fault) or _divergence(history) or _skipped(done)
    shown, note = _status(status, done, started=path.exists(), fault=fault)
    return Stage(
        name=name,
        folder=folder,
        present=path.exists(),
        status=shown,
        note=note,
        config=made if config is None else config,
        versions=versions,
        done=done,
        history=history,
        examples=examples,
        spans=_spans(path / SPANS),
    )


def _status(
    recorded: str | None, done: Done | None, *, started: bool, fault: str
) -> tuple[Status, str]:
    """Returns what to call a stage's state, and a sentence on what is wrong with it."""
    if done is not None:
        return "done", fault
    if recorded == "failed":
        return "failed", fault or "It ended without a result; run the same command again."
    if recorded == "done":
        return "failed", f"Its {DONE} is missing; run the same command again."
    if started:
        return "unfinished", "Run the same command again to continue it."
    return "not run", fault or "It was left out, or a stage that it needs has no result."


def _divergence(history: Mapping[str, Mapping[int, float]]) -> str:
    """Returns a sentence on where a training metric first was not finite, or an empty text."""
    first = min(
        (
            (step, name)
            for name, values in history.items()
            if name.startswith("train/")
            for step, value in values.items()
            if not math.isfinite(value)
        ),
        default=None,
    )
    return "" if first is None else f"{first[1]} was not finite at step {first[0]}."


def _skipped(done: Done | None) -> str:
    """Returns a sentence on training steps that were left out, or an empty text."""
    steps = done.metrics.get("train/skipped_steps", 0) if done else 0
    return (
        f"{steps:.0f} steps were left out: their loss or gradient was not finite." if steps else ""
    )


def _history(
    lines: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, dict[int, float]], dict[int, int]]:
    """Returns each metric's values by step, and the examples seen by step.

    A stage that was killed and continued writes the steps after its checkpoint twice: the later
    line counts.
    """
    history: dict[str, dict[int, float]] = {}
    examples: dict[int, int] = {}
    for line in lines:
        step = line.get("step")
        if not isinstance(step, int):
            continue
        if isinstance(line.get("examples"), int):
            examples[step] = line["examples"]
        for name, value in line.items():
            if "/" in name and (value is None or isinstance(value, (int, float))):
                history.setdefault(name, {})[step] = math.nan if value is None else float(value)
    ordered = {name: dict(sorted(values.items())) for name, values in history.items()}
    return ordered, dict(sorted(examples.items()))


def _spans(path: epath.Path) -> dict[str, float]:
    """Returns seconds by span name, in the order in which the names first appear."""
    seconds: dict[str, float] = {}
    for line in _lines(path):
        name, spent = line.get("name"), line.get("seconds")
        if isinstance(name, str) and isinstance(spent, (int, float)) and math.isfinite(spent):
            seconds[name] = seconds.get(name, 0.0) + spent
    return seconds


# ---- files -------------------------------------------------------------------------------------


def _lines(path: epath.Path) -> list[dict[str, Any]]:
    """Returns the JSON objects of a file, one a line; a missing file has none.

    Raises:
      ReportError: a line is not a JSON object, unless it is the last one and incomplete.
    """
    if not path.exists():
        return []
    *whole, rest = path.read_bytes().split(b"\n")
    objects = []
    for number, line in enumerate([*whole, rest], start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            objects.append(value)
        elif number <= len(whole):
            raise ReportError(
                f"{path} line {number} is not a JSON object; remove the stage's folder and run the "
                "pipeline again"
            )
    return objects


def _object(path: epath.Path) -> dict[str, Any]:
    value = files.read_json(path, ReportError)
    if not isinstance(value, dict):
        raise ReportError(
            f"{path} is not a JSON object; remove the stage's folder and run the pipeline again"
        )
    return value


def _checked(kind: type[_Kind], value: Any, path: epath.Path) -> _Kind:
    """Returns `value` as the record `kind`; raises ReportError naming file and first bad key."""
    try:
        return kind.model_validate(value)
    except pydantic.ValidationError as fault:
        error = fault.errors()[0]
        key = ".".join(str(part) for part in error["loc"]) or "its content"
        raise ReportError(
            f"{path}: {key} is not valid ({error['msg']}); run the pipeline again"
        ) from None


def _inside(folder: str, path: epath.Path) -> str:
    """Returns a stage folder with forward slashes; raises where it is not inside the workdir."""
    parts = folder.replace("\\", "/").split("/")
    if not folder or folder.startswith(("/", "\\")) or ".." in parts or "://" in folder:
        raise ReportError(
            f"{path} names the stage folder {folder!r}, which is not inside the workdir; run the "
            "pipeline again"
        )
    return "/".join(parts)
