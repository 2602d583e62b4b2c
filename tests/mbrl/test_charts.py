"""What a report is drawn from: markup that is not broken into, numbers for people, ticks, and charts to scale."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl.experiments import report_style
from mbrl.experiments.charts import HEIGHT, LEFT, RIGHT, WIDTH, Guide, Line, line_chart
from mbrl.experiments.findings import Entry
from mbrl.experiments.interval_charts import Row, interval_chart
from mbrl.experiments.markup import Markup, el, verbatim
from mbrl.experiments.report_style import Style, linear_ticks, log_ticks, number, share, tick
from tests.mbrl.report_cases import Reader

STYLE = Style(0, 0)


@settings(deadline=None)
@given(st.text())
def test_text_stays_text(text: str) -> None:
    root = ET.fromstring(el("p", text, title=text)) if text.isprintable() else None
    if root is not None:
        assert (root.text or "", root.get("title")) == (text, text)
    assert "<" not in el("p", text)[3:-4]


def test_markup_is_not_escaped_twice() -> None:
    assert el("p", el("b", "a<b"), None, False, [1, "&"]) == "<p><b>a&lt;b</b>1&amp;</p>"
    assert el("input", checked=True, disabled=False, data_x=1, class_="k") == '<input checked data-x="1" class="k">'
    assert isinstance(el("p"), Markup)
    with pytest.raises(ValueError, match="text: expected no </script"):
        verbatim("script", "a</SCRIPT >")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (-153.24, "\u2212153"),
        (0.09177, "0.0918"),
        (-0.5, "\u22120.5"),
        (1234.6, "1,235"),
        (999_999.0, "999,999"),
        (2.5e6, "2.5M"),
        (1.52e13, "15.2T"),
        (3e-9, "3.00e-09"),
        (None, "\u2013"),
        (math.nan, "\u2013"),
        (-math.inf, "\u2212∞"),
    ],
)
def test_numbers_are_for_people(value: float | None, written: str) -> None:
    assert number(value) == written


def test_scores_and_ticks() -> None:
    assert [share(v) for v in (1.0, -0.004, -0.126, None)] == ["1.00", "0.00", "\u22120.13", "\u2013"]
    assert [tick(v) for v in (500, 1000, 2500, 100_000, 2e6)] == ["500", "1k", "2.5k", "100k", "2M"]
    assert linear_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert linear_ticks(-1250, -150) == [-1250, -1000, -750, -500, -250]
    assert log_ticks(250, 50_000) == [300, 1000, 3000, 10_000, 30_000]
    assert log_ticks(1, 1e12) == [1, 1e3, 1e6, 1e9, 1e12]


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e9))
def test_ticks_lie_in_their_range(low: float, width: float) -> None:
    high = low + width
    ticks = linear_ticks(low, high)
    assert ticks == sorted(ticks)
    assert all(low - 1e-6 * width <= at <= high + 1e-6 * width for at in ticks)
    logs = log_ticks(width, width * 1e5)
    assert 2 <= len(logs) <= 6
    assert all(width * 0.999 <= at <= width * 1e5 * 1.001 for at in logs)


def test_labels_have_lines_of_their_own() -> None:
    entries = tuple(Entry(f"a{i}", "x", i % 2 == 0) for i in range(14))
    lines = report_style.styles(entries)
    assert len({(line.colour, line.dash) for line in lines.values()}) == 14
    assert {lines[e.label].line for e in entries if e.model_based} == {"-", "-."}
    assert {lines[e.label].line for e in entries if not e.model_based} == {"--", ":"}


def points(chart: Markup) -> dict[str, list[list]]:
    series = [attrs for _, attrs in Reader(chart).elements if "data-points" in attrs]
    return {attrs["data-label"] or "": json.loads(attrs["data-points"] or "") for attrs in series}


def test_points_are_where_the_axes_say() -> None:
    line = Line("a", STYLE, (10, 100, 1000), (0, 5, 10), (-1, 4, 9), (1, 6, 11))
    drawn = points(line_chart([line], name="n", x_name="x", y_name="y", log=True, y_range=(0, 10)))["a"]
    middle = (LEFT + WIDTH - RIGHT) / 2
    assert [at for at, *_ in drawn] == [LEFT, middle, WIDTH - RIGHT]
    assert drawn[0][1] - drawn[1][1] == pytest.approx(drawn[1][1] - drawn[2][1])
    assert [row[2:] for row in drawn] == [["10", "0 [\u22121, 1]"], ["100", "5 [4, 6]"], ["1,000", "10 [9, 11]"]]


def test_what_has_no_place_is_a_gap() -> None:
    line = Line("a", STYLE, (0, 1, 2, 3, 4, 5), (1.0, 2.0, 3.0, -math.inf, 5.0, 6.0))
    chart = line_chart([line], name="n", x_name="x", y_name="y", log=True)
    assert [row[2] for row in points(chart)["a"]] == ["1", "2", "4", "5"]  # not 0, which has no logarithm, nor -inf
    path = next(attrs["d"] for tag, attrs in Reader(chart).elements if attrs.get("class") == "line" and tag == "path")
    assert (path or "").count("M") == 2
    assert "nan" not in chart
    assert "inf" not in chart


def test_points_outside_the_frame_are_not_read_out() -> None:
    """The line goes on to the frame, where it is cut off."""
    line = Line("a", STYLE, (1, 2, 3, 4), (0, 1, 2, 3))
    chart = line_chart([line], name="n", x_name="x", y_name="y", x_range=(0, 2.5))
    assert [row[2] for row in points(chart)["a"]] == ["1", "2"]


def test_bands_without_bound_leave_the_frame() -> None:
    line = Line("a", STYLE, (1, 2, 3), (0, 1, 2), (-math.inf,) * 3, (math.inf, 2, 3))
    chart = line_chart([line], name="n", x_name="x", y_name="y")
    band = next(
        attrs["d"] or "" for _, attrs in Reader(chart).elements if (attrs.get("class") or "").startswith("band")
    )
    heights = [float(y) for _, y in re.findall(r"([\d.-]+) ([\d.-]+)", band)]
    assert min(heights) == -HEIGHT
    assert max(heights) == 2 * HEIGHT


def test_few_runs_do_not_flatten_the_curves() -> None:
    narrow = Line("a", STYLE, (1, 2), (0, 1), (-0.1, 0.9), (0.1, 1.1))
    wide = replace(narrow, low=(-1e6, -1e6), high=(1e6, 1e6))
    heights = [
        [row[1] for row in points(line_chart([ln], name="", x_name="", y_name=""))["a"]] for ln in (narrow, wide)
    ]
    spans = [first - last for first, last in heights]
    assert spans[1] > 0.6 * spans[0]


def test_nothing_to_draw_is_said() -> None:
    nothing = Line("a", STYLE, (0.0,), (1.0,))
    assert "nothing to draw" in line_chart([nothing], name="n", x_name="x", y_name="y", log=True)
    assert "nothing to draw" in interval_chart([Row("a", None, math.nan, None, None)], name="n", x_name="x")


def test_intervals_are_drawn_to_scale() -> None:
    chart = interval_chart(
        [Row("a", STYLE, 5, 0, 10, (2.5,)), Row("b" * 40, STYLE, 20, 2, None)],
        name="n",
        x_name="x",
        x_range=(0, 10),
        left=100,
    )
    bars = [attrs for _, attrs in Reader(chart).elements if attrs.get("class") == "bar"]
    right = WIDTH - RIGHT
    assert [(float(b["x1"] or 0), float(b["x2"] or 0)) for b in bars] == [
        (100, right),
        (100 + 0.2 * (right - 100), right),
    ]
    dot = next(attrs for tag, attrs in Reader(chart).elements if tag == "circle")
    assert float(dot["cx"] or 0) == pytest.approx(100 + (right - 100) / 4, abs=0.1)
    assert f"M{right}.0 " in chart or f"M{right} " in chart  # 20 stays at the edge
    assert "b" * 40 + ": 20, interval 2 to ∞" in Reader(chart).text
    assert "…" in chart


def test_guides_are_named() -> None:
    line = Line("a", STYLE, (1, 2, 3), (0, 1, 2))
    chart = line_chart([line], name="", x_name="", y_name="", across=Guide(1, "goal"), down=Guide(2, "end"))
    assert "goal" in Reader(chart).text
    assert "end" in Reader(chart).text
