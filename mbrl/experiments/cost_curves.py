"""Returns and thresholds against what they cost: curves over the runs of a label, and cost to a threshold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from mbrl.experiments import statistics
from mbrl.experiments.comparison import Cell, Comparison
from mbrl.experiments.findings import Cost, Curve, Estimate, TaskInfo, ToThreshold
from mbrl.experiments.results import COSTS, Outcome
from mbrl.experiments.statistics import Statistic, interval, iqm

POINTS = 41
"""Of a curve's x axis, where it is not the real steps at which runs were evaluated."""


def curves(comparison: Comparison) -> Iterator[Curve]:
    """Interquartile mean and mean against every cost that a label has, with intervals at each point.

    At x, a run has the return of its last evaluation that had cost no more. A curve begins where every run has been
    evaluated, and ends where the first run ends: it is always over the same runs.
    """
    for cell in _cells(comparison):
        for axis in COSTS:
            x = _grid(cell.outcomes, axis)
            if x is None:
                continue
            values = np.stack([_at(outcome, axis, x) for outcome in cell.outcomes], axis=-1)  # [points, runs]
            worst = values[np.isfinite(values)].min(initial=math.inf)
            values = np.where(np.isfinite(values), values, worst if math.isfinite(worst) else 0.0)  # diverged
            statistic: Statistic
            for statistic in ("iqm", "mean"):
                yield _curve(cell, axis, statistic, x, values)


def costs(comparison: Comparison) -> Iterator[Cost]:
    """What the runs of each label had spent at the budget."""
    budgets = {task.env_id: task.budget for task in comparison.tasks}
    for cell in _cells(comparison):
        for axis in COSTS:
            within = [outcome.costs[axis][outcome.steps <= budgets[cell.env_id]][-1] for outcome in cell.outcomes]
            spent = np.array([value for value in within if math.isfinite(value)])
            if len(spent) < len(within):
                yield Cost(cell.env_id, cell.label, axis, None, None, None)
            else:
                low, high = float(spent.min()), float(spent.max())
                yield Cost(cell.env_id, cell.label, axis, float(np.median(spent)), low, high)


def to_thresholds(comparison: Comparison) -> Iterator[ToThreshold]:
    """What each label spends, by every cost, until an evaluation reaches the task's threshold."""
    for task in comparison.tasks:
        for axis in COSTS:
            groups = {label: comparison.outcomes(task.env_id, label) for label in comparison.labels_of(task.env_id)}
            known = {
                label: group for label, group in groups.items() if all(np.isfinite(o.costs[axis][-1]) for o in group)
            }
            spent = {label: max(float(o.costs[axis][-1]) for o in group) for label, group in known.items()}
            spent = {label: most for label, most in spent.items() if most > 0}
            horizon = min(spent.values(), default=None)
            for label in groups:
                if label in spent and horizon is not None:
                    yield _to_threshold(task, label, axis, groups[label], horizon)


def first_reached(task: TaskInfo, axis: str, outcomes: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray]:
    """[runs] what each had spent at its first evaluation at the threshold, or in the end; and whether it got there."""
    first = [np.flatnonzero(outcome.returns >= task.threshold) for outcome in outcomes]
    time = np.array([o.costs[axis][at[0] if len(at) else -1] for o, at in zip(outcomes, first, strict=True)])
    return time, np.array([len(at) > 0 for at in first])


def _to_threshold(task: TaskInfo, label: str, axis: str, outcomes: Sequence[Outcome], horizon: float) -> ToThreshold:
    time, happened = first_reached(task, axis, outcomes)
    found = statistics.survival(time, happened)
    low, high = found.median_interval()
    reached, n = int(happened.sum()), len(outcomes)
    share = statistics.share_interval(reached, n)
    return ToThreshold(
        env_id=task.env_id,
        label=label,
        axis=axis,
        threshold=task.threshold,
        reached=reached,
        n=n,
        share=Estimate(reached / n, float(share.low), float(share.high), n, None),
        median=found.median(),
        low=low,
        high=high,
        restricted_mean=found.restricted_mean(horizon),
        horizon=horizon,
    )


def _cells(comparison: Comparison) -> Iterator[Cell]:
    for task in comparison.tasks:
        for label in comparison.labels_of(task.env_id):
            yield comparison.cells[task.env_id, label]


def _grid(outcomes: Sequence[Outcome], axis: str) -> np.ndarray | None:
    """The points of a curve; None where the cost is not known, or nothing was spent."""
    spent = [outcome.costs[axis] for outcome in outcomes]
    if not all(np.isfinite(column).all() for column in spent):
        return None
    low, high = max(column[0] for column in spent), min(column[-1] for column in spent)
    if high <= 0 or high < low:
        return None
    if axis == "steps":
        points = np.unique(np.concatenate(spent))
        return points[(points >= low) & (points <= high)]
    return np.linspace(low, high, POINTS if high > low else 1)


def _at(outcome: Outcome, axis: str, x: np.ndarray) -> np.ndarray:
    """[points] the return of the last evaluation that had cost no more than x."""
    return outcome.returns[np.searchsorted(outcome.costs[axis], x, side="right") - 1]


def _curve(cell: Cell, axis: str, statistic: Statistic, x: np.ndarray, values: np.ndarray) -> Curve:
    middle = iqm(values) if statistic == "iqm" else values.mean(axis=-1)
    found = interval(values, statistic)
    return Curve(
        env_id=cell.env_id,
        label=cell.label,
        axis=axis,
        statistic=statistic,
        x=_floats(x),
        value=_floats(middle),
        low=None if found is None else _floats(found.low),
        high=None if found is None else _floats(found.high),
        n=values.shape[-1],
    )


def _floats(values: np.ndarray | float) -> tuple[float, ...]:
    return tuple(float(value) for value in np.atleast_1d(values))
