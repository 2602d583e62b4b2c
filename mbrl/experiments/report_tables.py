"""Parts that sections of a report are made of: tables, figures with captions, legends, switches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mbrl.experiments.markup import Markup, el
from mbrl.experiments.report_style import Style


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str | None = None, left: int = 1
) -> Markup:
    """A table that scrolls by itself where the page is narrow; nothing where there is no row.

    Args:
        columns: their names.
        rows: a cell for each of them; the first one names the row.
        caption: above it.
        left: how many of the first columns are words; the others are numbers.
    """
    sides = [None if i < left else "right" for i in range(len(columns))]
    body = [
        el(
            "tr",
            el("th", row[0], scope="row"),
            [el("td", cell, class_=side) for cell, side in zip(row[1:], sides[1:], strict=True)],
        )
        for row in rows
    ]
    if not body:
        return Markup("")
    head = [el("th", name, scope="col", class_=side) for name, side in zip(columns, sides, strict=True)]
    name = caption or columns[0]
    whole = el("table", el("thead", el("tr", head)), el("tbody", body), aria_label=name)
    scroll = el("div", whole, class_="scroll", tabindex=0, role="region", aria_label=name)
    return el("div", el("p", caption, class_="caption") if caption else None, scroll, class_="table")


def side_by_side(parts: Sequence[Any]) -> Markup:
    """Charts or cards beside one another where there is room: four of them in pairs, fewer larger."""
    return el("div", parts, class_="charts two" if len(parts) in (1, 2, 4) else "charts")


def figure(caption: Any, chart: Markup, **attributes: Any) -> Markup:
    """A chart under its caption."""
    return el("figure", el("figcaption", caption), chart, **attributes)


def legend(styles: Mapping[str, Style]) -> Markup:
    """Which line is whose; a click hides it."""
    keys = [
        el(
            "button",
            el("svg", el("path", d="M1 5H29", class_=f"line d{style.dash}"), viewBox="0 0 30 10", class_=style.classes),
            label,
            type="button",
            aria_pressed="true",
            data_label=label,
        )
        for label, style in styles.items()
    ]
    return el("div", keys, class_="legend", role="group", aria_label="Lines: press to hide one")


def switch(name: str, title: str, options: Mapping[str, str], chosen: str) -> Markup:
    """One of several, which the style sheet acts on: `options` by the last part of their id."""
    made = [
        el(
            "label",
            el("input", type="radio", name=name, id=f"{name}-{key}", checked=key == chosen),
            el("span", words),
            class_="switch",
        )
        for key, words in options.items()
    ]
    return el("fieldset", el("legend", title), made)


def details(summary: str, *children: Any) -> Markup:
    """What is shown on demand, and on paper."""
    return el("details", el("summary", summary), *children)


def key(label: str, styles: Mapping[str, Style]) -> Markup:
    """A label with a sample of its line."""
    style = styles.get(label)
    if style is None:
        return el("span", label)
    sample = el("svg", el("path", d="M1 5H19", class_="line"), viewBox="0 0 20 10", class_=f"key {style.classes}")
    return el("span", sample, label, class_="keyed")
