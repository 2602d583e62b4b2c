"""The tables of a comparison: returns at the budget, pairs of algorithms, profiles, final evaluations, settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from mbrl.experiments import statistics
from mbrl.experiments.comparability import flatten
from mbrl.experiments.comparison import Comparison, at_budget, estimate, score, stratified_estimate
from mbrl.experiments.coverage import difference_coverage
from mbrl.experiments.decisions import Sample, detectable_shift, judge
from mbrl.experiments.findings import (
    Aggregate,
    AtBudget,
    Detectable,
    Difference,
    Entry,
    Estimate,
    FailureRow,
    Final,
    Improvement,
    Paired,
    Profile,
    RunRow,
    SettingDifference,
    TaskInfo,
)

PROFILE_POINTS = 41
"""Of a profile's scores, from 0 to 1."""


def entries(comparison: Comparison) -> Iterator[Entry]:
    """What is compared."""
    for label in comparison.labels:
        first = next(outcome for outcome in comparison.results.outcomes if outcome.algorithm == label)
        yield Entry(label, first.algo, first.model_based)


def at_budgets(comparison: Comparison) -> Iterator[AtBudget]:
    """Returns of every label on every task."""
    for task in comparison.tasks:
        for label in comparison.labels_of(task.env_id):
            cell = comparison.cells[task.env_id, label]
            returns = tuple(float(value) for value in cell.returns)
            scores = Estimate(math.nan, None, None, len(returns), None)  # where the task has no scale
            if task.best_return > task.random_return:
                scores = estimate(score(task, cell.returns))
            iqm, mean = estimate(cell.returns), estimate(cell.returns, "mean")
            yield AtBudget(task.env_id, label, iqm, mean, scores, returns, cell.seeds)


def aggregates(comparison: Comparison) -> Iterator[Aggregate]:
    """Scores of every label over its tasks together."""
    for label in comparison.labels:
        scores = _scores(comparison, label)
        if scores:
            iqm, mean = stratified_estimate(scores), stratified_estimate(scores, "mean")
            yield Aggregate(label, iqm, mean, len(scores))


def improvements(comparison: Comparison) -> Iterator[Improvement]:
    """Probability of improvement of every pair, by task and over their tasks."""
    for first, second in combinations(comparison.labels, 2):
        found = []
        for task in _shared(comparison, first, second):
            a, b = (comparison.cells[task.env_id, label].returns for label in (first, second))
            probability = statistics.probability_of_improvement(a, b)
            interval = statistics.improvement_interval(probability, len(a), len(b))
            found.append((probability, interval, min(len(a), len(b))))
            yield Improvement(task.env_id, first, second, _estimate(*found[-1]))
        if len(found) > 1:
            probabilities, intervals, counts = zip(*found, strict=True)
            interval = statistics.mean_of_intervals(probabilities, intervals)
            yield Improvement(None, first, second, _estimate(float(np.mean(probabilities)), interval, min(counts)))


def profiles(comparison: Comparison) -> Iterator[Profile]:
    """Performance profiles over all tasks of each label."""
    grid = np.linspace(0, 1, PROFILE_POINTS)
    for label in comparison.labels:
        scores = _scores(comparison, label)
        if not scores:
            continue
        share = np.mean([statistics.performance_profile(one, grid) for one in scores], axis=0)
        n = statistics.effective_runs([len(one) for one in scores])
        bounds = [statistics.share_interval(float(value) * n, n) for value in share]
        low, high = tuple(float(i.low) for i in bounds), tuple(float(i.high) for i in bounds)
        yield Profile(label, tuple(map(float, grid)), tuple(map(float, share)), low, high)


def paired(comparison: Comparison) -> Iterator[Paired]:
    """Differences between runs with the same seed, by task and pair."""
    for first, second in combinations(comparison.labels, 2):
        for task in _shared(comparison, first, second):
            a, b = (comparison.cells[task.env_id, label] for label in (first, second))
            other = dict(zip(b.seeds, b.returns, strict=True))
            pairs = np.array(
                [(ret, other[seed]) for seed, ret in zip(a.seeds, a.returns, strict=True) if seed in other]
            )
            if len(pairs):
                varied = len(pairs) > 2 and bool((pairs.std(axis=0) > 0).all())
                correlation = float(np.corrcoef(pairs.T)[0, 1]) if varied else None
                yield Paired(task.env_id, first, second, estimate(pairs[:, 0] - pairs[:, 1]), correlation)


def differences(comparison: Comparison) -> Iterator[Difference]:
    """Differences of interquartile means, by task and pair."""
    for first, second in combinations(comparison.labels, 2):
        for task in _shared(comparison, first, second):
            a, b = (comparison.cells[task.env_id, label].returns for label in (first, second))
            n, value = min(len(a), len(b)), float(statistics.iqm(a) - statistics.iqm(b))
            found = statistics.difference_interval(a, b)
            low, high = (None, None) if found is None else (float(found.low), float(found.high))
            p = judge([(Sample.of_returns(a), Sample.of_returns(b))]).p
            yield Difference(task.env_id, first, second, Estimate(value, low, high, n, difference_coverage(n)), p)


