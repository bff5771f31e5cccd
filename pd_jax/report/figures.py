"""The charts of a pipeline, each drawn for a desktop and for a phone."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from pd_jax.config.scores import judged_by
from pd_jax.report import charts, curves, load, notation, paper, svg
from pd_jax.report.statistics import Interval
from pd_jax.report.table import Row, Table, is_teacher

WIDE, NARROW = 860.0, 350.0
SMALL = 410.0

_POINT_WIDTH = 4.0
"""The least width of each point of a curve; more points could not be distinguished."""

_OBJECTIVES = {
    "mlm": "masked words",
    "classify": "labelled examples",
    "distill": "the teacher's outputs",
    "patient": "the teacher's outputs and states",
    "lm_distill": "masked words and their teacher's outputs",
}
_SPANS = ("compile", "step", "evaluate", "save", "wait for data")
"""Spans in the order of their colours; a stage's other spans follow."""


@dataclasses.dataclass(frozen=True)
class View:
    """One chart under one scale, in both widths (`narrow` may be the same drawing)."""

    scale: str
    wide: str
    narrow: str


@dataclasses.dataclass(frozen=True)
class Figure:
    """A chart with heading and caption; the reader chooses among views.

    `legend` is pairs of a class and a name.
    """

    key: str
    title: str
    caption: str
    views: tuple[View, ...]
    legend: tuple[tuple[str, str], ...] = ()
    legend_always: bool = False


def colours(pipeline: load.Pipeline, table: Table) -> dict[str, int]:
    """Returns a colour number for every training stage: methods first; a teacher is grey."""
    teachers = {row.stage for row in table.rows if is_teacher(row.label)}
    trained = [name for name, stage in pipeline.stages.items() if stage.kind == "train"]
    plain = [name for name in dict.fromkeys(row.stage for row in table.methods)]
    others = [name for name in trained if name not in plain and name not in teachers]
    # From the other end of the colours, so that no method shares one as long as there are enough.
    last = {name: charts.COLOURS - 1 - index % charts.COLOURS for index, name in enumerate(others)}
    return (
        {name: index for index, name in enumerate(plain)}
        | last
        | dict.fromkeys(teachers, charts.GREY)
    )


# ---- methods -----------------------------------------------------------------------------------


def method_figures(table: Table, metric: str, colour: Mapping[str, int], task: str) -> list[Figure]:
    """Returns the methods' scores as bars from zero, and enlarged beside the paper's own."""
    bars = [_bar(row, metric, colour[row.stage], task) for row in table.rows]
    if all(bar.value is None for bar in bars):
        return []
    description = "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    title, unit = f"{notation.titled(metric)} by method", notation.unit(metric)
    views = [
        charts.bar_chart(frame, bars, unit=unit) for frame in _frames("bars", title, description)
    ]
    caption = _interval_caption(table, metric)
    figures = [Figure("bars", title, caption, (View("", *views),))]
    if sum(bar.value is not None for bar in bars) > 1:
        title = "The same values, enlarged"
        caption = "The axis does not begin at zero."
        if any(bar.reference is not None for bar in bars):
            caption += (
                f" Grey diamonds: the paper's {task} values for the same method and model size, "
                f"read from its figure (± {paper.DIGITISED_ERROR} points). Its data and budget "
                "were far larger."
            )
        views = [
            charts.dot_chart(frame, bars, unit=unit)
            for frame in _frames("dots", title, description)
        ]
        figures.append(Figure("dots", title, caption, (View("", *views),)))
    return figures


def _bar(row: Row, metric: str, colour: int, task: str) -> charts.Bar:
    value = row.metrics.get(metric)
    known = paper.method_value(task=task, label=row.label, size=row.size)
    if value is None:
        text = "no finite value" if row.status == "done" else row.status
        return charts.Bar(row.label, None, text, colour)
    return charts.Bar(
        label=row.label,
        value=notation.scaled(metric, value),
        text=notation.score(metric, value) + notation.unit(metric),
        colour=colour,
        interval=_shown(metric, row.intervals.get(metric)),
        reference=known.value if known and notation.quantity(metric) == "accuracy" else None,
        tooltip=tooltip(row, metric),
    )


def tooltip(row: Row, metric: str) -> str:
    """Returns a row's score in words, with its interval."""
    value = notation.score(metric, row.metrics.get(metric)) + notation.unit(metric)
    text = f"{row.label}: {value} {notation.readable(metric)}"
    interval = row.intervals.get(metric)
    if interval is None:
        return text
    low, high = notation.score(metric, interval.low), notation.score(metric, interval.high)
    return f"{text}, 95 % interval {low} to {high} over {notation.grouped(interval.count)} examples"


