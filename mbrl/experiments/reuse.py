"""Which run directories are a study's: those with a cell's algorithm, environment, seed and settings, word for word.

Settings that were not known yet when a run was made count as their defaults.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbrl.experiments.final_evaluation import final_or_none
from mbrl.experiments.metrics import STEP, read_metrics
from mbrl.experiments.run import CONFIG, Run
from mbrl.experiments.settings import completed
from mbrl.experiments.study import Cell, cell_settings
from mbrl.pipelines.bookkeeping import describe, differences

SHOWN = 3
"""Settings that a note names."""


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


def check_configs(wanted: dict[Cell, dict[str, Any]]) -> None:
    """Check what only whole settings show.

    Raises:
        ValueError: two algorithms would have the same runs, or environments that are stepped together do not come to
            the budget and the evaluations exactly.
    """
    seen: dict[tuple[str, str, int, str], Cell] = {}
    for cell, config in wanted.items():
        key = cell.entry.algorithm, cell.task.env_id, cell.seed, json.dumps(config, sort_keys=True)
        other = seen.setdefault(key, cell)
        if other != cell:
            raise ValueError(
                f"algorithms: expected different ones, got {other.entry.label!r} and {cell.entry.label!r}, whose "
                f"settings on {cell.task.env_id} are equal; leave one out"
            )
        together = max((part.get("num_envs", 1) for part in config.values() if isinstance(part, dict)), default=1)
        for name, steps in (("total_timesteps", cell.task.budget), ("eval_every", cell.eval_every)):
            if steps % together:
                raise ValueError(
                    f"{name}: expected a multiple of {together}, for {cell.entry.label} steps as many environments "
                    f"together on {cell.task.env_id}, and algorithms are compared after equally many steps; got {steps}"
                )


def find_runs(root: Path, wanted: dict[Cell, dict[str, Any]]) -> Found:
    """Look for the runs of cells among the run directories in `root`.

    Of several that fit, the one that is evaluated, or furthest, is taken, and of equals the first by name.
    """
    cells: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in wanted:
        cells.setdefault((cell.entry.algorithm, cell.task.env_id, cell.seed), []).append(cell)
    fitting: dict[Cell, list[Path]] = {}
    others: dict[Cell, list[Run]] = {}
    notes = []
    for file in sorted(root.glob(f"*/{CONFIG}")):
        try:
            run = Run.open(file.parent)
        except ValueError as error:
            notes.append(str(error))
            continue
        similar = cells.get((run.algo, run.env_id, run.seed), [])
        known = _completed(run) if similar else run.config
        same = [cell for cell in similar if known == wanted[cell]]
        for cell in similar if not same else []:
            others.setdefault(cell, []).append(run)
        for cell in same:
            if "changes" in run.header:
                notes.append(f"{run.path} began with other settings than it has now, and is not used for {cell}")
            else:
                fitting.setdefault(cell, []).append(run.path)
    paths = {}
    for cell, candidates in fitting.items():
        best, *rest = sorted(candidates, key=_worth)
        paths[cell] = best
        notes += [f"{other} is a second run of {cell}, and is not used" for other in rest]
    notes += [_other_settings(cell, runs, wanted[cell]) for cell, runs in others.items() if cell not in paths]
    return Found(paths, tuple(notes))


def steps_of(path: Path) -> int:
    """How many real steps a run directory's metrics have come to."""
    return max((int(row.get(STEP, 0)) for row in read_metrics(path)), default=0)


def _completed(run: Run) -> dict[str, Any]:
    """A run's settings; one that only a newer version knows has its default, by which older ones went."""
    from mbrl.experiments.runs import settings_of  # imports torch

    try:
        settings = settings_of(run)
    except ValueError:  # of another version, or out of range by now
        return run.config
    return {n: completed(held, settings[n]) if n in settings else held for n, held in run.config.items()}


def _other_settings(cell: Cell, runs: list[Run], config: dict[str, Any]) -> str:
    """Why runs of a cell's algorithm, environment and seed are not its own."""
    flat = _flat(runs[0].config), _flat(config)
    missing = {name: (flat[0].get(name), flat[1].get(name)) for name in sorted(flat[0].keys() ^ flat[1].keys())}
    found = {**differences(*flat), **missing}
    shown = describe(dict(list(found.items())[:SHOWN])) + (", ..." if len(found) > SHOWN else "")
    more = f", and {len(runs) - 1} more have others, too" if len(runs) > 1 else ""
    return f"{runs[0].path} has other settings than {cell} wants ({shown}), and is not used{more}"


def _flat(config: Any, name: str = "") -> dict[str, Any]:
    """Settings by their path, such as loop.lr."""
    if not isinstance(config, dict) or not config:
        return {name: config}
    inner = (_flat(value, f"{name}.{key}" if name else key) for key, value in config.items())
    return {key: value for part in inner for key, value in part.items()}


def _worth(path: Path) -> tuple[bool, int, str]:
    try:
        return final_or_none(path) is None, -steps_of(path), path.name
    except ValueError:  # damaged: the worst
        return True, 1, path.name
