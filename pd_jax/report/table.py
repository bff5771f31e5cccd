"""The table of a pipeline: one row a method, for the terminal, as markdown and as JSON.

A row whose stage has no result keeps its place and states why. A row whose training stopped being
finite states that, too.
"""

import dataclasses
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from pd_jax import config as config_lib
from pd_jax.config.scores import judged_by
from pd_jax.errors import ConfigError
from pd_jax.models import sizes
from pd_jax.report import load, notation, paper
from pd_jax.report.statistics import Interval, wilson_interval


@dataclasses.dataclass(frozen=True)
class Row:
    """One method.

    `seconds` is the stage's own work; `chain_seconds` adds every stage that it needs, each once,
    and is None where one of them has no result. `metrics` has only finite values, `lacking` names
    those that the stage should have but lacks; `intervals` is over examples.
    """

    label: str
    stage: str
    folder: str
    status: load.Status
    note: str
    size: str
    parameters: int | None
    megabytes: float | None
    metrics: Mapping[str, float]
    lacking: tuple[str, ...]
    intervals: Mapping[str, Interval]
    steps: int | None
    examples: int | None
    seconds: float | None
    chain_seconds: float | None

    def absence(self, metric: str) -> str:
        """Returns what is shown in place of a metric that the row lacks."""
        if self.seconds is None:
            return self.status
        return "missing" if metric in self.lacking else notation.MISSING


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows in the config's order, and the metrics to show for each."""

    title: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def methods(self) -> tuple[Row, ...]:
        """The rows that compete: all but the teacher."""
        return tuple(row for row in self.rows if not is_teacher(row.label))

    def best(self, metric: str) -> float | None:
        """Returns the best value of a metric among the methods, or None where none has one."""
        found = [row.metrics[metric] for row in self.methods if metric in row.metrics]
        if not found:
            return None
        return min(found) if notation.lower_is_better(metric) else max(found)


def is_teacher(label: str) -> bool:
    """Returns whether a row is the teacher: the methods' goal rather than one of them."""
    return label.strip().lower() == paper.TEACHER


def make_table(pipeline: load.Pipeline) -> Table:
    """Returns the rows that the pipeline's config asks for; without any, every training stage."""
    wanted = pipeline.wishes.rows or {
        name: name for name, stage in pipeline.stages.items() if stage.kind == "train"
    }
    stages = {label: pipeline.stages[name] for label, name in wanted.items()}
    named = [name for stage in stages.values() if stage.done for name in stage.done.metrics]
    metrics = tuple(pipeline.wishes.metrics) or judged_by(named)
    rows = tuple(_row(pipeline, label, stage, metrics) for label, stage in stages.items())
    return Table(pipeline.wishes.title or pipeline.name, metrics, rows)


def _row(pipeline: load.Pipeline, label: str, stage: load.Stage, metrics: Sequence[str]) -> Row:
    done = stage.done
    reached = done.metrics if done else {}
    values, intervals, lacking = {}, {}, []
    for metric in metrics if done else ():
        value = reached.get(metric)
        if value is None or not math.isfinite(value):
            owed = metric in reached or not notation.by_teacher(metric)
            lacking += [metric] if owed else []
            continue
        values[metric] = value
        rows = _rows_counted(stage, metric)
        if notation.counts_examples(metric) and rows and 0.0 <= value <= 1.0:
            intervals[metric] = wilson_interval(value, rows)
    missing = f"It has no finite {' and no finite '.join(lacking)}." if lacking else ""
    return Row(
        label=label,
        stage=stage.name,
        folder=stage.folder,
        status=stage.status,
        note=" ".join(part for part in (stage.note, missing) if part),
        size=model_size(stage),
        parameters=done.parameters if done else None,
        megabytes=done.megabytes if done else None,
        metrics=values,
        lacking=tuple(lacking),
        intervals=intervals,
        steps=done.steps if done else None,
        examples=done.examples if done else None,
        seconds=done.seconds if done else None,
        chain_seconds=chain_seconds(pipeline, stage.name),
    )


def _rows_counted(stage: load.Stage, metric: str) -> int | None:
    """Returns over how many examples a metric was taken, as written beside the metric."""
    name = f"{notation.split(metric)}/rows"
    found = stage.done.metrics.get(name) if stage.done else None
    if found is None and stage.history.get(name):
        found = stage.history[name][max(stage.history[name])]
    return int(found) if found is not None and math.isfinite(found) and found > 0 else None


def model_size(stage: load.Stage) -> str:
    """Returns a stage's model size as `L4_H256`; an empty text where its config has none."""
    model = stage.config.get("model")
    size = model.get("size") if isinstance(model, Mapping) else None
    if not isinstance(size, str):
        return ""
    try:
        return sizes.canonical(size)
    except ConfigError:
        return size


def needed_stages(pipeline: load.Pipeline, name: str) -> tuple[str, ...]:
    """Returns a stage and every stage that its model needs, directly or not, in the order of the
    chain: not what it is only scored on or against.
    """
    found, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        if current in found or current not in pipeline.stages:
            continue
        found.add(current)
        config = pipeline.stages[current].config
        waiting += _referred({key: config[key] for key in config if key != "evaluation"})
    return tuple(stage for stage in pipeline.stages if stage in found)


