"""Checks of the settings that learners have in common."""

from numbers import Integral, Real
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np

_NUMBERS = {int: (Integral, "a whole number"), float: (Real, "a number")}


def check_numbers(config: Any) -> None:
    """Raise ValueError where a field of a dataclass that is a number, or whole numbers, holds something else.

    A share of an update, 2.5 of them, or a word for a number would train, and something else than was meant, or fail
    much later.
    """
    for name, kind in get_type_hints(type(config)).items():
        value, kinds = getattr(config, name), get_args(kind) or (kind,)
        optional = ", or None" if NoneType in kinds else ""
        number = next((one for one in kinds if one in _NUMBERS), None)
        if kind == tuple[int, ...]:
            if not (isinstance(value, (tuple, list)) and all(isinstance(one, Integral) for one in value)):
                raise ValueError(f"{name}: expected a tuple of whole numbers, got {value!r}")
        elif number and not (optional and value is None) and not isinstance(value, _NUMBERS[number][0]):
            raise ValueError(f"{name}: expected {_NUMBERS[number][1]}{optional}, got {value!r}")


def check_network(config: Any) -> None:
    """Raise ValueError where a field is of another type than it has to be, or hidden or lr is out of range."""
    check_numbers(config)
    if len(config.hidden) < 1 or min(config.hidden) < 1:
        raise ValueError(f"hidden: expected one or more positive widths, got {config.hidden}")
    if not config.lr > 0:
        raise ValueError(f"lr: expected a positive step size, got {config.lr}")


def check_settings(config: Any, *counts: str) -> None:
    """Raise ValueError where hidden, lr, tau or a fixed temperature is out of range, or one of `counts` is below 1."""
    check_network(config)
    if not 0 < config.tau <= 1:
        raise ValueError(f"tau: expected a share in (0, 1], got {config.tau}")
    temperature = getattr(config, "temperature", None)
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, or None to learn it, got {temperature}")
    for name in counts:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(config, name)}")


def plain(value: Any) -> Any:
    """NumPy's numbers as Python's, for JSON: the `default` of `json.dumps`.

    Raises:
        TypeError: it is no such number.
    """
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"expected what JSON can hold, got {value!r}")
