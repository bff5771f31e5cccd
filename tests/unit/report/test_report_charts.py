import math
import re
from xml.etree import ElementTree

import pytest

from pd_jax.report import charts, curves, svg
from pd_jax.report.statistics import Interval

FRAME = svg.Frame("k", "T", "D", 800, 300)
HOSTILE = '</title><script>alert("x")</script> & \x00\x1b'


def parsed(drawing: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawing)


def texts(drawing: str, css: str | None = None) -> list[str]:
    return [
        element.text or "".join(child.tail or "" for child in element)
        for element in parsed(drawing).iter("text")
        if css is None or element.get("class") == css
    ]


def numbers_of(element: ElementTree.Element, *names: str) -> list[float]:
    return [float(element.get(name, "nan")) for name in names]


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [
        (0, 100, 5, [0, 20, 40, 60, 80, 100]),
        (0.31, 0.72, 5, [0.4, 0.5, 0.6, 0.7]),
        (-1, 1, 4, [-1, -0.5, 0, 0.5, 1]),
        (2, 2, 5, [2]),
    ],
)
def test_linear_ticks(low: float, high: float, count: int, ticks: list[float]) -> None:
    assert svg.linear_ticks(low, high, count) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.01, 100, [0.01, 0.1, 1, 10, 100]), (0.9, 40, [1, 3, 10, 30]), (4e6, 3e7, [5e6, 1e7, 2e7])],
)
def test_logarithmic_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert svg.logarithmic_ticks(low, high, 5) == pytest.approx(ticks)


def test_logarithmic_ticks_of_a_narrow_range_fall_back() -> None:
    ticks = svg.logarithmic_ticks(2.11, 2.19, 4)
    assert len(ticks) >= 2
    assert all(2.11 <= tick <= 2.19 for tick in ticks)


def test_scales_map_ends_and_middles() -> None:
    linear = svg.Scale(0, 10, 100, 200)
    assert [linear(value) for value in (0, 5, 10)] == [100, 150, 200]
    logarithmic = svg.Scale(1, 100, 50, 0, True)
    assert [logarithmic(value) for value in (1, 10, 100)] == pytest.approx([50, 25, 0])
    assert svg.Scale(3, 3, 0, 10)(3) == 5


@pytest.mark.parametrize(
    ("total", "ticks"),
    [
        (400, [0, 120, 240, 360]),
        (30, [0, 5, 10, 15, 20, 25, 30]),
        (7200, [0, 1800, 3600, 5400, 7200]),
    ],
)
def test_duration_ticks_are_whole_minutes(total: float, ticks: list[float]) -> None:
    assert charts.duration_ticks(total, 5) == ticks


def test_long_durations_have_ticks_of_days() -> None:
    assert charts.duration_ticks(10 * 86_400, 5) == [day * 86_400 for day in range(0, 11, 2)]


def test_spread_keeps_labels_apart_and_inside() -> None:
    places = svg.spread([50, 51, 52, 10], gap=16, low=0, high=60)
    ordered = sorted(places)
    assert all(b - a >= 16 - 1e-9 for a, b in zip(ordered, ordered[1:], strict=False))
    assert 0 <= ordered[0]
    assert ordered[-1] <= 60
    assert places[3] == min(places)
    assert svg.spread([10, 40], gap=16, low=0, high=60) == [10, 40]


def test_spread_narrows_the_gap_where_there_is_no_room() -> None:
    assert sorted(svg.spread([5, 5, 5], gap=16, low=0, high=10)) == pytest.approx([0, 5, 10])


def test_long_labels_are_cut_in_the_middle() -> None:
    text = "distillation from a teacher of twelve layers"
    cut = svg.fitted(text, 120, size=13)
    assert svg.text_width(cut, size=13) <= 120
    assert cut.startswith("dist")
    assert cut.endswith("ers")
    assert svg.fitted("PD", 120, size=13) == "PD"


def test_bars_begin_at_zero_and_are_proportional() -> None:
    bars = [charts.Bar("a", 40.0, "40", 0), charts.Bar("b", 80.0, "80", 1, Interval(80, 70, 90, 5))]
    drawing = charts.bar_chart(FRAME, bars, unit=" %")
    rects = list(parsed(drawing).iter("rect"))
    (x1, w1), (x2, w2) = (numbers_of(rect, "x", "width") for rect in rects)
    assert x1 == x2
    assert w2 / w1 == pytest.approx(2, rel=1e-3)
    whisker = [line for line in parsed(drawing).iter("line") if line.get("class") == "whisker"][0]
    left, right = numbers_of(whisker, "x1", "x2")
    assert (left - x2) / w2 == pytest.approx(70 / 80, rel=1e-3)
    assert (right - x2) / w2 == pytest.approx(90 / 80, rel=1e-3)


