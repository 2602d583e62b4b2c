"""Runs of a comparison as tasks on a Ray cluster.

Run directories are on a path that all machines share, under the same name. A task does there what a worker process does
on one machine, so that it comes to the same numbers; one whose worker or machine is lost is put on another, and goes on
from the run's checkpoint.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbrl.experiments.jobs import Ending, work_to_the_end

LOOK = 0.05
"""Seconds that Ray is given to say which tasks have ended."""


def address_of(given: Sequence[str]) -> str | None:
    """The address after `--ray`; None: a cluster on this machine. Raises ValueError where there are several."""
    if len(given) > 1:
        raise ValueError(f"ray: expected one address, or none for a cluster on this machine, got {' '.join(given)}")
    return given[0] if given else None


def connect(address: str | None, *, jobs: int) -> Any:
    """The module `ray`, connected to a cluster.

    Args:
        address: such as "auto" or "ray://HOST:10001"; None: one is started on this machine.
        jobs: its cores, where it is started here.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at `address`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ValueError('ray: expected Ray to be installed; pip install ".[ray]"') from None
    module: Any = ray
    here = {"num_cpus": jobs, "include_dashboard": False} if address is None else {}
    try:
        module.init(address=address, log_to_driver=False, logging_level="warning", **here)
    except Exception as error:  # Ray has no type of its own for it
        where = "to start one on this machine" if address is None else f"a cluster at {address}"
        raise ValueError(f"ray: expected {where}, but {error}") from error
    return module


class RayJobs:
    """Tasks on a cluster.

    Args:
        address: of the cluster, such as "auto" or "ray://HOST:10001"; None: one is started on this machine.
        jobs: cores of a cluster that is started here.
        gpu_share: of a GPU that each run takes, for entries of a study whose device is one.
        oracle_episodes: of each arm of PETS's oracle gap; 0: without one.

    Raises:
        ValueError: Ray is not installed, there is no cluster at `address`, or a number is out of range.
    """

    def __init__(
        self, address: str | None = None, *, jobs: int = 1, gpu_share: float = 0.0, oracle_episodes: int
    ) -> None:
        if jobs < 1:
            raise ValueError(f"jobs: expected at least 1, got {jobs}")
        if not gpu_share >= 0:
            raise ValueError(f"gpu_share: expected 0 or more, got {gpu_share}")
        self._ray: Any = connect(address, jobs=jobs)
        if gpu_share and not self._ray.cluster_resources().get("GPU"):  # tasks would wait for one for ever
            self._ray.shutdown()
            raise ValueError(f"gpu_share: expected 0 on a cluster without a GPU, got {gpu_share}")
        self._task = self._ray.remote(num_cpus=1, num_gpus=gpu_share, max_retries=0)(work_to_the_end)
        self._gpu_share, self._episodes = gpu_share, oracle_episodes
        self._running: dict[Any, Path] = {}
        self._stopping = False

    @property
    def parallel(self) -> int:
        has = self._ray.cluster_resources()
        by_gpu = has.get("GPU", 0) / self._gpu_share if self._gpu_share else float("inf")
        return max(1, int(min(has.get("CPU", 1), by_gpu)))

    def room(self) -> bool:
        return len(self._running) < 2 * self.parallel  # some wait, so that none is idle and the cluster may grow

    def start(self, path: Path) -> None:
        self._running[self._task.remote(path.resolve(), oracle_episodes=self._episodes)] = path

    def finished(self) -> list[tuple[Path, Ending]]:
        if not self._running:
            return []
        ended, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=LOOK)
        return [(self._running.pop(task), self._ending(task)) for task in ended]

    def stop(self) -> None:
        self._stopping = True
        for task in self._running:
            self._ray.cancel(task)
        with contextlib.suppress(KeyboardInterrupt):
            self._ray.wait(list(self._running), num_returns=len(self._running))

    def _ending(self, task: Any) -> Ending:
        try:
            ending: Ending = self._ray.get(task)
            return ending
        except self._ray.exceptions.TaskCancelledError:
            return Ending("stopped")
        except self._ray.exceptions.RayTaskError as error:
            return Ending("failed", " ".join(str(error.cause).split()))
        except self._ray.exceptions.RayError as error:  # the worker, its machine, or its memory
            return Ending("stopped") if self._stopping else Ending("lost", " ".join(str(error).split())[:300])
