"""Settings of MOBILE, and those that suit known environments."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from mbrl.learners.sac import SACConfig
from mbrl.pipelines.offline_model_config import SMALL, SMALL_POLE, OfflineModelConfig, choose, real_rows


@dataclass(frozen=True)
class MOBILEConfig(OfflineModelConfig):
    """Settings of `train_mobile`; those of the learner stand apart.

    Raises:
        ValueError: a number is out of range, or an option is unknown.
    """

    real_fraction: float = 0.05
    """Share of real rows in every batch, by count: 12 of 256."""
    penalty_weight: float = 1.5
    """c: of the members' disagreement on the value of what comes next, in the targets of model rows. It is in units of
    values, as these are, so that the same weight suits rewards of any size."""
    samples: int = 10
    """Next states that are drawn from each elite for each model row; their values are averaged."""

    def __post_init__(self) -> None:
        super().__post_init__()
        real_rows(self.real_fraction, self.batch_size)
        if not 0 <= self.penalty_weight < float("inf"):
            raise ValueError(f"penalty_weight: expected a finite number of 0 or more, got {self.penalty_weight}")
        if self.samples < 1:
            raise ValueError(f"samples: expected at least 1, got {self.samples}")
        if self.elites < 2:
            raise ValueError(f"elites: expected at least 2, which may disagree, got {self.elites}")


class MOBILEPreset(NamedTuple):
    """Settings for one environment."""

    config: MOBILEConfig
    learner: SACConfig


_LEARNER = SACConfig(actor_lr=1e-4, max_temperature=1.0, backup="deterministic")
_SWING = SACConfig(hidden=(64, 64), lr=1e-3, max_temperature=1.0, backup="deterministic")
_POLE = replace(_SWING, tau=0.02)


def _runner(length: int, weight: float) -> dict[str, MOBILEPreset]:
    """As OfflineRL-Kit runs D4RL's medium-replay sets."""
    return {"published": MOBILEPreset(MOBILEConfig(rollout_length=length, penalty_weight=weight), _LEARNER)}


PRESETS: dict[str, dict[str, MOBILEPreset]] = {
    "Pendulum-v1": {"small": MOBILEPreset(MOBILEConfig(**SMALL, samples=1), _SWING)},
    "InvertedPendulum-v5": {"small": MOBILEPreset(MOBILEConfig(**SMALL_POLE, samples=1), _POLE)},
    "HalfCheetah-v5": _runner(5, 0.1),
    "Hopper-v5": _runner(5, 0.1),
    "Walker2d-v5": _runner(1, 0.5),
}
"""By environment id and name; the first is the default. docs/mopo.md says where the numbers come from."""


def mobile_preset(env_id: str | None, name: str | None = None) -> MOBILEPreset:
    """The preset of an environment: the first, or that of a name; the defaults where there is none.

    Raises:
        ValueError: there is no preset of that name.
    """
    return choose(PRESETS, env_id, name, MOBILEPreset(MOBILEConfig(), _LEARNER))
