"""The second half of a report: thresholds, pairs, costs, the oracle gap."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from mbrl.experiments.charts import Guide
from mbrl.experiments.findings import Improvement, Summary, ToThreshold
from mbrl.experiments.interval_charts import Row, interval_chart
from mbrl.experiments.markup import Markup, el
from mbrl.experiments.oracle_gap import ARMS, Difference, OracleGap, PooledGap, pool
from mbrl.experiments.report_sections import Section, Styles, part
from mbrl.experiments.report_style import (
    AXES,
    MINUS,
    NOTHING,
    SHORT,
    by,
    coverage,
    estimate,
    interval,
    number,
    percent,
    share,
    short_task,
)
from mbrl.experiments.report_tables import details, figure, key, side_by_side, table

GAP_WORDS = {
    "planner": "planner: a wider search would win",
    "model": "model: the true dynamics would win",
    "reward": "reward: the true reward would win",
}


def thresholds(summary: Summary, styles: Styles) -> Section | None:
    """What it costs to reach each task's threshold."""
    axes = [axis for axis in AXES if any(found.axis == axis and _told(found) for found in summary.thresholds)]
    if not axes:
        return None
    tables = []
    for axis in axes:
        for task in summary.tasks:
            here = [t for t in summary.thresholds if (t.env_id, t.axis) == (task.env_id, axis)]
            listed = table(
                ["algorithm", "reached by", f"median {SHORT[axis]}", "95 % interval", f"mean up to {_horizon(here)}"],
                [
                    (
                        key(found.label, styles),
                        f"{found.reached} of {found.n}",
                        "not by half of the runs" if found.median is None else number(found.median),
                        _bounds(found),
                        number(found.restricted_mean),
                    )
                    for found in here
                ],
                caption=f"{task.env_id}: {SHORT[axis]} to {number(task.threshold)} ({task.threshold_source})",
            )
            tables.append(el("div", listed, data_axis=axis))
    return part(
        "thresholds",
        "Cost to a threshold",
        el(
            "p",
            "Runs that never reach the threshold count as “not until their end” (they are censored: Kaplan-Meier), "
            "never as missing. The mean counts every run up to one common end, so that algorithms can be compared of "
            "which some runs do not reach it.",
        ),
        el("p", "The switch under “Return against cost” chooses the cost here, too.", class_="note"),
        el("div", tables, class_="tables"),
    )


def improvement(summary: Summary) -> Section | None:
    """How often one algorithm beats another."""
    if not summary.improvements:
        return None
    groups: dict[str | None, list[Improvement]] = defaultdict(list)
    for found in summary.improvements:
        groups[found.env_id].append(found)
    lead = groups[None] if None in groups else next(iter(groups.values()))
    chart = interval_chart(
        [
            Row(f"{f.first} > {f.second}", None, f.probability.value, f.probability.low, f.probability.high)
            for f in lead
        ],
        name="Probability that a run of one algorithm beats a run of another",
        x_name="probability",
        x_range=(0, 1),
        guides=[Guide(0.5, "even")],
        left=150,
    )
    tables = [
        table(
            ["a run of … beats one of …", "probability", "runs", "true coverage"],
            [
                (f"{f.first} > {f.second}", estimate(f.probability, share), f.probability.n, coverage(f.probability))
                for f in found
            ],
            caption="mean over all tasks" if env_id is None else env_id,
        )
        for env_id, found in groups.items()
    ]
    return part(
        "improvement",
        "Probability of improvement",
        el(
            "p",
            "How likely a run of the first beats one of the second at the budget, whatever their seeds; ties count "
            "half.",
        ),
        el("div", figure("Mean over all tasks" if None in groups else lead[0].env_id, chart), class_="charts"),
        details("By task", tables),
    )


def pairs(summary: Summary) -> Section | None:
    """Differences between runs of the same seed, and what so many seeds could have shown."""
    if not summary.paired and not summary.detectable:
        return None
    paired = by(summary.paired, "env_id", "first", "second")
    power = by(summary.detectable, "env_id", "first", "second")
    tables = []
    for task in summary.tasks:
        rows = []
        for which in dict.fromkeys([*paired, *power]):
            if which[0] != task.env_id:
                continue
            pair, least = paired.get(which), power.get(which)
            rows.append(
                (
                    f"{which[1]} {MINUS} {which[2]}",
                    estimate(pair.difference) if pair else NOTHING,
                    coverage(pair.difference) if pair else NOTHING,
                    pair.difference.n if pair else NOTHING,
                    number(least.observed) if least else NOTHING,
                    number(least.difference) if least else NOTHING,
                )
            )
        columns = ["", "paired difference", "true coverage", "pairs", "difference of means", "smallest detectable"]
        tables.append(table(columns, rows, caption=task.env_id))
    return part(
        "pairs",
        "Differences, and what this many seeds can show",
        el(
            "p",
            "The interquartile mean of differences in return between runs of one seed; and the smallest true "
            "difference of means that this many runs would find in four of five studies. A difference that was seen "
            "and is smaller than that may well be luck: more seeds would tell.",
        ),
        details("Pairs by task", tables),
    )


