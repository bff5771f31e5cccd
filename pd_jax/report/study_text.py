"""A study for the terminal and as JSON: every group of cells, and the answer to every claim."""

import dataclasses
import math
from typing import Any

from pd_jax.report import claims, notation
from pd_jax.report.statistics import Interval, Summary
from pd_jax.report.study import Group, Results, named, place_of, shown
from pd_jax.report.table import aligned, markdown_line


def as_text(results: Results) -> str:
    """Returns a line for each group, one for each claim, and one for each cell without a value."""
    title = results.pipeline.wishes.title or results.pipeline.name
    parts = [title, "", *aligned(_grid(results), names=len(results.axes))]
    for block in _remarks(results):
        parts += ["", *block] if block else []
    return "\n".join(parts) + "\n"


def as_markdown(results: Results) -> str:
    """Returns the same as markdown."""
    header, *lines = _grid(results)
    marks = ["---"] * len(results.axes) + ["---:"] * (len(header) - len(results.axes))
    parts = [markdown_line(line) for line in (header, marks, *lines)]
    for block in _remarks(results):
        parts += ["", *(_item(line) for line in block)] if block else []
    return "\n".join(parts) + "\n"


def _item(line: str) -> str:
    """Returns a line as an item of a markdown list, at its depth."""
    depth = len(line) - len(line.lstrip())
    return f"{' ' * depth}* {line.lstrip()}"


def _grid(results: Results) -> list[list[str]]:
    header = [*results.axes, "seeds", *map(measure_title, results.measures)]
    lines = [
        [
            *(shown(group.axes.get(axis)) for axis in results.axes),
            _seeds(group),
            *(summary_text(name, group) for name in results.measures),
        ]
        for group in results.groups
    ]
    return [header, *lines]


def _remarks(results: Results) -> tuple[list[str], list[str]]:
    """Returns a line for each claim, and one for each cell without a value."""
    lacking = [
        f"{named(result.axes, (*results.axes, 'seed'))} ({result.stage.status}): {result.note}"
        for result in results.missing
    ]
    answers = [line for judged in claims.judge(results) for line in answer(judged)]
    return answers, lacking


def measure_title(measure: str) -> str:
    """Returns a measure's name with its unit."""
    return notation.readable(measure) + notation.unit(measure)


def summary_text(measure: str, group: Group) -> str:
    """Returns `82.4 ± 0.6`: mean and sample deviation over seeds, as far as there are any."""
    summary = group.summaries[measure]
    if summary.mean is None:
        missing = any(measure in result.lacking for result in group.results)
        return "missing" if missing else notation.MISSING
    return spread_text(measure, summary.mean, summary.deviation)


def spread_text(measure: str, mean: float, deviation: float | None) -> str:
    """Returns a mean with its deviation, if there is one."""
    text = notation.score(measure, mean)
    return text if deviation is None else f"{text} ± {notation.score(measure, deviation)}"


def answer(judged: claims.Judged) -> list[str]:
    """Returns a claim's verdict, and by each measure its difference with both intervals."""
    lines = [evidence(judgement) for judgement in judged.judgements]
    claim = " ".join(part for part in (judged.claim.text, margin(judged)) if part)
    return [f"{judged.verdict}: {claim}", *(f"  {line}" for line in lines)]


def margin(judged: claims.Judged) -> str:
    """Returns `(within 1.00 points)` for a claim that two are close; else nothing."""
    if judged.claim.near is None:
        return ""
    measure = judged.judgements[0].measure
    unit = " points" if notation.is_share(measure) else notation.unit(measure)
    return f"(within {difference(measure, judged.claim.near).removeprefix('+')}{unit})"


