"""Checks of hyperparameters that sampling planners share."""

import math


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for the first of the named sizes that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: expected at least 1, got {size}")


def check_elites(elites: int, population: int) -> None:
    """Raise ValueError where there are more elites than samples."""
    if elites > population:
        raise ValueError(f"elites: expected at most the population of {population}, got {elites}")


def check_positive(**numbers: float) -> None:
    """Raise ValueError for the first of the named numbers that is not positive and finite."""
    for name, number in numbers.items():
        if not (number > 0 and math.isfinite(number)):
            raise ValueError(f"{name}: expected a positive number, got {number}")


def check_share(**numbers: float) -> None:
    """Raise ValueError for the first of the named numbers that is not in [0, 1)."""
    for name, number in numbers.items():
        if not 0 <= number < 1:
            raise ValueError(f"{name}: expected a number in [0, 1), got {number}")
