"""`mbrl report` on run directories."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from mbrl.cli import main
from mbrl.experiments.oracle_gap import save
from mbrl.experiments.report_commands import named_runs
from mbrl.experiments.run import Run
from tests.mbrl.comparison_cases import write_run
from tests.mbrl.report_cases import invented_gaps

RETURNS = {"sac": [-1400.0, -1200.0, -1000.0], "td3": [-1400.0, -1300.0]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs")
    for algorithm, returns in RETURNS.items():
        for seed in range(2):
            write_run(made / algorithm, algorithm, seed, [ret - seed for ret in returns], every=30)
    return made


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_runs_are_reported(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged one is neither dropped in silence, nor the end of it all."""
    out, others = tmp_path / "report", tmp_path / "others"
    shutil.copytree(root / "td3", others)
    broken = shutil.copytree(next(root.glob("td3/*__1__*")), others / "Pendulum-v1__td3__2__20260101-000000")
    (broken / "metrics.jsonl").write_text("{damaged\n")
    unsigned = shutil.copytree(broken, others / "Pendulum-v1__td3__3__20260101-000000")
    (unsigned / "config.json").write_text("{damaged")
    bare = shutil.copytree(broken, others / "Pendulum-v1__td3__4__20260101-000000")
    (bare / "config.json").unlink()
    assert main(["report", str(root / "sac"), f"other={others}", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"report: {out / 'report.html'}" in printed
    found = rows(out / "csv" / "at_budget.csv")
    assert [(row["env_id"], row["algorithm"], row["n"]) for row in found] == [
        ("Pendulum-v1", "sac", "2"),
        ("Pendulum-v1", "other", "2"),
    ]
    (task,) = rows(out / "csv" / "tasks.csv")
    assert task["budget"] == "60"  # which both have
    evaluations = [row for row in rows(out / "csv" / "evaluations.csv") if row["algorithm"] == "sac"]
    assert [int(row["steps"]) for row in evaluations] == [30, 60, 90] * 2
    page = unescape((out / "report.html").read_text())
    assert "A comparison of algorithms" in page  # none of them has a model
    assert "Missing runs" in page
    for words in ("fewer than 10 seeds", f"{broken / 'metrics.jsonl'}, line 1: expected a JSON object"):
        assert words in printed
        assert words in page
    for words in (f"{unsigned / 'config.json'} is damaged", f"run directory with a config.json, got '{bare}'"):
        assert words in printed
        assert words in page


def test_a_damaged_oracle_gap_is_told(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = shutil.copytree(root / "sac", tmp_path / "runs")
    path = sorted(runs.iterdir())[0]
    (path / "oracle_gap.json").write_text("{}")
    assert main(["report", str(runs), "--out", str(tmp_path / "report")]) == 0
    warning = f"no oracle gap of sac on Pendulum-v1, seed 0: {path / 'oracle_gap.json'} is damaged"
    assert f"warning: {warning}" in capsys.readouterr().out
    assert warning in unescape((tmp_path / "report" / "report.html").read_text())


def test_gaps_are_told_apart_by_label_and_stale_ones_are_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow, wide = (shutil.copytree(root / "sac", tmp_path / name) for name in ("narrow", "wide"))
    for folder, better in ((narrow, 500.0), (wide, 10.0)):
        for path in sorted(folder.iterdir()):
            true = {"true": (-100.0, -100.0 - path.name.count("1")), "learned": (-100.0 - better, -100.0 - better)}
            save(replace(invented_gaps()[0], returns=true, steps=17), path)
            (path / "checkpoints" / "000001-step90").mkdir(parents=True)
    out = tmp_path / "report"
    assert main(["report", f"narrow={narrow}", f"wide={wide}", "--out", str(out)]) == 0
    pooled = [row for row in rows(out / "csv" / "oracle_gap.csv") if row["seed"] == "all"]
    assert [row["algorithm"] for row in pooled] == ["narrow", "wide"]
    assert float(pooled[0]["model_gap"]) > 490 > 20 > float(pooled[1]["model_gap"])
    assert "Pendulum-v1, narrow, whole episodes" in unescape((out / "report.html").read_text())
    stale = "the oracle gap of wide on Pendulum-v1, seed 1, is of the model after 17 steps, and the run went on"
    assert stale in capsys.readouterr().out


def test_runs_that_went_on_with_other_settings_or_software_are_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = shutil.copytree(root / "sac", tmp_path / "runs")
    run = Run.open(sorted(runs.iterdir())[0])
    run.change({**run.config, "learner": {**run.config["learner"], "lr": 1e-5}})
    run.keep_changes()
    monkeypatch.setattr("mbrl.experiments.run.git_commit", lambda: "b" * 40)
    run.note_process()
    assert main(["report", str(runs), "--out", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr().out
    assert "went on with other settings (lr; mbrl resume --settings)" in printed
    assert "was made and trained with several versions of this library: " in printed
    assert f" at {'b' * 12}" in printed


def test_the_printed_command_makes_the_same_report(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With names, budgets and thresholds; csv/ and the page come out alike."""
    named = [f"first={root / 'sac'}", f"second={root / 'td3'}"]
    options = ["--budget", "Pendulum-v1=60", "--threshold", "Pendulum-v1=-1250"]
    assert main(["report", *named, "--out", str(tmp_path / "one"), *options]) == 0
    page = (tmp_path / "one" / "report.html").read_text()
    (printed,) = re.findall(r"(mbrl report [^<]*)</code>", page)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(shlex.split(unescape(printed))[1:]) == 0
    assert (tmp_path / "elsewhere" / "report" / "report.html").read_text() == page
    for file in (tmp_path / "one" / "csv").glob("*.csv"):
        assert (tmp_path / "elsewhere" / "report" / "csv" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (
            ["--budget", "Hopper-v5=10"],
            "budget: expected ENV_ID=NUMBER, once for one of Pendulum-v1, got 'Hopper-v5=10'",
        ),
        (["--budget", "Pendulum-v1=1.5"], "budget: expected a whole number of steps"),
        (["--threshold", "Pendulum-v1=nan"], "threshold: expected ENV_ID=NUMBER"),
        (["--threshold", "Pendulum-v1=1", "Pendulum-v1=2"], "threshold: expected ENV_ID=NUMBER, once"),
    ],
)
def test_bad_numbers_are_named(
    root: Path, tmp_path: Path, extra: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(root / "sac"), "--out", str(tmp_path / "r"), *extra]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_runs_are_found(root: Path, tmp_path: Path) -> None:
    inside = sorted((root / "sac").iterdir())
    assert named_runs([str(root / "sac")]) == [("sac", path) for path in inside]
    lost = tmp_path / "lost" / "Pendulum-v1__redq__0__20260101-000000"
    lost.mkdir(parents=True)
    (lost / "config.json").write_text("{damaged")
    assert named_runs([str(tmp_path / "lost")]) == [("redq", lost)]
    assert named_runs([f"mine={inside[1]}"]) == [("mine", inside[1])]
    odd = tmp_path / "lr=1"
    shutil.copytree(inside[0], odd / "run")
    assert named_runs([str(odd)]) == [("sac", odd / "run")]
    with pytest.raises(ValueError, match=r"runs: expected a run directory, or a folder of them, got .*empty"):
        named_runs([str(tmp_path / "empty")])
    with pytest.raises(ValueError, match="runs: expected at least one run directory, got none"):
        named_runs([])