def evidence(judgement: claims.Judgement) -> str:
    """Returns a judgement's figures in words."""
    name = notation.readable(judgement.measure)
    if judgement.seeds.mean is None:
        return f"{name}: no seed has all of its cells"
    text = f"{name} {difference(judgement.measure, judgement.seeds.mean)}"
    for interval, over in (
        (judgement.seeds.interval, f"{len(judgement.seeds.used)} seeds"),
        (judgement.examples, "examples"),
    ):
        if interval is not None:
            text += f", 95 % over {over} {range_text(judgement.measure, interval)}"
    if judgement.seeds.interval is None:
        text += ", one seed"
    if judgement.seeds.left_out:
        text += f", without seed {', '.join(judgement.seeds.left_out)}"
    signs = f"{judgement.ahead} of {judgement.signs} ahead"
    if judgement.chance is not None:
        signs += f", p = {judgement.chance:.2g} by seed"
    return f"{text}, {signs}: {judgement.verdict}"


def difference(measure: str, value: float) -> str:
    """Returns a difference with its sign: points for shares, else in the measure's unit."""
    scaled = notation.scaled(measure, value)
    return f"{scaled:+.2f}" if notation.is_share(measure) else f"{scaled:+.4f}"


def range_text(measure: str, interval: Interval) -> str:
    """Returns an interval of differences."""
    return f"[{difference(measure, interval.low)}, {difference(measure, interval.high)}]"


def level_interval(measure: str, interval: Interval) -> Interval:
    """Clips a t interval to the measure's range, which it can exceed with few seeds."""
    quantity = measure.rpartition("/")[2]
    lowest = -1.0 if quantity in ("matthews", "pearson", "spearman") else 0.0
    highest = 1.0 if notation.is_share(measure) or lowest < 0 else math.inf
    low, high = max(interval.low, lowest), min(interval.high, highest)
    return dataclasses.replace(interval, low=low, high=high)


def _seeds(group: Group) -> str:
    """Returns how many of a group's cells have a value of the first measure, and of how many."""
    first = next(iter(group.summaries.values()))
    count = len(group.results)
    return f"{count}" if len(first.used) == count else f"{len(first.used)} of {count}"


# ---- JSON --------------------------------------------------------------------------------------


def as_json(results: Results) -> dict[str, Any]:
    """Returns the study as JSON values; missing ones are null, and named in `missing`."""
    return {
        "title": results.pipeline.wishes.title,
        "measures": list(results.measures),
        "groups": [_group_json(results, group) for group in results.groups],
        "claims": [_claim_json(judged) for judged in claims.judge(results)],
        "missing": [
            {"axes": dict(result.axes), "status": result.stage.status, "note": result.note}
            for result in results.missing
        ],
    }


def _group_json(results: Results, group: Group) -> dict[str, Any]:
    derived = {name: place_of(group.axes, name) for name in ("layers", "hidden")}
    return {
        "axes": {**group.axes, **{name: value for name, value in derived.items() if value}},
        "parameters": group.parameters,
        **{name: _summary_json(group.summaries[name]) for name in results.measures},
        "cells": [
            {
                "seed": result.axes["seed"],
                "stage": result.stage.folder,
                "status": result.stage.status,
                "seconds": result.stage.done.seconds if result.stage.done else None,
                **dict(result.values),
            }
            for result in group.results
        ],
    }


def _summary_json(summary: Summary) -> dict[str, Any]:
    interval = summary.interval
    return {
        "mean": summary.mean,
        "deviation": summary.deviation,
        "interval": [interval.low, interval.high] if interval else None,
        "seeds": len(summary.used),
        "left_out": list(summary.left_out),
    }


def _claim_json(judged: claims.Judged) -> dict[str, Any]:
    return {
        "claim": judged.claim.text,
        "verdict": str(judged.verdict),
        "near": judged.claim.near,
        "by": {
            one.measure: {
                "verdict": str(one.verdict),
                "over_seeds": _summary_json(one.seeds),
                "over_examples": [one.examples.low, one.examples.high] if one.examples else None,
                "examples": one.examples.count if one.examples else None,
                "ahead": one.ahead,
                "signs": one.signs,
                "sign_test": one.chance,
                "places": {part.at: _summary_json(part.seeds) for part in one.parts},
            }
            for one in judged.judgements
        },
    }
