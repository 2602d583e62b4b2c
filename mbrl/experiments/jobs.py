"""Runs of a comparison in worker processes on this machine, one torch thread each."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from mbrl.experiments import job

LOG = "job.log"
"""What a worker prints, in the run directory."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""1 for workers: as many processes as cores leave none for a second thread."""


class Ending(NamedTuple):
    """How a job ended."""

    outcome: Literal["done", "failed", "lost", "busy", "stopped"]
    """`lost`: its process or machine is gone; `busy`: another process has the run; `stopped`: it was asked to."""
    reason: str = ""
    """Of a run that is done: what could not be done beside it."""


class Jobs(Protocol):
    """Where the runs of a comparison are worked on."""

    @property
    def parallel(self) -> int:
        """How many runs go on at once, about."""

    def room(self) -> bool:
        """Whether another run may be started."""

    def start(self, path: Path) -> None:
        """Begin with a run directory, or go on with it."""

    def finished(self) -> list[tuple[Path, Ending]]:
        """The jobs that have ended since it was asked last."""

    def stop(self) -> None:
        """Ask all jobs to end with a checkpoint, and wait until they have."""


class LocalJobs:
    """Worker processes on this machine.

    Args:
        jobs: how many at once.
        oracle_episodes: of each arm of PETS's oracle gap; 0: without one.

    Raises:
        ValueError: `jobs` < 1.
    """

    def __init__(self, jobs: int, *, oracle_episodes: int) -> None:
        if jobs < 1:
            raise ValueError(f"jobs: expected at least 1, got {jobs}")
        self.parallel = jobs
        self._episodes = oracle_episodes
        self._running: dict[Path, subprocess.Popen[bytes]] = {}
        self._logged: dict[Path, int] = {}
        self._stopping = False

    def room(self) -> bool:
        return len(self._running) < self.parallel

    def start(self, path: Path) -> None:
        with (path / LOG).open("ab") as log:
            self._logged[path] = log.tell()
            self._running[path] = subprocess.Popen(
                [sys.executable, "-m", "mbrl.experiments.job", str(path), str(self._episodes)],
                stdin=subprocess.PIPE,  # which closes when this process ends: then the job does, too
                stdout=log,
                stderr=log,
                env={**os.environ, **dict.fromkeys(THREADS, "1")},
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            )

    def finished(self) -> list[tuple[Path, Ending]]:
        ended = [(path, process) for path, process in self._running.items() if process.poll() is not None]
        for path, process in ended:
            del self._running[path]
            assert process.stdin is not None
            process.stdin.close()
        return [(path, self._ending(path, process.returncode)) for path, process in ended]

    def stop(self) -> None:
        self._stopping = True
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
        try:
            for process in self._running.values():
                process.wait()
        except KeyboardInterrupt:  # once more: not even a checkpoint
            for process in self._running.values():
                process.kill()
            for process in self._running.values():
                process.wait()

    def _ending(self, path: Path, status: int) -> Ending:
        if status == job.DONE:
            return Ending("done", _said(path / LOG, self._logged[path], job.NOTE)[1])
        if self._stopping or status == job.STOPPED:
            return Ending("stopped")
        if status == job.BUSY:
            return Ending("busy")
        if status < 0:
            return Ending("lost", f"its process was ended by {signal.Signals(-status).name}; see {path / LOG}")
        last, reason = _said(path / LOG, self._logged[path], job.REASON)
        return Ending("failed", f"{reason or last}; see {path / LOG}")


def work_to_the_end(path: Path, *, oracle_episodes: int) -> Ending:
    """One job on this machine; interrupted, it ends with a checkpoint."""
    jobs = LocalJobs(1, oracle_episodes=oracle_episodes)
    jobs.start(path)
    try:
        while not (ended := jobs.finished()):
            time.sleep(0.1)
    except KeyboardInterrupt:
        jobs.stop()
        ended = jobs.finished()
    return ended[0][1]


def _said(log: Path, start: int, prefix: str) -> tuple[str, str]:
    """The last line of a job, and its last behind `prefix`; the first `start` bytes are of earlier attempts."""
    lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
    said = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    return lines[-1] if lines else "it said nothing", said[-1] if said else ""
