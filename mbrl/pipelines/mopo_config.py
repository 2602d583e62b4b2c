"""Settings of MOPO, and those that suit known environments."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from mbrl.learners.sac import SACConfig
from mbrl.models.penalties import PenaltyKind, PenaltyUnits, check_penalty
from mbrl.pipelines.offline_model_config import SMALL, SMALL_POLE, OfflineModelConfig, choose, real_rows


@dataclass(frozen=True)
class MOPOConfig(OfflineModelConfig):
    """Settings of `train_mopo`; those of the learner stand apart.

    Raises:
        ValueError: a number is out of range, or an option is unknown.
    """

    real_fraction: float = 0.05
    """Share of real rows in every batch, by count: 12 of 256."""
    penalty: PenaltyKind = "pairwise"
    """What lowers the model's rewards: members' disagreement ("pairwise", "ensemble_std"), the noise that they expect
    ("aleatoric", the paper's), or nothing ("none")."""
    penalty_weight: float = 1.0
    """Of the penalty; the paper's lambda where its units are raw."""
    penalty_units: PenaltyUnits = "data"
    """Units of the penalty: the environment's ("raw", the paper's), or those of the data: a disagreement as large as
    the changes in the data costs `penalty_weight` usual rewards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_penalty(self.penalty, self.penalty_weight, self.penalty_units)
        real_rows(self.real_fraction, self.batch_size)


class MOPOPreset(NamedTuple):
    """Settings for one environment."""

    config: MOPOConfig
    learner: SACConfig


_LEARNER = SACConfig(actor_lr=1e-4, max_temperature=1.0)
_SWING = SACConfig(hidden=(64, 64), lr=1e-3, max_temperature=1.0)
_POLE = replace(_SWING, tau=0.02, target_entropy=-3.0)


def _runner(length: int, weight: float) -> MOPOConfig:
    """As OfflineRL-Kit runs D4RL's medium-replay sets: aleatoric noise in raw units."""
    return MOPOConfig(rollout_length=length, penalty="aleatoric", penalty_weight=weight, penalty_units="raw")


PRESETS: dict[str, dict[str, MOPOPreset]] = {
    "Pendulum-v1": {"small": MOPOPreset(MOPOConfig(**SMALL), _SWING)},
    "InvertedPendulum-v5": {"small": MOPOPreset(MOPOConfig(**SMALL_POLE, penalty_weight=0.3), _POLE)},
    **{
        env_id: {
            "default": MOPOPreset(MOPOConfig(rollout_length=length), _LEARNER),
            "published": MOPOPreset(_runner(length, weight), _LEARNER),
        }
        for env_id, length, weight in (("HalfCheetah-v5", 5, 0.5), ("Hopper-v5", 5, 2.5), ("Walker2d-v5", 1, 2.5))
    },
}
"""By environment id and name; the first is the default. docs/mopo.md says where the numbers come from."""


def mopo_preset(env_id: str | None, name: str | None = None) -> MOPOPreset:
    """The preset of an environment: the first, or that of a name; the defaults where there is none.

    Raises:
        ValueError: there is no preset of that name.
    """
    return choose(PRESETS, env_id, name, MOPOPreset(MOPOConfig(), _LEARNER))
