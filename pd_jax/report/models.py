"""Tables of compared and exported models, from the records in `done.json`.

A comparison's stage lists one `Measured` for each model and program, an export's one `Check` for
each file.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import pydantic

from pd_jax.errors import ReportError, first_line
from pd_jax.models.export.results import Check, Measured
from pd_jax.report import load, notation
from pd_jax.report.table import aligned

_SCORES = ("accuracy", "pearson", "spearman", "label_accuracy", "agreement", "calibration_error")
_PROGRAMS = {"jax": "JAX", "onnx": "ONNX", "onnx_int8": "ONNX int8"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is shown, and the number to sort by (None for words)."""

    text: str
    value: float | None = None


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table: names of the columns, the first `names` of which hold words, and lines of cells."""

    stage: str
    header: tuple[str, ...]
    names: int
    lines: tuple[tuple[Cell, ...], ...]
    caption: str

    def text(self) -> str:
        """Returns the table for a terminal."""
        cells = [[cell.text for cell in line] for line in self.lines]
        return "\n".join([*aligned([self.header, *cells], names=self.names), "", self.caption])


def comparison_grids(pipeline: load.Pipeline) -> list[Grid]:
    """Returns a table for each finished comparison; raises ReportError if one is invalid."""
    return [
        comparison_grid(name, _read(Measured, name, stage, "models"))
        for name, stage in pipeline.stages.items()
        if stage.kind == "compare" and stage.done
    ]


def export_grid(pipeline: load.Pipeline) -> Grid | None:
    """Returns the table of all exported files; None where there is none."""
    found = [
        (name, exported)
        for name, stage in pipeline.stages.items()
        if stage.kind == "export" and stage.done
        for exported in _read(Check, name, stage, "checks")
    ]
    if not found:
        return None
    header = ("stage", "file", "run by", "MB", "largest difference", "ms a text", "ours, ms")
    tokens = sorted({exported.tokens for _, exported in found if exported.tokens is not None})
    of = f" of {' or '.join(map(str, tokens))} tokens" if tokens else ""
    caption = (
        "Largest difference: of any output from ours over probes of several lengths. Times: the "
        f"median for one text{of}, on the CPU of the machine that exported."
    )
    return Grid("", header, 3, tuple(_export_line(*item) for item in found), caption)


def comparison_grid(stage: str, models: Sequence[Measured]) -> Grid:
    """Returns the table of a comparison."""
    scores = [name for name in _SCORES if any(name in model.scores for model in models)]
    batches = list(models[0].milliseconds) if models else []
    differ = any(model.difference is not None for model in models)
    header = (
        "model",
        "run by",
        "parameters",
        "MB",
        *(notation.readable(name) + notation.unit(name) for name in scores),
        *(f"ms by {rows}" for rows in batches),
        *(f"texts/s by {rows}" for rows in batches[-1:]),
        *(["difference"] if differ else []),
    )
    tokens = max((model.tokens for model in models), default=0)
    caption = (
        f"Times: medians for texts of {tokens} tokens, one or many at once. MB: the weights as "
        "float32, or the file."
    )
    if "agreement" in scores:
        caption += f" Agreement: with {models[0].name} in its first line, over all rows."
    if differ:
        caption += " Difference: the largest of any logit from the same model's first line."
    lines = tuple(_comparison_line(model, scores, batches, differ=differ) for model in models)
    return Grid(stage, header, 2, lines, caption)


def _comparison_line(
    model: Measured, scores: Sequence[str], batches: Sequence[str], *, differ: bool
) -> tuple[Cell, ...]:
    program = _PROGRAMS.get(model.program, model.program)
    return (
        Cell(f"{model.name}, L{model.layers}_H{model.hidden}"),
        Cell(f"{program}, {model.device}"),
        Cell(notation.short(model.parameters), model.parameters),
        Cell(notation.megabytes(model.megabytes), model.megabytes),
        *(
            Cell(notation.score(name, model.scores.get(name)), model.scores.get(name))
            for name in scores
        ),
        *(_number(model.milliseconds.get(rows)) for rows in batches),
        *(_number(model.rows_per_second.get(rows)) for rows in batches[-1:]),
        *([_difference(model.difference)] if differ else []),
    )


def _export_line(stage: str, exported: Check) -> tuple[Cell, ...]:
    program = exported.program
    if exported.difference is None:
        program += ", not installed"
    return (
        Cell(stage),
        Cell(exported.file),
        Cell(program),
        Cell(notation.megabytes(exported.megabytes), exported.megabytes),
        _difference(exported.difference),
        _number(exported.milliseconds),
        _number(exported.our_milliseconds),
    )


def _number(value: float | None) -> Cell:
    if value is None:
        return Cell(notation.MISSING)
    return Cell(f"{value:.3g}" if value < 1000 else f"{value:,.0f}", value)


def _difference(value: float | None) -> Cell:
    return Cell(notation.MISSING) if value is None else Cell(f"{value:.1e}", value)


_Kind = TypeVar("_Kind")


def _read(kind: type[_Kind], name: str, stage: load.Stage, key: str) -> list[_Kind]:
    """Returns the records under a key of a stage's outputs."""
    held: Any = stage.done.outputs.get(key) if stage.done else None
    adapter = pydantic.TypeAdapter(kind)
    try:
        return [adapter.validate_python(item) for item in held or ()]
    except (pydantic.ValidationError, TypeError) as fault:
        raise ReportError(
            f"{stage.folder}/done.json: outputs.{key} of stage {name!r} is not valid "
            f"({first_line(fault)}); remove the stage's folder and run the pipeline again"
        ) from None
