"""Content of a study's page: answers, figures with the paper's, groups and cells as tables."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pd_jax import config as config_lib
from pd_jax.report import charts, claims, lines, notation, paper, study_text, svg
from pd_jax.report.statistics import Verdict
from pd_jax.report.study import Group, Results, named, place_of, shown

_SIZE = (410.0, 270.0)
_COLOURED = (paper.PD, paper.PF, paper.DISTILLATION, paper.BASIC, paper.PD_F)
"""Methods in the order of their colours, the same on every page."""


@dataclasses.dataclass(frozen=True)
class Chart:
    """One drawing with its heading."""

    title: str
    drawing: str


@dataclasses.dataclass(frozen=True)
class StudyFigure:
    """Charts that belong together, and the colours of their lines."""

    key: str
    title: str
    charts: tuple[Chart, ...]
    legend: tuple[tuple[str, str], ...]
    caption: str


def lead(results: Results, judged: Sequence[claims.Judged]) -> list[str]:
    """Returns the answer in sentences: how many claims hold, which fail, what is missing."""
    cells = sum(len(group.results) for group in results.groups)
    missing = len(results.missing)
    sentences = [f"{cells - missing} of {cells} students and teachers have a result."]
    for verdict, verb in ((Verdict.HOLDS, "hold"), (Verdict.FAILS, "fail")):
        texts = [one.claim.text for one in judged if one.verdict == verdict]
        if texts:
            plural = verb if len(texts) > 1 else f"{verb}s"
            sentences.append(f"{len(texts)} of {len(judged)} claims {plural}: {'; '.join(texts)}.")
    undecided = sum(one.verdict == Verdict.UNDECIDED for one in judged)
    if undecided:
        sentences.append(f"{undecided} {'are' if undecided > 1 else 'is'} undecided.")
    return sentences


def colours(results: Results) -> dict[str, int]:
    """Returns a colour number for every training stage: its method's, grey for other models."""
    found = {
        name: charts.GREY
        for name, stage in results.pipeline.stages.items()
        if stage.kind == "train"
    }
    by_method = _colours(results.groups, _method, _COLOURED)
    for group in results.groups:
        for result in group.results:
            if result.of == "student":
                found[result.stage.name] = by_method[_method(group)]
    return found


def _method(group: Group) -> str:
    return str(group.axes.get("method", "other"))


def context(results: Results, keys: Mapping[str, str]) -> dict[str, Any]:
    """Returns the values of the page's own sections; `keys` are the stages' places on the page."""
    judged = claims.judge(results)
    return {
        "results": results,
        "judged": judged,
        "lead": lead(results, judged),
        "figures": [
            drawn
            for number, wish in enumerate(results.study.figures)
            for drawn in [_figure(results, wish, f"figure-{number}", keys)]
            if drawn.charts
        ],
        "place": lambda axes, name: shown(axes.get(name)),
        "sort_key": lambda axes, name: axes.get(name, ""),
        "words": study_text,
    }


def _colours(
    groups: Sequence[Group], name: Callable[[Group], str], first: Sequence[str] = ()
) -> dict[str, int]:
    """Returns a colour number for every name of groups: the places of those in `first`, the next
    ones for others, and grey for a teacher.
    """
    names = dict.fromkeys(map(name, groups))
    students = {
        name(group) for group in groups if any(one.of == "student" for one in group.results)
    }
    grey = {paper.TEACHER, *(one for one in names if one not in students)}
    order = [*first, *(one for one in names if one not in first and one not in grey)]
    return {one: charts.GREY if one in grey else order.index(one) for one in names}


# ---- figures -----------------------------------------------------------------------------------


def _figure(
    results: Results, wish: config_lib.Figure, key: str, keys: Mapping[str, str]
) -> StudyFigure:
    series = _series(results, wish)
    order = [place_of(group.axes, wish.x) for group in results.groups]
    drawn: list[Chart] = []
    in_grey = False
    for number, panel in enumerate(_panels(results, wish)):
        for index, measure in enumerate(results.measures):
            ours = _our_lines(results, wish, series, panel, measure, keys)
            if not any(line.spots and not line.across for line in ours):
                continue
            at = f"{wish.panels} {shown(panel)}, " if panel is not None and wish.panels else ""
            title = f"{at}{study_text.measure_title(measure)}"
            drawing = _drawing(f"{key}-{number}-{index}", ours, wish, title, order=order)
            drawn.append(Chart(title, drawing))
            theirs = _paper_lines(wish, panel) if index == 0 else []
            if theirs:
                in_grey = True
                title = (
                    f"{at}the paper's {theirs[0].spots[0].tooltip.rpartition(', ')[2]} accuracy %"
                )
                drawn.append(
                    Chart(title, _drawing(f"{key}-{number}-paper", theirs, wish, title, grey=True))
                )
    caption = (
        "Whiskers: 95 % intervals over seeds. A dot leads to its stage. Axes do not begin at zero, "
        "and differ from chart to chart."
    )
    if in_grey:
        caption += (
            f" In grey: {wish.paper} of the paper, read from the figure "
            f"(± {paper.DIGITISED_ERROR} points), with far more text and larger models."
        )
    legend = tuple((charts.colour(number), label) for label, number in series.items())
    return StudyFigure(key, wish.title, tuple(drawn), legend, caption)


