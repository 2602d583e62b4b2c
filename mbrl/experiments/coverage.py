"""How often the intervals of `mbrl.experiments.statistics` hold the truth, by simulation.

A simulated study draws n runs from a known distribution, makes the interval, and looks whether the distribution's
interquartile mean (or mean) is inside. The distributions are shapes that returns have: bell-shaped, with heavy tails,
even, with a long lower tail, and in two groups, runs that failed and runs that did not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np

from mbrl.experiments.statistics import (
    FEWEST,
    Statistic,
    difference_interval,
    interval,
    iqm,
    stratified_interval,
)

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
    "alike": tuple(["normal"] * 4),
    "unlike": tuple(list(SHAPES)[i] for i in (1, 3, 6, 2)),
    "in groups": tuple(list(SHAPES)[i] for i in (5, 7, 8, 4)),
}
"""Shapes of the tasks of studies with several, of which the first are taken."""
STUDIES = 2_000
"""Simulated for every number of the table below, or half as many of several tasks."""
MOST = 10
"""Runs a task up to which the table goes; with more, coverage is no worse."""

COVERAGE: dict[tuple[Statistic, int], dict[int, tuple[float, float]]] = {
    ("iqm", 1): {
        2: (0.468, 0.513),
        3: (0.682, 0.761),
        4: (0.816, 0.883),
        5: (0.865, 0.937),
        6: (0.897, 0.963),
        7: (0.902, 0.951),
        8: (0.932, 0.958),
        9: (0.941, 0.962),
        10: (0.941, 0.965),
    },
    ("mean", 1): {
        2: (0.409, 0.513),
        3: (0.626, 0.761),
        4: (0.737, 0.881),
        5: (0.768, 0.928),
        6: (0.791, 0.95),
        7: (0.823, 0.939),
        8: (0.839, 0.932),
        9: (0.866, 0.95),
        10: (0.874, 0.941),
    },
    ("iqm", 2): {
        2: (0.565, 0.676),
        3: (0.83, 0.902),
        4: (0.9, 0.933),
        5: (0.919, 0.958),
        6: (0.907, 0.954),
        7: (0.909, 0.956),
        8: (0.93, 0.965),
        9: (0.947, 0.966),
        10: (0.935, 0.956),
    },
    ("mean", 2): {
        2: (0.56, 0.676),
        3: (0.803, 0.881),
        4: (0.885, 0.899),
        5: (0.908, 0.919),
        6: (0.915, 0.924),
        7: (0.899, 0.94),
        8: (0.931, 0.94),
        9: (0.932, 0.946),
        10: (0.927, 0.937),
    },
    ("iqm", 4): {
        2: (0.692, 0.775),
        3: (0.885, 0.93),
        4: (0.91, 0.956),
        5: (0.924, 0.943),
        6: (0.931, 0.959),
        7: (0.929, 0.963),
        8: (0.948, 0.953),
        9: (0.937, 0.95),
        10: (0.94, 0.956),
    },
    ("mean", 4): {
        2: (0.713, 0.83),
        3: (0.867, 0.921),
        4: (0.898, 0.945),
        5: (0.913, 0.928),
        6: (0.911, 0.938),
        7: (0.931, 0.95),
        8: (0.929, 0.941),
        9: (0.926, 0.935),
        10: (0.925, 0.927),
    },
}
"""By statistic and number of tasks, by runs a task: the lowest and the highest coverage over the shapes. Printed by
`python -m benchmarks.coverage`."""

DIFFERENCE: dict[int, tuple[float, float]] = {
    2: (0.603, 0.685),
    3: (0.829, 0.895),
    4: (0.924, 0.966),
    5: (0.924, 0.965),
    6: (0.934, 0.966),
    7: (0.941, 0.964),
    8: (0.959, 0.978),
    9: (0.944, 0.973),
    10: (0.956, 0.979),
}
"""Of a difference of interquartile means, by the fewer runs: the lowest and the highest coverage over pairs of shapes,
equal and unequal ones. Printed by the same."""


def coverage(n: int, tasks: int = 1, statistic: Statistic = "iqm") -> tuple[float, float] | None:
    """How often the interval of `n` runs a task holds the truth: the lowest and the highest share over the shapes.

    None where there is no interval. Of numbers of tasks, and of runs, that were not simulated, the next lower counts.
    """
    if n < FEWEST:
        return None
    simulated = max(count for name, count in COVERAGE if name == statistic and count <= tasks)
    return COVERAGE[statistic, simulated][min(n, MOST)]


def difference_coverage(n: int) -> tuple[float, float] | None:
    """The same of the interval of a difference of interquartile means, of which the fewer runs are `n`."""
    return None if n < FEWEST else DIFFERENCE[min(n, MOST)]


def simulate_differences(n: int, *, studies: int, seed: int = 0) -> dict[str, float]:
    """Coverage of that interval, by pairs of shapes: every one with itself and with the next."""
    generator = np.random.default_rng(seed)
    names = list(SHAPES)
    pairs = [(one, one) for one in names] + list(pairwise(names))
    found = {}
    for pair in pairs:
        one, other = (SHAPES[name] for name in pair)
        ends = difference_interval(one(generator, (studies, n)), other(generator, (studies, n)))
        assert ends is not None
        right = truth((one,), "iqm") - truth((other,), "iqm")
        found[" - ".join(pair)] = float(np.mean((ends.low <= right) & (right <= ends.high)))
    return found


def simulate(n: int, tasks: int, statistic: Statistic, *, studies: int, seed: int = 0) -> dict[str, float]:
    """Coverage by shape, or, of several tasks, by what they are: the share of `studies` whose interval held the truth.

    Args:
        n: runs a task.
        tasks: how many; 1: every one of `SHAPES`, else those of `TASKS`.
        statistic: "iqm" or "mean".
        studies: how many.
        seed: of the runs.
    """
    generator = np.random.default_rng(seed)
    if tasks == 1:
        return {name: _single(draw, n, statistic, studies, generator) for name, draw in SHAPES.items()}
    names = {kind: shapes[:tasks] for kind, shapes in TASKS.items()}
    return {kind: _several(shapes, n, statistic, studies, generator) for kind, shapes in names.items()}


def _single(draw: Draw, n: int, statistic: Statistic, studies: int, generator: np.random.Generator) -> float:
    found = interval(draw(generator, (studies, n)), statistic)
    assert found is not None
    return float(np.mean((found.low <= truth((draw,), statistic)) & (truth((draw,), statistic) <= found.high)))


def _several(
    shapes: tuple[str, ...], n: int, statistic: Statistic, studies: int, generator: np.random.Generator
) -> float:
    draws = tuple(SHAPES[shape] for shape in shapes)
    right = truth(draws, statistic)
    held = 0
    for _ in range(studies):
        found = stratified_interval([draw(generator, (n,)) for draw in draws], statistic)
        assert found is not None
        held += bool(found.low <= right <= found.high)
    return held / studies


@cache
def truth(draws: tuple[Draw, ...], statistic: Statistic) -> float:
    """The interquartile mean, or mean, of the distributions together, of a million values each."""
    generator = np.random.default_rng(0)
    values = np.concatenate([draw(generator, (1_000_000,)) for draw in draws])
    return float(iqm(values) if statistic == "iqm" else values.mean())
