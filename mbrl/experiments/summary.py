"""From results to a summary: all that a report shows (`mbrl.experiments.findings`) is computed here."""

from __future__ import annotations

from mbrl.experiments.findings import (
    Aggregate,
    Answer,
    AtBudget,
    Cost,
    Curve,
    Detectable,
    Entry,
    Estimate,
    FailureRow,
    Final,
    Improvement,
    Paired,
    Profile,
    RunRow,
    SettingDifference,
    Summary,
    TaskInfo,
    ToThreshold,
)
from mbrl.experiments.results import Results

__all__ = [
    "Aggregate",
    "Answer",
    "AtBudget",
    "Cost",
    "Curve",
    "Detectable",
    "Entry",
    "Estimate",
    "FailureRow",
    "Final",
    "Improvement",
    "Paired",
    "Profile",
    "RunRow",
    "SettingDifference",
    "Summary",
    "TaskInfo",
    "ToThreshold",
    "summarise",
]


def summarise(
    results: Results, *, budgets: dict[str, int], thresholds: dict[str, float] | None = None, seed: int = 0
) -> Summary:
    """Everything that the report shows.

    Args:
        results: of `read_results`.
        budgets: real steps at which algorithms are compared, by environment id.
        thresholds: returns whose cost is asked for, by environment id; for others, 90 % of the way from the random
            policy to the best label's interquartile mean at the budget.
        seed: of the random policy's episodes.

    Raises:
        ValueError: a task has no budget, or there is nothing to summarise.
    """
    raise NotImplementedError
