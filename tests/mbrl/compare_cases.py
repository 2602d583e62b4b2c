"""A small study, and what the tests of comparisons do with it."""

from pathlib import Path
from typing import Any

from mbrl.experiments.job import work
from mbrl.experiments.jobs import Ending
from mbrl.experiments.metrics import read_metrics
from mbrl.experiments.study import Entry, Study, Task

TINY = Study(
    "tiny",
    (Task("InvertedPendulum-v5", budget=128, eval_every=64, eval_episodes=1),),
    (Entry("a2c", "sb3-a2c"), Entry("td3", "sb3-td3")),
    (0, 1),
)
"""Seconds: short episodes and small networks."""


class Inline:
    """Jobs that are done here and now, but for those that are told to end otherwise.

    Args:
        endings: (label, seed) of a run, and how its first attempts end.
        oracle_episodes: of PETS's oracle gap.
    """

    parallel = 1

    def __init__(self, endings: dict[tuple[str, int], list[Ending]] | None = None, oracle_episodes: int = 0) -> None:
        self.endings = endings or {}
        self.oracle_episodes = oracle_episodes
        self.started: list[Path] = []
        self.stopped = False
        self._ended: list[tuple[Path, Ending]] = []

    def room(self) -> bool:
        return not self._ended

    def start(self, path: Path) -> None:
        self.started.append(path)
        _, algorithm, seed, _ = path.name.split("__")
        others = self.endings.get((algorithm, int(seed)))
        if others:
            self._ended.append((path, others.pop(0)))
            return
        self._ended.append((path, Ending("done", work(path, oracle_episodes=self.oracle_episodes))))

    def finished(self) -> list[tuple[Path, Ending]]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        self.stopped = True


def numbers(run: Path) -> list[dict[str, Any]]:
    """A run's metrics without timings."""
    return [
        {k: v for k, v in row.items() if not (k.startswith(("time/", "plan/ms")) and k != "time/total_timesteps")}
        for row in read_metrics(run)
    ]
