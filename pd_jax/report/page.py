"""The report of a pipeline: one self-contained page.

The page is a function of the workdir's files alone (no clock, no machine), so that equal files give
equal pages. It names stage folders relative to itself, and shows no environment variables.
"""

import base64
import dataclasses
import hashlib
import importlib.resources
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

import pd_jax
from pd_jax import files
from pd_jax.report import charts, figures, load, models, notation, study, study_page
from pd_jax.report.table import Row, Table, inputs, is_teacher
from pd_jax.workdir import CONFIG


@dataclasses.dataclass(frozen=True)
class StageCard:
    """One stage as the page shows it; the links are None where the page cannot reach the folder."""

    key: str
    stage: load.Stage
    label: str
    note: str
    size: str
    folder_link: str | None
    config_link: str | None
    config_text: str
    facts: tuple[tuple[str, str], ...]
    metrics: tuple[tuple[str, str], ...]
    needs: tuple[tuple[str, str], ...]
    figures: tuple[figures.Figure, ...]


def render(pipeline: load.Pipeline, table: Table, base: str | None) -> str:
    """Returns the page; stage folders are linked below `base`, or not at all where it is None."""
    colour = figures.colours(pipeline, table)
    notes = {row.stage: (row.label, row.note) for row in table.rows}
    task = pipeline.wishes.reference
    metric = table.metrics[0] if table.metrics else ""
    return _template("page.html.jinja").render(
        **_shared(pipeline, table, notes, colour, base),
        lead=lead(table),
        metric=metric,
        methods=figures.method_figures(table, metric, colour, task)
        if metric and table.rows
        else [],
        sizes=figures.size_figure(table, metric, colour) if metric else None,
        curves=figures.curve_figures(pipeline, table, colour),
        comparisons=models.comparison_grids(pipeline),
        exports=models.export_grid(pipeline),
        chain=figures.timeline_figure(pipeline),
    )


def render_study(results: study.Results, base: str | None) -> str:
    """Returns a study's page; stage folders are linked as `render` does."""
    pipeline = results.pipeline
    table = Table(pipeline.wishes.title or pipeline.name, (), ())
    notes = {result.stage.name: (result.stage.name, result.note) for result in results.missing}
    shared = _shared(pipeline, table, notes, study_page.colours(results), base)
    keys = {card.stage.name: card.key for card in shared["cards"]}
    own = study_page.context(results, keys)
    return _template("study.html.jinja").render(**shared, **own, chain=None)