def finals(summary: Summary, styles: Styles) -> Section | None:
    """The evaluations at the end of the runs."""
    if not summary.finals:
        return None
    tables = [
        table(
            ["algorithm", "deterministic", "stochastic"],
            [
                (
                    key(found.label, styles),
                    estimate(found.deterministic) if found.deterministic else NOTHING,
                    estimate(found.stochastic) if found.stochastic else NOTHING,
                )
                for found in summary.finals
                if found.env_id == task.env_id
            ],
            caption=task.env_id,
        )
        for task in summary.tasks
    ]
    return part(
        "final",
        "At the end of the runs",
        el(
            "p",
            "Mean returns of the final evaluation, on seeds that all runs share: with the policy's mode, and with "
            "actions drawn from it. Runs of different lengths end at different steps. Planning has no actions to "
            "draw.",
        ),
        tables,
    )


def costs(summary: Summary, styles: Styles) -> Section | None:
    """What the budget cost."""
    axes = [axis for axis in AXES if axis != "steps"]
    found = by(summary.costs, "env_id", "label", "axis")
    tables = []
    for task in summary.tasks:
        rows = []
        for entry in summary.entries:
            here = [found.get((task.env_id, entry.label, axis)) for axis in axes]
            if any(here):
                rows.append(
                    (key(entry.label, styles), *(_spent(c.median, c.low, c.high) if c else NOTHING for c in here))
                )
        caption = f"{task.env_id}: {task.budget:,} real steps"
        tables.append(table(["algorithm", *(SHORT[axis] for axis in axes)], rows, caption=caption))
    if not any(tables):
        return None
    return part(
        "costs",
        "What the budget cost",
        el(
            "p",
            "Median of the runs, and their smallest and largest where they differ. Gradient steps are those of "
            "learner and model together; FLOPs are those of the networks (M, G, T: 10^6, 10^9, 10^12) and leave the "
            "simulator out. Minutes hold for one machine, and for what else it did.",
        ),
        tables,
    )


def oracle(gaps: Sequence[OracleGap]) -> Section | None:
    """Planner error apart from model error."""
    if not gaps:
        return None
    groups: dict[tuple[str, int | None], list[OracleGap]] = defaultdict(list)
    for gap in gaps:
        groups[gap.env_id, gap.max_steps].append(gap)
    return part(
        "oracle",
        "Planner error and model error of PETS",
        el(
            "p",
            "The same planner, with the same settings and start states, plans through the true dynamics and through "
            "what the run has learned. What the true dynamics would win is the model's error; what a wider search on "
            "the true dynamics would win is the planner's. Means over runs, with Student's t intervals.",
        ),
        side_by_side([_gap_chart(pool(found)) for found in groups.values()]),
        [_gap_tables(pool(found), found) for found in groups.values()],
    )


def _gap_chart(pooled: PooledGap) -> Markup:
    rows = [_gap_row(name, found) for name, found in pooled.gaps.items()]
    chart = interval_chart(
        rows,
        name=f"{pooled.env_id}: what is lost to each part",
        x_name="return lost",
        guides=[Guide(0, "nothing lost")],
    )
    return figure(f"{short_task(pooled.env_id)}: return lost to", chart)


def _gap_row(name: str, found: Difference) -> Row:
    return Row(f"{name}", None, found.value, found.low, found.high)


def _gap_tables(pooled: PooledGap, gaps: Sequence[OracleGap]) -> list[Markup]:
    cut = gaps[0].max_steps
    length = "whole episodes" if cut is None else f"episodes of {cut:,} steps"
    arms: list[tuple] = [(ARMS[arm], _difference(found), found.n) for arm, found in pooled.returns.items()]
    arms += [(ARMS[arm], reason, NOTHING) for arm, reason in pooled.missing.items() if arm not in pooled.returns]
    lost = [(GAP_WORDS[name], _difference(found), found.n) for name, found in pooled.gaps.items()]
    errors = [
        (gap.run, where, error.horizon, number(error.rmse), percent(error.coverage90))
        for gap in gaps
        for where, found in (("its data", gap.logged), ("its plans", gap.visited), ("true plans", gap.oracle))
        for error in found
    ]
    return [
        table(["planning through", "return", "runs"], arms, caption=f"{pooled.env_id}, {length}"),
        table(["return lost to the", "difference", "runs"], lost),
        details(
            f"Model error by horizon on {pooled.env_id}",
            table(
                ["run", "states visited by", "steps ahead", "error (std)", "in 90 % interval"],
                errors,
                left=2,
            ),
        ),
    ]


def _difference(found: Difference) -> str:
    return f"{number(found.value)} {interval(found.low, found.high) or '(no interval)'}"


def _told(found: ToThreshold) -> bool:
    return found.median is not None or found.restricted_mean is not None or found.axis == "steps"


def _horizon(found: Sequence[ToThreshold]) -> str:
    return number(found[0].horizon) if found else NOTHING


def _bounds(found: ToThreshold) -> str:
    """The median's interval, open upwards where too few runs reached the threshold."""
    if found.low is None:
        return NOTHING
    return interval(found.low, math.inf if found.high is None else found.high)


def _spent(median: float | None, low: float | None, high: float | None) -> str:
    if median is None or low == high:
        return number(median)
    return f"{number(median)} ({number(low)} to {number(high)})"
