"""Charts of a study: means with intervals over an axis of numbers or names, one line a series."""

import dataclasses
import math
from collections.abc import Sequence

from pd_jax.report import axes, notation, svg
from pd_jax.report.charts import FONT, colour

_LEFT, _RIGHT = 46.0, 14.0
_ABREAST = 5
"""The most series side by side at one place."""

Position = str | int | float


@dataclasses.dataclass(frozen=True)
class Spot:
    """A mean at a place on the axis, its interval where there is one, and where a click leads."""

    x: Position
    y: float
    low: float | None
    high: float | None
    tooltip: str
    link: str = ""


@dataclasses.dataclass(frozen=True)
class Line:
    """One series.

    `across` is drawn from side to side, for values without a place on the axis. Spots are `joined`
    where their order on the axis means something.
    """

    label: str
    colour: int
    spots: Sequence[Spot]
    across: bool = False
    joined: bool = True


def lines_chart(
    frame: svg.Frame,
    lines: Sequence[Line],
    *,
    scale: str,
    x_label: str,
    y_label: str,
    order: Sequence[Position] = (),
    grey: bool = False,
) -> str:
    """Returns lines with whiskers over a `category`, `linear` or `log` axis.

    The places of a category axis stand in `order`, or else as they first come in the lines.
    `grey` draws the paper's lines, distinguished from ours by dashes and by names at their ends.
    """
    found = {spot.x for line in lines if not line.across for spot in line.spots}
    positions = [spot.x for line in lines if not line.across for spot in line.spots]
    places = _Places([*(x for x in order if x in found), *positions], scale)
    ends = [
        value
        for line in lines
        for spot in line.spots
        for value in (spot.y, spot.low, spot.high)
        if value is not None
    ]
    y_scale = svg.Scale(*svg.padded(ends), frame.height - axes.FOOT, axes.HEAD)
    names = [line.label for line in lines] if grey else []
    gutter = max((svg.text_width(name, size=FONT) for name in names), default=0) + _RIGHT
    right = frame.width - min(gutter, frame.width * 0.34)
    body = _grid(y_scale, places, right, x_label=x_label, y_label=y_label)
    middle = (min(len(lines), _ABREAST) - 1) / 2
    for number, line in enumerate(lines):
        # Series that share a place stand a little apart, so that no whisker hides another.
        aside = 0.0 if grey else (number % _ABREAST - middle) * 3.0
        body += _line(line, number, y_scale, places, right, grey=grey, aside=aside)
    if grey:
        body += _names(lines, y_scale, right, frame.width)
    return svg.drawing(frame, body)


class _Places:
    """Where the places of an axis stand, between the left edge and the right."""

    def __init__(self, positions: Sequence[Position], scale: str):
        self._log = scale == "log"
        numbers = [value for value in positions if not isinstance(value, str)]
        no_logarithm = self._log and min(numbers, default=1.0) <= 0
        self._named = scale == "category" or len(numbers) < len(positions) or no_logarithm
        self.values: list[Position] = list(dict.fromkeys(positions))
        if scale != "category":
            self.values.sort(key=_numbers_first)

    def at(self, position: Position, right: float) -> float:
        """Returns where a place stands, in units of the drawing."""
        if self._named:
            share = (self.values.index(position) + 0.5) / len(self.values)
            return _LEFT + share * (right - _LEFT)
        found = [self._number(value) for value in (self.values[0], self.values[-1], position)]
        low, high, here = found
        margin = 0.07 * (right - _LEFT)
        share = (here - low) / (high - low) if high > low else 0.5
        return _LEFT + margin + share * (right - _LEFT - 2 * margin)

    def _number(self, value: Position) -> float:
        return math.log(float(value)) if self._log else float(value)


def _numbers_first(position: Position) -> tuple[bool, float]:
    """Returns a sort key: numbers in ascending order, then names in their given order."""
    return (True, 0.0) if isinstance(position, str) else (False, float(position))


def _grid(
    y_scale: svg.Scale, places: _Places, right: float, *, x_label: str, y_label: str
) -> list[svg.Element]:
    texts = [value if isinstance(value, str) else notation.short(value) for value in places.values]
    marks = [
        (places.at(value, right), axes.fitted(text, of=texts, left=_LEFT, right=right))
        for value, text in zip(places.values, texts, strict=True)
    ]
    return [
        *axes.value_axis(y_scale, left=_LEFT, right=right, name=y_label),
        *axes.place_axis(marks, left=_LEFT, right=right, y=y_scale.start, name=x_label),
    ]


def _line(
    line: Line,
    number: int,
    y_scale: svg.Scale,
    places: _Places,
    right: float,
    *,
    grey: bool,
    aside: float,
) -> list[svg.Element]:
    css = "c-grey" if grey else colour(line.colour)
    dash = ("", " dashed", " dotted", " dashdot")[number % 4] if grey else ""
    drawn: list[svg.Element] = []
    if line.across:
        for spot in line.spots:
            y = y_scale(spot.y)
            path = svg.line(_LEFT, y, right, y, css=f"line thin dashed {css}")
            drawn.append(_led(svg.with_tooltip(path, spot.tooltip), spot.link))
        return drawn
    at = [(places.at(spot.x, right) + aside, y_scale(spot.y)) for spot in line.spots]
    if line.joined and len(at) > 1:
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        drawn.append(svg.node("polyline", points=joined, css=f"line thin {css}{dash}"))
    for (x, y), spot in zip(at, line.spots, strict=True):
        if spot.low is not None and spot.high is not None:
            ends = y_scale(spot.low), y_scale(spot.high)
            drawn.append(svg.line(x, ends[0], x, ends[1], css=f"line thin {css}"))
        dot = svg.node("circle", cx=x, cy=y, r=3.0 if grey else 4.5, css=f"dot {css}")
        drawn.append(_led(svg.with_tooltip(dot, spot.tooltip), spot.link))
    return drawn


def _led(element: svg.Element, link: str) -> svg.Element:
    return svg.node("a", element, href=link) if link else element


def _names(
    lines: Sequence[Line], y_scale: svg.Scale, right: float, width: float
) -> list[svg.Element]:
    named = [line for line in lines if line.spots]
    ends = [y_scale(line.spots[-1].y) for line in named]
    places = svg.spread(ends, gap=15.0, low=axes.HEAD, high=y_scale.start - 4)
    return [
        svg.with_tooltip(
            svg.label(
                svg.fitted(line.label, width - right - 8, size=FONT), x=right + 6, y=y, css="tick"
            ),
            line.label,
        )
        for line, y in zip(named, places, strict=True)
    ]
