"""What `mbrl tune` may choose from: ranges of settings, read from the command line or made around a preset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

Value = bool | int | float | str
Settings = Mapping[str, Any]
"""Dataclasses of settings by their name in config.json: {"loop": ..., "learner": ...}, or {"pets": ...}."""


@dataclass(frozen=True)
class Range:
    """What a setting may be: numbers from `low` to `high`, or one of `choices`."""

    name: str
    """OWNER.FIELD, and .FIELD again where the field is a dataclass: "learner.lr", "loop.rollout_length.last"."""
    low: float | None = None
    high: float | None = None
    log: bool = False
    """Whether ratios count, not differences."""
    whole: bool = False
    """Whether the numbers are whole."""
    choices: tuple[Value, ...] = ()
    """Whole tuples, such as widths of layers, are written 128x128."""

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name} in {', '.join(map(str, self.choices))}"
        return f"{self.name} from {self.low:g} to {self.high:g}" + (" (log)" if self.log else "")


DEFAULTS: dict[str, dict[str, float]] = {
    "sac": {"learner.lr": 5, "learner.tau": 4, "loop.update_ratio": 4, "loop.batch_size": 2},
    "pets": {
        "pets.learning_rate": 5,
        "pets.fit_every": 2,
        "pets.horizon": 2,
        "pets.population": 2,
        "pets.initial_std": 2,
    },
    "mbpo": {
        "learner.lr": 5,
        "learner.tau": 4,
        "loop.update_ratio": 2,
        "loop.rollout_length.last": 3,
        "loop.real_fraction": 4,
        "loop.model_lr": 5,
    },
}
"""By algorithm: how many times a setting may be larger or smaller than in the preset. Those that a result depends on
most: step sizes, updates per real step, and how far and how often the model is used."""


def default_space(algorithm: str, settings: Settings) -> tuple[Range, ...]:
    """The ranges of an algorithm around its present settings.

    Raises:
        ValueError: the algorithm has none.
    """
    if algorithm not in DEFAULTS:
        raise ValueError(
            f"space: expected --space NAME=low:high for {algorithm}, for only {', '.join(DEFAULTS)} have ranges of "
            "their own, got none"
        )
    return tuple(_around(name, get(settings, name), factor) for name, factor in DEFAULTS[algorithm].items())


def parse(text: str, settings: Settings) -> Range:
    """A range from NAME=low:high, NAME=low:high:log or NAME=a,b,c.

    Args:
        text: as given.
        settings: which say what settings there are, and of what type.

    Raises:
        ValueError: there is no such setting, or the range makes no sense.
    """
    given, equals, span = text.partition("=")
    if not equals or not span:
        raise ValueError(f"space: expected NAME=low:high, NAME=low:high:log or NAME=a,b,c, got {text!r}")
    name = _full_name(given, settings)
    present = get(settings, name)
    if ":" not in span:
        choices = tuple(_choice(item, present, text) for item in span.split(","))
        return Range(name, choices=choices)
    parts = span.split(":")
    if len(parts) > 3 or (len(parts) == 3 and parts[2] != "log"):
        raise ValueError(f"space: expected NAME=low:high or NAME=low:high:log, got {text!r}")
    try:
        low, high = (float(part) for part in parts[:2])
    except ValueError:
        raise ValueError(f"space: expected two numbers in NAME=low:high, got {text!r}") from None
    if isinstance(present, (bool, str, tuple)):
        raise ValueError(f"space: expected choices NAME=a,b,c for {name}, which is {present!r}, got {text!r}")
    log = len(parts) == 3
    whole = isinstance(present, int) or (present is None and all(part.isdigit() for part in parts[:2]))
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (log and low <= 0):
        raise ValueError(f"space: expected low < high{', above 0 for log' if log else ''}, got {text!r}")
    if whole and not (low.is_integer() and high.is_integer()):
        raise ValueError(f"space: expected whole numbers for {name}, which is {present}, got {text!r}")
    return Range(name, low, high, log, whole)


def contains(span: Range, value: Any) -> bool:
    """Whether a present value can be chosen."""
    if span.choices:
        return as_choice(value) in span.choices
    assert span.low is not None
    assert span.high is not None
    return isinstance(value, (int, float)) and span.low <= value <= span.high


def first_choice(space: Sequence[Range], settings: Settings) -> dict[str, Value]:
    """The present values, and where they can't be chosen, the first that can."""
    found: dict[str, Value] = {}
    for span in space:
        present = get(settings, span.name)
        first = span.choices[0] if span.choices else int(span.low or 0) if span.whole else float(span.low or 0)
        found[span.name] = as_choice(present) if contains(span, present) else first
    return found


