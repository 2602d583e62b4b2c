"""The questions of a comparison, each with a sentence for an answer, which says "undecided" where the runs don't tell.

What is compared is the best model-based and the best model-free algorithm of a task. Which those are was seen in the
same runs, which flatters both alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mbrl.experiments import statistics
from mbrl.experiments.comparison import Comparison
from mbrl.experiments.cost_curves import first_reached
from mbrl.experiments.findings import Aggregate, Answer, AtBudget, Cost, Detectable, Estimate, TaskInfo
from mbrl.experiments.results import Outcome

UNITS = {"steps": "real steps", "cpu_minutes": "CPU minutes", "flops": "floating-point operations"}
"""Costs that are asked about."""


class _Pair(NamedTuple):
    """The best model-based and the best model-free label of a task."""

    model: str
    free: str


def answers(
    comparison: Comparison,
    at_budgets: Sequence[AtBudget],
    aggregates: Sequence[Aggregate],
    costs: Sequence[Cost],
    detectable: Sequence[Detectable],
) -> Iterator[Answer]:
    """All questions that the comparison has something to say to, the overall one first."""
    yield from _overall(comparison, aggregates)
    for task in comparison.tasks:
        here = [row for row in at_budgets if row.env_id == task.env_id]
        pair = _best(comparison, here)
        if pair is None:
            continue
        yield _at_budget(task, pair, here, costs, detectable)
        for axis in UNITS:
            answer = _to_threshold(comparison, task, axis)
            if answer is not None:
                yield answer


def _overall(comparison: Comparison, aggregates: Sequence[Aggregate]) -> Iterator[Answer]:
    """Only of labels that have all tasks, and where there is more than one of each."""
    full = [row for row in aggregates if row.tasks == len(comparison.tasks)]
    if len(full) < 2 or len(comparison.tasks) < 2:
        return
    best, *others = sorted(full, key=lambda row: -row.iqm.value)
    rivals = [row for row in others if _overlap(best.iqm, row.iqm)]
    text = f"over {len(comparison.tasks)} tasks at their budgets, {best.label} has the highest score, {_told(best.iqm)}"
    if rivals:
        told = ", ".join(f"{row.label} {_told(row.iqm)}" for row in rivals)
        text = f"Undecided: {text}, but its interval overlaps with {told}."
    else:
        text = f"{best.label}: {text}, and its interval lies above all others; the next is {others[0].label}, "
        text += f"{_told(others[0].iqm)}."
    yield Answer("Which algorithm is best over all tasks?", text, None, not rivals)


def _best(comparison: Comparison, here: Sequence[AtBudget]) -> _Pair | None:
    """None where one kind is missing."""
    based = {one.algorithm: one.model_based for one in comparison.results.outcomes}
    ranked = sorted(here, key=lambda row: -row.iqm.value)
    model, free = ([row.label for row in ranked if based[row.label] is kind] for kind in (True, False))
    return _Pair(model[0], free[0]) if model and free else None


def _at_budget(
    task: TaskInfo, pair: _Pair, here: Sequence[AtBudget], costs: Sequence[Cost], detectable: Sequence[Detectable]
) -> Answer:
    model, free = (next(row.iqm for row in here if row.label == label) for label in pair)
    told = (
        f"at {task.budget:,} real steps {pair.model}, the best with a model, has a return of {_told(model)}, and "
        f"{pair.free}, the best without, {_told(free)}"
    )
    decided = not _overlap(model, free)
    if decided:
        verdict = "Yes" if model.value > free.value else "No"
        text = f"{verdict}: {told}; the intervals don't overlap{_minutes(task, pair, costs)}."
    else:
        found = [d.difference for d in detectable if d.env_id == task.env_id and {d.first, d.second} == set(pair)]
        power = f"; so few runs would show a difference of {_number(found[0])} or more" if found and found[0] else ""
        why = "the intervals overlap" if model.low is not None and free.low is not None else "there are too few runs"
        text = f"Undecided: {told}; {why}{power}{_minutes(task, pair, costs)}."
    return Answer(f"Is a model worth it on {task.env_id}, in real steps?", text, task.env_id, decided)


def _minutes(task: TaskInfo, pair: _Pair, costs: Sequence[Cost]) -> str:
    """What the two took, as a clause."""
    here = {row.label: row.median for row in costs if row.env_id == task.env_id and row.axis == "cpu_minutes"}
    model, free = here.get(pair.model), here.get(pair.free)
    return "" if model is None or free is None else f"; that took {_number(model)} CPU minutes against {_number(free)}"


def _to_threshold(comparison: Comparison, task: TaskInfo, axis: str) -> Answer | None:
    """Whether the fastest label with a model gets to the threshold for less than the fastest without."""
    question = f"Does a model save {UNITS[axis]} on {task.env_id}, until a return of {_number(task.threshold)}?"
    groups = {label: comparison.outcomes(task.env_id, label) for label in comparison.labels_of(task.env_id)}
    groups = {label: runs for label, runs in groups.items() if all(np.isfinite(o.costs[axis]).all() for o in runs)}
    model, free = (_fastest(task, axis, groups, kind) for kind in (True, False))
    if model is None or free is None:
        return None
    (x, in_x), (y, in_y) = (first_reached(task, axis, groups[label]) for label in (model, free))
    told = f"{_spent(model, axis, x, in_x)}; {_spent(free, axis, y, in_y)}"
    probability = statistics.probability_of_being_earlier(x, in_x, y, in_y)
    interval = statistics.improvement_interval(probability, len(x), len(y))
    decided = bool(interval.low > 0.5 or interval.high < 0.5)
    verdict = ("Yes" if probability > 0.5 else "No") if decided else "Undecided"
    chance = f"the probability that a run of the first needs less is {probability:.0%} ({_range(interval)})"
    return Answer(question, f"{verdict}: {told}; {chance}.", task.env_id, decided)


def _fastest(task: TaskInfo, axis: str, groups: dict[str, list[Outcome]], with_model: bool) -> str | None:
    """The label of a kind that most runs of which got to the threshold, and of these the one that spent least."""
    ranked = []
    for label, runs in groups.items():
        if runs[0].model_based is with_model:
            time, happened = first_reached(task, axis, runs)
            ranked.append((-happened.mean(), float(time[happened].mean()) if happened.any() else 0.0, label))
    return min(ranked)[2] if ranked else None


def _spent(label: str, axis: str, time: np.ndarray, happened: np.ndarray) -> str:
    got = f"{int(happened.sum())} of {len(time)} runs of {label} got there"
    median = statistics.survival(time, happened).median()
    if median is not None:
        return f"{got}, the median after {_number(median)} {UNITS[axis]}"
    return f"{got} within {_number(float(time.max()))} {UNITS[axis]}"


def _overlap(first: Estimate, second: Estimate) -> bool:
    """Whether intervals overlap; without one, nothing is told apart."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return True
    return first.low <= second.high and second.low <= first.high


def _told(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{_number(estimate.value)} (one run)"
    return f"{_number(estimate.value)} ({_number(estimate.low)} to {_number(estimate.high)}, {estimate.n} runs)"


def _number(value: float) -> str:
    """Three digits or more, without an exponent up to ten million."""
    if abs(value) >= 1e7:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"


def _range(interval: statistics.Interval) -> str:
    return f"{interval.low:.0%} to {interval.high:.0%}"