def inputs(stage: load.Stage) -> tuple[str, ...]:
    """Returns the stages that a stage reads from, as its config says."""
    return tuple(dict.fromkeys(_referred(stage.config)))


def _referred(value: Any) -> list[str]:
    if isinstance(value, str):
        return [found.stage] if (found := config_lib.referred(value)) else []
    parts = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, (Mapping, list, tuple)):
        return []
    return [name for part in parts for name in _referred(part)]


def chain_seconds(pipeline: load.Pipeline, name: str) -> float | None:
    """Returns the seconds of a stage and of all its model needs; None where one has no result."""
    needed = [pipeline.stages[stage].done for stage in needed_stages(pipeline, name)]
    if any(done is None for done in needed):
        return None
    return sum(done.seconds for done in needed if done is not None)


# ---- three ways to show it ---------------------------------------------------------------------


def as_text(table: Table) -> str:
    """Returns the table for a terminal: aligned columns, then a line for rows that need a note."""
    header, *lines = aligned(_grid(table))
    notes = [_printable(note) for note in _notes(table)]
    title = _printable(table.title)
    parts = [title, "", header, *lines, *(["", *notes] if notes else [])]
    return "\n".join(parts) + "\n"


def aligned(grid: Sequence[Sequence[str]], *, names: int = 2) -> list[str]:
    """Returns lines of a terminal: a header, a rule and a line for each of the others.

    The first `names` columns are aligned left, numbers right.
    """
    grid = [list(map(_printable, line)) for line in grid]
    widths = [max(_width(line[column]) for line in grid) for column in range(len(grid[0]))]
    lines = ["  ".join(_pad(line, widths, names)).rstrip() for line in grid]
    rule = "  ".join("-" * width for width in widths)
    return [lines[0], rule, *lines[1:]]


def as_markdown(table: Table) -> str:
    """Returns the table as markdown, the best value of each metric in bold."""
    header, *body = _grid(table)
    for row, line in zip(table.rows, body, strict=True):
        for column, metric in enumerate(table.metrics, start=len(_FIRST)):
            if row in table.methods and row.metrics.get(metric, math.nan) == table.best(metric):
                line[column] = f"**{line[column]}**"
    marks = ["---", "---"] + ["---:"] * (len(header) - 2)
    lines = [markdown_line(line) for line in (header, marks, *body)]
    notes = [f"* {note}" for note in _notes(table)]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def as_json(table: Table) -> dict[str, Any]:
    """Returns the table as JSON values; missing ones are null."""
    return {
        "title": table.title,
        "metrics": list(table.metrics),
        "rows": [
            dataclasses.asdict(row)
            | {"metrics": {metric: row.metrics.get(metric) for metric in table.metrics}}
            for row in table.rows
        ],
    }


_FIRST = ("method", "model", "parameters", "MB")
_LAST = ("seconds", "with inputs")
_NONE = "-"


def _grid(table: Table) -> list[list[str]]:
    """Returns the header and a line of cells for every row."""
    header = [
        *_FIRST,
        *(notation.readable(metric) + notation.unit(metric) for metric in table.metrics),
        *_LAST,
    ]
    return [header] + [
        [
            row.label,
            row.size or _NONE,
            _NONE if row.parameters is None else f"{row.parameters:,}",
            _NONE if row.megabytes is None else notation.megabytes(row.megabytes),
            *(_metric_cell(row, metric) for metric in table.metrics),
            _seconds(row.seconds),
            _seconds(row.chain_seconds),
        ]
        for row in table.rows
    ]


def _notes(table: Table) -> list[str]:
    """Returns a line for every row that needs a note."""
    return [
        f"{row.label}{'' if row.status == 'done' else f' ({row.status})'}: {row.note}"
        for row in table.rows
        if row.note
    ]


def _metric_cell(row: Row, metric: str) -> str:
    if metric in row.metrics:
        return notation.score(metric, row.metrics[metric])
    return row.absence(metric)


def _seconds(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _printable(text: str) -> str:
    """Returns text without the characters that would steer a terminal; every space is a plain one,
    such as the narrow one between thousands, which Python does not count as printable.
    """
    plain = (" " if unicodedata.category(one) == "Zs" else one for one in text)
    return "".join(one if one.isprintable() else "\ufffd" for one in plain)


def _width(text: str) -> int:
    """Returns how many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _pad(line: Sequence[str], widths: Sequence[int], names: int) -> list[str]:
    """Returns cells of equal width: names aligned left, numbers right."""
    spaces = [" " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)]
    return [
        cell + space if column < names else space + cell
        for column, (cell, space) in enumerate(zip(line, spaces, strict=True))
    ]


def markdown_line(cells: Sequence[str]) -> str:
    """Returns a row of a markdown table; the text of a cell cannot break it."""
    safe = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return f"| {' | '.join(safe)} |"