def test_negative_values_are_drawn_to_the_left_of_zero() -> None:
    bars = [charts.Bar("a", -0.5, "-0.5", 0), charts.Bar("b", 0.5, "0.5", 1)]
    drawing = charts.bar_chart(FRAME, bars, unit="")
    (x1, w1), (x2, w2) = (numbers_of(r, "x", "width") for r in parsed(drawing).iter("rect"))
    assert x1 + w1 == pytest.approx(x2, abs=0.02)
    assert w1 == pytest.approx(w2, abs=0.02)


def test_a_bar_without_a_value_says_why() -> None:
    bars = [charts.Bar("a", None, "failed", 0), charts.Bar("b", 1.0, "1.0", 1)]
    for chart in (charts.bar_chart, charts.dot_chart):
        drawing = chart(FRAME, bars, unit="")
        assert texts(drawing, "missing") == ["failed"]
        chart(FRAME._replace(width=350), bars[:1], unit="")


def test_references_are_drawn_in_grey() -> None:
    bars = [charts.Bar("PD", 80.0, "80", 0, reference=85.6)]
    drawing = charts.dot_chart(FRAME, bars, unit="")
    marks = [e for e in parsed(drawing).iter("polygon") if e.get("class") == "paper"]
    assert len(marks) == 1
    assert marks[0].findtext("title") == "the paper: 85.6"


def test_every_drawing_names_and_describes_itself() -> None:
    curve = curves.Curve("a", curves.thinned([(0, 1.0), (1, 2.0)], limit=9), 0)
    drawing = curves.curve_chart(
        svg.Frame("key", "Loss", "falls", 400, 200),
        [curve],
        x_label="x",
        y_label="y",
        logarithmic=True,
        named=True,
    )
    root = parsed(drawing)
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "key-title key-desc"
    assert root.findtext("title") == "Loss"
    assert root.findtext("desc") == "falls"


def test_hostile_text_stays_text() -> None:
    bars = [charts.Bar(HOSTILE, 1.0, HOSTILE, 0, tooltip=HOSTILE)]
    task = charts.Task(HOSTILE, 2.0, HOSTILE, ((HOSTILE, 1.0),))
    spot = curves.ModelSpot(HOSTILE, 1e6, 0.5, 0, tooltip=HOSTILE)
    frame = svg.Frame("k", HOSTILE, HOSTILE, 400, 200)
    drawings = [
        charts.bar_chart(frame, bars, unit=""),
        charts.dot_chart(frame, bars, unit=""),
        charts.timeline_chart(frame, [task], colours=[HOSTILE]),
        curves.scatter_chart(frame, [spot], x_label="x", y_label="y"),
    ]
    for drawing in drawings:
        assert "<script" not in drawing
        assert "\x00" not in drawing
        assert all(element.tag != "script" for element in parsed(drawing).iter())


def test_thinned_keeps_means_and_extremes() -> None:
    found = curves.thinned([(1, 1.0), (2, 3.0), (3, math.nan), (4, 5.0), (5, 7.0)], limit=2)
    assert found == [curves.Point(2, 2.0, 1.0, 3.0), curves.Point(5, 6.0, 5.0, 7.0)]
    assert curves.thinned([(1, math.inf)], limit=5) == []
    assert len(curves.thinned([(x, 0.0) for x in range(1001)], limit=100)) <= 100


def test_labels_at_the_ends_of_curves_do_not_overlap() -> None:
    lines = [
        curves.Curve(f"method {n}", curves.thinned([(0, 1.0), (9, 0.5 + n * 1e-4)], limit=9), n)
        for n in range(6)
    ]
    drawing = curves.curve_chart(
        FRAME, lines, x_label="x", y_label="y", logarithmic=False, named=True
    )
    ends = [e for e in parsed(drawing).iter("text") if re.match("end ", e.get("class", ""))]
    heights = sorted(float(e.get("y", "nan")) for e in ends)
    assert len(heights) == 6
    assert all(b - a > 14 for a, b in zip(heights, heights[1:], strict=False))


def test_a_chart_without_points_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no curve has a point"):
        curves.curve_chart(
            FRAME,
            [curves.Curve("a", [], 0)],
            x_label="x",
            y_label="y",
            logarithmic=False,
            named=False,
        )


def test_a_timeline_lays_its_tasks_end_to_end() -> None:
    tasks = [charts.Task("a", 10, "10 s"), charts.Task("b", 30, "30 s", (("step", 20.0),))]
    drawing = charts.timeline_chart(FRAME, tasks, colours=["compile", "step"])
    first, second, part = (numbers_of(r, "x", "width") for r in parsed(drawing).iter("rect"))
    assert second[0] == pytest.approx(sum(first), abs=0.02)
    assert second[1] == pytest.approx(3 * first[1], abs=0.05)
    assert part[1] == pytest.approx(2 * first[1], abs=0.05)
    assert texts(drawing, "value") == ["10 s", "30 s"]


def test_more_things_than_colours_are_dashed() -> None:
    assert charts.colour(0) == "c0"
    assert charts.colour(charts.COLOURS) == "c0 dashed"
    assert charts.colour(charts.GREY) == "c-grey"
