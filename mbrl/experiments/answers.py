"""The questions of a comparison, each with a sentence for an answer, which says "undecided" where the runs don't tell.

All answers follow one rule: the best algorithm of all must beat each of those that it is asked against, by the test of
`mbrl.experiments.decisions`, and must still do so when runs that failed, or fell short of the budget, count as the
worst. docs/statistics.md says how often that errs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mbrl.experiments import statistics
from mbrl.experiments.comparison import Comparison
from mbrl.experiments.cost_curves import Reached, reached_by_label, with_failures
from mbrl.experiments.decisions import LEVEL, Sample, Verdict, judge
from mbrl.experiments.findings import Aggregate, Answer, AtBudget, Cost, Detectable, Estimate, TaskInfo, lost_runs

UNITS = {"steps": "real steps", "cpu_minutes": "CPU minutes", "flops": "floating-point operations"}
"""Costs that are asked about."""
ALL_FAILED = "all runs failed"
Judge = Callable[[str, str, bool], Verdict]
"""`judge(first, second, worst)`: of two labels, with lost runs (failed or short) counted as the worst or left out."""


class Decision(NamedTuple):
    """Whether the best label beats each of its rivals."""

    decided: bool
    why: str
    """As a clause."""


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
        here = sorted((row for row in at_budgets if row.env_id == task.env_id), key=lambda row: -row.iqm.value)
        if len(here) > 1:
            yield _at_budget(comparison, task, here, costs, detectable)
        for axis in UNITS:
            answer = _to_threshold(comparison, task, axis)
            if answer is not None:
                yield answer


def decide(best: str, rivals: Sequence[str], verdict: Judge) -> Decision:
    """Hold the best against each of its rivals."""
    found = {rival: (verdict(best, rival, False), verdict(best, rival, True)) for rival in rivals}
    beaten = {rival: all(one.decided and one.better > 0.5 for one in both) for rival, both in found.items()}
    if all(beaten.values()):
        worst = max(one.p for both in found.values() for one in both)
        each = "" if len(rivals) == 1 else " each"
        return Decision(True, f"a rank test tells {best} from {_listed(rivals)}{each} (p = {_p(worst)})")
    few, by_losses, untold = [], [], []
    for rival in (rival for rival in rivals if not beaten[rival]):
        plain = found[rival][0]
        if plain.least > LEVEL:
            few.append(rival)
        elif plain.decided and plain.better > 0.5:
            by_losses.append(rival)
        else:
            against = f", in favour of {rival}" if plain.decided else ""
            untold.append(f"{rival} (p = {_p(plain.p)}{against})")
    reasons = []
    if few:
        reasons.append(f"so few runs can't tell {best} from {_listed(few)} at {LEVEL:.0%}")
    if by_losses:
        told = _listed(by_losses)
        reasons.append(f"{best} would not be told from {told} if runs that failed or fell short counted as the worst")
    if untold:
        reasons.append(f"a rank test does not tell {best} from {_listed(untold)}")
    return Decision(False, "; ".join(reasons))


def _overall(comparison: Comparison, aggregates: Sequence[Aggregate]) -> Iterator[Answer]:
    """Only of labels that have all tasks, and where there is more than one of each."""
    tasks = [task for task in comparison.tasks if task.best_return > task.random_return]  # others have no scores
    full = [row for row in aggregates if row.tasks == len(tasks)]
    if len(full) < 2 or len(tasks) < 2:
        return
    best, *others = sorted(full, key=lambda row: -row.iqm.value)

    def verdict(first: str, second: str, worst: bool) -> Verdict:
        ids = [task.env_id for task in tasks]
        samples = [[_returns(comparison, env_id, label, worst) for label in (first, second)] for env_id in ids]
        return judge([(one, other) for one, other in samples])

    made = decide(best.label, [row.label for row in others], verdict)
    text = (
        f"over {len(tasks)} tasks at their budgets, {best.label} has the highest score, "
        f"{_told(best.iqm, ' a task')}; the next is {others[0].label}, {_told(others[0].iqm, ' a task')}; {made.why}"
    )
    missing = [label for label in comparison.labels if label not in [row.label for row in full]]
    without = [task.env_id for task in comparison.tasks if task not in tasks]
    reasons = dict.fromkeys(missing, "not on all tasks")
    text += _left_out(reasons | dict.fromkeys(without, "nothing is better than random actions there"))
    verb = f"{best.label}" if made.decided else "Undecided"
    yield Answer("Which algorithm is best over all tasks?", f"{verb}: {text}.", None, made.decided)


def _at_budget(
    comparison: Comparison,
    task: TaskInfo,
    ranked: Sequence[AtBudget],
    costs: Sequence[Cost],
    detectable: Sequence[Detectable],
) -> Answer:
    """Whether a model is worth it where there are both kinds, else which algorithm is best."""
    based = _based(comparison)
    best = ranked[0].label
    rivals = [row.label for row in ranked if based[row.label] is not based[best]]
    both = bool(rivals)
    rivals = rivals or [row.label for row in ranked[1:]]

    def verdict(first: str, second: str, worst: bool) -> Verdict:
        one, other = (_returns(comparison, task.env_id, label, worst) for label in (first, second))
        return judge([(one, other)])

    made = decide(best, rivals, verdict)
    told = {row.label: f"{_told(row.iqm)}{_lost(comparison.lost(task.env_id, row.label))}" for row in ranked}
    shown = sorted((best, rivals[0]), key=lambda label: not based[label])
    if both:
        text = (
            f"at {task.budget:,} real steps {shown[0]}, the best with a model, has a return of {told[shown[0]]}, and "
        )
        text += f"{shown[1]}, the best without, {told[shown[1]]}"
        question = f"Is a model worth it on {task.env_id}, in real steps?"
        verb = "Yes" if based[best] else "No"
    else:
        text = f"at {task.budget:,} real steps {best} has a return of {told[best]}, and the next, {rivals[0]}, "
        text += told[rivals[0]]
        question, verb = f"Which algorithm is best on {task.env_id}, in real steps?", best
    text += f"; {made.why}"
    if not made.decided:
        found = [d.difference for d in detectable if d.env_id == task.env_id and {d.first, d.second} == set(shown)]
        text += f"; so many runs show a difference of {_number(found[0])} in four of five studies" if found[0] else ""
    text += _minutes(task, shown, costs)
    text += _left_out({label: _absent(comparison, task, label) for label in _without(comparison, task, list(told))})
    return Answer(question, f"{verb if made.decided else 'Undecided'}: {text}.", task.env_id, made.decided)


def _to_threshold(comparison: Comparison, task: TaskInfo, axis: str) -> Answer | None:
    """Whether labels of one kind get to the threshold for less than those of the other, or which gets there first."""
    groups = reached_by_label(comparison, task, axis)
    if len(groups) < 2:
        return None
    failed = {label: comparison.failed(task.env_id, label) for label in groups}
    ranked = _by_cost(groups, failed)
    based = _based(comparison)
    best = ranked[0]
    rivals = [label for label in ranked if based[label] is not based[best]]
    there = [label for label in comparison.labels if comparison.outcomes(task.env_id, label)]
    both = len({based[label] for label in there}) > 1
    if both and not rivals:
        return None
    rivals = rivals or ranked[1:]

    def verdict(first: str, second: str, worst: bool) -> Verdict:
        horizon = min(groups[first].watched, groups[second].watched)
        pair = [groups[label].at_worst(failed[label]) if worst else groups[label].sample for label in (first, second)]
        return judge([(pair[0].until(horizon), pair[1].until(horizon))])

    made = decide(best, rivals, verdict)
    told = "; ".join(_spent(label, axis, groups[label], failed[label]) for label in (best, *rivals))
    goal = f"on {task.env_id}, until a return of {_number(task.threshold)}?"
    question, verb = f"Does a model save {UNITS[axis]} {goal}", "Yes" if based[best] else "No"
    if not both:
        question, verb = f"Which algorithm takes the fewest {UNITS[axis]} {goal}", best
    text = f"{told}; {made.why}"
    missing = _without(comparison, task, list(groups))
    text += _left_out({label: f"{UNITS[axis]} not known" if label in there else ALL_FAILED for label in missing})
    return Answer(question, f"{verb if made.decided else 'Undecided'}: {text}.", task.env_id, made.decided)


def _by_cost(groups: Mapping[str, Reached], failed: Mapping[str, int]) -> list[str]:
    """Labels by their restricted mean, up to what all of them were watched for."""
    horizon = min(found.watched for found in groups.values())

    def mean(label: str) -> float:
        return statistics.survival(*with_failures(groups[label], failed[label])).restricted_mean(horizon)

    def share(label: str) -> float:  # decides where nobody is there by the horizon
        return -float(with_failures(groups[label], failed[label]).happened.mean())

    def median(label: str) -> float:
        found = statistics.survival(*with_failures(groups[label], failed[label])).median()
        return math.inf if found is None else found

    return sorted(groups, key=lambda label: (mean(label), share(label), median(label), label))


def _returns(comparison: Comparison, env_id: str, label: str, worst: bool) -> Sample:
    sample = Sample.of_returns(comparison.cells[env_id, label].returns)
    return sample.with_worst(comparison.lost(env_id, label)) if worst else sample


def _based(comparison: Comparison) -> dict[str, bool]:
    return {one.algorithm: one.model_based for one in comparison.results.outcomes}


def _without(comparison: Comparison, task: TaskInfo, counted: Sequence[str]) -> list[str]:
    """Labels that were to run on a task, by their runs or failures, and are not counted."""
    rows: list[tuple[str | None, str]] = [(one.env_id, one.algorithm) for one in comparison.results.outcomes]
    rows += [(one.env_id, one.algorithm) for one in comparison.results.failures]
    return list(dict.fromkeys(label for env_id, label in rows if env_id == task.env_id and label not in counted))


def _absent(comparison: Comparison, task: TaskInfo, label: str) -> str:
    """Why a label has no run at the budget."""
    runs = comparison.outcomes(task.env_id, label)
    if not runs:
        return ALL_FAILED
    short = comparison.short(task.env_id, label)
    return "no run got to the budget" if short == len(runs) else "evaluated only after the budget"


def _left_out(reasons: Mapping[str, str]) -> str:
    told = ", ".join(f"{label} ({why})" for label, why in reasons.items())
    return f"; not counted: {told}" if told else ""


def _minutes(task: TaskInfo, pair: Sequence[str], costs: Sequence[Cost]) -> str:
    """What the two took, as a clause."""
    here = {row.label: row.median for row in costs if row.env_id == task.env_id and row.axis == "cpu_minutes"}
    first, second = (here.get(label) for label in pair)
    if first is None or second is None:
        return ""
    return f"; that took {_number(first)} CPU minutes against {_number(second)}"


def _spent(label: str, axis: str, found: Reached, failed: int) -> str:
    time, happened = with_failures(found, failed)
    got = f"{int(happened.sum())} of {len(time)} runs of {label} got there"
    got += lost_runs(failed, int(found.short.sum()))
    median = statistics.survival(time, happened).median()
    if median is not None:
        return f"{got}, the median after {_number(median)} {UNITS[axis]}"
    return f"{got} within {_number(found.watched)} {UNITS[axis]}"


def _lost(count: int) -> str:
    return f" with {count} more that failed or fell short" if count else ""


def _told(estimate: Estimate, each: str = "") -> str:
    """A value with its interval, and how often such an interval holds the truth."""
    runs = f"{estimate.n} run{'s' if estimate.n > 1 else ''}{each}"
    if estimate.low is None or estimate.high is None:
        return f"{_number(estimate.value)} ({runs})"
    if math.isclose(estimate.low, estimate.high):
        return f"{_number(estimate.value)} ({runs}, all equal)"
    told = f"{_number(estimate.value)} ({_number(estimate.low)} to {_number(estimate.high)}, {runs}"
    if estimate.coverage is None:
        return f"{told})"
    low, high = (f"{100 * share:.0f}" for share in estimate.coverage)
    return f"{told}, true coverage {low if low == high else f'{low} to {high}'} %)"


def _listed(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-4 else "less than 0.0001"


def _number(value: float) -> str:
    """Three digits or more, without an exponent up to ten million."""
    if abs(value) >= 1e7:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"