def _shown(metric: str, interval: Interval | None) -> Interval | None:
    """Returns an interval in the unit its metric is shown in."""
    if interval is None:
        return None
    return Interval(
        estimate=notation.scaled(metric, interval.estimate),
        low=notation.scaled(metric, interval.low),
        high=notation.scaled(metric, interval.high),
        count=interval.count,
    )


def _interval_caption(table: Table, metric: str) -> str:
    counts = {row.intervals[metric].count for row in table.rows if metric in row.intervals}
    if not counts:
        if not notation.counts_examples(metric):
            return "Without intervals, which are for shares of examples only."
        return "Without intervals: the stages do not record how many examples they were scored on."
    shown = " to ".join(notation.grouped(count) for count in sorted({min(counts), max(counts)}))
    return (
        f"Whiskers: 95 % intervals over the {shown} examples (Wilson). They speak of the examples "
        "only: one run says nothing of what another seed would give."
    )


def size_figure(table: Table, metric: str, colour: Mapping[str, int]) -> Figure | None:
    """Returns scores over parameters, or None where all models are of one size."""
    rows = [row for row in table.rows if metric in row.metrics and row.parameters]
    if len({row.parameters for row in rows}) < 2:
        return None
    spots = []
    for row in rows:
        bar = _bar(row, metric, colour[row.stage], "")
        parameters = row.parameters or 1
        tooltip_text = f"{bar.tooltip}, {notation.grouped(parameters)} parameters"
        spots.append(
            curves.ModelSpot(
                row.label, parameters, bar.value or 0.0, bar.colour, bar.interval, tooltip_text
            )
        )
    title = "Score and size"
    description = "; ".join(spot.tooltip for spot in spots)
    views = [
        curves.scatter_chart(
            frame,
            spots,
            x_label="parameters",
            y_label=notation.readable(metric) + notation.unit(metric),
        )
        for frame in _frames("sizes", title, description, heights=(380.0, 320.0))
    ]
    return Figure("sizes", title, "Parameters on a logarithmic axis.", (View("", *views),))


def _frames(
    key: str, title: str, description: str, *, heights: tuple[float, float] = (0.0, 0.0)
) -> list[svg.Frame]:
    """Returns a chart's frames for a desktop and for a phone."""
    sizes = zip(("wide", "narrow"), (WIDE, NARROW), heights, strict=True)
    return [svg.Frame(f"{key}-{kind}", title, description, *size) for kind, *size in sizes]


# ---- curves ------------------------------------------------------------------------------------


def curve_figures(pipeline: load.Pipeline, table: Table, colour: Mapping[str, int]) -> list[Figure]:
    """Returns the methods' scores while training, and the training losses by objective."""
    labels = {row.stage: row.label for row in table.rows}
    figures = []
    for number, metric in enumerate(table.metrics):
        stages = {labels[name]: pipeline.stages[name] for name in labels}
        stages = {name: stage for name, stage in stages.items() if _points(stage, metric)}
        if any(_points(stage, metric) > 1 for stage in stages.values()):
            title = f"{notation.titled(metric)} while training"
            figures.append(_overlay(f"metric-{number}", title, metric, stages, colour))
    for kind, objective in _OBJECTIVES.items():
        stages = {
            labels.get(name, name): stage
            for name, stage in pipeline.stages.items()
            if _objective(stage) == kind and _points(stage, "train/loss")
        }
        if any(_points(stage, "train/loss") > 1 for stage in stages.values()):
            title = f"Training loss on {objective}"
            figures.append(_overlay(f"loss-{kind}", title, "train/loss", stages, colour))
    return figures


def stage_figures(stage: load.Stage, key: str, *, colour: int) -> list[Figure]:
    """Returns small charts of one stage: its training loss, and the metrics it is judged by."""
    return [
        _curves_figure(
            f"{key}-{number}",
            notation.titled(metric) + notation.unit(metric),
            metric,
            {stage.name: stage},
            {stage.name: colour},
            sizes=((SMALL, 230.0),),
            named=False,
        )
        for number, metric in enumerate(["train/loss", *judged_by(stage.history)])
        if _points(stage, metric) > 1
    ]


def _overlay(
    key: str, title: str, metric: str, stages: Mapping[str, load.Stage], colour: Mapping[str, int]
) -> Figure:
    return _curves_figure(
        key, title, metric, stages, colour, sizes=((WIDE, 360.0), (NARROW, 290.0)), named=True
    )


