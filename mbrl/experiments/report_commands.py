"""The command `mbrl report`. Heavy imports stay inside it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from mbrl.experiments.oracle_gap import OracleGap
    from mbrl.experiments.results import Results


def report(
    runs: tyro.conf.Positional[tuple[str, ...]],
    /,
    out: Path = Path("report"),
    budget: tuple[str, ...] = (),
    threshold: tuple[str, ...] = (),
) -> int:
    """Compare runs that are there already, and write a report to send: report.html, its numbers and its figures.

    Runs of one algorithm and environment with different seeds count as one thing that is compared. To compare settings
    of one algorithm, name them: mbrl report narrow=runs/narrow wide=runs/wide. docs/compare.md says how to read it.

    Args:
        runs: Run directories, or folders of them; NAME=PATH calls the algorithm by another name.
        out: Folder of the report.
        budget: ENV_ID=STEPS: real steps where algorithms are compared; by default those of the algorithm with the
            shortest runs.
        threshold: ENV_ID=RETURN: the return whose cost is asked for.
    """
    from mbrl.experiments.report import write_report
    from mbrl.experiments.results import read_results
    from mbrl.experiments.summary import summarise

    results = read_results(named_runs(runs))
    oracle, damaged = _gaps(results)
    results = replace(results, warnings=(*results.warnings, *damaged))
    tasks = sorted({outcome.env_id for outcome in results.outcomes})
    budgets = {**_default_budgets(results), **{k: int(v) for k, v in _by_task("budget", budget, tasks).items()}}
    summary = summarise(results, budgets=budgets, thresholds=_by_task("threshold", threshold, tasks))
    for warning in summary.warnings:
        print(f"warning: {warning}")
    study = {"command": _command(runs, budget, threshold)}
    print(f"report: {write_report(summary, out, study=study, oracle=oracle)}")
    return 0


def _command(runs: Iterable[str], budget: Iterable[str], threshold: Iterable[str]) -> str:
    """What makes the same report again; where it goes is left to who does."""
    words = ["mbrl", "report", *runs]
    for option, given in (("--budget", tuple(budget)), ("--threshold", tuple(threshold))):
        words += [option, *given] if given else []
    return shlex.join(words)


def named_runs(given: Iterable[str]) -> list[tuple[str, Path]]:
    """(label, run directory) of what the command line names; those that are damaged, too, so that they are told.

    Raises:
        ValueError: nothing is named, or a folder holds no run.
    """
    from mbrl.experiments.metrics import METRICS
    from mbrl.experiments.run import CONFIG

    found: list[tuple[str, Path]] = []
    for one in given:
        label, named, place = one.partition("=")
        # A path may hold an equals sign itself.
        path, name = (Path(one), None) if not named or Path(one).exists() else (Path(place), label)
        marks = (CONFIG, METRICS)
        there = any((path / mark).exists() for mark in marks)
        inside = [path] if there else sorted({file.parent for mark in marks for file in path.glob(f"*/{mark}")})
        if not inside:
            raise ValueError(f"runs: expected a run directory, or a folder of them, got {str(path)!r}, which has none")
        found += [(name or _algorithm(each), each) for each in inside]
    if not found:
        raise ValueError("runs: expected at least one run directory, got none: mbrl report runs/*")
    return found


def _algorithm(path: Path) -> str:
    """Of a run directory, by its name where config.json does not say."""
    from mbrl.experiments.run import Run

    try:
        return Run.open(path).algo
    except ValueError:
        parts = path.name.split("__")
        return parts[1] if len(parts) > 2 else "unknown"


def _default_budgets(results: Results) -> dict[str, int]:
    """What all algorithms of a task have: the length of the shortest runs, as their settings say."""
    from mbrl.experiments.results import loop_settings

    lengths: dict[str, dict[str, int]] = {}
    for outcome in results.outcomes:
        length = int(loop_settings(outcome.settings)["total_timesteps"])
        of_task = lengths.setdefault(outcome.env_id, {})
        of_task[outcome.algorithm] = max(length, of_task.get(outcome.algorithm, 0))
    return {env_id: min(each.values()) for env_id, each in lengths.items()}


def _by_task(option: str, given: Iterable[str], tasks: Iterable[str]) -> dict[str, float]:
    """`ENV_ID=NUMBER`, each once."""
    known, found = tuple(tasks), {}
    for one in given:
        env_id, _, text = one.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if env_id not in known or env_id in found or not math.isfinite(value):
            raise ValueError(f"{option}: expected ENV_ID=NUMBER, once for one of {', '.join(known)}, got {one!r}")
        if option == "budget" and (value < 1 or value != int(value)):
            raise ValueError(f"budget: expected a whole number of steps, got {one!r}")
        found[env_id] = value
    return found


def _gaps(results: Results) -> tuple[list[OracleGap], list[str]]:
    """Oracle gaps that run directories have (see `mbrl oracle-gap`), and what is to be said of damaged ones."""
    from mbrl.experiments.checkpoint import checkpoints
    from mbrl.experiments.oracle_gap import load
    from mbrl.experiments.provenance import DamagedError

    gaps, said = [], []
    for outcome in results.outcomes:
        try:
            gap = load(outcome.path)
        except DamagedError as error:
            said.append(f"no oracle gap of {outcome.algorithm} on {outcome.env_id}, seed {outcome.seed}: {error}")
        else:
            gaps += [] if gap is None else [replace(gap, label=outcome.algorithm)]
            newest = next((checkpoint.name for checkpoint in checkpoints(outcome.path)), None)
            if gap is not None and newest is not None and not newest.endswith(f"-step{gap.steps}"):
                said.append(
                    f"the oracle gap of {outcome.algorithm} on {outcome.env_id}, seed {outcome.seed}, is of the model "
                    f"after {gap.steps:,} steps, and the run went on: mbrl oracle-gap {outcome.path}"
                )
    return gaps, said
