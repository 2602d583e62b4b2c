"""The second half of a report: thresholds, pairs, costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from mbrl.experiments.charts import Guide
from mbrl.experiments.findings import Difference, Improvement, Paired, Summary, ToThreshold, lost_runs
from mbrl.experiments.interval_charts import Row, interval_chart
from mbrl.experiments.markup import el
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
    share,
)
from mbrl.experiments.report_tables import details, figure, key, side_by_side, table


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
                ["algorithm", "reached by", "median", "95 % interval", f"mean up to {_horizon(here)}"],
                [
                    (
                        key(found.label, styles),
                        f"{found.reached} of {found.n}{lost_runs(found.failed, found.short)}",
                        "not by half of the runs" if found.median is None else number(found.median),
                        _bounds(found),
                        number(found.restricted_mean),
                    )
                    for found in here
                ],
                caption=f"{task.env_id}: {SHORT[axis]} to a return of {number(task.threshold)}",
            )
            source = el("p", f"Threshold: {task.threshold_source}.", class_="note")
            tables.append(el("div", listed, source, data_axis=axis))
    return part(
        "thresholds",
        "Cost to a threshold",
        el(
            "p",
            "Runs that never reach the threshold count as “not until their end” (they are censored: Kaplan-Meier), "
            "never as missing, and failed runs as those that never reach it. That flatters an algorithm of which runs "
            "were stopped early: an answer has to hold with those as runs that never get there, too. The mean counts "
            "every run up to one common end, so that algorithms can be compared of which some runs do not reach it.",
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
            ["a run of … beats one of …", "probability", "runs"],
            [(f"{f.first} > {f.second}", estimate(f.probability, share), f.probability.n) for f in found],
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
        side_by_side([figure("Mean over all tasks" if None in groups else lead[0].env_id, chart)]),
        details("By task", tables),
    )


def pairs(summary: Summary) -> Section | None:
    """Differences between algorithms, and what so many seeds could have shown."""
    if not summary.differences:
        return None
    paired = by(summary.paired, "env_id", "first", "second")
    power = by(summary.detectable, "env_id", "first", "second")
    apart, together = [], []
    for task in summary.tasks:
        here = [found for found in summary.differences if found.env_id == task.env_id]
        columns = ["", "difference", "true coverage", "runs of each", "p", "smallest detectable"]
        apart.append(table(columns, [_difference(found, power) for found in here], caption=task.env_id))
        rows = [_pair(paired[which]) for f in here if (which := (f.env_id, f.first, f.second)) in paired]
        columns = ["", "paired difference", "true coverage", "pairs", "correlation"]
        together.append(table(columns, rows, caption=task.env_id))
    return part(
        "pairs",
        "Differences, and what this many seeds can show",
        el(
            "p",
            "Differences of interquartile means in return at the budget; p is that of the rank test by which answers "
            "decide. The smallest detectable difference is the true one that this test would find in four of five "
            "studies of so many runs, were returns normal. A difference that was seen and is smaller may well be luck: "
            "more seeds would tell.",
        ),
        details("Differences by task", apart),
        el(
            "p",
            "Runs of one seed share the start states of their evaluations, and nothing else. Where their returns go "
            "together, as the correlation says, the interquartile mean of differences between them is more exact; "
            "where it is about 0 or below, it is not.",
        ),
        details("The same between runs of one seed", together),
    )


def _difference(found: Difference, power: Mapping) -> tuple:
    least = power.get((found.env_id, found.first, found.second))
    return (
        f"{found.first} {MINUS} {found.second}",
        estimate(found.difference),
        coverage(found.difference),
        found.difference.n,
        number(found.p, 2),
        number(least.difference) if least else NOTHING,
    )


def _pair(found: Paired) -> tuple:
    return (
        f"{found.first} {MINUS} {found.second}",
        estimate(found.difference),
        coverage(found.difference),
        found.difference.n,
        share(found.correlation),
    )


def finals(summary: Summary, styles: Styles) -> Section | None:
    """The evaluations at the end of the runs."""
    if not any(found.deterministic or found.stochastic for found in summary.finals):
        return None
    tables = [
        table(
            ["algorithm", "deterministic", "stochastic", "runs", "without one", "diverged", "episodes"],
            [
                (
                    key(found.label, styles),
                    estimate(found.deterministic) if found.deterministic else NOTHING,
                    estimate(found.stochastic) if found.stochastic else NOTHING,
                    found.runs,
                    found.missing,
                    found.diverged,
                    ", ".join(map(str, found.episodes)) or NOTHING,
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
            "draw. Runs without one are left out; one that diverged counts as the worst return of the task.",
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
