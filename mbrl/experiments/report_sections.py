"""The first half of a report: what it found, as sentences, scores, curves and returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from mbrl.experiments.charts import Guide, Line, line_chart
from mbrl.experiments.findings import Answer, Curve, Estimate, Summary, TaskInfo
from mbrl.experiments.interval_charts import Row, interval_chart
from mbrl.experiments.markup import Markup, el
from mbrl.experiments.report_style import (
    AXES,
    SHORT,
    Style,
    by,
    coverage,
    estimate,
    number,
    percent,
    several,
    share,
    short_task,
)
from mbrl.experiments.report_tables import details, figure, key, legend, side_by_side, switch, table

Styles = dict[str, Style]
BEYOND = 1.05
"""A run that lasts so many budgets has gone on behind it."""


class Section(NamedTuple):
    """A part of the page with a heading."""

    id: str
    title: str
    body: Markup


def part(name: str, title: str, *children: object) -> Section:
    """A section with an id, a heading and content."""
    return Section(name, title, el("div", *children))


def answers(summary: Summary) -> Section | None:
    """A sentence for each question."""
    if not summary.answers:
        return None
    groups: dict[str | None, list[Answer]] = {None: []}
    for found in summary.answers:
        groups.setdefault(found.env_id, []).append(found)
    tasks = [
        [el("h3", short_task(env_id)) if len(groups) > 2 else None, side_by_side([_answer(one) for one in those])]
        for env_id, those in groups.items()
        if env_id is not None
    ]
    return part("answers", "Answers", [_answer(found) for found in groups[None]], tasks)


def scores(summary: Summary, styles: Styles) -> Section | None:
    """All tasks together."""
    if not summary.aggregates:
        return None
    rows = [_row(found.label, styles, found.iqm) for found in summary.aggregates]
    chart = interval_chart(
        rows,
        name="Interquartile mean of scores over all tasks, with 95 % intervals",
        x_name="score at the budget",
        guides=[Guide(0, "the uniformly random policy"), Guide(1, "the best algorithm of each task")],
    )
    listed = table(
        ["algorithm", "interquartile mean", "mean", "tasks", "runs a task", "true coverage"],
        [
            (key(a.label, styles), estimate(a.iqm, share), estimate(a.mean, share), a.tasks, a.iqm.n, coverage(a.iqm))
            for a in summary.aggregates
        ],
    )
    return part(
        "scores",
        "All tasks together",
        el(
            "p",
            "A score of 0 is the uniformly random policy and 1 the best algorithm's interquartile mean on the task at "
            "its budget, both measured here. Scores rank what was compared, and are no scale for other studies.",
        ),
        el("div", figure("Score at the budget", chart), listed, class_="pair"),
    )


def curves(summary: Summary, styles: Styles) -> Section | None:
    """Return against each cost, of every task."""
    drawn = [curve for curve in summary.curves if curve.statistic == "iqm"]
    axes = [axis for axis in AXES if any(_known(curve) for curve in drawn if curve.axis == axis)]
    if not axes:
        return None
    budgets = {task.env_id: task.budget for task in summary.tasks}
    longer = any(curve.x[-1] > BEYOND * budgets[curve.env_id] for curve in drawn if curve.axis == "steps" and curve.x)
    ranges = {"budget": "to the budget", "whole": "whole runs, logarithmic"}
    switches = [
        switch("axis", "against", {axis: SHORT[axis] for axis in axes}, axes[0]),
        switch("range", "showing", ranges, "whole" if longer else "budget"),
    ]
    shown = [
        el(
            "div",
            side_by_side([_task_curves(summary, task, axis, span == "whole", styles) for task in summary.tasks]),
            _absent(drawn, axis, summary),
            data_axis=axis,
            data_range=span,
        )
        for axis in axes
        for span in ranges
    ]
    return part(
        "curves",
        "Return against cost",
        el(
            "p",
            "Interquartile mean of the runs' deterministic evaluations, with 95 % intervals. Whole lines learn a "
            "model, broken ones do not. Bands that go far beyond the lines are cut off at the frame.",
        ),
        el("div", switches, class_="switches"),
        legend(styles),
        shown,
    )


def returns(summary: Summary, styles: Styles) -> Section | None:
    """Every run's return at the budget."""
    if not summary.at_budget:
        return None
    found = by(summary.at_budget, "env_id", "label")
    charts, tables = [], []
    for task in summary.tasks:
        here = [found[task.env_id, e.label] for e in summary.entries if (task.env_id, e.label) in found]
        rows = [_row(one.label, styles, one.iqm, one.returns) for one in here]
        name = f"{task.env_id}: returns at {task.budget:,} steps"
        chart = interval_chart(rows, name=name, x_name="return", guides=[Guide(task.random_return, "random policy")])
        charts.append(
            figure([short_task(task.env_id), " ", el("span", f"at {task.budget:,} steps", class_="soft")], chart)
        )
        tables.append(
            table(
                ["algorithm", "interquartile mean", "mean", "score", "runs", "true coverage"],
                [
                    (
                        key(o.label, styles),
                        estimate(o.iqm),
                        estimate(o.mean),
                        estimate(o.score, share),
                        o.iqm.n,
                        coverage(o.iqm),
                    )
                    for o in here
                ],
                caption=f"{task.env_id} (random policy: {number(task.random_return)}, best: {task.best_label})",
            )
        )
    return part(
        "returns",
        "Every run at the budget",
        el(
            "p",
            "Dots are runs, one for each seed; the diamond is their interquartile mean, the bar its 95 % interval, "
            "and the dotted line the uniformly random policy. The true coverage says how often such an interval "
            "really holds the truth with this many runs, over returns of several shapes.",
        ),
        side_by_side(charts),
        details("The same as numbers", tables),
    )


