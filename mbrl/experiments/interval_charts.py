"""Charts of values with their intervals, one row each, as inline SVG; see `charts`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mbrl.experiments.charts import RIGHT, TOP, WIDTH, Axis, Guide, padded, px
from mbrl.experiments.markup import Markup, el
from mbrl.experiments.report_style import Style, number, tick

ROW = 26
"""Height of a row."""
LETTER = 6.2
"""Width of a letter in labels, about."""


@dataclass(frozen=True)
class Row:
    """A value with its interval, and what it was made of."""

    label: str
    style: Style | None
    value: float
    low: float | None
    high: float | None
    dots: Sequence[float] = ()


def interval_chart(
    rows: Sequence[Row],
    *,
    name: str,
    x_name: str,
    x_range: tuple[float, float] | None = None,
    guides: Sequence[Guide] = (),
    left: int = 118,
) -> Markup:
    """A row for each value: dots for its runs, a bar for the interval, a diamond for the value.

    Args:
        rows: at least one with a finite value, else a sentence says that there is none.
        name: what the chart shows, for who can't see it.
        x_name: of the axis.
        x_range: of the axis; None: what the rows need. What lies outside stays at the edge.
        guides: at an x.
        left: room for labels.
    """
    known = [v for row in rows for v in (row.value, row.low, row.high, *row.dots) if v is not None and math.isfinite(v)]
    if not known:
        return el("p", f"{name}: there is nothing to draw.", class_="empty")
    low, high = x_range or padded(min([*known, *(g.at for g in guides)]), max([*known, *(g.at for g in guides)]))
    axis = Axis(low, high, left, WIDTH - RIGHT)
    foot = TOP + ROW * len(rows)
    return el(
        "svg",
        _frame(axis, foot, guides),
        [_row(row, axis, TOP + ROW * (i + 0.5), left) for i, row in enumerate(rows)],
        el("text", x_name, x=(left + WIDTH - RIGHT) / 2, y=foot + 29, class_="name middle"),
        class_="chart",
        viewBox=f"0 0 {WIDTH} {foot + 34}",
        role="img",
        aria_label=name,
    )


def _frame(axis: Axis, foot: float, guides: Sequence[Guide]) -> list[list[Markup]]:
    """Grid, ticks and guides."""
    ticks = [
        [
            el("line", x1=px(axis(at)), x2=px(axis(at)), y1=TOP, y2=foot, class_="grid"),
            el("text", tick(at), x=px(axis(at)), y=foot + 14, class_="tick middle"),
        ]
        for at in axis.ticks(4)
    ]
    marks = [
        el(
            "line",
            el("title", guide.name),
            x1=px(axis(guide.at)),
            x2=px(axis(guide.at)),
            y1=TOP,
            y2=foot,
            class_="guide",
        )
        for guide in guides
    ]
    return [*ticks, marks]


def _row(row: Row, axis: Axis, y: float, left: int) -> Markup:
    def place(value: float) -> float:
        return axis(min(max(value, axis.low), axis.high))

    room = int((left - 10) / LETTER)
    label = row.label if len(row.label) <= room else row.label[: room - 1] + "…"
    words = f"{row.label}: {number(row.value)}"
    bar = None
    if row.low is not None or row.high is not None:
        ends = [place(axis.low if row.low is None else row.low), place(axis.high if row.high is None else row.high)]
        words += f", interval {number(row.low)} to {number(math.inf if row.high is None else row.high)}"
        bar = el("line", x1=px(ends[0]), x2=px(ends[1]), y1=y, y2=y, class_="bar")
    dots = [el("circle", cx=px(place(dot)), cy=y, r=2.6, class_="dot") for dot in row.dots if not math.isnan(dot)]
    at = px(place(row.value)) if not math.isnan(row.value) else None
    mark = el("path", d=f"M{at} {y - 5.5}l5.5 5.5-5.5 5.5-5.5-5.5z", class_="mark") if at is not None else None
    return el(
        "g",
        el("title", words),
        el("text", label, x=left - 8, y=y + 4, class_="tick end"),
        bar,
        dots,
        mark,
        class_=row.style.classes if row.style else "c6 d0",
    )
