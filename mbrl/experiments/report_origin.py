"""Where a report's numbers come from: settings, runs, versions, machine, commands; and what its words mean."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from mbrl.experiments.findings import SettingDifference, Summary
from mbrl.experiments.markup import Markup, el
from mbrl.experiments.report_sections import Section, Styles, part
from mbrl.experiments.report_style import NOTHING, counted, number, several
from mbrl.experiments.report_tables import details, key, table

WORDS = {
    "budget": "real environment steps that all algorithms have; everything that is compared is compared there",
    "interquartile mean": "mean of the middle half of the runs: one lucky or broken run does not decide it",
    "95 % interval": "made so that it holds the truth in 95 of 100 studies; with few runs that comes out differently, "
    "and the true coverage says how",
    "undecided": "an exact rank test at 5 % does not tell them apart, or would not if failed runs counted as the "
    "worst; more seeds may tell",
    "paired": "of runs with one seed, which share the start states of their evaluations: their difference may vary "
    "less, and the correlation says whether it does",
    "censored": "a run that ended before it reached the threshold: all that is known is that it takes longer",
    "gradient steps": "steps of an optimiser, of learner and model together",
    "model steps": "transitions predicted by a learned model, in planning and in rollouts",
}


def warnings(summary: Summary) -> Markup:
    """What the reader must know first; nothing where there is nothing."""
    found = summary.warnings
    if not found:
        return Markup("")
    title = el("h2", counted(len(found), "warning"), id="warnings")
    return el(
        "section", title, el("ul", [el("li", text) for text in found]), class_="warnings", aria_labelledby="warnings"
    )


def settings(summary: Summary) -> Section | None:
    """Settings that algorithms of a task do not share."""
    if not summary.settings:
        return None
    groups: dict[str, list[SettingDifference]] = defaultdict(list)
    for found in summary.settings:
        groups[found.env_id].append(found)
    blocks = []
    for env_id, rows in groups.items():
        labels = [label for label, _ in rows[0].values]
        cells = [(row.name, *(NOTHING if v is None else _plain(v) for _, v in row.values)) for row in rows]
        listed = table(["setting", *labels], cells, left=1 + len(labels))
        blocks.append(details(f"{env_id}: {counted(len(rows), 'setting')}", listed))
    return part("settings", "Settings that differ", el("p", "All settings of a run are in its config.json."), blocks)


def runs(summary: Summary, styles: Styles) -> Section:
    """Every run, and those that are missing."""
    listed = table(
        ["task", "algorithm", "seed", "return at the budget", "final", "complete", "run directory"],
        [
            (
                row.env_id,
                key(row.label, styles),
                row.seed,
                number(row.at_budget),
                number(row.deterministic),
                "yes" if row.complete else "no",
                el("code", row.path),
            )
            for row in summary.runs
        ],
        left=2,
    )
    missing = table(
        ["task", "algorithm", "seed", "why", "run directory"],
        [
            (
                row.env_id or "unknown",
                row.label,
                NOTHING if row.seed is None else row.seed,
                row.reason,
                el("code", row.path or NOTHING),
            )
            for row in summary.failures
        ],
        caption="Missing runs",
        left=5,
    )
    return part("runs", "Runs", missing, details(f"All {counted(len(summary.runs), 'run')}", listed))


def origin(summary: Summary, study: Mapping[str, Any] | None) -> Section:
    """Versions, commits, machines, and the commands that make it again."""
    versions = table(
        ["made with", "versions"], [(name, several(found)) for name, found in summary.versions.items()], left=2
    )
    machines = table(["machine", "runs"], list(summary.machines.items()))
    commits = table(["git commit", "runs"], [(el("code", commit), count) for commit, count in summary.commits.items()])
    mixed = [name for name, found in summary.versions.items() if len(found) > 1]
    words = f"Runs were made with different versions of {several(mixed)}." if mixed else None
    return part(
        "origin",
        "Versions, machines, and how to make it again",
        el("pre", el("code", "\n".join(_commands(summary, study)))),
        el(
            "p",
            "Runs whose settings are the same are found again and not repeated. On one machine the same seeds give the "
            "same numbers, timings apart; everything directly in ",
            el("code", "csv/"),
            " stays the same, and what depends on the clock or on where runs lie is in ",
            el("code", "csv/timings/"),
            ".",
        ),
        el("p", words) if words else None,
        versions,
        machines,
        commits,
    )


def glossary() -> Section:
    """What words mean here."""
    rows = [el("li", el("strong", word), ": ", meaning, ".") for word, meaning in WORDS.items()]
    return part("words", "Words", el("ul", rows))


def _commands(summary: Summary, study: Mapping[str, Any] | None) -> list[str]:
    commits = [commit for commit in summary.commits if commit != "unknown"]
    checkout = (
        [f"git checkout {shlex.quote(max(commits, key=summary.commits.__getitem__).removesuffix('-dirty'))}"]
        if commits
        else []
    )
    if study and study.get("command"):
        return [*checkout, str(study["command"])]
    places = [(row.label, row.path) for row in summary.runs] + [(row.label, row.path) for row in summary.failures]
    runs = [f"{label}={path}" for label, path in places if path]
    budgets = [f"{task.env_id}={task.budget}" for task in summary.tasks]
    given = [f"{task.env_id}={task.threshold!r}" for task in summary.tasks if task.threshold_source == "given"]
    options = ["--budget", *budgets, *(["--threshold", *given] if given else [])]
    return [*checkout, shlex.join(["mbrl", "report", *runs, *options])]


def _plain(value: str) -> str:
    """JSON text as one would type it: without the quotes of a word."""
    try:
        read = json.loads(value)
    except ValueError:
        return value
    return read if isinstance(read, str) else value
