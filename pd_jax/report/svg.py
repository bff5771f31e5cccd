"""Parts of charts: SVG elements that escape their text, scales, ticks, and labels that fit.

Elements are built as a tree and written out by the standard library, so no text of a config can
become markup. Colours and fonts are classes, given by the page's style: a chart is right in light,
dark and print.
"""

import dataclasses
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from pd_jax.report import notation

Element = ElementTree.Element

_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def node(name: str, *children: Element, text: str | None = None, **attributes: object) -> Element:
    """Returns an element; `css` becomes `class`, underscores in attribute names become hyphens."""
    element = Element(name)
    for key, value in attributes.items():
        if value is None:
            continue
        shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        element.set("class" if key == "css" else key.replace("_", "-"), shown)
    if text is not None:
        element.text = _NO_TEXT.sub("\ufffd", text)
    element.extend(children)
    return element


def label(text: str, *, x: float, y: float, css: str = "", anchor: str = "start") -> Element:
    """Returns a text whose anchor point is (x, y), centred vertically."""
    return node("text", x=x, y=y, css=css or None, text_anchor=anchor, dy="0.35em", text=text)


def line(x1: float, y1: float, x2: float, y2: float, *, css: str) -> Element:
    """Returns a straight line."""
    return node("line", x1=x1, y1=y1, x2=x2, y2=y2, css=css)


def with_tooltip(element: Element, text: str) -> Element:
    """Returns the element with a text of its own for pointers and screen readers."""
    element.insert(0, node("title", text=text))
    return element


class Frame(NamedTuple):
    """What a drawing has around its body: a `key` that is unique on its page, words for those who
    do not see it, and a size. Charts made of rows set the height themselves.
    """

    key: str
    title: str
    description: str
    width: float
    height: float = 0.0


def drawing(frame: Frame, body: Iterable[Element]) -> str:
    """Returns a complete drawing as text to embed in a page."""
    key = frame.key
    root = node(
        "svg",
        node("title", id=f"{key}-title", text=frame.title),
        node("desc", id=f"{key}-desc", text=frame.description),
        *body,
        role="img",
        preserveAspectRatio="xMinYMid meet",
        viewBox=f"0 0 {frame.width:.0f} {frame.height:.0f}",
        aria_labelledby=f"{key}-title {key}-desc",
    )
    return ElementTree.tostring(root, encoding="unicode")


# ---- scales ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scale:
    """A map from values in [low, high] to positions from start to end, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Returns a value's position."""
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(value)
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Returns about `count` round values within the scale."""
        if self.logarithmic:
            return logarithmic_ticks(self.low, self.high, count)
        return linear_ticks(self.low, self.high, count)


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Returns about `count` multiples of 1, 2 or 5 times a power of ten in [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def logarithmic_ticks(low: float, high: float, count: int) -> list[float]:
    """Returns powers of ten in [low, high], and their multiples where those are too few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        found = [d * 10.0**e for e in exponents for d in digits]
        found = [value for value in found if low * 0.999 <= value <= high * 1.001]
        if len(found) >= min(count, 3):
            return found[:: max(1, -(-len(found) // (count + 1)))]
    return linear_ticks(low, high, count)


def padded(values: Sequence[float], *, share: float = 0.06) -> tuple[float, float]:
    """Returns a range that holds the values with a margin on both sides, never empty."""
    low, high = min(values), max(values)
    margin = (high - low) * share or abs(high) * share or 1.0
    return low - margin, high + margin


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """Returns a tick's label: as it is, or shortened (`20k`) where ticks go into the thousands."""
    return notation.short(value) if max(map(abs, ticks)) >= 1000 else f"{value:g}"


# ---- text --------------------------------------------------------------------------------------


def text_width(text: str, *, size: float) -> float:
    """Returns about how wide a text is in the widest of the page's fonts."""
    return size * sum(map(_letter_width, text))


def _letter_width(letter: str) -> float:
    """Returns a letter's width in ems."""
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.0
    if letter in "fijlrt.,:;!|'()[] ":
        return 0.4
    if letter in "mwMW@%":
        return 0.98
    if letter.isupper():
        return 0.75
    return 0.63 if letter.isalnum() or letter in "-–_" else 0.9


def fitted(text: str, width: float, *, size: float) -> str:
    """Returns the text, cut in its middle by an ellipsis where it is wider than `width`."""
    if text_width(text, size=size) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        cut = text[: -(-kept // 2)] + "…" + text[len(text) - kept // 2 :]
        if text_width(cut, size=size) <= width:
            return cut
    return "…"


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Returns positions in [low, high] near the wanted ones, `gap` apart where there is room."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1)) if len(wanted) > 1 else gap
    placed: list[float] = []
    for index in order:
        floor = placed[-1] + gap if placed else low
        placed.append(max(wanted[index], floor))
    ceiling = high
    for position in range(len(placed) - 1, -1, -1):
        placed[position] = min(placed[position], ceiling)
        ceiling = placed[position] - gap
    result = [0.0] * len(wanted)
    for index, position in zip(order, placed, strict=True):
        result[index] = position
    return result
