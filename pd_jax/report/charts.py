"""The report's charts over a number axis: bars, dots with intervals, and the timeline of the chain.

Each function returns one drawing as text, for the frame it is given: a page draws a chart once for
a desktop and once for a phone, so that letters keep their size. Values come in the unit they are
shown in.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from pd_jax.report import notation, svg
from pd_jax.report.statistics import Interval

FONT = 13.0
"""Size of a chart's letters, in units of its width."""

COLOURS = 7
"""How many colours the page's style has, `c0` to `c6`."""

GREY = -1
"""The colour number of anything that is not being compared."""

_ROW = 34.0
_TOP = 10.0
_BOTTOM = 30.0


@dataclasses.dataclass(frozen=True)
class Bar:
    """One row of a bar or dot chart.

    Without a `value`, `text` states why. `reference` is a value of the paper, drawn in grey;
    `tooltip` is shown on hover.
    """

    label: str
    value: float | None
    text: str
    colour: int
    interval: Interval | None = None
    reference: float | None = None
    tooltip: str = ""


@dataclasses.dataclass(frozen=True)
class Task:
    """One bar of a timeline: `parts` are seconds by name, drawn in order; the rest is plain."""

    label: str
    seconds: float
    text: str
    parts: Sequence[tuple[str, float]] = ()


def colour(index: int) -> str:
    """Returns the class of a colour number; after the last one they start again, dashed."""
    if index == GREY:
        return "c-grey"
    return f"c{index % COLOURS}" + (" dashed" if index >= COLOURS else "")


def bar_chart(frame: svg.Frame, bars: Sequence[Bar], *, unit: str) -> str:
    """Returns horizontal bars from zero, with whiskers for intervals and the values behind them."""
    ends = [end for bar in bars for end in _ends(bar)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    gutter, room = _gutter(bars, frame.width), FONT * 4.2
    scale = svg.Scale(low, high or 1.0, gutter, frame.width - room)

    def draw(bar: Bar, y: float) -> list[svg.Element]:
        assert bar.value is not None
        left, right = sorted((scale(0.0), scale(bar.value)))
        body = svg.node(
            "rect",
            x=left,
            y=y - 9,
            width=max(1.0, right - left),
            height=18.0,
            rx=2,
            css=f"bar {colour(bar.colour)}",
        )
        end = max(map(scale, _ends(bar)))
        shown = svg.label(bar.text, x=end + 7, y=y, css="value")
        return [svg.with_tooltip(body, bar.tooltip), *_whisker(bar, y, scale, css="whisker"), shown]

    return _rows(frame, bars, scale, draw, unit=unit)


def dot_chart(frame: svg.Frame, bars: Sequence[Bar], *, unit: str) -> str:
    """Returns dots with whiskers, enlarged to where the values are, and the paper's in grey."""
    ends = [end for bar in bars for end in _ends(bar)]
    ends += [bar.reference for bar in bars if bar.reference is not None]
    low, high = svg.padded(ends) if ends else (0.0, 1.0)
    scale = svg.Scale(low, high, _gutter(bars, frame.width) + 6, frame.width - 14)

    def draw(bar: Bar, y: float) -> list[svg.Element]:
        drawn = []
        if bar.reference is not None:
            drawn.append(
                svg.with_tooltip(
                    _diamond(scale(bar.reference), y), f"the paper: {bar.reference:.1f}"
                )
            )
        if bar.value is not None:
            drawn += _whisker(bar, y, scale, css=f"line {colour(bar.colour)}")
            dot = svg.node(
                "circle", cx=scale(bar.value), cy=y, r=5, css=f"dot {colour(bar.colour)}"
            )
            drawn.append(svg.with_tooltip(dot, bar.tooltip))
        return drawn

    return _rows(frame, bars, scale, draw, unit=unit)


def timeline_chart(frame: svg.Frame, tasks: Sequence[Task], *, colours: Sequence[str]) -> str:
    """Returns tasks end to end over seconds; a part's colour is its name's place in `colours`."""
    width, total = frame.width, sum(task.seconds for task in tasks)
    gutter = min(
        width * 0.34, max((svg.text_width(t.label, size=FONT) for t in tasks), default=0) + 14
    )
    scale = svg.Scale(0.0, total or 1.0, gutter, width - FONT * 1.2)
    body, start = [], 0.0
    for index, task in enumerate(tasks):
        y = _TOP + _ROW * 0.8 * (index + 0.5)
        name = svg.label(
            svg.fitted(task.label, gutter - 12, size=FONT), x=gutter - 10, y=y, anchor="end"
        )
        body.append(svg.with_tooltip(name, task.label))
        body.append(svg.line(gutter, y, width, y, css="guide"))
        body += _task(task, start, y, scale, colours)
        body.append(_beside(task, start, y, scale))
        start += task.seconds
    bottom = _TOP + _ROW * 0.8 * len(tasks)
    ticks = duration_ticks(total, 5 if width > 500 else 3)
    for tick in ticks:
        body.insert(0, svg.line(scale(tick), _TOP, scale(tick), bottom, css="grid"))
        anchor = "end" if scale(tick) > width - 30 else "middle"
        text = notation.duration(tick) if tick else "0"
        body.append(svg.label(text, x=scale(tick), y=bottom + 14, css="tick", anchor=anchor))
    return svg.drawing(frame._replace(height=bottom + _BOTTOM), body)


def duration_ticks(total: float, count: int) -> list[float]:
    """Returns about `count` seconds from 0 to `total` that read well as times, such as minutes."""
    rough = total / max(1, count)
    nice = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200)
    if rough < nice[0]:
        return svg.linear_ticks(0.0, total, count)
    step = next((size for size in nice if size >= rough * 0.8), 86_400 * math.ceil(rough / 86_400))
    return [float(index * step) for index in range(int(total / step) + 1)]


