"""Learning curves and model diagnostics of run directories as PNG files."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mbrl.experiments.metrics import STEP, UPDATE
from mbrl.experiments.run import Run

X_LABELS = {STEP: "real environment steps", UPDATE: "updates of the learner, without real steps"}
RETURN, EVALUATION = "rollout/ep_rew_mean", "eval/mean_reward"
# Okabe and Ito (2008): distinguishable with colour-blind eyes too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
FEW = 60
"""Up to this many episodes are drawn as they are; more become a cloud under their running mean."""


def plot_runs(paths: Iterable[str | Path], out: str | Path) -> Path:
    """Draw return against the runs' x axis, one line a run, evaluations as diamonds; returns `out`.

    The x axis is real environment steps, or updates where runs take none: then the line is that of the evaluations. A
    run that has not finished an episode yet is named as such in the legend. Raises ValueError where a directory is
    not a run, where there is none, and where some act and others don't.
    """
    runs = [Run.open(path) for path in paths]
    if not runs:
        raise ValueError("paths: expected at least one run directory, got none")
    axis = runs[0].x
    if other := next((run for run in runs if run.x != axis), None):
        raise ValueError(
            f"paths: expected runs with one x axis, got {X_LABELS[axis]} in {runs[0].path} and {X_LABELS[other.x]} in "
            f"{other.path}: draw them apart"
        )
    figure, axes = _canvas()
    curves = [(run, *_curves(run)) for run in runs]
    for number, (label, (_, rollout, evaluations)) in enumerate(zip(_labels(runs), curves, strict=True)):
        colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
        empty = not rollout and not evaluations
        _draw_returns(
            axes,
            rollout if axis == STEP else evaluations,
            label + (" (no episode yet)" if empty else ""),
            colour,
            style,
        )
        if evaluations:
            axes.scatter(*zip(*evaluations, strict=True), color=colour, marker="D", s=36, edgecolor="white", zorder=3)
        if lost := _diverged(runs[number]):  # they have no return: at the lower edge
            edge = axes.get_xaxis_transform()
            axes.scatter(lost, [0.02] * len(lost), color=colour, marker="x", s=36, transform=edge, zorder=3)
    if any(len(rollout) > FEW for _, rollout, _ in curves):
        axes.plot([], [], color="0.4", alpha=0.25, linewidth=1, label="single episodes (bold: their running mean)")
    if any(evaluations for *_, evaluations in curves):
        axes.scatter([], [], color="0.4", marker="D", s=36, edgecolor="white", label="evaluation")
    if any(map(_diverged, runs)):
        axes.scatter([], [], color="0.4", marker="x", s=36, label="evaluation that diverged")
    axes.set_title(", ".join(dict.fromkeys(run.env_id for run in runs)))
    axes.set_ylabel("return per episode")
    _finish(axes, len(runs), axis)
    return _save(figure, out)


def plot_model(path: str | Path, out: str | Path) -> Path:
    """Draw a run's open-loop model error and 90 % interval coverage by horizon, along its x axis; returns `out`.

    Reads the metrics `model/rmse_{k}` (in standard deviations of the data so far) and `model/coverage90_{k}`, k steps
    ahead. Raises ValueError where the run has none.
    """
    run = Run.open(path)
    rows = run.metrics()
    horizons = sorted(
        {int(found[1]) for row in rows for key in row if (found := re.fullmatch(r"model/rmse_(\d+)", key))}
    )
    if not horizons:
        raise ValueError(f"path: expected a run with model/rmse_* metrics, got {run.path}, which has none yet")
    figure, (error, coverage) = _canvas(panels=2)
    for number, horizon in enumerate(horizons):
        colour = COLOURS[number % len(COLOURS)]
        label = f"{horizon} step{'s' if horizon > 1 else ''} ahead"
        for axes, key in ((error, f"model/rmse_{horizon}"), (coverage, f"model/coverage90_{horizon}")):
            points = _points(rows, key, run.x)
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=".", label=label)
    error.set_title(f"{run.env_id}: open-loop prediction of unseen steps")
    error.set_ylabel("error (std of the data)")
    error.set_yscale("log")
    coverage.axhline(0.9, color="0.5", linestyle="--", linewidth=1, label="90 % intended")
    coverage.set_ylabel("covered by the 90 % interval")
    coverage.set_ylim(-0.02, 1.02)
    coverage.yaxis.set_major_formatter(StrMethodFormatter("{x:.0%}"))
    error.tick_params(labelbottom=True)
    _finish(coverage, len(horizons), run.x)
    return _save(figure, out)


def _curves(run: Run) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    rows = run.metrics()
    return _points(rows, RETURN, run.x), _points(rows, EVALUATION, run.x)


def _diverged(run: Run) -> list[float]:
    """Where on its x axis a run was evaluated and the simulation diverged."""
    return [row[run.x] for row in run.metrics() if EVALUATION in row and row[EVALUATION] is None]


def _points(rows: list[dict[str, Any]], key: str, x: str) -> list[tuple[float, float]]:
    """(x, value) of the rows that have both; a null, which stands for a number that was not finite, is left out."""
    return [(row[x], row[key]) for row in rows if row.get(x) is not None and row.get(key) is not None]


def _draw_returns(axes: Axes, points: list[tuple[float, float]], label: str, colour: str, style: str) -> None:
    x, y = zip(*points, strict=True) if points else ((), ())
    if len(points) <= FEW:
        axes.plot(x, y, color=colour, linestyle=style, marker=".", label=label)
        return
    axes.plot(x, y, color=colour, alpha=0.2, linewidth=1)
    half = len(points) // FEW
    smooth = [float(np.mean(y[max(0, i - half) : i + half + 1])) for i in range(len(y))]
    axes.plot(x, smooth, color=colour, linestyle=style, linewidth=2, label=label)


def _labels(runs: Sequence[Run]) -> list[str]:
    """As short as tells the runs apart: algorithm and seed, the environment where they differ, else the directory."""
    several = len({run.env_id for run in runs}) > 1
    labels = [f"{run.algo}, seed {run.seed}" + (f", {run.env_id}" if several else "") for run in runs]
    return [
        label if labels.count(label) == 1 else f"{label} ({run.path.resolve().name.rsplit('__', 1)[-1]})"
        for label, run in zip(labels, runs, strict=True)
    ]


def _canvas(panels: int = 1) -> tuple[Figure, Any]:
    # A Figure of its own: pyplot keeps global state and looks for a screen.
    figure = Figure(figsize=(8, 1.2 + 3.6 * panels), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(panels, 1, sharex=True)


def _finish(axes: Axes, entries: int, x: str) -> None:
    figure = axes.figure
    axes.set_xlabel(X_LABELS[x])
    for each in figure.axes:
        each.grid(alpha=0.3)
        each.spines[["top", "right"]].set_visible(False)
        each.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    # A long list beside the curves would squeeze them: it goes below.
    if entries > 4:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    else:
        axes.legend(frameon=False)


def _save(figure: Figure, out: str | Path) -> Path:
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"out: expected a picture's path, such as {out / 'curves.png'}, got a folder, {out}")
    out = out if out.suffix else out.with_suffix(".png")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return out
