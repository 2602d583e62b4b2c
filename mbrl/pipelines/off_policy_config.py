"""Settings of off-policy training without a model, and those that suit known environments."""

import math
from dataclasses import dataclass
from typing import Literal

from mbrl.pipelines.config_checks import check_at_least_1, check_initial_steps, check_options


@dataclass(frozen=True)
class OffPolicyConfig:
    """Settings of `train_off_policy`; those of the learner stand apart. The defaults are stable-baselines3's for SAC.

    A batch may be larger than what has been collected: rows are drawn with replacement, as stable-baselines3 does.

    Raises:
        ValueError: a number is out of range, or two disagree.
    """

    total_timesteps: int = 100_000
    """Real environment steps in all, those of all environments together."""
    initial_steps: int = 100
    """Steps with uniformly random actions, before the first update."""
    update_every: int = 1
    """Real steps between rounds of updates."""
    update_ratio: float = 1.0
    """Updates per real step."""
    batch_size: int = 256
    """Rows of an update's batch."""
    buffer_size: int = 1_000_000
    """Transitions that are kept; the oldest give way."""
    discount: float = 0.99
    """Of rewards, per step."""
    n_step: int = 1
    """Rewards that a target sums up before it bootstraps."""
    num_envs: int = 1
    """Environments that are stepped together."""
    vector: Literal["sync", "async"] = "sync"
    """Several environments in this process, or in one process each; async can't be resumed bit for bit."""
    device: str = "cpu"
    """Where learner and buffer live: cpu, cuda, cuda:1, ..."""
    updates: Literal["eager", "compile", "graph"] = "eager"
    """How updates are run: as they are written, compiled, or as a captured CUDA graph."""
    precision: Literal["full", "bfloat16"] = "full"
    """Of the products between hidden layers in updates: bfloat16 is faster where the processor has such products."""
    eval_every: int = 5_000
    """Real steps between evaluations, whose episodes are not counted and not learned from; 0: none."""
    eval_episodes: int = 5
    """Episodes per evaluation."""
    checkpoint_every: int = 10_000
    """Real steps between checkpoints."""

    def __post_init__(self) -> None:
        check_off_policy(self)


def check_off_policy(config: OffPolicyConfig) -> None:
    """Check the settings that all loops with a learner share.

    Raises:
        ValueError: a number is out of range, or two disagree.
    """
    positive = ("total_timesteps", "update_every", "batch_size", "buffer_size", "n_step", "num_envs", "eval_episodes")
    check_at_least_1(config, *positive, "checkpoint_every")
    for name in ("initial_steps", "eval_every"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name}: expected 0 (none) or more, got {getattr(config, name)}")
    if not 0 < config.update_ratio < math.inf:
        raise ValueError(f"update_ratio: expected a positive number of updates per step, got {config.update_ratio}")
    if not 0 <= config.discount <= 1:
        raise ValueError(f"discount: expected a number in [0, 1], got {config.discount}")
    check_options(config)
    check_initial_steps(config)
    if config.batch_size > config.buffer_size:
        raise ValueError(
            f"batch_size: expected at most buffer_size ({config.buffer_size}), got {config.batch_size}: make one "
            "smaller or the other larger"
        )