def _shared(
    pipeline: load.Pipeline,
    table: Table,
    notes: Mapping[str, tuple[str, str]],
    colour: Mapping[str, int],
    base: str | None,
) -> dict[str, Any]:
    """Returns the content that pages of pipelines and of studies share."""
    cards = _cards(pipeline, table, colour, base)
    script = _resource("sort.js")
    return {
        "pipeline": pipeline,
        "command": _public(pipeline.command, base),
        "table": table,
        "faults": [
            (name, label, _public(note, base)) for name, label, note in _faults(pipeline, notes)
        ],
        "costs": _costs(pipeline),
        "cards": cards,
        "card": {card.stage.name: card for card in cards},
        "versions": _versions(pipeline),
        "notation": notation,
        "colour": colour,
        "css": charts.colour,
        "version": pd_jax.__version__,
        "style": _resource("style.css"),
        "script": script,
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _resource(name: str) -> str:
    return importlib.resources.files("pd_jax.report").joinpath(name).read_text(encoding="utf-8")


# ---- words -------------------------------------------------------------------------------------


def lead(table: Table) -> list[str]:
    """Returns the answer in sentences: which method is best by the first metric, how surely."""
    metric = table.metrics[0] if table.metrics else ""
    ranked = [row for row in table.methods if metric in row.metrics]
    if not ranked:
        return ["No method has a result yet."]
    ranked.sort(key=lambda row: row.metrics[metric], reverse=not notation.lower_is_better(metric))
    equal = [row for row in ranked if row.metrics[metric] == ranked[0].metrics[metric]]
    of_all = f"of the {len(ranked)} methods" if len(ranked) > 1 else "is the only method"
    if len(ranked) < len(table.methods):
        of_all += " that have a result" if len(ranked) > 1 else " that has a result"
    if len(equal) > 1:
        sentences = [_draw(equal, ranked, metric, of_all)]
    else:
        place = f"is best {of_all}" if len(ranked) > 1 else of_all
        shown = f"{_score(ranked[0], metric)} {notation.readable(metric)}{_size(ranked[0])}"
        sentences = [f"{ranked[0].label} {place}: {shown}."]
        sentences += [_second(ranked[0], row, metric) for row in ranked[1:2]]
    if len(ranked) > max(2, len(equal)):
        sentences.append(f"Last comes {ranked[-1].label} with {_score(ranked[-1], metric)}.")
    for row in table.rows:
        if is_teacher(row.label) and metric in row.metrics:
            sentences.append(f"The teacher reaches {_score(row, metric)}.")
    return sentences


def _draw(equal: Sequence[Row], ranked: Sequence[Row], metric: str, of_all: str) -> str:
    """Returns a sentence on methods that share the best value."""
    shown = f"{_score(equal[0], metric)} {notation.readable(metric)}"
    if len(equal) == len(ranked):
        return f"No method stands out: all have {shown}."
    names = ", ".join(row.label for row in equal[:-1])
    return f"{names} and {equal[-1].label} are equally the best {of_all}: {shown}."


def _size(row: Row) -> str:
    """Returns a clause on a row's parameters and megabytes, as far as they are known."""
    if not row.parameters:
        return ""
    stored = f" ({notation.megabytes(row.megabytes)} MB)" if row.megabytes else ""
    return f", with {notation.short(row.parameters)} parameters{stored}"


def _second(first: Row, second: Row, metric: str) -> str:
    """Returns the gap between the two best methods, and whether the examples distinguish them."""
    gap = abs(first.metrics[metric] - second.metrics[metric])
    if notation.is_share(metric):
        shown = f"{100 * gap:.1f} points" if gap >= 0.0005 else "less than 0.1 points"
    else:
        shown = f"{gap:.3g}"
    sentence = f"{second.label} follows, {shown} behind"
    one, other = first.intervals.get(metric), second.intervals.get(metric)
    if one is None or other is None:
        return f"{sentence}."
    if one.low <= other.high and other.low <= one.high:
        return f"{sentence}: their 95 % intervals overlap, so this order may be chance."
    return f"{sentence}: their 95 % intervals over the examples lie apart."


def _score(row: Row, metric: str) -> str:
    return notation.score(metric, row.metrics[metric]) + notation.unit(metric)


def _faults(
    pipeline: load.Pipeline, notes: Mapping[str, tuple[str, str]]
) -> list[tuple[str, str, str]]:
    """Returns (stage, its label, sentence) for everything that is missing or went wrong; `notes`
    has the label and sentence of stages that are results.
    """
    found = []
    for name, stage in pipeline.stages.items():
        label, note = notes.get(name, (name, stage.note))
        if note:
            found.append((name, label, note))
    return found


def _public(text: str, base: str | None) -> str:
    """Returns a text as it may be shown: without this machine's folders on a page that is not in
    the workdir.
    """
    return files.without_folders(text) if base is None else text


# ---- stages ------------------------------------------------------------------------------------


def _cards(
    pipeline: load.Pipeline, table: Table, colour: Mapping[str, int], base: str | None
) -> list[StageCard]:
    keys = {name: f"stage-{number}" for number, name in enumerate(pipeline.stages, start=1)}
    rows = {row.stage: row for row in table.rows}
    cards = []
    for name, stage in pipeline.stages.items():
        folder = (
            f"{base}{urllib.parse.quote(stage.folder)}/"
            if base is not None and stage.present
            else None
        )
        drawn = []
        if name in colour:
            drawn = figures.stage_figures(stage, keys[name], colour=colour[name])
        cards.append(
            StageCard(
                key=keys[name],
                stage=stage,
                label=rows[name].label if name in rows else "",
                note=_public(stage.note, base),
                size=rows[name].size if name in rows else "",
                folder_link=folder,
                config_link=f"{folder}{CONFIG}" if folder and stage.config else None,
                config_text=_public(json.dumps(stage.config, indent=2, ensure_ascii=False), base),
                facts=_facts(stage),
                metrics=_final_metrics(stage),
                needs=tuple((other, keys[other]) for other in inputs(stage) if other in keys),
                figures=tuple(drawn),
            )
        )
    return cards


def _facts(stage: load.Stage) -> tuple[tuple[str, str], ...]:
    """Returns a stage's existing numbers by name."""
    done = stage.done
    if done is None:
        last = max((step for values in stage.history.values() for step in values), default=None)
        return () if last is None else (("last step", notation.grouped(last)),)
    facts = [("time", notation.duration(done.seconds))]
    if done.steps:
        facts.append(("steps", notation.grouped(done.steps)))
    if done.examples:
        facts.append(("examples", notation.grouped(done.examples)))
        if stage.kind in ("train", "label") and done.seconds > 0:
            facts.append(("examples/s", notation.short(done.examples / done.seconds)))
    for name in ("mfu", "goodput"):
        if name in done.utilisation:
            facts.append((name, f"{100 * done.utilisation[name]:.0f} %"))
    if done.parameters:
        facts.append(("parameters", notation.grouped(done.parameters)))
    if done.megabytes:
        facts.append(("MB", notation.megabytes(done.megabytes)))
    return tuple(facts)


def _final_metrics(stage: load.Stage) -> tuple[tuple[str, str], ...]:
    found = stage.done.metrics if stage.done else {}
    return tuple(
        (
            notation.readable(name),
            notation.grouped(int(value))
            if name.endswith("/rows") and value is not None
            else notation.score(name, value) + (notation.unit(name) if value is not None else ""),
        )
        for name, value in found.items()
    )


def _costs(pipeline: load.Pipeline) -> list[tuple[str, int, float, float]]:
    """Returns (kind, stages, seconds, share of all seconds), the costliest first, the sum last."""
    seconds: dict[str, list[float]] = {}
    for stage in pipeline.stages.values():
        if stage.done:
            seconds.setdefault(stage.kind, []).append(stage.done.seconds)
    total = sum(map(sum, seconds.values()))
    kinds = sorted(seconds, key=lambda kind: -sum(seconds[kind]))
    return [
        (kind, len(seconds[kind]), sum(seconds[kind]), sum(seconds[kind]) / total if total else 0.0)
        for kind in kinds
    ] + ([("all", sum(map(len, seconds.values())), total, 1.0)] if kinds else [])


# ---- environment -------------------------------------------------------------------------------


def _versions(pipeline: load.Pipeline) -> list[tuple[str, list[tuple[str, Sequence[str]]]]]:
    """Returns version keys with their values; where stages differ, a value names its stages."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, stage in pipeline.stages.items():
        for key, value in stage.versions.items():
            found.setdefault(key, {}).setdefault(str(value), []).append(name)
    return [
        (key, [(value, stages if len(values) > 1 else ()) for value, stages in values.items()])
        for key, values in found.items()
    ]
