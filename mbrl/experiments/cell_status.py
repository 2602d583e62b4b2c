"""How far each run of a comparison has come, what has become of it, and how long the rest will take."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from mbrl.experiments.metrics import METRICS, STEP
from mbrl.experiments.study import Cell, Study, study_record

FORMAT = 1
FILE = "study.json"
LOCK = ".study.lock"
"""Held by the command that writes it."""
State = Literal["waiting", "running", "elsewhere", "done", "failed"]


@dataclass
class Attempt:
    """One time that a run was worked on."""

    started: str
    ended: str | None = None
    """None: the comparison was killed before it ended."""
    outcome: str | None = None
    """As in `jobs.Ending`."""
    reason: str = ""


@dataclass
class CellStatus:
    """Where a cell stands."""

    cell: Cell
    state: State = "waiting"
    """`elsewhere`: another process works on its run."""
    path: Path | None = None
    """Its run directory; None: none yet."""
    reused: bool = False
    """Whether the run was finished before the comparison began."""
    attempts: list[Attempt] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    """Wall-clock until `steps`."""
    ret: float | None = None
    """Mean return of the last evaluation."""
    failures: int = 0
    """How often it has failed since the comparison was started."""
    losses: int = 0
    """How often its worker was lost since then."""
    _offset: int = 0
    _inode: int = 0

    def read(self) -> None:
        """Take up what the run has logged since it was read last; damaged lines are left to the report."""
        if self.path is None:
            return
        file = self.path / METRICS
        if not file.exists():
            return
        found = file.stat()
        if found.st_size < self._offset or found.st_ino != self._inode:  # cut back to a checkpoint, or another file
            self._offset = self.steps = 0
        self._inode = found.st_ino
        with file.open("rb") as opened:
            opened.seek(self._offset)
            new = opened.read()
        complete = new[: new.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines():
            try:
                row = dict(json.loads(line))
            except (ValueError, TypeError):
                continue
            self.steps = int(row.get(STEP, self.steps))
            self.seconds = float(row.get("time/wall_clock") or self.seconds)
            ret = row.get("eval/mean_reward")
            self.ret = self.ret if ret is None else float(ret)

    @property
    def share(self) -> float:
        """Of its steps, how many are done."""
        return 1.0 if self.state == "done" else min(1.0, self.steps / self.cell.total_timesteps)

    @property
    def reason(self) -> str:
        """Why the last attempt failed, or what it could not do."""
        return self.attempts[-1].reason if self.attempts else ""


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def seconds_left(statuses: Sequence[CellStatus], parallel: int) -> float | None:
    """About how long the rest takes; None: not known before one run of every algorithm has logged something.

    A cell's speed is the median over runs of its task and label, else over those of its label on other tasks.
    """
    own: dict[tuple[str, str], list[float]] = defaultdict(list)
    label: dict[str, list[float]] = defaultdict(list)
    for status in statuses:
        if status.steps > 0 and status.seconds > 0:
            key, speed = _key(status.cell), status.seconds / status.steps
            own[key].append(speed)
            label[key[1]].append(speed)
    left: list[float] = []
    for status in statuses:
        if status.state in ("done", "failed"):
            continue
        key = _key(status.cell)
        known = own[key] or label[key[1]]
        if not known:
            return None
        left.append(median(known) * (status.cell.total_timesteps - status.steps))
    return max(sum(left) / max(1, min(parallel, len(left))), max(left, default=0.0))


def record(
    study: Study, statuses: Iterable[CellStatus], notes: Iterable[str], *, command: str | None
) -> dict[str, Any]:
    """What study.json holds; `command` is how the study was asked for."""
    cells: list[dict[str, Any]] = []
    for status in statuses:
        cells.append(
            {
                "env_id": status.cell.task.env_id,
                "label": status.cell.entry.label,
                "algorithm": status.cell.entry.algorithm,
                "seed": status.cell.seed,
                "state": status.state,
                "path": None if status.path is None else str(status.path),
                "reused": status.reused,
                "attempts": [vars(attempt) for attempt in status.attempts],
            }
        )
    failures = [one for one in cells if one["state"] == "failed"]
    return {
        "format": FORMAT,
        "name": study.name,
        "command": command,
        "study": study_record(study),
        "cells": cells,
        "failures": [{**one, "reason": one["attempts"][-1]["reason"]} for one in failures],
        "notes": list(notes),
    }


def write_record(content: dict[str, Any], out: Path) -> Path:
    """Write study.json, in place of the one before."""
    file, staged = out / FILE, out / f".{FILE}-{os.getpid()}"
    staged.write_text(json.dumps(content, indent=1) + "\n")
    staged.replace(file)
    return file


def earlier_attempts(out: Path) -> dict[str, list[Attempt]]:
    """Attempts by absolute run directory, from the study.json of a comparison that ended or was killed.

    There are none where it is not readable.
    """
    try:
        content = json.loads((out / FILE).read_text())
        return {
            str(Path(cell["path"]).resolve()): [Attempt(**attempt) for attempt in cell["attempts"]]
            for cell in content["cells"]
            if cell["path"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _key(cell: Cell) -> tuple[str, str]:
    return cell.task.env_id, cell.entry.label
