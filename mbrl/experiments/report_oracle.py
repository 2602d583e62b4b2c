"""The part of a report that tells planner error from model error; see `oracle_gap`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mbrl.experiments.charts import Guide, Line, line_chart
from mbrl.experiments.interval_charts import Row, interval_chart
from mbrl.experiments.markup import Markup, el
from mbrl.experiments.oracle_gap import (
    ARMS,
    Difference,
    HorizonError,
    OracleGap,
    PooledGap,
    groups,
    oracle_titles,
    pool,
)
from mbrl.experiments.report_sections import Section, part
from mbrl.experiments.report_style import NOTHING, Style, interval, number, percent, short_task
from mbrl.experiments.report_tables import details, figure, legend, side_by_side, table

GAP_WORDS = {
    "planner": "planner: a wider search would win",
    "model": "model: the true dynamics would win",
    "reward": "reward: the true reward would win",
}
STATES = {"its data": Style(0, 0), "its plans": Style(1, 0), "true plans": Style(2, 0)}
"""Where the model's error is measured."""


def oracle(gaps: Sequence[OracleGap]) -> Section | None:
    """Planner error apart from model error."""
    if not gaps:
        return None
    found, titles = groups(gaps), oracle_titles(gaps)
    return part(
        "oracle",
        "Planner error and model error of PETS",
        el(
            "p",
            "The same planner, with the same settings and start states, plans through the true dynamics and through "
            "what the run has learned. What the true dynamics would win is the model's error; what a wider search on "
            "the true dynamics would win is the planner's. Means over runs, with Student's t intervals.",
        ),
        side_by_side([_gap_chart(pool(kind), titles[kind[0].label]) for kind in found]),
        el(
            "p",
            "The model's open-loop error on its newest data, which it had not seen; on the states that planning with "
            "it visits; and on those that planning with the true dynamics visits: in standard deviations of the "
            "observations of all the run's real steps, the first of those up to its last fit.",
        ),
        legend(STATES),
        side_by_side([_error_chart(kind, titles[kind[0].label]) for kind in found]),
        [_gap_tables(pool(kind), kind, titles[kind[0].label]) for kind in found],
    )


def _gap_chart(pooled: PooledGap, title: str) -> Markup:
    rows = [Row(name, None, found.value, found.low, found.high) for name, found in pooled.gaps.items()]
    chart = interval_chart(
        rows,
        name=f"{pooled.env_id}{title}: what is lost to each part",
        x_name="return lost",
        guides=[Guide(0, "nothing lost")],
    )
    return figure(f"{short_task(pooled.env_id)}{title}: return lost to", chart)


def _error_chart(gaps: Sequence[OracleGap], title: str) -> Markup:
    """Model error by horizon, mean over runs."""
    lines = []
    for label, style in STATES.items():
        by_horizon: dict[int, list[float]] = defaultdict(list)
        for gap in gaps:
            for error in _errors(gap)[label]:
                by_horizon[error.horizon].append(error.rmse)
        known = sorted(by_horizon)
        lines.append(Line(label, style, known, [float(np.mean(by_horizon[horizon])) for horizon in known]))
    env_id = gaps[0].env_id
    chart = line_chart(
        lines, name=f"{env_id}{title}: model error by horizon", x_name="steps ahead", y_name="error (std of the data)"
    )
    return figure(f"{short_task(env_id)}{title}: model error by horizon", chart)


def _errors(gap: OracleGap) -> dict[str, Sequence[HorizonError]]:
    return dict(zip(STATES, (gap.logged, gap.visited, gap.oracle), strict=True))


def _gap_tables(pooled: PooledGap, gaps: Sequence[OracleGap], title: str) -> list[Markup]:
    cut = gaps[0].max_steps
    length = "whole episodes" if cut is None else f"episodes of {cut:,} steps"
    arms: list[tuple] = [(ARMS[arm], _difference(found), found.n) for arm, found in pooled.returns.items()]
    arms += [(ARMS[arm], reason, NOTHING) for arm, reason in pooled.missing.items() if arm not in pooled.returns]
    lost = [(GAP_WORDS[name], _difference(found), found.n) for name, found in pooled.gaps.items()]
    errors = [
        (gap.run, where, error.horizon, number(error.rmse), percent(error.coverage90))
        for gap in gaps
        for where, found in _errors(gap).items()
        for error in found
    ]
    return [
        table(["planning through", "return", "runs"], arms, caption=f"{pooled.env_id}{title}, {length}"),
        table(["return lost to the", "difference", "runs"], lost),
        details(
            f"Model error of each run on {pooled.env_id}{title}",
            table(["run", "on states of", "steps ahead", "error (std)", "in 90 % interval"], errors, left=2),
        ),
    ]


def _difference(found: Difference) -> str:
    return f"{number(found.value)} {interval(found.low, found.high) or '(no interval)'}"
