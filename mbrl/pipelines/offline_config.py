"""Settings of training on a dataset without a model, and those that suit known environments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from mbrl.learners.awac import AWACConfig
from mbrl.learners.behavior_cloning import BehaviorCloningConfig
from mbrl.learners.cql import CQLConfig
from mbrl.learners.iql import IQLConfig
from mbrl.learners.td3_bc import TD3BCConfig
from mbrl.pipelines.config_checks import check_at_least_1, check_options


@dataclass(frozen=True)
class OfflineConfig:
    """Settings of `train_offline`; those of the learner stand apart.

    Raises:
        ValueError: a number is out of range.
    """

    total_updates: int = 1_000_000
    """Updates of the learner in all."""
    batch_size: int = 256
    """Rows of an update's batch, drawn with replacement."""
    discount: float = 0.99
    """Of rewards, per step."""
    normalize_rewards: bool = False
    """Multiply rewards so that the returns of the dataset's episodes span 1,000, as IQL does for MuJoCo; values are
    logged in these units."""
    device: str = "cpu"
    """Where learner and dataset live: cpu, cuda, cuda:1, ..."""
    updates: Literal["eager", "compile", "graph"] = "eager"
    """How updates are run: as they are written, compiled, or as a captured CUDA graph."""
    precision: Literal["full", "bfloat16"] = "full"
    """Of the products between hidden layers in updates: bfloat16 is faster where the processor has such products."""
    log_every: int = 1_000
    """Updates between rows of what the learner reports."""
    eval_every: int = 10_000
    """Updates between evaluations, of which there is one more at the end; 0: none."""
    eval_episodes: int = 10
    """Episodes per evaluation."""
    checkpoint_every: int = 50_000
    """Updates between checkpoints."""

    def __post_init__(self) -> None:
        check_at_least_1(self, "total_updates", "batch_size", "log_every", "eval_episodes", "checkpoint_every")
        check_options(self)
        if self.eval_every < 0:
            raise ValueError(f"eval_every: expected 0 (none) or more, got {self.eval_every}")
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount: expected a number in [0, 1], got {self.discount}")


class OfflinePreset(NamedTuple):
    """Settings of loop and learner."""

    config: OfflineConfig
    learner: Any


DEFAULTS: dict[str, OfflinePreset] = {
    "bc": OfflinePreset(OfflineConfig(), BehaviorCloningConfig()),
    "td3bc": OfflinePreset(OfflineConfig(), TD3BCConfig()),
    "cql": OfflinePreset(OfflineConfig(), CQLConfig()),
    "iql": OfflinePreset(OfflineConfig(normalize_rewards=True), IQLConfig()),
    "awac": OfflinePreset(OfflineConfig(normalize_rewards=True), AWACConfig()),
}
"""By algorithm, for MuJoCo's runners: the papers' numbers for one million updates."""

_SMALL = OfflineConfig(total_updates=10_000, log_every=500, eval_every=1_000, checkpoint_every=2_000)
_NETWORKS: dict[str, Any] = {"hidden": (64, 64), "lr": 1e-3}
SMALL: dict[str, OfflinePreset] = {
    "bc": OfflinePreset(_SMALL, BehaviorCloningConfig(**_NETWORKS)),
    # Values of these tasks are large beside their differences, so that with 2.5 the actor would clone.
    "td3bc": OfflinePreset(_SMALL, TD3BCConfig(**_NETWORKS, alpha=20.0, tau=0.01)),
    "cql": OfflinePreset(_SMALL, CQLConfig(**_NETWORKS, actor_lr=1e-3)),
    "iql": OfflinePreset(replace(_SMALL, normalize_rewards=True), IQLConfig(**_NETWORKS)),
    "awac": OfflinePreset(replace(_SMALL, normalize_rewards=True), AWACConfig(**_NETWORKS)),
}
"""By algorithm, for tasks that small networks learn in seconds."""
_SMALL_TASKS = ("Pendulum-v1", "InvertedPendulum-v5")


def offline_preset(algorithm: str, env_id: str | None, name: str | None = None) -> OfflinePreset:
    """The settings for an environment: those of small tasks, or the algorithm's defaults.

    Raises:
        ValueError: a preset was asked for by name: there is one an environment.
    """
    if name is not None:
        raise ValueError(f"preset: expected none, for {algorithm} has one an environment, got {name!r}")
    small = (env_id or "").rpartition(":")[2] in _SMALL_TASKS
    return (SMALL if small else DEFAULTS)[algorithm]
