"""Which run directories are a study's: those with a cell's algorithm, environment, seed and settings, word for word."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbrl.experiments.final_evaluation import read_final
from mbrl.experiments.run import CONFIG, STEP, Run, read_metrics
from mbrl.experiments.study import Cell, cell_settings


@dataclass(frozen=True)
class Found:
    """What a folder of run directories has for a study."""

    paths: dict[Cell, Path]
    """The run of each cell that has one, finished or not."""
    notes: tuple[str, ...]
    """Run directories that look like a cell's and are not used, and why."""


def create(cell: Cell, root: Path) -> Run:
    """A new run directory for a cell.

    Raises:
        ValueError: the cell's settings do not fit its environment; then there is no directory.
    """
    from mbrl.experiments.start import start_run  # imports torch

    settings = cell_settings(cell)
    try:
        return start_run(
            cell.entry.algorithm,
            root=root,
            env_id=cell.task.env_id,
            dataset=None,
            config=settings.config,
            learner=settings.learner,
            preset=cell.entry.preset,
            seed=cell.seed,
            distill=False,
            tensorboard=False,
        )
    except ValueError as error:
        raise ValueError(f"{cell.entry.label} on {cell.task.env_id}: {error}") from None


def wanted_configs(cells: Iterable[Cell]) -> dict[Cell, dict[str, Any]]:
    """What config.json says of a cell's run, by making one run of every task and entry aside and throwing it away.

    So every cell is checked before the first hour of training.

    Raises:
        ValueError: the settings of a cell do not fit its environment.
    """
    configs: dict[tuple[Any, Any], dict[str, Any]] = {}
    wanted = {}
    with tempfile.TemporaryDirectory(prefix="mbrl-") as aside:
        for cell in cells:
            key = cell.task, cell.entry
            if key not in configs:
                configs[key] = create(cell, Path(aside)).config
            wanted[cell] = configs[key]
    return wanted


def find_runs(root: Path, wanted: dict[Cell, dict[str, Any]]) -> Found:
    """Look for the runs of cells among the run directories in `root`.

    Of several that fit, the one that is evaluated, or furthest, is taken, and of equals the first by name.
    """
    cells: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in wanted:
        cells.setdefault((cell.entry.algorithm, cell.task.env_id, cell.seed), []).append(cell)
    fitting: dict[Cell, list[Path]] = {}
    notes = []
    for file in sorted(root.glob(f"*/{CONFIG}")):
        try:
            run = Run.open(file.parent)
        except ValueError as error:
            notes.append(str(error))
            continue
        for cell in cells.get((run.algo, run.env_id, run.seed), []):
            if run.config != wanted[cell]:
                continue
            if "changes" in run.header:
                notes.append(f"{run.path} began with other settings than it has now, and is not used for {cell}")
            else:
                fitting.setdefault(cell, []).append(run.path)
    paths = {}
    for cell, candidates in fitting.items():
        best, *others = sorted(candidates, key=_worth)
        paths[cell] = best
        notes += [f"{other} is a second run of {cell}, and is not used" for other in others]
    return Found(paths, tuple(notes))


def steps_of(path: Path) -> int:
    """How many real steps a run directory's metrics have come to."""
    return max((int(row.get(STEP, 0)) for row in read_metrics(path)), default=0)


def _worth(path: Path) -> tuple[bool, int, str]:
    try:
        return read_final(path) is None, -steps_of(path), path.name
    except ValueError:  # damaged: the worst
        return True, 1, path.name
