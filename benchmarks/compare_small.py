"""Finished runs of `mbrl compare --study small` as lines of results/compare_small.jsonl, and back.

`python -m benchmarks.compare_small keep --root runs` adds those that are not in the file yet. `... restore --root runs`
makes run directories of its lines: then `make compare-small` trains what is missing and writes the report, in minutes
where nothing is. A line has a run's config.json, evaluation.json and oracle_gap.json as they were, and of its
metrics.jsonl the evaluations with what had been spent until then, which is what a report reads.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS
from mbrl.experiments.compare import Comparison
from mbrl.experiments.costs import GRADIENT_STEPS, MODEL_STEPS
from mbrl.experiments.metrics import METRICS, STEP, append_metrics, read_metrics
from mbrl.experiments.oracle_gap import FILE as ORACLE
from mbrl.experiments.results import FINAL
from mbrl.experiments.run import CONFIG
from mbrl.experiments.study import STUDIES

FILE = RESULTS / "compare_small.jsonl"
COUNTERS = (STEP, *GRADIENT_STEPS, *MODEL_STEPS, "time/wall_clock", "time/cpu_seconds")
RETURN = "eval/mean_reward"


def line_of(path: Path) -> dict[str, Any]:
    """What is kept of a finished run."""
    files = {name: (path / name).read_text() for name in (CONFIG, FINAL, ORACLE) if (path / name).exists()}
    return {"run": path.name, "files": files, "evaluations": list(_evaluations(path))}


def _evaluations(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of metrics.jsonl with a return, each with the newest value of every counter."""
    spent: dict[str, Any] = {}
    for row in read_metrics(path):
        spent |= {name: row[name] for name in COUNTERS if row.get(name) is not None}
        if RETURN in row:
            yield {**spent, RETURN: row[RETURN]}


def restore(line: dict[str, Any], root: Path) -> Path:
    """The run directory of a line, made where there is none yet."""
    path = root / line["run"]
    if (path / CONFIG).exists():
        return path
    path.mkdir(parents=True, exist_ok=True)
    (path / METRICS).unlink(missing_ok=True)  # of a restore that was killed
    for row in line["evaluations"]:
        append_metrics(path, row)
    for name in sorted(line["files"], key=CONFIG.__eq__):  # config.json last: without it, nobody takes it for a run
        (path / name).write_text(line["files"][name])
    return path


def lines() -> list[dict[str, Any]]:
    """Those that are kept."""
    return [json.loads(text) for text in FILE.read_text().splitlines()] if FILE.exists() else []


def finished(root: Path) -> list[Path]:
    """The study's runs in `root` with which nothing is left to do."""
    with tempfile.TemporaryDirectory() as aside:
        comparison = Comparison.prepare(STUDIES["small"], root=root, out=Path(aside), oracle_episodes=2)
    return [status.path for status in comparison.statuses if status.state == "done" and status.path]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("keep", "restore"))
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of run directories")
    arguments = parser.parse_args()
    known = lines()
    if arguments.what == "restore":
        for line in known:
            restore(line, arguments.root)
        print(f"{len(known)} runs are in {arguments.root}")
        return 0
    names = {line["run"] for line in known}
    new = [line_of(path) for path in finished(arguments.root) if path.name not in names]
    with FILE.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in new)
    print(f"{len(new)} runs added to {FILE}, which has {len(known) + len(new)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
