"""The report of a comparison: what it shows is what was found, nothing gets into it as markup, and bytes recur."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mbrl.experiments import report_style
from mbrl.experiments.figures import FORMATS, readme_figure, write_figures
from mbrl.experiments.findings import Estimate, Summary
from mbrl.experiments.report import write_report
from mbrl.experiments.report_csv import write_csv
from mbrl.experiments.report_html import page
from mbrl.experiments.report_style import TIMED, number
from tests.mbrl.report_cases import ENTRIES, TASKS, Reader, invented_gaps, invented_summary, reduced

STUDY = {"name": "small", "command": "mbrl compare --study small"}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


@pytest.fixture(scope="module")
def summary() -> Summary:
    return invented_summary()


@pytest.fixture(scope="module")
def small(summary: Summary) -> Summary:
    return reduced(summary)


def test_curves_are_steps_and_nothing_lies_between(small: Summary) -> None:
    lines = [attrs for tag, attrs in Reader(page(small)).elements if tag == "path" and attrs.get("class") == "line"]
    drawn = [attrs["d"] or "" for attrs in lines if "H" in (attrs["d"] or "") and "V" in (attrs["d"] or "")]
    assert len(drawn) > 10
    assert not any("L" in path for path in drawn)
    bands = re.findall(r'd="([^"]*)" class="band c0 d0" data-label="pets"', page(small))
    corners = [tuple(map(float, place.split())) for place in re.findall(r"[\d.-]+ [\d.-]+", bands[0])]
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(corners))


def test_what_an_axis_leaves_out_is_told_by_task(summary: Summary) -> None:
    without = ("flops", "Pendulum-v1", "mbpo")
    fewer = tuple(c for c in summary.curves if (c.axis, c.env_id, c.label) != without)
    text = Reader(page(replace(summary, curves=fewer))).text
    assert "Pendulum-v1: mbpo and sb3-ppo: FLOPs not known" in text
    assert "InvertedPendulum-v5, CartPoleSwingUp-v0 and Reacher-v5: sb3-ppo: FLOPs not known" in text


def test_no_interval_is_said_only_where_there_is_none(summary: Summary) -> None:
    """Intervals of probabilities and of shares are there, and their coverage was not simulated."""
    assert "no interval" not in Reader(page(summary)).text
    assert report_style.coverage(Estimate(0.5, 0.2, 0.8, 5, None)) == "\u2013"
    assert report_style.coverage(Estimate(0.5, None, None, 1, None)) == "no interval"
    assert report_style.estimate(Estimate(3.0, 3.0, 3.0, 5, (0.9, 0.9))) == "3 (all runs equal)"


def test_without_both_kinds_the_title_does_not_ask_for_a_model(summary: Summary) -> None:
    free = replace(summary, entries=tuple(replace(entry, model_based=False) for entry in summary.entries))
    assert "Is a model worth it" not in page(replace(free, answers=()), study=STUDY)
    assert "<h1>A comparison of algorithms: small study</h1>" in page(free, study=STUDY)
    assert "<h1>Is a model worth it? Small study</h1>" in page(summary, study=STUDY)


def test_a_report_without_a_command_names_all_that_it_takes(small: Summary) -> None:
    given = tuple(replace(task, threshold=-200.0, threshold_source="given") for task in small.tasks)
    text = Reader(page(replace(small, tasks=given))).text
    assert f"mbrl report pets={small.runs[0].path} " in text
    assert "--budget Pendulum-v1=5000 --threshold Pendulum-v1=-200.0" in text


def test_the_page_shows_what_was_found(summary: Summary) -> None:
    text = Reader(page(summary, study=STUDY, oracle=invented_gaps())).text
    for answer in summary.answers:
        assert answer.question in text
        assert answer.answer in text
    assert text.count("undecided") >= 1
    assert all(warning in text for warning in summary.warnings)
    assert "the fit diverged, twice" in text
    assert "mbrl compare --study small" in text
    assert "2.4.5 and 2.4.6" in text
    found = summary.at_budget[0].iqm
    assert f"{number(found.value)} [{number(found.low)}, {number(found.high)}]" in text
    assert "86\u201391 %" in text
    assert "not by half of the runs" not in text or any(t.median is None for t in summary.thresholds)
    assert "true dynamics, wider search" in text


def test_every_chart_is_there_for_every_axis(summary: Summary) -> None:
    parsed = Reader(page(summary))
    series = [attrs["data-label"] for _, attrs in parsed.elements if "series" in (attrs.get("class") or "").split()]
    tasks, known = (
        len(TASKS),
        {"steps": 5, "minutes": 5, "cpu_minutes": 5, "gradient_steps": 5, "model_steps": 2, "flops": 4},
    )
    assert len(series) == 2 * tasks * sum(known.values()) + len(ENTRIES)  # two ranges, and the profiles
    assert "Not drawn. sac, sb3-ppo and sb3-sac: no model steps." in parsed.text
    assert "sb3-ppo: FLOPs not known, or its runs have no range of it in common." in parsed.text


def test_the_page_stands_alone(summary: Summary) -> None:
    text = page(summary, study=STUDY)
    parsed = Reader(text)
    assert {tag for tag, _ in parsed.elements} & {"link", "img", "iframe", "object", "base", "form"} == set()
    links = [v or "" for _, attrs in parsed.elements for k, v in attrs.items() if k in ("src", "href", "xlink:href")]
    assert all(link.startswith("#") for link in links)
    assert "http:" not in text
    assert "https:" not in text
    assert not any(name.startswith("on") or name == "style" for _, attrs in parsed.elements for name in attrs)


def test_the_policy_names_style_and_script(small: Summary) -> None:
    text = page(small)
    policy = next(
        a["content"] or "" for _, a in Reader(text).elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    for name in ("style", "script"):
        (content,) = re.findall(f"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def hostile(summary: Summary) -> Summary:
    """Every text that comes from a run directory is an attack."""
    entry = replace(summary.entries[0], label=HOSTILE, algo=HOSTILE)
    renamed = {
        name: tuple(replace(row, label=HOSTILE) if row.label == "pets" else row for row in getattr(summary, name))
        for name in ("at_budget", "aggregates", "curves", "costs", "profiles", "thresholds", "finals")
    }
    tasks = tuple(replace(task, threshold_source=HOSTILE, best_label=HOSTILE) for task in summary.tasks)
    return replace(
        summary,
        **renamed,
        entries=(entry, *summary.entries[1:]),
        tasks=tasks,
        answers=tuple(replace(a, question=HOSTILE, answer=HOSTILE) for a in summary.answers),
        settings=tuple(replace(s, name=HOSTILE, values=((HOSTILE, HOSTILE),)) for s in summary.settings),
        runs=tuple(replace(r, label=HOSTILE, path=HOSTILE, commit=HOSTILE) for r in summary.runs),
        failures=tuple(replace(f, label=HOSTILE, path=HOSTILE, reason=HOSTILE) for f in summary.failures),
        improvements=tuple(replace(i, first=HOSTILE) for i in summary.improvements),
        versions={HOSTILE: (HOSTILE, HOSTILE)},
        commits={HOSTILE: 1},
        warnings=(HOSTILE,),
    )


def test_nothing_from_a_run_directory_becomes_markup(summary: Summary) -> None:
    attacked = hostile(reduced(summary))
    parsed = Reader(page(attacked, study={"name": HOSTILE, "command": HOSTILE}))
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert not any(name.startswith("on") for _, attrs in parsed.elements for name in attrs)
    assert parsed.text.count(HOSTILE) > 20


def test_a_poor_summary_has_a_page(small: Summary, tmp_path: Path) -> None:
    """One seed: no interval anywhere; and no curves, thresholds or pairs."""

    def bare(found: Estimate) -> Estimate:
        return replace(found, low=None, high=None, n=1, coverage=None)

    poor = replace(
        small,
        **dict.fromkeys(
            ("answers", "curves", "improvements", "profiles", "thresholds", "paired", "differences", "costs"), ()
        ),
        **dict.fromkeys(("detectable", "finals", "failures", "warnings", "settings"), ()),
        at_budget=tuple(replace(r, iqm=bare(r.iqm), mean=bare(r.mean), score=bare(r.score)) for r in small.at_budget),
        aggregates=tuple(replace(r, iqm=bare(r.iqm), mean=bare(r.mean)) for r in small.aggregates),
    )
    text = Reader(write_report(poor, tmp_path).read_text()).text
    assert "(no interval)" in text
    assert "Return against cost" not in text
    assert not (tmp_path / "csv" / "curves.csv").exists()
    assert (tmp_path / "figures" / "returns.png").exists()


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables_hold_the_numbers_exactly(summary: Summary, tmp_path: Path) -> None:
    write_csv(summary, invented_gaps(), tmp_path)
    rows = read(tmp_path / "at_budget.csv")
    assert [(r["env_id"], r["algorithm"], float(r["iqm"]), float(r["low"])) for r in rows] == [
        (a.env_id, a.label, a.iqm.value, a.iqm.low) for a in summary.at_budget
    ]
    evaluations = [
        row for row in read(tmp_path / "evaluations.csv") if row["seed"] == "3" and row["algorithm"] == "sac"
    ]
    run = next(r for r in summary.runs if (r.label, r.seed, r.env_id) == ("sac", 3, "Pendulum-v1"))
    mine = [row for row in evaluations if row["env_id"] == "Pendulum-v1"]
    assert [(int(r["steps"]), float(r["return"])) for r in mine] == list(zip(run.steps, run.returns, strict=True))
    assert rows[0]["seeds"] == "0 1 2 3 4"
    assert float(rows[0]["mean_low"]) == summary.at_budget[0].mean.low
    assert [row["reason"] for row in read(tmp_path / "timings" / "failures.csv")] == ["the fit diverged, twice"]
    assert [row["warning"] for row in read(tmp_path / "timings" / "warnings.csv")] == list(summary.warnings)
    assert {"median", "smallest", "largest"} <= set(read(tmp_path / "costs.csv")[0])
    curve = next(c for c in summary.curves if (c.env_id, c.label, c.axis) == ("Reacher-v5", "mbpo", "model_steps"))
    drawn = [
        r
        for r in read(tmp_path / "curves.csv")
        if (r["env_id"], r["algorithm"], r["axis"]) == ("Reacher-v5", "mbpo", "model_steps")
    ]
    assert [float(r["x"]) for r in drawn] == list(curve.x)
    assert [float(r["high"]) for r in drawn] == list(curve.high or ())
    pooled = read(tmp_path / "oracle_gap.csv")[-2]
    assert (pooled["seed"], float(pooled["planner_gap"]), float(pooled["model_gap"])) == (
        "all",
        pytest.approx(2),
        pytest.approx(12),
    )


def test_what_the_clock_decides_is_apart(summary: Summary, tmp_path: Path) -> None:
    """Another machine is slower and has its runs elsewhere: csv/ stays as it was."""
    slower = replace(
        summary,
        curves=tuple(replace(c, x=tuple(2 * x for x in c.x)) if c.axis in TIMED else c for c in summary.curves),
        costs=tuple(replace(c, median=1.0) if c.axis in TIMED else c for c in summary.costs),
        thresholds=tuple(replace(t, median=1.0) if t.axis in TIMED else t for t in summary.thresholds),
        runs=tuple(
            replace(
                r,
                path="/x",
                commit="c",
                costs={k: tuple((1 + (k in TIMED)) * x for x in v) for k, v in r.costs.items()},
            )
            for r in summary.runs
        ),
    )
    folders = tmp_path / "a", tmp_path / "b"
    for one, folder in zip((summary, slower), folders, strict=True):
        write_csv(one, (), folder)
    names = sorted(path.name for path in folders[0].glob("*.csv"))
    assert len(names) > 10
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)
    timed = sorted(path.name for path in (folders[0] / "timings").glob("*.csv"))
    changed = [
        n for n in timed if (folders[0] / "timings" / n).read_bytes() != (folders[1] / "timings" / n).read_bytes()
    ]
    assert changed == ["costs.csv", "curves.csv", "evaluations.csv", "runs.csv", "thresholds.csv"]


def test_a_cell_is_no_formula(small: Summary, tmp_path: Path) -> None:
    attacked = replace(small, runs=tuple(replace(run, label="=cmd|' /C calc'!A0") for run in small.runs))
    write_csv(attacked, (), tmp_path)
    assert {row["algorithm"] for row in read(tmp_path / "runs.csv")} == {"'=cmd|' /C calc'!A0"}


def test_same_input_same_bytes_and_nothing_stale(small: Summary, tmp_path: Path) -> None:
    """Few figures: each takes its time."""
    few = replace(
        small,
        at_budget=(),
        aggregates=(),
        improvements=(),
        curves=tuple(c for c in small.curves if c.axis == "minutes"),
    )
    gaps = invented_gaps()[:2]
    for folder in ("a", "b"):
        assert write_report(few, tmp_path / folder, study=STUDY, oracle=gaps) == tmp_path / folder / "report.html"
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()}
    drawn = {path.name for path in files if path.parent.name == "figures"}
    names = ("curves_minutes", "profiles", "oracle_gap")
    assert drawn == {f"{name}.{ending}" for name in names for ending in FORMATS}
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert (tmp_path / "a" / "figures" / "profiles.png").read_bytes().startswith(b"\x89PNG")
    assert ET.parse(tmp_path / "a" / "figures" / "profiles.svg").getroot().tag.endswith("svg")
    write_figures(replace(few, profiles=(), curves=()), (), tmp_path / "b" / "figures")
    write_csv(replace(few, profiles=()), (), tmp_path / "b" / "csv")
    assert list((tmp_path / "b" / "figures").iterdir()) == []
    gone = files - {path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*")}
    assert {path.name for path in gone} == {*drawn, "profiles.csv", "oracle_gap.csv"}


def test_the_picture_for_a_readme_is_small(small: Summary, tmp_path: Path) -> None:
    picture = readme_figure(small, tmp_path / "new" / "figure.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 200_000
    with pytest.raises(ValueError, match="summary: expected curves"):
        readme_figure(replace(small, curves=()), tmp_path / "x.png")


def test_invented_curves_are_what_they_say(summary: Summary) -> None:
    """The case itself: the middle of the band is the mean of the runs."""
    curve = summary.curves[0]
    runs = [run for run in summary.runs if (run.env_id, run.label) == (curve.env_id, curve.label)]
    assert np.allclose(np.mean([run.returns for run in runs], axis=0), curve.value)
