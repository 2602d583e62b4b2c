"""Figures of a report as PNG and SVG files, and the one picture for a README.

The same input gives the same bytes: no date, no random identifiers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from mbrl.experiments.findings import Summary, TaskInfo
from mbrl.experiments.oracle_gap import OracleGap, groups, oracle_titles, pool
from mbrl.experiments.report_sections import budget_end
from mbrl.experiments.report_style import AXES, Style, log_ticks, short_task, styles, tick

Styles = Mapping[str, Style]
PANEL = (4.2, 3.0)
"""Inches of one panel."""
FORMATS = ("png", "svg")
README = "readme.png"


def write_figures(summary: Summary, oracle: Sequence[OracleGap], folder: Path) -> list[Path]:
    """Write every figure as PNG and SVG into `folder`, and the one for a README; returns the files.

    A figure without content has none, and an older one of it goes.
    """
    lines = styles(summary.entries)
    drawn: dict[str, Callable[[], Figure | None]] = {
        **{f"curves_{axis}": partial(curves_figure, summary, axis) for axis in AXES},
        "returns": lambda: _returns_figure(summary, lines),
        "scores": lambda: _scores_figure(summary, lines),
        "improvement": lambda: _improvement_figure(summary),
        "profiles": lambda: _profiles_figure(summary, lines),
        "oracle_gap": lambda: _oracle_figure(oracle),
    }
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in drawn.items():
        with _reproducible(name):
            figure = draw()
            for ending in FORMATS:
                path = folder / f"{name}.{ending}"
                if figure is None:
                    path.unlink(missing_ok=True)
                    continue
                figure.savefig(path, metadata={"Date": None} if ending == "svg" else None)
                figure.set_layout_engine("none")  # it is laid out now
                written.append(path)
    picture = folder / README
    if any(curve.axis == "steps" for curve in summary.curves):
        written.append(readme_figure(summary, picture))
    else:
        picture.unlink(missing_ok=True)
    return written


def readme_figure(summary: Summary, out: Path) -> Path:
    """The one picture of a comparison, as a small PNG: return against real steps, a panel for each task.

    Raises:
        ValueError: the summary has no curves.
    """
    with _reproducible("readme"):
        figure = curves_figure(summary, "steps", scale=0.78)
        if figure is None:
            raise ValueError("summary: expected curves of at least one algorithm, got none")
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=110)
    return out


def curves_figure(summary: Summary, axis: str, *, scale: float = 1.0) -> Figure | None:
    """Return against a cost, over whole runs and on a logarithmic axis; None where nothing is known of it."""
    lines = styles(summary.entries)
    known = [
        curve
        for curve in summary.curves
        if (curve.axis, curve.statistic) == (axis, "iqm") and any(math.isfinite(x) and x > 0 for x in curve.x)
    ]
    tasks = [task for task in summary.tasks if any(curve.env_id == task.env_id for curve in known)]
    if not tasks:
        return None
    figure, panels = _panels(len(tasks), scale)
    for task, panel in zip(tasks, panels, strict=True):
        for curve in (curve for curve in known if curve.env_id == task.env_id):
            style = lines[curve.label]
            x, y = np.array(curve.x), np.array(curve.value)
            there = np.isfinite(x) & (x > 0)
            y[~np.isfinite(y)] = np.nan  # a gap
            mark = "o" if there.sum() == 1 else ""
            drawn = {"color": style.hex, "linestyle": style.line, "linewidth": 1.8, "marker": mark, "markersize": 3}
            panel.plot(x[there], y[there], drawstyle="steps-post", **drawn)
            if curve.low is not None and curve.high is not None:
                bounds = [np.nan_to_num(bound, posinf=1e30, neginf=-1e30) for bound in (curve.low, curve.high)]
                low, high = (bound[there] for bound in bounds)
                panel.fill_between(x[there], low, high, step="post", color=style.hex, alpha=0.14, linewidth=0)
        _curve_axes(panel, task, summary, axis)
    shown = {curve.label for curve in known}
    _legend(figure, {label: style for label, style in lines.items() if label in shown})
    return figure


def _curve_axes(panel: Axes, task: TaskInfo, summary: Summary, axis: str) -> None:
    panel.set_xscale("log")
    panel.set_title(short_task(task.env_id), fontsize="medium", loc="left")
    panel.set_xlabel(AXES[axis])
    panel.set_ylabel("return")
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in panel.lines])
    values = values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1)
    low, high = min(values.min(), task.threshold), max(values.max(), task.threshold)
    room = 0.15 * ((high - low) or 1.0)  # bands of few runs may be very wide: they are cut off
    panel.set_ylim(low - room, high + room)
    panel.axhline(task.threshold, color="0.5", linestyle=":", linewidth=1)
    end = budget_end(summary, task, axis)
    if axis == "steps" and end is not None:
        panel.axvline(end, color="0.5", linestyle=":", linewidth=1)
        panel.annotate(
            "budget",
            (end, 0),
            (-2, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            rotation=90,
            fontsize="x-small",
            color="0.35",
        )
    left, right = panel.get_xlim()
    panel.set_xticks(log_ticks(left, right, 4))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    panel.xaxis.set_minor_formatter(NullFormatter())


def _returns_figure(summary: Summary, lines: Styles) -> Figure | None:
    if not summary.at_budget:
        return None
    figure, panels = _panels(len(summary.tasks))
    for task, panel in zip(summary.tasks, panels, strict=True):
        here = [found for found in summary.at_budget if found.env_id == task.env_id]
        _intervals(panel, [(f.label, lines[f.label].hex, f.iqm, f.returns) for f in here])
        panel.axvline(task.random_return, color="0.5", linestyle=":", linewidth=1)
        panel.set_title(f"{short_task(task.env_id)} at {task.budget:,} steps", fontsize="medium", loc="left")
        panel.set_xlabel("return")
    return figure


def _scores_figure(summary: Summary, lines: Styles) -> Figure | None:
    if not summary.aggregates:
        return None
    figure, (panel,) = _panels(1)
    _intervals(panel, [(found.label, lines[found.label].hex, found.iqm, ()) for found in summary.aggregates])
    panel.set_xlabel("score at the budget, interquartile mean")
    return figure


def _improvement_figure(summary: Summary) -> Figure | None:
    pooled = [found for found in summary.improvements if found.env_id is None]
    shown = pooled or list(summary.improvements)
    if not shown:
        return None
    figure, (panel,) = _panels(1, height=0.8 + 0.3 * len(shown))
    names = [f"{f.first} > {f.second}" + ("" if pooled else f", {short_task(f.env_id or '')}") for f in shown]
    _intervals(panel, [(name, "0.2", f.probability, ()) for name, f in zip(names, shown, strict=True)])
    panel.axvline(0.5, color="0.5", linestyle=":", linewidth=1)
    panel.set_xlim(-0.02, 1.02)
    panel.set_xlabel("probability of improvement")
    return figure


def _profiles_figure(summary: Summary, lines: Styles) -> Figure | None:
    if not summary.profiles:
        return None
    figure, (panel,) = _panels(1)
    for found in summary.profiles:
        style = lines[found.label]
        panel.plot(found.score, found.share, color=style.hex, linestyle=style.line, linewidth=1.8)
        panel.fill_between(found.score, found.low, found.high, color=style.hex, alpha=0.14, linewidth=0)
    panel.set_xlabel("score")
    panel.set_ylabel("share of runs above it")
    _legend(figure, {found.label: lines[found.label] for found in summary.profiles})
    return figure


def _oracle_figure(gaps: Sequence[OracleGap]) -> Figure | None:
    kinds, titles = groups(gaps), oracle_titles(gaps)
    if not kinds:
        return None
    figure, panels = _panels(len(kinds), height=1.7)
    for kind, panel in zip(kinds, panels, strict=True):
        pooled = pool(kind)
        if pooled.gaps:
            _intervals(panel, [(name, "0.2", found, ()) for name, found in pooled.gaps.items()])
        panel.axvline(0, color="0.5", linestyle=":", linewidth=1)
        panel.set_title(short_task(pooled.env_id) + titles[pooled.label], fontsize="medium", loc="left")
        panel.set_xlabel("return lost to")
    return figure


def _intervals(panel: Axes, rows: Sequence[tuple]) -> None:
    """Rows of (name, colour, what was found with value, low and high, values of runs), the first on top."""
    for i, (_, colour, found, dots) in enumerate(rows):
        if found.low is not None and found.high is not None:
            panel.plot([found.low, found.high], [i, i], color=colour, alpha=0.5, linewidth=4, solid_capstyle="round")
        finite = [dot for dot in dots if math.isfinite(dot)]
        panel.scatter(finite, [i] * len(finite), s=14, color=colour, alpha=0.5, linewidths=0)
        panel.scatter([found.value], [i], s=42, color=colour, marker="D", edgecolors="white", zorder=3)
    panel.set_yticks(range(len(rows)), [name for name, *_ in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)


def _panels(count: int, scale: float = 1.0, height: float = PANEL[1]) -> tuple[Figure, list[Axes]]:
    columns = min(count, 2 if count in (2, 4) else 3)
    rows = math.ceil(count / columns)
    size = (PANEL[0] * columns * scale, height * rows * scale + 0.5)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    for spare in panels[count:]:
        spare.set_visible(False)
    return figure, panels[:count]


def _legend(figure: Figure, lines: Styles) -> None:
    handles = [Line2D([], [], color=s.hex, linestyle=s.line, linewidth=1.8) for s in lines.values()]
    figure.legend(
        handles, list(lines), loc="outside upper left", ncols=min(len(lines), 6), frameon=False, fontsize="small"
    )


@contextmanager
def _reproducible(name: str) -> Iterator[None]:
    """Identifiers in SVG files come from `name`, and letters stay letters."""
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9.5}):
        yield
