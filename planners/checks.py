"""Checks of the numbers that planners are told."""

import numpy as np


def is_whole(number: object) -> bool:
    """Whether a number counts something: an int of Python or numpy, and no bool."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for the first of the named sizes that is no whole number, or below 1."""
    for name, size in sizes.items():
        if not is_whole(size):
            raise ValueError(f"{name}: expected a whole number of at least 1, got {size!r}")
        if size < 1:
            raise ValueError(f"{name}: expected at least 1, got {size}")
