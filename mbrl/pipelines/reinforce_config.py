"""Settings of REINFORCE's loop, and those that suit known environments."""

from dataclasses import dataclass
from typing import NamedTuple

from mbrl.learners.reinforce import DiscreteReinforceConfig, ReinforceConfig
from mbrl.pipelines.config_checks import check_at_least_1


@dataclass(frozen=True)
class OnPolicyConfig:
    """Settings of `train_reinforce`; those of the learner stand apart.

    Raises:
        ValueError: a number is out of range.
    """

    total_timesteps: int = 100_000
    """Real environment steps in all."""
    batch_steps: int = 1_000
    """Steps that the finished episodes of an update have at least; all of them are learned from once. At most
    `total_timesteps`."""
    discount: float = 0.99
    """Of rewards, per step."""
    device: str = "cpu"
    """Where the learner lives: cpu, cuda, cuda:1, ..."""
    eval_every: int = 5_000
    """Real steps between evaluations, whose episodes are not counted and not learned from; 0: none."""
    eval_episodes: int = 5
    """Episodes per evaluation."""
    checkpoint_every: int = 10_000
    """Real steps between checkpoints."""

    def __post_init__(self) -> None:
        check_at_least_1(self, "total_timesteps", "batch_steps", "eval_episodes", "checkpoint_every")
        if self.eval_every < 0:
            raise ValueError(f"eval_every: expected 0 (none) or more, got {self.eval_every}")
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount: expected a number in [0, 1], got {self.discount}")

    @property
    def num_envs(self) -> int:
        """One: the episodes of a batch are those of one policy, from their first step to their last."""
        return 1


class ReinforcePreset(NamedTuple):
    """Settings for one environment."""

    config: OnPolicyConfig
    learner: ReinforceConfig
    env_kwargs: dict[str, bool]
    """Options of the environment: none."""


PRESETS: dict[str, OnPolicyConfig] = {
    "CartPole-v1": OnPolicyConfig(total_timesteps=100_000, eval_every=2_500, eval_episodes=10),
    "InvertedPendulum-v5": OnPolicyConfig(total_timesteps=100_000, eval_every=2_500, checkpoint_every=5_000),
}
"""By environment id; the learner's defaults suit both."""


def reinforce_preset(env_id: str, *, discrete: bool) -> ReinforcePreset:
    """The preset of an environment; the defaults where there is none.

    Args:
        env_id: of the environment, or "".
        discrete: whether its actions are.
    """
    config = PRESETS.get(env_id.rpartition(":")[2], OnPolicyConfig())
    return ReinforcePreset(config, DiscreteReinforceConfig() if discrete else ReinforceConfig(), {})
