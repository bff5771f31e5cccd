"""The axes of charts: values upwards over a grid, and places along the foot."""

import math
from collections.abc import Iterable, Sequence

from pd_jax.report import svg

HEAD = 24.0
"""Height above the grid, for the name of the axis of values."""
FOOT = 42.0
"""Height below the grid, for the places and the name of their axis."""
_SIZE = 12.0


def value_axis(scale: svg.Scale, *, left: float, right: float, name: str) -> list[svg.Element]:
    """Returns the grid's lines with their values at the left, and the axis' name above."""
    body, ticks = [], scale.ticks(5)
    for tick in ticks:
        y = scale(tick)
        body.append(svg.line(left, y, right, y, css="grid"))
        text = svg.tick_text(tick, ticks)
        body.append(svg.label(text, x=left - 8, y=y, css="tick", anchor="end"))
    if name:
        body.append(svg.label(name, x=2, y=8, css="tick name"))
    return body


def place_axis(
    places: Iterable[tuple[float, str]], *, left: float, right: float, y: float, name: str
) -> list[svg.Element]:
    """Returns the foot's line at `y` with marks and texts from left to right, and the axis' name.

    A text that would cover the one before is left out.
    """
    body, taken = [], -math.inf
    for x, text in places:
        body.append(svg.line(x, y, x, y + 4, css="axis"))
        half = svg.text_width(text, size=_SIZE) / 2
        if x - half > taken + 2:
            body.append(svg.label(text, x=x, y=y + 15, css="tick", anchor="middle"))
            taken = x + half
    body.append(svg.line(left, y, right, y, css="axis"))
    body.append(svg.label(name, x=right, y=y + 33, css="tick name", anchor="end"))
    return body


def fitted(text: str, *, of: Sequence[object], left: float, right: float) -> str:
    """Returns a place's text, cut where it would take more than its share of the foot."""
    return svg.fitted(text, (right - left) / max(1, len(of)) + 12, size=_SIZE)