def profiles(summary: Summary, styles: Styles) -> Section | None:
    """Performance profiles."""
    if not summary.profiles:
        return None
    lines = [Line(p.label, styles[p.label], p.score, p.share, p.low, p.high) for p in summary.profiles]
    chart = line_chart(
        lines,
        name="Share of runs above each score",
        x_name="score",
        y_name="share of runs above it",
        y_range=(0, 1.02),
        format_y=percent,
    )
    return part(
        "profiles",
        "Performance profiles",
        el("p", "The share of an algorithm's runs, over all tasks, whose score at the budget is above each value."),
        legend(styles),
        side_by_side([figure("Runs above a score", chart)]),
    )


def line_of(curve: Curve, styles: Styles) -> Line:
    """A curve of the summary as a line of a chart."""
    return Line(curve.label, styles[curve.label], curve.x, curve.value, curve.low, curve.high, stepped=True)


def budget_end(summary: Summary, task: TaskInfo, axis: str) -> float | None:
    """How far an axis goes where all runs are cut at the budget: the most that one of them has spent there."""
    if axis == "steps":
        return float(task.budget)
    spent = [cost.high for cost in summary.costs if (cost.env_id, cost.axis) == (task.env_id, axis)]
    known = [high for high in spent if high is not None and math.isfinite(high) and high > 0]
    return max(known) if known else None


def _task_curves(summary: Summary, task: TaskInfo, axis: str, whole: bool, styles: Styles) -> Markup:
    here = [
        curve
        for curve in summary.curves
        if (curve.env_id, curve.axis, curve.statistic) == (task.env_id, axis, "iqm") and _known(curve)
    ]
    end = budget_end(summary, task, axis)
    chart = line_chart(
        [line_of(curve, styles) for curve in here],
        name=f"{task.env_id}: return against {AXES[axis]}",
        x_name=SHORT[axis],
        y_name="return",
        log=whole,
        x_range=None if whole or end is None else (0.0, end),
        across=Guide(task.threshold, f"threshold {number(task.threshold)}"),
        down=Guide(task.budget, "budget") if whole and axis == "steps" else None,
    )
    goal = el("span", f"dotted: threshold {number(task.threshold)}", class_="soft")
    return figure([short_task(task.env_id), " ", goal], chart)


def _absent(drawn: Sequence[Curve], axis: str, summary: Summary) -> Markup | None:
    """Which labels an axis leaves out on which task, and why."""
    told: dict[str, list[str]] = {}
    for task in summary.tasks:
        here = [curve for curve in drawn if (curve.axis, curve.env_id) == (axis, task.env_id)]
        there = {curve.label for curve in here if _known(curve)}
        none = {curve.label for curve in here if curve.x and max(curve.x) == 0} - there
        unknown = [entry.label for entry in summary.entries if entry.label not in there | none]
        words = [f"{several(sorted(none))}: no {SHORT[axis]}."] if none else []
        if unknown:
            words.append(f"{several(unknown)}: {SHORT[axis]} not known, or its runs have no range of it in common.")
        if words:
            told.setdefault(" ".join(words), []).append(short_task(task.env_id))
    if not told:
        return None
    everywhere = len(told) == 1 and len(next(iter(told.values()))) == len(summary.tasks)
    texts = [words if everywhere else f"{several(tasks)}: {words}" for words, tasks in told.items()]
    return el("p", "Not drawn. ", " ".join(texts), class_="note")


def _known(curve: Curve) -> bool:
    return any(math.isfinite(x) and x > 0 for x in curve.x)


def _row(label: str, styles: Styles, found: Estimate, dots: Sequence[float] = ()) -> Row:
    return Row(label, styles[label], found.value, found.low, found.high, dots)


def _answer(found: Answer) -> Markup:
    badge = None if found.decided else el("span", "undecided", class_="badge")
    return el(
        "div",
        el("h4", found.question, badge),
        el("p", found.answer),
        class_="answer",
    )