def get(settings: Settings, name: str) -> Any:
    """The present value of OWNER.FIELD."""
    owner, _, rest = name.partition(".")
    value = settings[owner]
    for part in rest.split("."):
        value = getattr(value, part)
    return value


def put(settings: Settings, chosen: Mapping[str, Value]) -> dict[str, Any]:
    """The settings with chosen values in place of theirs.

    Raises:
        ValueError: a value is out of range, or two disagree.
    """
    changed = dict(settings)
    by_owner: dict[str, dict[str, Value]] = {}
    for name, value in chosen.items():
        owner, _, rest = name.partition(".")
        by_owner.setdefault(owner, {})[rest] = value
    for owner, values in by_owner.items():
        changed[owner] = _put(changed[owner], values)
    return changed


def rounded(value: Value, span: Range) -> Value:
    """A proposed number of a range in few digits, so that it can be read and typed: four, or as many more as it takes
    to move it by no more than a 10,000th of the range. It stays within the range."""
    if span.choices or span.whole:
        return value
    assert span.low is not None
    assert span.high is not None
    scale = math.log if span.log else float
    allowed = (scale(span.high) - scale(span.low)) / 10_000
    for digits in range(4, 18):
        near = min(max(float(f"{value:.{digits}g}"), span.low), span.high)
        if abs(scale(near) - scale(float(value))) <= allowed:
            return near
    return value


def as_choice(value: Any) -> Value:
    """A value as the choices of a range have it."""
    return "x".join(map(str, value)) if isinstance(value, (tuple, list)) else value


def options(settings: Settings, chosen: Mapping[str, Value]) -> list[str]:
    """Chosen values as options of `mbrl train`."""
    found = []
    for name, value in chosen.items():
        flag = "--" + name.partition(".")[2].replace("_", "-")
        if isinstance(value, bool):
            head, dot, last = flag.removeprefix("--").rpartition(".")
            found.append(flag if value else f"--{head}{dot}no-{last}")
        elif isinstance(get(settings, name), tuple):
            found += [flag, *str(value).split("x")]
        else:
            found += [flag, str(value)]
    return found


def _put(config: Any, values: Mapping[str, Value]) -> Any:
    """A dataclass with fields replaced at once, so that those that depend on each other are checked together."""
    direct: dict[str, Any] = {}
    deeper: dict[str, dict[str, Value]] = {}
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        if dot:
            deeper.setdefault(head, {})[rest] = value
        else:
            tuples = isinstance(getattr(config, head), tuple)
            direct[head] = tuple(int(part) for part in str(value).split("x")) if tuples else value
    direct |= {head: _put(getattr(config, head), inner) for head, inner in deeper.items()}
    return replace(config, **direct)


def _full_name(given: str, settings: Settings) -> str:
    """OWNER.FIELD of what was given with or without its owner."""
    names = [f"{owner}.{name}" for owner, config in settings.items() for name in _names(config)]
    found = [name for name in names if given.replace("-", "_") in (name, name.partition(".")[2])]
    if len(found) != 1:
        listed = ", ".join(found or sorted(names))
        raise ValueError(f"space: expected the name of one setting ({listed}), got {given!r}")
    return found[0]


def _names(config: Any) -> list[str]:
    found = []
    for field in fields(config):
        value = getattr(config, field.name)
        inner = [f"{field.name}.{name}" for name in _names(value)] if is_dataclass(value) else [field.name]
        found += inner
    return found


def _around(name: str, present: Any, factor: float) -> Range:
    whole = isinstance(present, int)
    low, high = present / factor, present * factor
    if whole:
        low, high = max(1, round(low)), max(2, round(high))
    return Range(name, low, high, log=True, whole=whole)


def _choice(item: str, present: Any, text: str) -> Value:
    """One of several values, of the type of the present one; where that is None, a number if it can be."""
    if isinstance(present, bool):
        if item.lower() not in ("true", "false"):
            raise ValueError(f"space: expected true and false as choices, got {text!r}")
        return item.lower() == "true"
    if isinstance(present, (str, tuple)):
        return item
    for kind in (int, float) if not isinstance(present, float) else (float,):
        try:
            return kind(item)
        except ValueError:
            continue
    raise ValueError(f"space: expected numbers as choices, as it is {present!r} now, got {text!r}")


def as_json(spans: Sequence[Range]) -> list[dict[str, Any]]:
    """Ranges as JSON holds them."""
    return [asdict(span) for span in spans]


def from_json(stored: Sequence[Mapping[str, Any]]) -> tuple[Range, ...]:
    """What `as_json` made of ranges."""
    return tuple(Range(**{**item, "choices": tuple(item["choices"])}) for item in stored)
