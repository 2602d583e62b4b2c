"""A comparison: find the runs of a study, make and train those that are missing, and say how each ended.

Everything is in files: run directories, with checkpoints and locks, and study.json. A comparison that was stopped or
killed is started again by the same call, finds what is there, and goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mbrl.experiments.cell_status import Attempt, CellStatus, earlier_attempts, now, record, write_record
from mbrl.experiments.checkpoint import checkpoints
from mbrl.experiments.final_evaluation import final_or_none
from mbrl.experiments.jobs import Ending, Jobs
from mbrl.experiments.live_table import LiveTable
from mbrl.experiments.lock import is_locked, locked
from mbrl.experiments.oracle_gap import TRUE_STEPS, OracleGap
from mbrl.experiments.oracle_gap import load_or_none as load_gap
from mbrl.experiments.report import write_report
from mbrl.experiments.results import Failure, Results, read_results
from mbrl.experiments.reuse import check_configs, create, find_runs, wanted_configs
from mbrl.experiments.runs import PETS
from mbrl.experiments.study import Cell, Study, cells
from mbrl.experiments.summary import summarise

FAILURES = 2
"""A run that fails is tried once more."""
LOSSES = 4
"""A run whose worker is lost is taken up again more often: machines go, and it is not the run's fault."""
POLL = 0.2
"""Seconds between looks at jobs."""
LOOK = 2.0
"""Seconds between looks at metrics, and at runs that another process has."""


@dataclass
class Comparison:
    """A study that is worked on; made by `Comparison.prepare`."""

    study: Study
    root: Path
    """Folder of run directories."""
    out: Path
    """Folder of study.json and the report."""
    command: str | None
    """How it was asked for."""
    oracle_episodes: int
    """Of each arm of the oracle gap with which runs of PETS end; 0: without one."""
    wanted: dict[Cell, dict[str, Any]]
    """What config.json says of a cell's run."""
    statuses: list[CellStatus]
    notes: tuple[str, ...]
    """Run directories that were passed over, and gaps that could not be measured, and why."""

    @classmethod
    def prepare(
        cls, study: Study, *, root: Path, out: Path, oracle_episodes: int = 3, command: str | None = None
    ) -> Comparison:
        """Check all settings, and find the runs that are there.

        Raises:
            ValueError: the settings of a cell do not fit its environment, or are those of another algorithm's.
        """
        if oracle_episodes < 0:
            raise ValueError(f"oracle_episodes: expected 0 (none) or more, got {oracle_episodes}")
        wanted = wanted_configs(cells(study))
        check_configs(wanted)
        root.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        found = find_runs(root, wanted)
        attempts = earlier_attempts(out)
        statuses = [CellStatus(cell, path=found.paths.get(cell)) for cell in cells(study)]
        for status in statuses:
            status.read()
            status.attempts = [] if status.path is None else attempts.get(str(status.path.resolve()), [])
            if is_finished(status, oracle_episodes=oracle_episodes):
                status.state, status.reused = "done", True
        comparison = cls(study, root, out, command, oracle_episodes, wanted, statuses, found.notes)
        comparison.keep()
        return comparison

    def keep(self) -> dict[str, Any]:
        """Write study.json; returns what it holds."""
        content = record(self.study, self.statuses, self.notes, command=self.command)
        write_record(content, self.out)
        return content


def run_study(comparison: Comparison, jobs: Jobs, *, table: LiveTable | None = None) -> None:
    """Work on all runs until each is done, or has failed twice.

    Raises:
        KeyboardInterrupt: Ctrl-C. The runs that were going on have checkpoints, and go on when this is called again.
    """
    table = table or LiveTable()
    statuses = comparison.statuses
    looked = -LOOK
    try:
        while any(status.state in ("waiting", "running", "elsewhere") for status in statuses):
            changed = _take(comparison, jobs.finished())
            changed |= _start(comparison, jobs)
            if time.monotonic() - looked >= LOOK:
                looked = time.monotonic()
                changed |= _look(comparison)
            if changed:
                comparison.keep()
            table.show(statuses, jobs.parallel)
            time.sleep(POLL)
    except BaseException:
        jobs.stop()
        _take(comparison, jobs.finished())
        comparison.keep()
        raise
    table.show(statuses, jobs.parallel, force=True)


