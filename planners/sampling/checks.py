"""Checks of hyperparameters that sampling planners share."""

import math
from typing import Protocol

from planners.box import Box
from planners.checks import check_sizes
from planners.sampling.knots import Knots


class Sequences(Protocol):
    """What every sampling planner is told of its sequences."""

    @property
    def box(self) -> Box: ...
    @property
    def horizon(self) -> int: ...
    @property
    def iterations(self) -> int: ...
    @property
    def knots(self) -> Knots | None: ...


def check_sequences(planner: Sequences) -> None:
    """Raise ValueError where the box is none, horizon or iterations are below 1, or there are more knots than steps."""
    if not isinstance(planner.box, Box):
        raise ValueError(
            f"box: expected planners.Box, got {planner.box}; Box.from_space makes one of a gymnasium.spaces.Box, and "
            "discrete actions are for tree search (planners.mcts)"
        )
    check_sizes(horizon=planner.horizon, iterations=planner.iterations)
    if planner.knots is not None:
        planner.knots.interval(planner.horizon)


def check_elites(elites: int, population: int) -> None:
    """Raise ValueError where there are more elites than samples."""
    if elites > population:
        raise ValueError(f"elites: expected at most the population of {population}, got {elites}")


def check_positive(**numbers: float) -> None:
    """Raise ValueError for the first of the named numbers that is not positive and finite."""
    for name, number in numbers.items():
        if not (number > 0 and math.isfinite(number)):
            raise ValueError(f"{name}: expected a positive number, got {number}")


def check_at_least(least: float, **numbers: float) -> None:
    """Raise ValueError for the first of the named numbers that is below `least` or not finite."""
    for name, number in numbers.items():
        if not (number >= least and math.isfinite(number)):
            raise ValueError(f"{name}: expected at least {least}, got {number}")


def check_share(**numbers: float) -> None:
    """Raise ValueError for the first of the named numbers that is not in [0, 1)."""
    for name, number in numbers.items():
        if not 0 <= number < 1:
            raise ValueError(f"{name}: expected a number in [0, 1), got {number}")
