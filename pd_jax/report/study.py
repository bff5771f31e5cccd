"""A study's results: the scores of every cell, and groups of cells that differ only in their seed.

A cell whose stage failed, diverged or lacks a number has no value but keeps its place: it enters no
average, and is named wherever that average is shown.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from pd_jax import config as config_lib
from pd_jax.config.study import SEED, AxisValue
from pd_jax.errors import ConfigError
from pd_jax.evaluation import predictions
from pd_jax.evaluation.scores import task_of
from pd_jax.models import sizes
from pd_jax.report import load, notation, resampling
from pd_jax.report.statistics import Summary, summarise

Places = Mapping[str, AxisValue]


@dataclasses.dataclass(frozen=True)
class Result:
    """One cell: its stage, and its measures by name (None where there is no finite value).

    `of` is whose they are, the stage's student's or its teacher's.
    """

    axes: Places
    stage: load.Stage
    of: str
    values: Mapping[str, float | None]
    lacking: tuple[str, ...]
    """Measures that it should have and has not; one that its stage never takes is not among them.
    """

    @property
    def seed(self) -> str:
        """The cell's seed, as statistics name it."""
        return str(self.axes[SEED])

    @property
    def note(self) -> str:
        """Why a value is missing, or an empty text."""
        missing = f"It has no finite {' and no finite '.join(self.lacking)}."
        shown = missing if self.lacking and self.stage.done else ""
        return " ".join(part for part in (self.stage.note, shown) if part)


@dataclasses.dataclass(frozen=True)
class Group:
    """Cells that differ only in their seed, and their scores together."""

    axes: Places
    results: tuple[Result, ...]
    summaries: Mapping[str, Summary]

    @property
    def parameters(self) -> int | None:
        """Parameters of the model, where one of the cells is done; a teacher's are not known."""
        students = [result.stage for result in self.results if result.of == "student"]
        found = [stage.done for stage in students if stage.done]
        return found[0].parameters if found else None


@dataclasses.dataclass(frozen=True)
class Results:
    """A study as far as it has run; `axes` are those on which cells differ, apart from seeds."""

    pipeline: load.Pipeline
    study: config_lib.Study
    workdir: epath.Path
    axes: tuple[str, ...]
    groups: tuple[Group, ...]

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures' names; the first one is what the study is judged by."""
        return tuple(measure_name(measure) for measure in self.study.measures)

    @property
    def missing(self) -> tuple[Result, ...]:
        """The cells without a value, in the study's order."""
        found = (result for group in self.groups for result in group.results)
        return tuple(result for result in found if result.lacking)

    def at(self, axes: Places) -> Group | None:
        """Returns the group at exactly these places."""
        return next((group for group in self.groups if group.axes == dict(axes)), None)


def measure_name(measure: config_lib.Measure) -> str:
    """Returns a measure's name: of its sets and its quantity, `dev+test/accuracy`."""
    return f"{'+'.join(measure.sets)}/{measure.quantity}"


def load_results(workdir: epath.PathLike, pipeline: load.Pipeline) -> Results:
    """Returns the results of a pipeline that is a study."""
    study = pipeline.study
    assert study is not None, f"{pipeline.name} is not a study"
    grouped: dict[frozenset, list[Result]] = {}
    for cell in study.cells:
        place = frozenset((name, value) for name, value in cell.axes.items() if name != SEED)
        result = _result(epath.Path(workdir), cell, pipeline.stages[cell.stage], study.measures)
        grouped.setdefault(place, []).append(result)
    groups = tuple(
        Group(
            {name: value for name, value in results[0].axes.items() if name != SEED},
            tuple(results),
            _summaries(results, study),
        )
        for results in grouped.values()
    )
    return Results(pipeline, study, epath.Path(workdir), _axes(groups), groups)


def _result(
    workdir: epath.Path,
    cell: config_lib.Cell,
    stage: load.Stage,
    measures: Sequence[config_lib.Measure],
) -> Result:
    values, lacking = {}, []
    for measure in measures:
        name = measure_name(measure)
        if cell.of == "teacher":
            values[name] = _teacher_value(workdir, stage, measure)
        else:
            values[name] = _value(stage, measure)
        if values[name] is None and not _never_taken(stage, measure, cell.of):
            lacking.append(name)
    return Result(cell.axes, stage, cell.of, values, tuple(lacking))


