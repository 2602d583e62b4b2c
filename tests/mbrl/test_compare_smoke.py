"""The smoke study from end to end, once in peace and once killed with -9 in the middle: the same report."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mbrl.experiments import runs
from mbrl.experiments.cell_status import FILE
from mbrl.experiments.checkpoint import checkpoints
from mbrl.experiments.final_evaluation import read_final
from mbrl.experiments.run import Run
from tests.mbrl.compare_cases import numbers


def compare(folder: Path) -> subprocess.Popen[bytes]:
    """What `make compare-smoke` starts."""
    options = ["--study", "smoke", "--jobs", "2", "--oracle-episodes", "1"]
    places = ["--root", str(folder / "runs"), "--out", str(folder / "out")]
    folder.mkdir(exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "mbrl", "compare", *options, *places], stdout=log, stderr=log)


def cells(folder: Path) -> list[dict[str, object]]:
    file = folder / "out" / FILE
    return json.loads(file.read_text())["cells"] if file.exists() else []


def in_the_middle(folder: Path) -> bool:
    """Whether two runs go on, one of which has a checkpoint between its start and its end."""
    going = [Path(str(cell["path"])) for cell in cells(folder) if cell["state"] == "running"]
    newest = {run: int(path.name.split("-step")[1]) for run in going for path in checkpoints(run)[:1]}
    return len(going) == 2 and any(0 < step < runs.total(Run.open(run)) for run, step in newest.items())


def ended(process: subprocess.Popen[bytes], folder: Path) -> None:
    assert process.wait() == 0, (folder / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.timeout(4 * 3_600)
def test_the_smoke_study_killed_in_the_middle_ends_with_the_same_report(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ended(compare(whole), whole)

    process = compare(broken)
    while not in_the_middle(broken) and process.poll() is None:
        time.sleep(0.1)
    process.kill()
    process.wait()
    interrupted = [cell for cell in cells(broken) if cell["state"] == "running"]
    assert len(interrupted) == 2
    ended(compare(broken), broken)

    for first, second in zip(cells(whole), cells(broken), strict=True):
        assert [first[key] for key in ("env_id", "label", "seed")] == [
            second[key] for key in ("env_id", "label", "seed")
        ]
        here, there = Path(str(first["path"])), Path(str(second["path"]))
        assert numbers(here) == numbers(there)
        assert read_final(here).deterministic == read_final(there).deterministic
        assert read_final(here).stochastic == read_final(there).stochastic
    tables = sorted(path.name for path in (whole / "out" / "csv").glob("*.csv"))
    assert tables == sorted(path.name for path in (broken / "out" / "csv").glob("*.csv"))
    for name in tables:
        assert (whole / "out" / "csv" / name).read_bytes() == (broken / "out" / "csv" / name).read_bytes(), name
    assert [len(cell["attempts"]) for cell in cells(broken)].count(2) == 2
