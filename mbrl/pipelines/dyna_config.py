"""Settings of deep Dyna, and those that suit known environments."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from mbrl.learners.dqn import DQNConfig
from mbrl.learners.sac import SACConfig
from mbrl.pipelines.config_checks import check_horizons
from mbrl.pipelines.learned_model import check_model
from mbrl.pipelines.off_policy_config import check_off_policy
from mbrl.pipelines.off_policy_presets import off_policy_preset


@dataclass(frozen=True)
class DynaConfig:
    """Settings of `train_dyna`; those of the learner stand apart.

    Raises:
        ValueError: a number is out of range, or two disagree.
    """

    total_timesteps: int = 50_000
    """Real environment steps in all."""
    initial_steps: int = 500
    """Steps with uniformly random actions, before the first fit and the first update."""
    update_every: int = 1
    """Real steps between rounds of updates."""
    update_ratio: float = 1.0
    """Updates from real transitions per real step."""
    planning_updates: int = 5
    """Updates from the model's transitions after each one from real transitions: K; 0: without a model."""
    planning_steps: int = 1
    """Model steps that make a transition of the model: N; it counts as one of N steps, as n-step returns do."""
    batch_size: int = 64
    """Rows of an update's batch."""
    buffer_size: int = 100_000
    """Real transitions that are kept; the oldest give way."""
    discount: float = 0.99
    """Of rewards, per step."""
    n_step: int = 1
    """Rewards that a target from real transitions sums up before it bootstraps."""
    num_envs: int = 1
    """Environments that are stepped together."""
    vector: Literal["sync", "async"] = "sync"
    """Several environments in this process, or in one process each; async can't be resumed bit for bit."""
    device: str = "cpu"
    """Where learner, model and all transitions live: cpu, cuda, cuda:1, ..."""
    updates: Literal["eager", "compile", "graph"] = "eager"
    """How updates are run: as they are written, compiled, or as a captured CUDA graph."""
    precision: Literal["full", "bfloat16"] = "full"
    """Of the products between hidden layers in updates: bfloat16 is faster where the processor has such products."""

    model_every: int = 250
    """Real steps between fits of the model."""
    elite_sampling: Literal["ts1", "ts1_independent"] = "ts1_independent"
    """How rows meet elites at each model step: dealt in equal shares, or drawn independently."""
    reward: Literal["learned", "task"] = "learned"
    """The model's rewards: learned with the dynamics, or the task's own, verified on every real step."""
    termination: Literal["task", "learned", "never"] = "task"
    """The model's ends: the task's, verified on every real step; a classifier's; or none."""
    members: int = 5
    """Networks of the ensemble."""
    elites: int = 3
    """Members, the best on the holdout, that planning uses."""
    model_hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of each network."""
    model_lr: float = 1e-3
    """Of Adam, for the ensemble."""
    model_batch_size: int = 64
    """Rows per gradient step and member."""
    model_max_steps: int | None = 1_000
    """Gradient steps of a fit at most; None: early stopping alone decides."""
    holdout: float = 0.2
    """Share of the real rows, at random, that early stopping and elites are decided by."""
    max_holdout: int = 1_000
    """Rows of the holdout at most."""
    patience: int = 5
    """Epochs without improvement after which a member stops."""
    diagnostic_horizons: tuple[int, ...] = (1, 2, 5)
    """Steps ahead at which the model is scored, before each fit, on real steps that it has not seen; (): never."""

    eval_every: int = 1_000
    """Real steps between evaluations, whose episodes are not counted and not learned from; 0: none."""
    eval_episodes: int = 5
    """Episodes per evaluation."""
    checkpoint_every: int = 5_000
    """Real steps between checkpoints."""

    def __post_init__(self) -> None:
        check_off_policy(self)  # type: ignore[arg-type]
        check_model(self, "model_every")
        check_horizons(self)
        if self.planning_updates < 0:
            raise ValueError(f"planning_updates: expected 0 (none) or more, got {self.planning_updates}")
        if self.planning_steps < 1:
            raise ValueError(f"planning_steps: expected at least 1, got {self.planning_steps}")
        if self.initial_steps < 1:
            raise ValueError("initial_steps: expected at least 1, for the model to be fitted to, got 0")


class DynaPreset(NamedTuple):
    """Settings for one environment."""

    config: DynaConfig
    learner: Any
    env_kwargs: Mapping[str, Any]
    """Options of the environment."""


_BALANCE = DynaConfig(
    total_timesteps=20_000,
    initial_steps=250,
    planning_updates=4,
    reward="task",
    buffer_size=20_000,
    eval_every=500,
    checkpoint_every=1_000,
)


def _cartpole() -> DynaPreset:
    """DQN's settings without a model, and with them four planned updates after each real one."""
    alone, learner, env_kwargs = off_policy_preset("dqn", "CartPole-v1")
    shared = ("initial_steps", "update_every", "update_ratio", "batch_size", "n_step", "eval_every")
    config = replace(_BALANCE, **{name: getattr(alone, name) for name in shared})
    # Planned updates count as well: exploration takes as many real steps as without them.
    exploration = learner.exploration_updates * (1 + config.planning_updates)
    return DynaPreset(config, replace(learner, exploration_updates=exploration), env_kwargs)


PRESETS: dict[str, DynaPreset] = {
    "CartPole-v1": _cartpole(),
    "InvertedPendulum-v5": DynaPreset(replace(_BALANCE, batch_size=128), SACConfig(lr=1e-3), {}),
}
"""By environment id; docs/results.md has what was measured with them."""
DEFAULTS = {"sac": DynaPreset(DynaConfig(), SACConfig(), {}), "dqn": DynaPreset(DynaConfig(), DQNConfig(), {})}
"""By learner."""


def dyna_preset(env_id: str, name: str | None = None) -> DynaPreset:
    """The preset of an environment; where there is none, or a learner is named, the defaults with that: SAC or DQN.

    Raises:
        ValueError: no such learner.
    """
    if name is None:
        return PRESETS.get(env_id.rpartition(":")[2], DEFAULTS["sac"])
    if name not in DEFAULTS:
        raise ValueError(f"preset: expected one of {', '.join(DEFAULTS)}, the learner, got {name!r}")
    return DEFAULTS[name]
