"""The report's charts over two axes: curves over examples or steps, and scores over parameters.

Like `charts`, every function returns one drawing as text for the frame it is given.
"""

import dataclasses
import math
from collections.abc import Sequence

from pd_jax.report import axes, svg
from pd_jax.report.charts import FONT, colour
from pd_jax.report.statistics import Interval

_BOLD = FONT * 1.1
_TOP_UNNAMED = 8.0
_LEFT = 48.0
_LINE_HEIGHT = 16.0

_MARKED = 40
"""The most points of a curve of which each one is shown."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a curve: the mean over the steps it stands for, and their range."""

    x: float
    y: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Curve:
    """A named line; its points rise in x and are finite."""

    label: str
    points: Sequence[Point]
    colour: int


@dataclasses.dataclass(frozen=True)
class ModelSpot:
    """One model in a chart of score over parameters."""

    label: str
    x: float
    y: float
    colour: int
    interval: Interval | None = None
    tooltip: str = ""


def thinned(points: Sequence[tuple[float, float]], *, limit: int) -> list[Point]:
    """Returns at most `limit` points, each the mean of as many neighbours, with their range.

    Points that are not finite are left out; the caller states so.
    """
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = max(1, -(-len(finite) // limit))
    blocks = [finite[start : start + size] for start in range(0, len(finite), size)]
    return [
        Point(
            x=block[-1][0],
            y=sum(y for _, y in block) / len(block),
            low=min(y for _, y in block),
            high=max(y for _, y in block),
        )
        for block in blocks
    ]


def curve_chart(
    frame: svg.Frame,
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    logarithmic: bool,
    named: bool,
) -> str:
    """Returns lines over a grid; where `named`, each line's label stands at its end.

    Curves without points are left out. A logarithmic axis needs positive values.
    """
    curves = [curve for curve in curves if curve.points]
    if not curves:
        raise ValueError(f"{frame.title}: no curve has a point to draw")
    values = [edge for curve in curves for p in curve.points for edge in (p.low, p.high)]
    low, high = (min(values) / 1.05, max(values) * 1.05) if logarithmic else svg.padded(values)
    width, labels = frame.width, [curve.label for curve in curves] if named else []
    gutter = min(width * 0.28, max((svg.text_width(n, size=_BOLD) for n in labels), default=0) + 14)
    right = width - gutter if named else width - 14
    furthest = max(curve.points[-1].x for curve in curves)
    x_scale = svg.Scale(0.0, furthest or 1.0, _LEFT, right)
    y_scale = svg.Scale(
        low, high, frame.height - axes.FOOT, axes.HEAD if y_label else _TOP_UNNAMED, logarithmic
    )
    body = _grid(x_scale, y_scale, x_label=x_label, y_label=y_label)
    for curve in curves:
        body += _curve(curve, x_scale, y_scale)
    if named:
        body += _names(curves, x_scale, y_scale, gutter)
    return svg.drawing(frame, body)


def scatter_chart(
    frame: svg.Frame, spots: Sequence[ModelSpot], *, x_label: str, y_label: str
) -> str:
    """Returns models as dots over a logarithmic axis of parameters, with intervals and labels."""
    values = [end for spot in spots for end in _ends(spot)]
    places = [spot.x for spot in spots]
    x_scale = svg.Scale(min(places) / 1.4, max(places) * 1.4, _LEFT, frame.width - 14, True)
    y_scale = svg.Scale(*svg.padded(values, share=0.1), frame.height - axes.FOOT, axes.HEAD)
    body = _grid(x_scale, y_scale, x_label=x_label, y_label=y_label)
    for spot in spots:
        x, css = x_scale(spot.x), colour(spot.colour)
        if spot.interval is not None:
            ends = y_scale(spot.interval.low), y_scale(spot.interval.high)
            body.append(svg.line(x, ends[0], x, ends[1], css=f"line thin {css}"))
        dot = svg.node("circle", cx=x, cy=y_scale(spot.y), r=5, css=f"dot {css}")
        body.append(svg.with_tooltip(dot, spot.tooltip))
    body += _spot_names(spots, x_scale, y_scale, frame.width)
    return svg.drawing(frame, body)


# ---- parts -------------------------------------------------------------------------------------


def _grid(
    x_scale: svg.Scale, y_scale: svg.Scale, *, x_label: str, y_label: str
) -> list[svg.Element]:
    """Returns grid, ticks and the names of both axes."""
    left, right = x_scale.start, x_scale.end
    ticks = x_scale.ticks(6 if right - left > 400 else 3)
    places = [(x_scale(tick), svg.tick_text(tick, ticks)) for tick in ticks]
    return [
        *axes.value_axis(y_scale, left=left, right=right, name=y_label),
        *axes.place_axis(places, left=left, right=right, y=y_scale.start, name=x_label),
    ]


def _curve(curve: Curve, x_scale: svg.Scale, y_scale: svg.Scale) -> list[svg.Element]:
    """Returns a curve's line, the range its points stand for, and marks if there are few."""
    css, points = colour(curve.colour), curve.points
    drawn = []
    if any(point.high > point.low for point in points):
        edge = [(p.x, p.high) for p in points] + [(p.x, p.low) for p in reversed(points)]
        drawn.append(svg.node("polygon", points=_joined(edge, x_scale, y_scale), css=f"band {css}"))
    joined = _joined([(p.x, p.y) for p in points], x_scale, y_scale)
    drawn.append(svg.node("polyline", points=joined, css=f"line {css}"))
    if len(points) <= _MARKED:
        for point in points:
            mark = svg.node(
                "circle", cx=x_scale(point.x), cy=y_scale(point.y), r=3, css=f"dot {css}"
            )
            drawn.append(svg.with_tooltip(mark, f"{curve.label}: {point.y:.4g} at {point.x:,.0f}"))
    return drawn


def _joined(points: Sequence[tuple[float, float]], x_scale: svg.Scale, y_scale: svg.Scale) -> str:
    return " ".join(f"{x_scale(x):.1f},{y_scale(y):.1f}" for x, y in points)


def _names(
    curves: Sequence[Curve], x_scale: svg.Scale, y_scale: svg.Scale, gutter: float
) -> list[svg.Element]:
    """Returns the curves' labels at the right, kept apart, each connected to its line's end."""
    ends = [y_scale(curve.points[-1].y) for curve in curves]
    places = svg.spread(ends, gap=_LINE_HEIGHT, low=axes.HEAD + 4, high=y_scale.start - 4)
    drawn = []
    for curve, end, place in zip(curves, ends, places, strict=True):
        x, css = x_scale(curve.points[-1].x), colour(curve.colour)
        drawn.append(svg.line(x + 4, end, x_scale.end + 8, place, css=f"leader {css}"))
        text = svg.fitted(curve.label, gutter - 12, size=_BOLD)
        shown = svg.label(text, x=x_scale.end + 11, y=place, css=f"end {css}")
        drawn.append(svg.with_tooltip(shown, curve.label))
    return drawn


def _spot_names(
    spots: Sequence[ModelSpot], x_scale: svg.Scale, y_scale: svg.Scale, width: float
) -> list[svg.Element]:
    """Returns labels beside the dots, each at the first place that covers no dot and no label."""
    places = [(x_scale(spot.x), y_scale(spot.y)) for spot in spots]
    taken = [_Box(x - 6, x + 6, y - 6, y + 6) for x, y in places]
    drawn = []
    for spot, (x, y) in sorted(zip(spots, places, strict=True), key=lambda pair: pair[1][1]):
        text = svg.fitted(spot.label, width * 0.4, size=FONT)
        wide = svg.text_width(text, size=FONT)
        half = _LINE_HEIGHT / 2
        boxes = [
            _Box(left, left + wide, y + shift - half, y + shift + half)
            for shift in (0, -13, 13, -26, 26, -39, 39, -52, 52)
            for left in (x + 11, x - 11 - wide)
            if left > 0 and left + wide < width
        ]
        free = [box for box in boxes if not any(box.meets(other) for other in taken)]
        box = (free or boxes)[0]
        taken.append(box)
        at, anchor = (box.left, "start") if box.left > x else (box.right, "end")
        middle = (box.top + box.bottom) / 2
        drawn.append(svg.label(text, x=at, y=middle, css="value", anchor=anchor))
    return drawn


@dataclasses.dataclass(frozen=True)
class _Box:
    """The area that something takes up on a drawing."""

    left: float
    right: float
    top: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        """Returns whether two areas overlap."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def _ends(spot: ModelSpot) -> list[float]:
    ends = [spot.y]
    if spot.interval is not None:
        ends += [spot.interval.low, spot.interval.high]
    return ends
