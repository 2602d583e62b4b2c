"""Charts of a report as inline SVG: drawn here, so that they are there without a script, in print and in mail.

Colours are classes of the style sheet, which knows light and dark. Every line carries its points (place on the canvas,
value, interval) as data for report.js, which shows them under the pointer and for the arrow keys.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mbrl.experiments.markup import Markup, el
from mbrl.experiments.report_style import Style, linear_ticks, log_ticks, number, tick

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 10, 36
"""Margins: as narrow as a phone, so that letters keep their size there."""


@dataclass(frozen=True)
class Line:
    """One line with its band. Points that are not finite, or not positive on a logarithmic axis, are gaps."""

    label: str
    style: Style
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    stepped: bool = False
    """Whether the value holds until the next point, as that of a run does until its next evaluation."""


@dataclass(frozen=True)
class Guide:
    """A straight line through the frame, with its name."""

    at: float
    name: str


@dataclass(frozen=True)
class Axis:
    """From data to places on the canvas."""

    low: float
    high: float
    start: float
    """Place of `low`."""
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def takes(self, value: float) -> bool:
        """Whether the value has a place at all."""
        return math.isfinite(value) and (value > 0 or not self.log)

    def ticks(self, count: int) -> list[float]:
        return (log_ticks if self.log else linear_ticks)(self.low, self.high, count)


def line_chart(
    lines: Sequence[Line],
    *,
    name: str,
    x_name: str,
    y_name: str,
    log: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    across: Guide | None = None,
    down: Guide | None = None,
    format_y: Callable[[float], str] = number,
) -> Markup:
    """Lines with bands in one frame; what goes beyond it is cut off there.

    Args:
        lines: at least one with a point that can be drawn, else a sentence says that there is none.
        name: what the chart shows, for who can't see it.
        x_name, y_name: of the axes.
        log: whether the x axis is logarithmic.
        x_range, y_range: of the axes; None: what the lines need.
        across, down: at a y, and at an x.
        format_y: of values.
    """
    axis_x = Axis(*(x_range or _x_range(lines, log)), LEFT, WIDTH - RIGHT, log)
    shown = [line for line in lines if _points(line, axis_x)]
    if not shown:
        return el("p", f"{name}: there is nothing to draw.", class_="empty")
    low, high = y_range or _y_range(shown, axis_x, across)
    axis_y = Axis(low, high, HEIGHT - BOTTOM, TOP)
    return el(
        "svg",
        _frame(axis_x, axis_y, x_name, y_name, format_y),
        _guides(axis_x, axis_y, across, down),
        _inside(
            [_band(line, axis_x, axis_y) for line in shown], [_line(line, axis_x, axis_y, format_y) for line in shown]
        ),
        el("line", class_="cursor", y1=TOP, y2=HEIGHT - BOTTOM, x1=0, x2=0),
        class_="chart hover",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        tabindex=0,
        aria_label=f"{name}. Arrow keys read the values out.",
        data_x=x_name,
    )


def _inside(*children: list[Markup | None]) -> Markup:
    """What is cut off at the frame: an SVG within the SVG needs no name for that."""
    width, height = WIDTH - RIGHT - LEFT + 4, HEIGHT - BOTTOM - TOP + 4
    place = {"x": LEFT - 2, "y": TOP - 2, "width": width, "height": height}
    return el("svg", *children, viewBox=f"{LEFT - 2} {TOP - 2} {width} {height}", **place)


def _frame(x: Axis, y: Axis, x_name: str, y_name: str, format_y: Callable[[float], str]) -> list[Markup]:
    """Grid, ticks and names."""
    foot, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    made = []
    for value in y.ticks(5):
        at = px(y(value))
        made.append(el("line", x1=LEFT, x2=right, y1=at, y2=at, class_="grid"))
        made.append(el("text", format_y(value), x=LEFT - 6, y=at + 3.5, class_="tick end"))
    for value in x.ticks(4):
        at = px(x(value))
        made.append(el("line", x1=at, x2=at, y1=foot, y2=foot + 4, class_="axis"))
        made.append(el("text", tick(value), x=at, y=foot + 15, class_="tick middle"))
    made.append(el("line", x1=LEFT, x2=right, y1=foot, y2=foot, class_="axis"))
    made.append(el("text", x_name, x=(LEFT + right) / 2, y=HEIGHT - 5, class_="name middle"))
    made.append(el("text", y_name, x=9, y=(TOP + foot) / 2, class_="name middle upright"))
    return made


def _guides(x: Axis, y: Axis, across: Guide | None, down: Guide | None) -> list[Markup]:
    foot, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    made = []
    if across and y.low <= across.at <= y.high:
        at = px(y(across.at))
        made.append(el("line", el("title", across.name), x1=LEFT, x2=right, y1=at, y2=at, class_="guide"))
    if down and x.low <= down.at < x.high:
        at = px(x(down.at))
        made.append(el("line", el("title", down.name), x1=at, x2=at, y1=TOP, y2=foot, class_="guide"))
        made.append(el("text", down.name, x=at + 3, y=foot - 5, class_="note"))
    return made


def _points(line: Line, x: Axis) -> list[int]:
    """Which points of a line have a place."""
    return [i for i, at in enumerate(line.x) if x.takes(at) and math.isfinite(line.y[i])]


def _pieces(line: Line, x: Axis) -> list[list[int]]:
    """The same, in stretches without a gap."""
    found: list[list[int]] = []
    for i in _points(line, x):
        if found and found[-1][-1] == i - 1:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def _path(places: Sequence[tuple[float, float]], stepped: bool) -> str:
    text = f"M{px(places[0][0])} {px(places[0][1])}"
    for at, height in places[1:]:
        text += f"H{px(at)}V{px(height)}" if stepped else f"L{px(at)} {px(height)}"
    return text


def _line(line: Line, x: Axis, y: Axis, format_y: Callable[[float], str]) -> Markup:
    pieces = _pieces(line, x)
    path = "".join(_path([(x(line.x[i]), y(line.y[i])) for i in piece], line.stepped) for piece in pieces)
    points = []
    for i in (i for piece in pieces for i in piece):
        if not x.low <= line.x[i] <= x.high * (1 + 1e-9):  # drawn, but cut off at the frame: not to be read out
            continue
        words = format_y(line.y[i])
        if line.low is not None and line.high is not None:
            words += f" [{format_y(line.low[i])}, {format_y(line.high[i])}]"
        points.append([px(x(line.x[i])), px(y(line.y[i])), number(line.x[i], 4), words])
    lone = [
        el("circle", cx=px(x(line.x[i])), cy=px(y(line.y[i])), r=2.6, class_="mark")
        for piece in pieces
        for i in piece
        if len(piece) == 1
    ]
    return el(
        "g",
        el("path", d=path, class_="line"),
        lone,
        el("circle", r=3.2, cx=0, cy=0, class_="point"),
        class_=f"series {line.style.classes}",
        data_label=line.label,
        data_points=json.dumps(points, ensure_ascii=False, separators=(",", ":")),
    )


def _band(line: Line, x: Axis, y: Axis) -> Markup | None:
    if line.low is None or line.high is None:
        return None
    low, high, made = line.low, line.high, []
    for piece in _pieces(line, x):
        if len(piece) < 2:
            continue
        # A bound may be without limit: there the band goes far beyond the frame, which cuts it.
        top = [(x(line.x[i]), _far(y(high[i]) if math.isfinite(high[i]) else -HEIGHT)) for i in piece]
        bottom = [(x(line.x[i]), _far(y(low[i]) if math.isfinite(low[i]) else 2 * HEIGHT)) for i in piece]
        if line.stepped:
            top, bottom = _staircase(top), _staircase(bottom)
        made.append(_path(top, False) + "L" + _path(bottom[::-1], False)[1:] + "z")
    return el("path", d="".join(made), class_=f"band {line.style.classes}", data_label=line.label) if made else None


def _staircase(places: list[tuple[float, float]]) -> list[tuple[float, float]]:
    corners = [(later[0], before[1]) for before, later in pairwise(places)]
    return [places[0], *(place for pair in zip(corners, places[1:], strict=True) for place in pair)]


def _x_range(lines: Sequence[Line], log: bool) -> tuple[float, float]:
    known = [v for line in lines for v in line.x if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(known), max(known)) if known else (1.0, 2.0)
    return (low, high) if high > low else (low * 0.9, high * 1.1) if low > 0 else (low - 1, low + 1)


def _y_range(lines: Sequence[Line], x: Axis, across: Guide | None) -> tuple[float, float]:
    """What the values need, and what their bands need within reason: few runs have very wide ones."""
    inside = [(line, i) for line in lines for i in _points(line, x) if x.low <= line.x[i] <= x.high * (1 + 1e-9)]
    inside = inside or [(line, i) for line in lines for i in _points(line, x)]
    values = [line.y[i] for line, i in inside] + ([across.at] if across else [])
    low, high = min(values), max(values)
    room = 0.25 * ((high - low) or abs(high) or 1.0)
    ends = [bound[i] for line, i in inside for bound in (line.low, line.high) if bound is not None]
    known = [end for end in ends if math.isfinite(end)]
    return padded(max(min([low, *known]), low - room), min(max([high, *known]), high + room))


def padded(low: float, high: float) -> tuple[float, float]:
    """A range with a little room at its ends."""
    room = 0.05 * ((high - low) or abs(high) or 1.0)
    return low - room, high + room


def _far(place: float) -> float:
    return min(max(place, -HEIGHT), 2.0 * HEIGHT)


def px(place: float) -> float:
    """A place on the canvas, to a tenth."""
    return round(place, 1)