def _curves_figure(
    key: str,
    title: str,
    metric: str,
    stages: Mapping[str, load.Stage],
    colour: Mapping[str, int],
    *,
    sizes: Sequence[tuple[float, float]],
    named: bool,
) -> Figure:
    """Returns one metric of some stages as curves; a positive loss also on a logarithmic axis."""
    lines, x_label = _lines(metric, stages, colour)
    drawn = [_drawn(lines, width) for width, _ in sizes]
    description = "; ".join(
        f"{c.label} from {c.points[0].y:.4g} to {c.points[-1].y:.4g}" for c in drawn[0]
    )
    broken = [
        label
        for label, stage in stages.items()
        if not all(map(math.isfinite, stage.history[metric].values()))
    ]
    caption = f"Not finite at some steps, left out here: {', '.join(broken)}." if broken else ""
    positive = all(p.low > 0 for c in drawn[0] for p in c.points)
    views = []
    for scale in ("linear", "log") if "loss" in metric and positive else ("linear",):
        pair = [
            curves.curve_chart(
                svg.Frame(f"{key}-{scale}-{index}", title, f"{description} over {x_label}", *size),
                drawn[index],
                x_label=x_label,
                y_label=notation.readable(metric) + notation.unit(metric) if named else "",
                logarithmic=scale == "log",
                named=named and index == 0,
            )
            for index, size in enumerate(sizes)
        ]
        views.append(View(scale, pair[0], pair[-1]))
    legend = tuple((charts.colour(c.colour), c.label) for c in drawn[0]) if named else ()
    return Figure(key, title, caption, tuple(views), legend)


_Line = tuple[str, Sequence[tuple[float, float]], int]
"""A curve before thinning: label, points and colour number."""


def _lines(
    metric: str, stages: Mapping[str, load.Stage], colour: Mapping[str, int]
) -> tuple[list[_Line], str]:
    """Returns a metric's points, and what x counts: examples where every stage records them."""
    per_step = {label: _examples_per_step(stage) for label, stage in stages.items()}
    by_examples = all(per_step.values())
    lines = []
    for label, stage in stages.items():
        factor = per_step[label] if by_examples else 1.0
        values = stage.history[metric].items()
        points = [(step * factor, notation.scaled(metric, value)) for step, value in values]
        lines.append((label, points, colour[stage.name]))
    return lines, "examples" if by_examples else "steps"


def _drawn(lines: Sequence[_Line], width: float) -> list[curves.Curve]:
    """Returns the lines that have a point, with as many points as `width` can show."""
    limit = int(width / _POINT_WIDTH)
    thin = [curves.Curve(name, curves.thinned(points, limit=limit), c) for name, points, c in lines]
    return [curve for curve in thin if curve.points]


def _objective(stage: load.Stage) -> str:
    objective = stage.config.get("objective")
    return str(objective.get("kind", "")) if isinstance(objective, Mapping) else ""


def _points(stage: load.Stage, metric: str) -> int:
    """Returns how many values of a metric can be drawn."""
    return sum(map(math.isfinite, stage.history.get(metric, {}).values()))


def _examples_per_step(stage: load.Stage) -> float:
    """Returns how many examples each step takes, or 0 where the stage does not record it."""
    step = max(stage.examples, default=0)
    return stage.examples[step] / step if step else 0.0


# ---- the chain ---------------------------------------------------------------------------------


def timeline_figure(pipeline: load.Pipeline) -> Figure | None:
    """Returns the stages that have a result end to end, each with a breakdown of its seconds."""
    finished = [stage for stage in pipeline.stages.values() if stage.done]
    if not finished:
        return None
    names = list(dict.fromkeys([*_SPANS, *(name for stage in finished for name in stage.spans)]))
    tasks = [
        charts.Task(
            stage.name,
            stage.done.seconds if stage.done else 0.0,
            notation.duration(stage.done.seconds if stage.done else None),
            tuple((name, stage.spans[name]) for name in names if stage.spans.get(name)),
        )
        for stage in finished
    ]
    title = "The chain, one stage after another"
    description = "; ".join(f"{task.label} {task.text}" for task in tasks)
    views = [
        charts.timeline_chart(frame, tasks, colours=names)
        for frame in _frames("chain", title, description)
    ]
    used = {name for task in tasks for name, _ in task.parts}
    legend = tuple((charts.colour(names.index(name)), name) for name in names if name in used)
    return Figure(
        "chain",
        title,
        "Seconds of each stage's own work, over all its sessions.",
        (View("", *views),),
        (*legend, ("rest", "other")),
        legend_always=True,
    )
