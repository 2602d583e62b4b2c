"""From results to a summary: all that a report shows (`mbrl.experiments.findings`) is computed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mbrl.experiments import comparison_tables as tables
from mbrl.experiments import cost_curves
from mbrl.experiments.answers import answers
from mbrl.experiments.comparison import Comparison, compare
from mbrl.experiments.findings import Final, Summary
from mbrl.experiments.results import Results


def summarise(
    results: Results, *, budgets: dict[str, int], thresholds: dict[str, float] | None = None, seed: int = 0
) -> Summary:
    """Everything that the report shows.

    Args:
        results: of `read_results`.
        budgets: real steps at which algorithms are compared, by environment id.
        thresholds: returns whose cost is asked for, by environment id; for others, 90 % of the way to the best label's
            interquartile mean at the budget, from the better of random actions and actions held at their middle.
        seed: of the episodes of these two.

    Raises:
        ValueError: a task has no budget, or there is nothing to summarise.
    """
    comparison = compare(results, budgets=budgets, thresholds=thresholds, seed=seed)
    at_budgets, aggregates = tuple(tables.at_budgets(comparison)), tuple(tables.aggregates(comparison))
    costs, detectable = tuple(cost_curves.costs(comparison)), tuple(tables.detectable(comparison))
    finals = tuple(tables.finals(comparison))
    return Summary(
        answers=tuple(answers(comparison, at_budgets, aggregates, costs, detectable)),
        tasks=comparison.tasks,
        entries=tuple(tables.entries(comparison)),
        at_budget=at_budgets,
        aggregates=aggregates,
        curves=tuple(cost_curves.curves(comparison)),
        costs=costs,
        improvements=tuple(tables.improvements(comparison)),
        profiles=tuple(tables.profiles(comparison)),
        thresholds=tuple(cost_curves.to_thresholds(comparison)),
        paired=tuple(tables.paired(comparison)),
        differences=tuple(tables.differences(comparison)),
        detectable=detectable,
        finals=finals,
        settings=tuple(tables.setting_differences(comparison)),
        runs=tuple(tables.run_rows(comparison)),
        failures=tuple(tables.failure_rows(comparison)),
        **_origins(results),
        warnings=(*results.warnings, *comparison.warnings, *_uneven(comparison), *_final_warnings(finals)),
    )


def _origins(results: Results) -> dict[str, Any]:
    """What runs were made with and on."""
    commits = Counter(outcome.commit or "unknown" for outcome in results.outcomes)
    machines = Counter(outcome.machine or "unknown" for outcome in results.outcomes)
    return {
        "versions": _versions(results),
        "commits": dict(sorted(commits.items())),
        "machines": dict(sorted(machines.items())),
    }


def _versions(results: Results) -> dict[str, tuple[str, ...]]:
    libraries = sorted({library for outcome in results.outcomes for library in outcome.versions})
    found = {library: {o.versions[library] for o in results.outcomes if library in o.versions} for library in libraries}
    return {library: tuple(sorted(versions)) for library, versions in found.items()}


def _uneven(comparison: Comparison) -> list[str]:
    """Labels whose aggregates are over other tasks than the rest's, and thresholds that nobody reached."""
    said = []
    for label in comparison.labels:
        missing = [task.env_id for task in comparison.tasks if (task.env_id, label) not in comparison.cells]
        if missing and len(missing) < len(comparison.tasks):
            said.append(f"{label} has no run at the budget on {', '.join(missing)}: its aggregate is over other tasks")
        counts = {task: len(cell.outcomes) for (task, name), cell in comparison.cells.items() if name == label}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{n} on {env_id}" for env_id, n in counts.items())
            said.append(f"{label} has different numbers of runs ({told}): over tasks, each task counts alike")
    for task in comparison.tasks:
        runs = [run for run in comparison.results.outcomes if run.env_id == task.env_id]
        if not any((run.returns >= task.threshold).any() for run in runs):
            said.append(f"{task.env_id}: no run reached the threshold of {task.threshold:,.4g}")
    return said


def _final_warnings(finals: Sequence[Final]) -> list[str]:
    """Final evaluations that are not what they seem."""
    said = []
    for found in finals:
        name = f"{found.label} on {found.env_id}"
        if found.diverged:
            said.append(
                f"{name}: the simulation diverged in the final evaluation of {found.diverged} of {found.runs} runs; "
                "they count as the worst finite return of the task"
            )
        if 0 < found.missing < found.runs:
            said.append(f"{name}: {found.missing} of {found.runs} runs have no final evaluation")
        if len(found.episodes) > 1:
            said.append(f"{name}: final evaluations have different numbers of episodes: {found.episodes}")
    return said
