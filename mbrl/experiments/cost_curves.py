"""Returns and thresholds against what they cost: curves over the runs of a label, and cost to a threshold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mbrl.experiments import statistics
from mbrl.experiments.comparison import Cell, Comparison, fell_short
from mbrl.experiments.decisions import Sample
from mbrl.experiments.findings import Cost, Curve, Estimate, TaskInfo, ToThreshold
from mbrl.experiments.results import COSTS, Outcome
from mbrl.experiments.statistics import Statistic, interval, iqm

POINTS = 81
"""Of a curve's x axis at most, but for real steps, at which many runs are evaluated together: every k-th of what the
runs had spent at their evaluations."""


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
            values = np.where(np.isfinite(values), values, comparison.floors[cell.env_id])  # diverged
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
            reached = reached_by_label(comparison, task, axis)
            horizon = min((found.watched for found in reached.values()), default=0.0)
            for label, found in reached.items():
                failed = comparison.failed(task.env_id, label)
                yield _to_threshold(task, label, axis, found, failed, horizon)


def reached_by_label(comparison: Comparison, task: TaskInfo, axis: str) -> dict[str, Reached]:
    """When runs reached the threshold, of labels whose cost is known and not 0."""
    groups = {label: comparison.outcomes(task.env_id, label) for label in comparison.labels}
    known = {
        label: group
        for label, group in groups.items()
        if group and all(np.isfinite(run.costs[axis]).all() for run in group)
    }
    found = {label: _reached(task, axis, group) for label, group in known.items()}
    return {label: one for label, one in found.items() if one.watched > 0}


class Reached(NamedTuple):
    """Runs of a label on a task, by when they reached the threshold."""

    sample: Sample
    watched: float
    """The most that one of them has spent."""
    short: np.ndarray
    """[n] bool: runs that fell short of the budget, and had not reached the threshold by then."""

    def at_worst(self, failed: int) -> Sample:
        """With those that fell short, and so many that failed, as runs that never get there."""
        time, happened = self.sample
        return Sample(time[~self.short], happened[~self.short]).with_worst(failed + int(self.short.sum()))


def _reached(task: TaskInfo, axis: str, outcomes: Sequence[Outcome]) -> Reached:
    first = [np.flatnonzero(outcome.returns >= task.threshold) for outcome in outcomes]
    time = [float(o.costs[axis][at[0] if len(at) else -1]) for o, at in zip(outcomes, first, strict=True)]
    happened = np.array([len(at) > 0 for at in first])
    short = ~happened & np.array([fell_short(outcome, task.budget) for outcome in outcomes])
    return Reached(Sample(np.array(time), happened), max(float(o.costs[axis][-1]) for o in outcomes), short)


def with_failures(found: Reached, failed: int) -> Sample:
    """With so many runs more that never got there, however long the others were watched."""
    return Sample(
        np.append(found.sample.time, [found.watched] * failed), np.append(found.sample.happened, [False] * failed)
    )


def _to_threshold(task: TaskInfo, label: str, axis: str, reached: Reached, failed: int, horizon: float) -> ToThreshold:
    time, happened = with_failures(reached, failed)
    found = statistics.survival(time, happened)
    low, high = found.median_interval()
    share = statistics.share_interval(int(happened.sum()), len(time))
    return ToThreshold(
        env_id=task.env_id,
        label=label,
        axis=axis,
        threshold=task.threshold,
        reached=int(happened.sum()),
        n=len(time),
        failed=failed,
        short=int(reached.short.sum()),
        share=Estimate(float(happened.mean()), float(share.low), float(share.high), len(time), None),
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
    points = np.unique(np.concatenate(spent))
    points = points[(points >= low) & (points <= high)]
    if axis == "steps" or len(points) <= POINTS:
        return points
    return points[np.linspace(0, len(points) - 1, POINTS).round().astype(int)]


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
