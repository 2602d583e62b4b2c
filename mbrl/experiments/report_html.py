"""The page of a report: one file that needs nothing else, and that loads nothing.

Style and script stand in the file, and a content security policy names them by their digests: whatever else got into
the page would neither run nor be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from mbrl.experiments import report_details, report_oracle, report_origin, report_sections
from mbrl.experiments.findings import Summary
from mbrl.experiments.markup import el, verbatim
from mbrl.experiments.oracle_gap import OracleGap
from mbrl.experiments.report_sections import Section
from mbrl.experiments.report_style import counted, several, short_task, styles


def page(summary: Summary, *, study: Mapping[str, Any] | None = None, oracle: Sequence[OracleGap] = ()) -> str:
    """The whole HTML text."""
    css, js = (
        resources.files("mbrl.experiments").joinpath("report_assets", name).read_text()
        for name in ("report.css", "report.js")
    )
    title = _title(summary, study)
    sections = _sections(summary, study, oracle)
    policy = f"default-src 'none'; style-src '{_digest(css)}'; script-src '{_digest(js)}'; base-uri 'none'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        verbatim("style", css),
    )
    body = el(
        "main",
        el("header", el("h1", title), el("p", _lead(summary), class_="lead")),
        report_origin.warnings(summary),
        el("nav", el("ul", [el("li", el("a", s.title, href=f"#{s.id}")) for s in sections]), aria_label="Sections"),
        [el("section", el("h2", s.title, id=s.id), s.body) for s in sections],
        el("footer", el("p", "Written by mbrl-planners.", class_="note")),
    )
    return f"<!doctype html>\n{el('html', head, el('body', body, verbatim('script', js)), lang='en')}\n"


def _sections(summary: Summary, study: Mapping[str, Any] | None, oracle: Sequence[OracleGap]) -> list[Section]:
    lines = styles(summary.entries)
    found = [
        report_sections.answers(summary),
        report_sections.scores(summary, lines),
        report_sections.curves(summary, lines),
        report_details.thresholds(summary, lines),
        report_sections.returns(summary, lines),
        report_details.improvement(summary),
        report_sections.profiles(summary, lines),
        report_details.pairs(summary),
        report_details.finals(summary, lines),
        report_details.costs(summary, lines),
        report_oracle.oracle(oracle),
        report_origin.settings(summary),
        report_origin.runs(summary, lines),
        report_origin.origin(summary, study),
        report_origin.glossary(),
    ]
    return [section for section in found if section is not None]


def _title(summary: Summary, study: Mapping[str, Any] | None) -> str:
    """The question, where there are algorithms with a model and without."""
    both = len({entry.model_based for entry in summary.entries}) > 1
    asked = "Is a model worth it?" if both else "A comparison of algorithms"
    name = study.get("name") if study else None
    if not name:
        return asked
    return f"{asked} {str(name).capitalize()} study" if both else f"{asked}: {name} study"


def _lead(summary: Summary) -> str:
    tasks = several(f"{short_task(task.env_id)} ({task.budget:,} real steps)" for task in summary.tasks)
    with_model = [entry.label for entry in summary.entries if entry.model_based]
    without = [entry.label for entry in summary.entries if not entry.model_based]
    compared = " against ".join(
        words
        for words, there in (
            (f"{several(with_model)}, which learn{'s' if len(with_model) == 1 else ''} a model,", with_model),
            (f"{several(without)}, which do{'es' if len(without) == 1 else ''} not,", without),
        )
        if there
    ).rstrip(",")
    seeds = sorted({row.seed for row in summary.runs})
    return f"{compared}, on {tasks}. {counted(len(summary.runs), 'run')}, {counted(len(seeds), 'seed')}."


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