def detectable(comparison: Comparison) -> Iterator[Detectable]:
    """The smallest difference that this many runs could show, by task and pair."""
    for first, second in combinations(comparison.labels, 2):
        for task in _shared(comparison, first, second):
            a, b = (comparison.cells[task.env_id, label].returns for label in (first, second))
            deviation, shift = statistics.pooled_deviation(a, b), detectable_shift(len(a), len(b))
            smallest = None if shift is None or not math.isfinite(deviation) else deviation * shift
            way = task.best_return - task.random_return
            scaled = None if smallest is None or way <= 0 else smallest / way
            observed = float(a.mean() - b.mean())
            yield Detectable(task.env_id, first, second, min(len(a), len(b)), smallest, scaled, observed)


def finals(comparison: Comparison) -> Iterator[Final]:
    """Final evaluations of every label on every task."""
    for task in comparison.tasks:
        for label in comparison.labels_of(task.env_id):
            outcomes = comparison.outcomes(task.env_id, label)
            worst = comparison.floors[task.env_id]
            played = [[value for value in o.final.values() if value is not None] for o in outcomes]
            yield Final(
                env_id=task.env_id,
                label=label,
                deterministic=_finals([o.final["deterministic"] for o in outcomes], worst),
                stochastic=_finals([o.final["stochastic"] for o in outcomes], worst),
                runs=len(outcomes),
                missing=sum(not values for values in played),
                diverged=sum(not all(map(math.isfinite, values)) for values in played),
                episodes=tuple(sorted({o.final_episodes for o in outcomes if o.final_episodes is not None})),
            )


def setting_differences(comparison: Comparison) -> Iterator[SettingDifference]:
    """Settings in which labels of a task differ, those of each label's first run."""
    for task in comparison.tasks:
        flat = {
            label: flatten(comparison.cells[task.env_id, label].outcomes[0].settings)
            for label in comparison.labels_of(task.env_id)
        }
        for name in sorted({name for settings in flat.values() for name in settings}):
            values = tuple((label, _text(settings, name)) for label, settings in flat.items())
            if len({value for _, value in values}) > 1:
                yield SettingDifference(task.env_id, name, values)


def run_rows(comparison: Comparison) -> Iterator[RunRow]:
    """Every run, in the order of tasks, labels and seeds."""
    budgets = {task.env_id: task.budget for task in comparison.tasks}
    order = list(comparison.labels)
    runs = sorted(comparison.results.outcomes, key=lambda o: (order.index(o.algorithm), o.seed))
    for env_id in dict.fromkeys(outcome.env_id for outcome in comparison.results.outcomes):
        for outcome in (run for run in runs if run.env_id == env_id):
            yield RunRow(
                env_id=env_id,
                label=outcome.algorithm,
                algo=outcome.algo,
                seed=outcome.seed,
                path=str(outcome.path),
                complete=outcome.complete,
                commit=outcome.commit,
                at_budget=at_budget(outcome, budgets[env_id]) if env_id in budgets else None,
                deterministic=outcome.final["deterministic"],
                stochastic=outcome.final["stochastic"],
                steps=tuple(int(step) for step in outcome.steps),
                returns=tuple(float(ret) for ret in outcome.returns),
                costs={axis: tuple(float(value) for value in column) for axis, column in outcome.costs.items()},
            )


def failure_rows(comparison: Comparison) -> Iterator[FailureRow]:
    """Every run that is missing."""
    for failure in comparison.results.failures:
        path = None if failure.path is None else str(failure.path)
        yield FailureRow(failure.env_id, failure.algorithm, failure.seed, path, failure.reason)


def _shared(comparison: Comparison, first: str, second: str) -> list[TaskInfo]:
    return [
        task for task in comparison.tasks if all((task.env_id, label) in comparison.cells for label in (first, second))
    ]


def _scores(comparison: Comparison, label: str) -> list[np.ndarray]:
    """[runs] of every task that the label has runs of, and that has a scale."""
    tasks = [task for task in comparison.tasks if (task.env_id, label) in comparison.cells]
    return [comparison.scores(task, label) for task in tasks if task.best_return > task.random_return]


def _estimate(value: float, interval: statistics.Interval, n: int) -> Estimate:
    return Estimate(value, float(interval.low), float(interval.high), n, None)


def _finals(values: list[float | None], worst: float) -> Estimate | None:
    known = [value if math.isfinite(value) else worst for value in values if value is not None]
    return estimate(np.array(known)) if known else None


def _text(settings: dict[str, object], name: str) -> str | None:
    if name not in settings:
        return None
    value = settings[name]
    return value if isinstance(value, str) else json.dumps(value)