def _task(
    task: Task, start: float, y: float, scale: svg.Scale, colours: Sequence[str]
) -> list[svg.Element]:
    """Returns a task's bar, and its parts upon it."""
    whole = svg.node(
        "rect",
        x=scale(start),
        y=y - 8,
        width=max(2.0, scale(start + task.seconds) - scale(start)),
        height=16.0,
        rx=2,
        css="bar rest",
    )
    drawn, at = [svg.with_tooltip(whole, f"{task.label}: {task.text}")], start
    for name, seconds in task.parts:
        seconds = min(seconds, start + task.seconds - at)
        wide = scale(at + seconds) - scale(at)
        if wide >= 0.4:
            part = svg.node(
                "rect",
                x=scale(at),
                y=y - 8,
                width=wide,
                height=16.0,
                css=f"bar {colour(colours.index(name))}",
            )
            drawn.append(
                svg.with_tooltip(part, f"{task.label}, {name}: {notation.duration(seconds)}")
            )
        at += seconds
    return drawn


def _beside(task: Task, start: float, y: float, scale: svg.Scale) -> svg.Element:
    """Returns a task's text, behind its bar where there is room and before it otherwise."""
    end = max(scale(start + task.seconds), scale(start) + 2)
    if end + 8 + svg.text_width(task.text, size=FONT) < scale.end + FONT:
        return svg.label(task.text, x=end + 6, y=y, css="value")
    if scale(start) - svg.text_width(task.text, size=FONT) - 8 > scale.start:
        return svg.label(task.text, x=scale(start) - 6, y=y, css="value", anchor="end")
    return svg.label(task.text, x=end - 6, y=y, css="value inside", anchor="end")


# ---- rows of bars and dots ---------------------------------------------------------------------


def _rows(
    frame: svg.Frame,
    bars: Sequence[Bar],
    scale: svg.Scale,
    draw: Callable[[Bar, float], list[svg.Element]],
    *,
    unit: str,
) -> str:
    """Returns a chart with one labelled row for each bar, over a grid."""
    bottom = _TOP + _ROW * len(bars)
    ticks = scale.ticks(6 if frame.width > 500 else 4)
    body = [svg.line(scale(tick), _TOP, scale(tick), bottom, css="grid") for tick in ticks]
    gutter = _gutter(bars, frame.width)
    for index, bar in enumerate(bars):
        y = _TOP + _ROW * (index + 0.5)
        name = svg.label(
            svg.fitted(bar.label, gutter - 12, size=FONT), x=gutter - 10, y=y, anchor="end"
        )
        body.append(svg.with_tooltip(name, bar.label))
        if bar.value is None:
            body.append(svg.label(bar.text, x=scale.start + 4, y=y, css="missing"))
        else:
            body += draw(bar, y)
    for tick in ticks:
        text = svg.tick_text(tick, ticks) + (unit if tick == ticks[-1] else "")
        body.append(svg.label(text, x=scale(tick), y=bottom + 14, css="tick", anchor="middle"))
    return svg.drawing(frame._replace(height=bottom + _BOTTOM), body)


def _gutter(bars: Sequence[Bar], width: float) -> float:
    """Returns the width of the labels on the left."""
    widest = max((svg.text_width(bar.label, size=FONT) for bar in bars), default=0.0)
    return min(width * 0.36, widest + 14)


def _ends(bar: Bar) -> list[float]:
    if bar.value is None:
        return []
    return [bar.value] + ([bar.interval.low, bar.interval.high] if bar.interval else [])


def _whisker(bar: Bar, y: float, scale: svg.Scale, *, css: str) -> list[svg.Element]:
    if bar.interval is None:
        return []
    low, high = scale(bar.interval.low), scale(bar.interval.high)
    return [
        svg.line(low, y, high, y, css=css),
        svg.line(low, y - 4, low, y + 4, css=css),
        svg.line(high, y - 4, high, y + 4, css=css),
    ]


def _diamond(x: float, y: float) -> svg.Element:
    corners = ((x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y))
    return svg.node("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners), css="paper")