def _drawing(
    key: str,
    drawn: Sequence[lines.Line],
    wish: config_lib.Figure,
    title: str,
    *,
    order: Sequence[Any] = (),
    grey: bool = False,
) -> str:
    description = "; ".join(spot.tooltip for line in drawn for spot in line.spots)
    return lines.lines_chart(
        svg.Frame(key, title, description, *_SIZE),
        drawn,
        scale=wish.scale,
        x_label=wish.x,
        y_label="%" if "%" in title else title.rpartition(" ")[2],
        order=order,
        grey=grey,
    )


def _series(results: Results, wish: config_lib.Figure) -> dict[str, int]:
    """Returns the lines' names and colour numbers."""
    first = _COLOURED if wish.series == "method" else ()
    return _colours(results.groups, lambda group: _series_of(group, wish), first)


def _series_of(group: Group, wish: config_lib.Figure) -> str:
    value = place_of(group.axes, wish.series)
    return _method(group) if value is None else shown(value)


def _panels(results: Results, wish: config_lib.Figure) -> list[Any]:
    if wish.panels is None:
        return [None]
    found = {place_of(group.axes, wish.panels) for group in results.groups} - {None}
    return sorted(found, key=lambda value: (isinstance(value, str), value))


def _our_lines(
    results: Results,
    wish: config_lib.Figure,
    series: Mapping[str, int],
    panel: Any,
    measure: str,
    keys: Mapping[str, str],
) -> list[lines.Line]:
    drawn = []
    for label, number in series.items():
        spots, across = [], []
        for group in results.groups:
            here = place_of(group.axes, wish.panels) if wish.panels else None
            if _series_of(group, wish) != label or here not in (panel, None):
                continue
            if group.summaries[measure].mean is None:
                continue
            x = place_of(group.axes, wish.x)
            (across if x is None else spots).append(_spot(results, group, measure, x, keys))
        numbers_only = not any(isinstance(spot.x, str) for spot in spots)
        if numbers_only:
            spots.sort(key=lambda spot: float(spot.x))
        if spots:
            joined = numbers_only or wish.x == "size"  # other names have no order
            drawn.append(lines.Line(label, number, spots, joined=joined))
        if across:
            drawn.append(lines.Line(label, number, across, across=True))
    return drawn


def _spot(
    results: Results, group: Group, measure: str, x: Any, keys: Mapping[str, str]
) -> lines.Spot:
    summary = group.summaries[measure]
    assert summary.mean is not None
    found = summary.interval
    interval = None if found is None else study_text.level_interval(measure, found)
    low, high = (
        (None, None)
        if interval is None
        else (notation.scaled(measure, interval.low), notation.scaled(measure, interval.high))
    )
    text = f"{named(group.axes, results.axes)}: {study_text.summary_text(measure, group)}"
    text += f"{notation.unit(measure)}, {len(summary.used)} seeds"
    if summary.left_out:
        text += f", without seed {', '.join(summary.left_out)}"
    first = next(result for result in group.results if result.seed in summary.used)
    link = f"#{keys[first.stage.name]}"
    return lines.Spot(
        "" if x is None else x, notation.scaled(measure, summary.mean), low, high, text, link
    )


def _paper_lines(wish: config_lib.Figure, panel: Any) -> list[lines.Line]:
    """Returns the lines of the paper's figure, those of the panel's width alone."""
    found: dict[str, list[lines.Spot]] = {}
    across = set()
    for value in paper.find(source=wish.paper) if wish.paper else ():
        place: Mapping[str, Any] = {"size": value.position} if value.axis == "size" else {}
        of_axis = wish.x in ("size", "layers")
        if of_axis and panel is not None and place_of(place, "hidden") not in (panel, None):
            continue
        x = place_of(place, wish.x) if of_axis else value.position
        if of_axis and x is None or not of_axis and value.axis == "size":
            across.add(value.method)
            x = ""
        tooltip = f"{value.method}, {shown(value.position)}: {value.value:.1f}, {value.task}"
        found.setdefault(value.method, []).append(
            lines.Spot(x or "", value.value, None, None, tooltip)
        )
    if across.issuperset(found):  # the paper has no such width: nothing is left to compare with
        return []
    return [
        lines.Line(method, charts.GREY, spots, across=method in across)
        for method, spots in found.items()
    ]