def place_of(axes: Places, name: str) -> AxisValue | None:
    """Returns a cell's place on an axis; `layers` and `hidden` follow from its size."""
    if name in axes:
        return axes[name]
    if name in ("layers", "hidden") and "size" in axes:
        try:
            layers, hidden = sizes.canonical(str(axes["size"])).split("_")
        except ConfigError:
            return None
        return int((layers if name == "layers" else hidden)[1:])
    return None


def scores_by_example(results: Results, result: Result, measure: config_lib.Measure) -> np.ndarray:
    """Returns a measure for every row of its sets, from the stage's predictions.

    Empty if they are missing.
    """
    return _by_example(results.workdir, result.stage, measure, result.of)


def score_over_resamples(
    results: Results, result: Result, measure: config_lib.Measure
) -> tuple[resampling.Score, int] | None:
    """Returns a measure that is not a mean over rows as a function of resamples.

    With it comes the number of its set's rows. None if their predictions are missing.
    """
    (name,) = measure.sets
    kept = _predictions(results.workdir, result.stage, name, result.of)
    found = resampling.score_of(measure.quantity, kept) if kept else None
    return (found, len(kept.logits)) if kept and found else None


def _by_example(
    workdir: epath.Path, stage: load.Stage, measure: config_lib.Measure, of: str
) -> np.ndarray:
    found = []
    for name in measure.sets:
        kept = _predictions(workdir, stage, name, of)
        wanted = kept.by_row(measure.quantity, _task(stage, name)) if kept else None
        if wanted is None:
            return np.zeros(0)
        found.append(wanted)
    return np.concatenate(found)


def _predictions(
    workdir: epath.Path, stage: load.Stage, name: str, of: str
) -> predictions.Predictions | None:
    """Returns the predictions of a stage's student or teacher for a set."""
    kept = predictions.read(workdir / stage.folder, name)
    if kept is None or of == "student":
        return kept
    if kept.teacher is None:
        return None
    return dataclasses.replace(kept, logits=kept.teacher, teacher=None)


def _task(stage: load.Stage, name: str) -> str | None:
    """Returns the task by which a finished stage scored a set, inferred from its scores."""
    named = stage.done.metrics if stage.done else ()
    return task_of(notation.quantity(key) for key in named if notation.split(key) == name)


def _value(stage: load.Stage, measure: config_lib.Measure) -> float | None:
    """Returns a measure over the rows of all its sets together; None if a set lacks it."""
    reached = stage.done.metrics if stage.done else {}
    total, rows = 0.0, 0.0
    for name in measure.sets:
        value, count = (reached.get(f"{name}/{key}") for key in (measure.quantity, "rows"))
        if value is None or count is None or not math.isfinite(value * count) or count <= 0:
            return None
        total, rows = total + value * count, rows + count
    return total / rows


def _teacher_value(
    workdir: epath.Path, stage: load.Stage, measure: config_lib.Measure
) -> float | None:
    """Returns a measure of a finished stage's teacher; None where it has none."""
    scores = _by_example(workdir, stage, measure, "teacher") if stage.done else ()
    return float(np.mean(scores)) if len(scores) else None


def _never_taken(stage: load.Stage, measure: config_lib.Measure, of: str) -> bool:
    """Returns whether a measure does not apply to a finished stage."""
    reached = stage.done.metrics if stage.done else None
    if of == "teacher" and measure.quantity != "accuracy":
        return reached is not None
    return reached is not None and not any(
        f"{name}/{measure.quantity}" in reached for name in measure.sets
    )


def _summaries(results: Sequence[Result], study: config_lib.Study) -> dict[str, Summary]:
    names = map(measure_name, study.measures)
    return {name: summarise({r.seed: r.values[name] for r in results}) for name in names}


def _axes(groups: Sequence[Group]) -> tuple[str, ...]:
    """Returns the axes on which groups differ, in the order in which they are first named; where
    they differ on none, the first.
    """
    names = dict.fromkeys(name for group in groups for name in group.axes) or {"model": None}
    differing = [name for name in names if len({group.axes.get(name) for group in groups}) > 1]
    return tuple(differing or [*names][:1])


def shown(value: AxisValue | None) -> str:
    """Returns a place on an axis as text."""
    if value is None:
        return notation.MISSING
    if isinstance(value, str):
        return value
    return notation.grouped(value) if isinstance(value, int) else f"{value:g}"


def named(axes: Places, names: Sequence[str]) -> str:
    """Returns a group's places in words, only for axes on which the study's cells differ."""
    parts = [
        str(axes[name]) if isinstance(axes[name], str) else f"{name} {shown(axes[name])}"
        for name in names
        if name in axes
    ]
    return ", ".join(parts) or "all"
