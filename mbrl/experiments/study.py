"""What a comparison runs: tasks x algorithms x seeds, each with the library's own settings for the task.

Nothing but length, evaluations and the device is set here, so that every algorithm meets a task as `mbrl train` would,
and a run that was made by hand counts as one of a study.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Task:
    """An environment, and how long algorithms may act in it.

    Raises:
        ValueError: a number is out of range.
    """

    env_id: str
    budget: int
    """Real steps that all algorithms have: where they are compared."""
    eval_every: int
    """Real steps between evaluations."""
    eval_episodes: int
    """Episodes of each."""

    def __post_init__(self) -> None:
        for name in ("budget", "eval_every", "eval_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1 for {self.env_id}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Entry:
    """An algorithm that is compared.

    Raises:
        ValueError: a number is out of range.
    """

    label: str
    """Its name in the comparison."""
    algorithm: str
    """As in `mbrl train ALGORITHM`."""
    preset: str | None = None
    """Name of its settings, where an environment has several."""
    times: int = 1
    """How many budgets its runs last, so that its steps to a threshold behind the budget are seen."""
    eval_times: int = 1
    """How many times the task's steps lie between its evaluations: long runs need fewer."""
    device: str = "cpu"
    """Where its networks live: cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        for name in ("times", "eval_times"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1 for {self.label}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    task: Task
    entry: Entry
    seed: int

    @property
    def total_timesteps(self) -> int:
        return self.task.budget * self.entry.times

    @property
    def eval_every(self) -> int:
        return self.task.eval_every * self.entry.eval_times

    def __str__(self) -> str:
        return f"{self.entry.label} on {self.task.env_id}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """Tasks x entries x seeds.

    Raises:
        ValueError: something is missing or there twice, two versions of one environment stand side by side, or an
            algorithm is not evaluated at the budget.
    """

    name: str
    tasks: tuple[Task, ...]
    entries: tuple[Entry, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("tasks", "entries", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected at least one, got none")
        _check_different("env_id", (task.env_id for task in self.tasks))
        _check_different("algorithms", (entry.label for entry in self.entries))
        _check_different("seeds", self.seeds)
        for first, second in combinations(self.tasks, 2):
            if _name(first.env_id) == _name(second.env_id):
                raise ValueError(
                    f"env_id: expected one version of each environment, got {first.env_id} and {second.env_id}, whose "
                    f"returns are not comparable; compare them in two studies"
                )
        for one, other in combinations(self.entries, 2):
            if (one.algorithm, one.preset) == (other.algorithm, other.preset):
                raise ValueError(
                    f"algorithms: expected different ones, got {one.label!r} and {other.label!r}, which are both "
                    f"{one.algorithm} with the same settings"
                )
        for cell in cells(self):
            if cell.task.budget % cell.eval_every:
                raise ValueError(
                    f"eval_every: expected a divisor of the budget ({cell.task.budget}) of {cell.task.env_id}, for "
                    f"algorithms are compared there, got {cell.eval_every} for {cell.entry.label}"
                )


class Settings(NamedTuple):
    """What a cell's run is started with."""

    config: Any
    learner: Any
    """None: the algorithm has no settings of a learner apart."""


def cells(study: Study) -> Iterator[Cell]:
    """All runs of a study, seed by seed: a study that is stopped early has whole comparisons of fewer seeds.

    Among those of a seed the entries' order counts: with the longest runs first no core waits for one at the end.
    """
    for seed in study.seeds:
        for entry in study.entries:
            for task in study.tasks:
                yield Cell(task, entry, seed)


def cell_settings(cell: Cell) -> Settings:
    """The preset of a cell's algorithm and environment, with length, evaluations and device replaced.

    Raises:
        ValueError: there is no such algorithm or preset, or it does not fit the budget.
    """
    from mbrl.experiments.offline_runs import OFFLINE  # which import torch: a study can be described without
    from mbrl.experiments.runs import PETS
    from mbrl.experiments.start import find_preset
    from mbrl.pipelines.pets_config import preset as pets_preset

    algorithm, env_id, name = cell.entry.algorithm, cell.task.env_id, cell.entry.preset
    if algorithm in OFFLINE:
        raise ValueError(
            f"algorithms: expected ones that act in the environment, got {algorithm}, which learns from a dataset; "
            f"compare such runs with mbrl ope"
        )
    length: dict[str, Any] = {
        "total_timesteps": cell.total_timesteps,
        "eval_every": cell.eval_every,
        "eval_episodes": cell.task.eval_episodes,
        "device": cell.entry.device,
    }
    try:
        found = Settings(pets_preset(env_id), None) if algorithm == PETS else find_preset(algorithm, env_id, "", name)
        return Settings(replace(found.config, **length), getattr(found, "learner", None))
    except KeyError:
        raise ValueError(f"algorithms: expected those of mbrl train --help, got {algorithm!r}") from None
    except ValueError as error:
        raise ValueError(f"{cell.entry.label} on {env_id}: {error}") from None


def study_record(study: Study) -> dict[str, Any]:
    """A study as JSON has it."""
    record: dict[str, Any] = json.loads(json.dumps(asdict(study)))
    return record


def _check_different(name: str, values: Iterable[Any]) -> None:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{name}: expected each one once, got {value!r} twice")
        seen.add(value)


def _name(env_id: str) -> str:
    """An environment's id without its version."""
    return re.sub(r"-v\d+$", "", env_id.rpartition(":")[2])


SMOKE = Study(
    "smoke",
    tasks=(
        Task("Pendulum-v1", budget=300, eval_every=100, eval_episodes=1),
        Task("mbrl/CartPoleSwingUp-v0", budget=320, eval_every=160, eval_episodes=1),
    ),
    entries=(
        Entry("pets", "pets"),
        Entry("mbpo", "mbpo"),
        Entry("sac", "sac", times=4),
        Entry("sb3-ppo", "sb3-ppo", times=16),
    ),
    seeds=(0, 1),
)
"""Shows that everything works, in minutes: its budgets are too small to learn much."""

SMALL = Study(
    "small",
    tasks=(
        Task("Pendulum-v1", budget=3_000, eval_every=500, eval_episodes=5),
        Task("InvertedPendulum-v5", budget=2_000, eval_every=250, eval_episodes=5),
        Task("mbrl/CartPoleSwingUp-v0", budget=3_000, eval_every=500, eval_episodes=5),
        Task("Reacher-v5", budget=3_000, eval_every=500, eval_episodes=5),
    ),
    entries=(
        Entry("pets", "pets"),
        Entry("mbpo", "mbpo"),
        Entry("sac", "sac", times=4),
        Entry("sac:mbpo", "sac", "mbpo", times=2),
        Entry("sb3-sac", "sb3-sac", times=4),
        Entry("sb3-ppo", "sb3-ppo", times=20),
    ),
    seeds=(0, 1, 2, 3, 4),
)
"""The comparison whose report is in docs/results/: hours on two cores."""

STUDIES = {study.name: study for study in (SMOKE, SMALL)}
