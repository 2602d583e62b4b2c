"""The table that a comparison shows while it runs: progress, time left, failures.

A terminal gets a table that is drawn over itself; anything else plain lines, one for every run that ends and, from
time to time, one for the whole.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from mbrl.experiments.cell_status import CellStatus, seconds_left

QUIET_SECONDS = 60.0
"""Where the output is not a terminal, a line for the whole is written this often."""
BAR = 20


class LiveTable:
    """Shows the statuses of a comparison's cells.

    Args:
        file: where to, the standard error by default.
        every: seconds between redraws on a terminal.
    """

    def __init__(self, file: TextIO | None = None, *, every: float = 1.0) -> None:
        self._file = sys.stderr if file is None else file
        self._live = self._file.isatty()
        self._every = every
        self._drawn = 0
        self._last = -float("inf")
        self._said: dict[int, str] = {}

    def show(self, statuses: Sequence[CellStatus], parallel: int, *, force: bool = False) -> None:
        """Show where the cells stand.

        Args:
            statuses: of all cells, the same list every time.
            parallel: how many runs go on at once.
            force: whether to draw although it is not time yet.
        """
        if not self._live:
            self._say(statuses)
        due = time.monotonic() - self._last >= (self._every if self._live else QUIET_SECONDS)
        if not (due or force):
            return
        self._last = time.monotonic()
        if self._live:
            self._draw([*table(statuses), "", total(statuses, parallel)])
        else:
            print(total(statuses, parallel), file=self._file, flush=True)

    def _say(self, statuses: Sequence[CellStatus]) -> None:
        """A line for every run whose state is another than before."""
        for i, status in enumerate(statuses):
            if status.state == self._said.get(i, "waiting"):
                continue
            self._said[i] = status.state
            print(event(status), file=self._file, flush=True)

    def _draw(self, lines: list[str]) -> None:
        size = os.get_terminal_size(self._file.fileno())
        rows, columns = size.lines or 24, size.columns or 80
        if len(lines) > rows - 1:  # what has scrolled away can't be drawn over: the end counts most
            lines = lines[-(rows - 1) :]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._file.write(up + "".join(f"\x1b[2K{line[: columns - 1]}\n" for line in lines))
        if self._drawn > len(lines):
            self._file.write("\x1b[J")
        self._file.flush()
        self._drawn = len(lines)


def table(statuses: Sequence[CellStatus]) -> list[str]:
    """A line for each task and label: how many of its runs are where, how far all are, and the last returns."""
    groups: dict[tuple[str, str], list[CellStatus]] = {}
    for status in statuses:
        groups.setdefault((status.cell.task.env_id, status.cell.entry.label), []).append(status)
    wide, narrow = (max(len(key[i]) for key in (*groups, ("task", "algorithm"))) for i in (0, 1))
    lines = [f"{'task':{wide}}  {'algorithm':{narrow}}  {'progress':{BAR + 5}}  done  last returns"]
    for (env_id, label), group in sorted(groups.items()):
        share = sum(status.share for status in group) / len(group)
        bar = ("#" * round(BAR * share)).ljust(BAR, ".")
        done = f"{sum(status.state == 'done' for status in group)}/{len(group)}"
        failed = sum(status.state == "failed" for status in group)
        returns = " ".join("-" if status.ret is None else f"{status.ret:.4g}" for status in group)
        line = f"{env_id:{wide}}  {label:{narrow}}  {bar} {share:4.0%}  {done:>4}  {returns}"
        lines.append(line + (f"  {failed} FAILED" if failed else ""))
    return lines


def total(statuses: Sequence[CellStatus], parallel: int) -> str:
    """One line for the whole."""
    counts = {state: sum(status.state == state for status in statuses) for state in ("running", "elsewhere", "failed")}
    done = sum(status.state == "done" for status in statuses)
    parts = [f"{done} of {len(statuses)} runs done"]
    queued = max(0, counts["running"] - parallel)  # tasks of a cluster that wait there
    counts = {**counts, "running": counts["running"] - queued, "queued": queued}
    parts += [f"{count} {state}" for state, count in counts.items() if count]
    again = sum(status.failures + status.losses > 0 and status.state == "running" for status in statuses)
    parts += [f"{again} of them again"] if again else []
    if done + counts["failed"] < len(statuses):
        left = seconds_left(statuses, parallel)
        parts.append("time left not known yet" if left is None else f"about {duration(left)} left")
    return ", ".join(parts)


def event(status: CellStatus) -> str:
    """One line for a run that has come to another state."""
    if status.state == "running":
        verb = "again" if status.failures + status.losses else "resumed" if status.steps else "started"
        return f"{verb}: {status.cell} ({status.path})"
    if status.state == "done":
        ret = "" if status.ret is None else f", return {status.ret:.4g}"
        return f"{'found' if status.reused else 'done'}: {status.cell}{ret}"
    if status.state == "failed":
        return f"FAILED: {status.cell}: {status.reason}"
    return f"{status.state}: {status.cell} ({status.path})"


def duration(seconds: float) -> str:
    """For people: "12 min", "3 h 20 min"."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
