"""Where the trials of `mbrl tune` are worked on: processes on this machine, or tasks on a Ray cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Protocol

from mbrl.experiments.jobs import THREADS
from mbrl.experiments.ray_jobs import connect
from mbrl.experiments.tune_trial import TRIALS, Outcome, work

DEATHS = 2
"""Times that the process of a trial may be killed."""


class Workers(Protocol):
    """Where trials are worked on."""

    jobs: int
    """At once."""

    def submit(self, folder: Path, number: int) -> Future[Outcome]: ...

    def close(self) -> None:
        """End what is going on."""


class LocalWorkers:
    """Processes on this machine, one torch thread each. A trial whose process was killed twice, by a lack of memory,
    say, has failed.

    Raises:
        ValueError: `jobs` is below 1.
    """

    def __init__(self, jobs: int) -> None:
        if jobs < 1:
            raise ValueError(f"jobs: expected at least 1, got {jobs}")
        self.jobs = jobs
        self._threads = ThreadPoolExecutor(jobs)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._lock = Lock()

    def submit(self, folder: Path, number: int) -> Future[Outcome]:
        return self._threads.submit(self._work, folder, number)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()
        self._threads.shutdown(cancel_futures=True)

    def _work(self, folder: Path, number: int) -> Outcome:
        log = folder / TRIALS / f"{number:04d}" / "trial.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(DEATHS):
            with log.open("ab") as errors, self._start(folder, number, errors) as process:
                assert process.stdout is not None
                said = process.stdout.read().decode().strip().splitlines()
                status = process.wait()
            with self._lock:
                self._running.discard(process)
            if status == 0:
                return Outcome(*json.loads(said[-1]))
            if status > 0 or self._closed:
                raise OSError(f"trial {number} ended with status {status}, see {log}; the same command goes on with it")
        name = signal.Signals(-status).name
        return Outcome("failed", reason=f"its process was ended by {name} {DEATHS} times; see {log}")

    def _start(self, folder: Path, number: int, errors: BinaryIO) -> subprocess.Popen[bytes]:
        with self._lock:  # so that `close` ends it, or it never begins
            if self._closed:
                raise OSError(f"trial {number} was stopped; the same command goes on with it")
            process = subprocess.Popen(
                [sys.executable, "-m", "mbrl.experiments.tune_trial", str(folder), str(number)],
                stdin=subprocess.PIPE,  # which closes when this process ends: then the trial does, too
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **dict.fromkeys(THREADS, "1")},
                start_new_session=True,  # Ctrl-C is for this process, which ends the others
            )
            self._running.add(process)
        return process


class RayWorkers:
    """Tasks on a Ray cluster, whose machines share the study's folder under one path. A lost task is done again, and
    goes on from its checkpoint.

    Args:
        address: of the cluster; None: one is started on this machine.
        jobs: at once; cores of a cluster that is started here.

    Raises:
        ValueError: Ray is not installed, there is no cluster at `address`, or `jobs` is below 1.
    """

    def __init__(self, address: str | None, jobs: int) -> None:
        if jobs < 1:
            raise ValueError(f"jobs: expected at least 1, got {jobs}")
        self.jobs = jobs
        self._ray: Any = connect(address, jobs=jobs)
        self._task = self._ray.remote(num_cpus=1, max_retries=3)(_single_threaded)

    def submit(self, folder: Path, number: int) -> Future[Outcome]:
        future: Future[Outcome] = self._task.remote(folder.resolve(), number).future()
        return future

    def close(self) -> None:
        self._ray.shutdown()


def _single_threaded(folder: Path, number: int) -> Outcome:
    import torch

    torch.set_num_threads(1)
    return work(folder, number)
