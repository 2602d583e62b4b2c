"""Learning curves from results/learning.jsonl: means over seeds with 95 % bootstrap intervals, as tables and pictures.

`python -m benchmarks.learning_report` prints a table an experiment and writes docs/curves/<task>.png. Intervals are of
the mean over seeds (percentile bootstrap, 10,000 resamples); of a seed that was measured twice the newest line counts.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from benchmarks.report import RESULTS
from mbrl.experiments.plots import COLOURS

PICTURES = Path(__file__).parents[1] / "docs" / "curves"


class Curve(NamedTuple):
    """One experiment by one library, all seeds."""

    seeds: list[int]
    steps: np.ndarray
    """[points] real environment steps."""
    returns: np.ndarray
    """[seeds, points] mean returns of evaluation episodes."""
    seconds: list[float]
    """CPU seconds of each seed."""

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """[points] lower and upper end of the 95 % interval of the mean."""
        stream = np.random.default_rng(0)
        picks = stream.integers(len(self.seeds), size=(10_000, len(self.seeds)))
        low, high = np.quantile(self.returns[picks].mean(1), (0.025, 0.975), axis=0)
        return low, high


def read(path: Path = RESULTS / "learning.jsonl") -> dict[tuple[str, str], Curve]:
    """Curves by (experiment, library)."""
    rows: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in path.read_text().splitlines():
        row = json.loads(line)
        rows[row["experiment"], row["library"]][row["seed"]] = row
    curves = {}
    for key, by_seed in rows.items():
        _same_settings(key, list(by_seed.values()))
        ordered = [by_seed[seed] for seed in sorted(by_seed)]
        returns = np.array([row["returns"] for row in ordered])
        seconds = [row["cpu_seconds"] for row in ordered]
        curves[key] = Curve(sorted(by_seed), np.array(ordered[0]["steps"]), returns, seconds)
    return curves


def _same_settings(key: tuple[str, str], rows: list[dict[str, Any]]) -> None:
    """Check that all seeds of a curve were measured alike.

    Raises:
        ValueError: they were not.
    """
    for name in ("settings", "episodes", "steps"):
        if any(row[name] != rows[0][name] for row in rows):
            raise ValueError(
                f"{' '.join(key)}: expected the same {name} for all seeds, got several; measure them again"
            )


def table(curves: dict[str, Curve]) -> str:
    """Markdown: a row a measured step, a column a curve: mean [interval]."""
    steps = sorted({int(step) for curve in curves.values() for step in curve.steps})
    lines = ["| steps | " + " | ".join(curves) + " |", "| --- " * (len(curves) + 1) + "|"]
    for step in steps:
        cells = []
        for curve in curves.values():
            at = np.flatnonzero(curve.steps == step)
            low, high = curve.interval
            cells.append(
                f"{curve.returns[:, at[0]].mean():.0f} [{low[at[0]]:.0f}, {high[at[0]]:.0f}]" if len(at) else ""
            )
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(task: str, curves: dict[str, Curve]) -> Path:
    """A picture of one task's curves with their intervals."""
    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (label, curve), colour in zip(curves.items(), COLOURS, strict=False):
        axes.plot(curve.steps, curve.returns.mean(0), color=colour, label=f"{label}, {len(curve.seeds)} seeds")
        axes.plot(curve.steps, curve.returns.T, color=colour, alpha=0.2, linewidth=0.8)
        axes.fill_between(curve.steps, *curve.interval, color=colour, alpha=0.2, linewidth=0)
    axes.set_title(f"{task}: mean over seeds, 95 % interval")
    axes.set_xlabel("real environment steps")
    axes.set_ylabel("return of evaluation episodes")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{task}.png"
    figure.savefig(path)
    return path


def agreement(one: Curve, other: Curve) -> str:
    """At how many of the common steps each mean lies within the other's interval, and at which it does not."""
    common = np.intersect1d(one.steps, other.steps)
    apart = []
    for step in common:
        means, intervals = [], []
        for curve in (one, other):
            at = int(np.flatnonzero(curve.steps == step)[0])
            means.append(curve.returns[:, at].mean())
            intervals.append([end[at] for end in curve.interval])
        if not all(low <= mean <= high for mean, (low, high) in zip(means, reversed(intervals), strict=True)):
            apart.append(int(step))
    return f"{len(common) - len(apart)} of {len(common)} steps, not at {apart}"


def main() -> int:
    tasks: dict[str, dict[str, Curve]] = defaultdict(dict)
    for (experiment, library), curve in sorted(read().items()):
        name, _, task = experiment.partition("@")
        tasks[task][name if library == "ours" else f"{name} ({library})"] = curve
    for task, curves in tasks.items():
        print(f"\n## {task}\n{table(curves)}\npicture: {draw(task, curves)}")
        for label, curve in curves.items():
            print(f"{label}: seeds {curve.seeds}, CPU seconds a seed {[round(s) for s in curve.seconds]}")
            for peer, theirs in curves.items():
                if peer.startswith(f"{label} ("):
                    print(f"{label} and {peer}: each mean within the other's interval at {agreement(curve, theirs)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
