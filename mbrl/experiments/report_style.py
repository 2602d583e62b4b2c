"""How a report writes numbers and names, and which line belongs to which algorithm: the same in HTML and in figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mbrl.experiments.findings import Entry, Estimate
from mbrl.experiments.plots import COLOURS
from mbrl.experiments.results import COSTS

AXES = {
    "steps": "real environment steps",
    "minutes": "wall-clock minutes, with evaluations",
    "cpu_minutes": "CPU minutes, without evaluations",
    "gradient_steps": "gradient steps",
    "model_steps": "steps in a learned model",
    "flops": "floating-point operations of networks",
}
"""What the x axes are called."""
SHORT = {
    "steps": "real steps",
    "minutes": "minutes",
    "cpu_minutes": "CPU minutes",
    "gradient_steps": "gradient steps",
    "model_steps": "model steps",
    "flops": "FLOPs",
}
"""The same in a few letters."""
TIMED = frozenset({"minutes", "cpu_minutes"})
"""Axes that come out different whenever the same seeds run again."""
MINUS, NOTHING = "\u2212", "\u2013"
"""A minus as wide as a plus; and what stands where there is nothing."""
SUFFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))
DASHES = ((True, 0, "-"), (False, 0, "--"), (True, 1, "-."), (False, 1, ":"))
"""(with a model, round of colours, matplotlib's name of the line); the place in the list is that in the style sheet."""

assert tuple(AXES) == COSTS == tuple(SHORT)


@dataclass(frozen=True)
class Style:
    """The line of one label."""

    colour: int
    """Place in `COLOURS`."""
    dash: int
    """Place in `DASHES`: whole lines learn a model, broken ones don't."""

    @property
    def classes(self) -> str:
        return f"c{self.colour} d{self.dash}"

    @property
    def hex(self) -> str:
        return COLOURS[self.colour]

    @property
    def line(self) -> Any:
        return DASHES[self.dash][2]


def styles(entries: Sequence[Entry]) -> dict[str, Style]:
    """A line for each label; colours repeat after seven, and then the dashes differ."""
    count = len(COLOURS)
    return {
        entry.label: Style(
            i % count, next(j for j, d in enumerate(DASHES) if d[:2] == (entry.model_based, i // count % 2))
        )
        for i, entry in enumerate(entries)
    }


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: `digits` significant ones, thousands apart, large ones with a suffix (M, G, T, P)."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    size, sign = abs(value), MINUS if value < 0 else ""
    for scale, suffix in SUFFIXES:
        if size >= scale:
            return f"{sign}{_significant(size / scale, digits)}{suffix}"
    text = _significant(size, digits)
    return text if text.strip("0.") == "" else sign + text


def _significant(size: float, digits: int) -> str:
    if size == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(size))
    if places <= 0:
        return f"{size:,.0f}"
    text = f"{size:.{places}f}" if places <= 6 else f"{size:.{digits - 1}e}"
    return text.rstrip("0").rstrip(".") if "e" not in text else text


def share(value: float | None) -> str:
    """A score or a probability: two places."""
    if value is None or not math.isfinite(value):
        return number(value)
    text = f"{abs(value):.2f}"
    return f"{MINUS}{text}" if value < 0 and text != "0.00" else text


def tick(value: float) -> str:
    """A number beside an axis, where room is scarce: thousands have a suffix, too."""
    return f"{number(value / 1000)}k" if 1e3 <= abs(value) < 1e6 else number(value)


def interval(low: float | None, high: float | None, write: Callable[[float | None], str] = number) -> str:
    """The interval alone, open where a side is without bound; "" where there is none."""
    if low is None and high is None:
        return ""
    return f"[{write(-math.inf if low is None else low)}, {write(math.inf if high is None else high)}]"


def estimate(found: Estimate, write: Callable[[float | None], str] = number) -> str:
    """A value with its interval, or the words that there is none."""
    if found.low is not None and found.high is not None and math.isclose(found.low, found.high):
        return f"{write(found.value)} (all runs equal)"
    return f"{write(found.value)} {interval(found.low, found.high, write) or '(no interval)'}"


def percent(part: float) -> str:
    """A share as per cent."""
    return f"{100 * part:.0f} %"


def coverage(found: Estimate) -> str:
    """How often such an interval holds the truth; a dash where that was not simulated."""
    if found.low is None and found.high is None:
        return "no interval"
    if found.coverage is None:
        return NOTHING
    low, high = (percent(end) for end in found.coverage)
    return low if low == high else f"{low.removesuffix(' %')}{NOTHING}{high}"


def several(names: Iterable[str]) -> str:
    """Names as in a sentence: a, b and c."""
    listed = list(names)
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}" if listed else "none"


def counted(count: int, one: str, more: str | None = None) -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def short_task(env_id: str) -> str:
    """An environment's name without its namespace or module."""
    return env_id.rpartition("/")[2].rpartition(":")[2]


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * power for unit in (1, 2, 2.5, 5, 10) if unit * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high` for a logarithmic axis: 1, 2, 5 of each power of ten, or fewer of them."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)

    def within(units: tuple[int, ...], every: int) -> list[float]:
        made = [unit * 10.0**power for power in powers if power % every == 0 for unit in units]
        return [tick for tick in made if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]

    options = [within((1, 2, 5), 1), within((1, 3), 1), *(within((1,), every) for every in (1, 2, 3, 5, 10))]
    return next((ticks for ticks in options if len(ticks) <= count + 1), options[-1])


def by(rows: Iterable, *names: str) -> Mapping:
    """Rows of a summary by fields: `by(summary.at_budget, "env_id", "label")`."""
    return {tuple(getattr(row, name) for name in names): row for row in rows}
