"""How often the intervals of `mbrl.experiments.statistics` hold the truth, by simulation.

A simulated study draws n runs from a known distribution, makes the interval, and looks whether the distribution's
interquartile mean (or mean) is inside. The distributions are shapes that returns have: bell-shaped, with heavy tails,
even, with a long lower tail, and in two groups, runs that failed and runs that did not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mbrl.experiments.statistics import Statistic

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""`draw(generator, shape)` -> values of that shape."""


def _groups(failed: float, gap: float) -> Draw:
    """Two groups `gap` standard deviations apart; the lower one has the share `failed`."""
    return lambda g, shape: np.where(g.random(shape) < failed, 0.0, gap) + g.standard_normal(shape)


SHAPES: dict[str, Draw] = {
    "normal": lambda g, shape: g.standard_normal(shape),
    "heavy tails (Student's t, 3 degrees)": lambda g, shape: g.standard_t(3, shape),
    "uniform": lambda g, shape: g.random(shape),
    "long lower tail (exponential)": lambda g, shape: -g.exponential(size=shape),
    "long lower tail (log-normal, 0.75)": lambda g, shape: -np.exp(0.75 * g.standard_normal(shape)),
    "two groups, 20 % failed, 6 apart": _groups(0.2, 6),
    "two groups, 30 % failed, 4 apart": _groups(0.3, 4),
    "two groups, 30 % failed, 10 apart": _groups(0.3, 10),
    "two groups, half failed, 6 apart": _groups(0.5, 6),
}
"""What runs are drawn from."""
TASKS: dict[str, tuple[str, ...]] = {
    "alike": ("normal", "normal", "normal", "normal"),
    "unlike": tuple(list(SHAPES)[i] for i in (1, 3, 6, 2)),
    "in groups": tuple(list(SHAPES)[i] for i in (5, 7, 8, 4)),
}
"""Shapes of the tasks of a study with several."""
SEVERAL = 4
"""Tasks of these."""

COVERAGE: Mapping[tuple[Statistic, int], Mapping[int, tuple[float, float]]] = {}


def coverage(n: int, tasks: int = 1, statistic: Statistic = "iqm") -> tuple[float, float] | None:
    """How often the interval of `n` runs holds the truth: lowest and highest share over the simulated shapes."""
    return None