def report_study(comparison: Comparison, *, thresholds: Mapping[str, float] | None = None) -> Path:
    """Write the report on the runs that are done, which lists those that failed; returns the HTML file.

    A run that is done and can't be read counts as failed from then on.

    Args:
        comparison: see `run_study`.
        thresholds: returns whose cost is asked for, by environment id.

    Raises:
        ValueError: no run is done, or they can't be compared.
    """
    done = [status for status in comparison.statuses if status.state == "done"]
    failed = [status for status in comparison.statuses if status.state == "failed"]
    results = read_results(
        [(status.cell.entry.label, status.path) for status in done if status.path],
        failures=[
            Failure(one.cell.task.env_id, one.cell.entry.label, one.cell.seed, one.path, one.reason) for one in failed
        ],
    )
    _take_unreadable(done, results)
    results = replace(results, warnings=(*results.warnings, *comparison.notes))
    budgets = {task.env_id: task.budget for task in comparison.study.tasks}
    summary = summarise(results, budgets=budgets, thresholds=dict(thresholds or {}))
    planned = [(status.cell.entry.label, status.path) for status in done if status.path and _is_planned(status)]
    gaps = [(label, _gap(path, comparison.oracle_episodes)) for label, path in planned]
    oracle = [replace(gap, label=label) for label, gap in gaps if gap is not None]
    return write_report(summary, comparison.out, study=comparison.keep(), oracle=oracle)


def _take_unreadable(done: Iterable[CellStatus], results: Results) -> None:
    reasons = {failure.path: failure.reason for failure in results.failures}
    for status in done:
        if status.path in reasons:
            status.state = "failed"
            status.attempts.append(Attempt(now(), now(), "failed", reasons[status.path]))


def is_finished(status: CellStatus, *, oracle_episodes: int) -> bool:
    """Whether nothing is left to do for a cell: its run is at its end, and that is what was evaluated."""
    if status.path is None or status.steps < status.cell.total_timesteps:
        return False
    final, newest = final_or_none(status.path), _newest(status.path)
    if final is None or (newest is not None and newest != final.checkpoint):
        return False
    measured = newest is None or _gap(status.path, oracle_episodes) is not None  # without a checkpoint it can't be
    return measured or not (oracle_episodes and _is_planned(status))


def _is_planned(status: CellStatus) -> bool:
    return status.cell.entry.algorithm == PETS


def _newest(path: Path) -> str | None:
    """Name of a run's newest checkpoint; None: they were removed."""
    return next((checkpoint.name for checkpoint in checkpoints(path)), None)


def _gap(path: Path, episodes: int) -> OracleGap | None:
    """The oracle gap of a run's newest checkpoint with so many episodes; None where it has to be measured."""
    gap, newest = load_gap(path) if episodes else None, _newest(path)
    if gap is None or (gap.episodes, gap.true_steps) != (episodes, TRUE_STEPS):
        return None
    return gap if newest is None or newest.endswith(f"-step{gap.steps}") else None


def _take(comparison: Comparison, ended: Iterable[tuple[Path, Ending]]) -> bool:
    """Take up how jobs have ended; whether any has."""
    ended = list(ended)
    for path, ending in ended:
        status = next(status for status in comparison.statuses if status.path == path)
        attempt = status.attempts[-1]
        attempt.ended, attempt.outcome, attempt.reason = now(), ending.outcome, ending.reason
        status.read()
        if ending.outcome == "done":
            status.state = "done"
            if ending.reason:
                comparison.notes = (*comparison.notes, f"{status.cell}: {ending.reason}")
        elif ending.outcome == "busy":
            status.state = "elsewhere"
            status.attempts.pop()
        else:
            status.failures += ending.outcome == "failed"
            status.losses += ending.outcome in ("lost", "stopped")
            over = status.failures >= FAILURES or status.losses >= LOSSES
            status.state = "failed" if over else "waiting"
    return bool(ended)


def _start(comparison: Comparison, jobs: Jobs) -> bool:
    """Start what there is room for; whether anything has changed."""
    changed = False
    for status in comparison.statuses:
        if status.state != "waiting" or not jobs.room():
            continue
        changed = True
        if status.path is None:
            status.path = _run_directory(comparison, status.cell)
        assert sum(other.path == status.path for other in comparison.statuses) == 1, status.path
        if is_locked(status.path):
            status.state = "elsewhere"
            continue
        status.state = "running"
        status.attempts.append(Attempt(now()))
        jobs.start(status.path)
    return changed


def _run_directory(comparison: Comparison, cell: Cell) -> Path:
    """A new run directory, or the one that another comparison has made in the meantime."""
    with locked(comparison.root, wait=True):
        found = find_runs(comparison.root, {cell: comparison.wanted[cell]})
        return found.paths.get(cell) or create(cell, comparison.root).path


def _look(comparison: Comparison) -> bool:
    """Read how far runs have come, and whether other processes have ended theirs; whether a state has changed."""
    changed = False
    for status in comparison.statuses:
        if status.state in ("running", "elsewhere"):
            status.read()
        if status.state == "elsewhere" and status.path is not None and not is_locked(status.path):
            status.state = "done" if is_finished(status, oracle_episodes=comparison.oracle_episodes) else "waiting"
            changed = True
    return changed
