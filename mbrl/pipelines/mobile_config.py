"""Settings of MOBILE, and those that suit known environments."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mbrl.learners.sac import SACConfig
from mbrl.pipelines.offline_model_config import OfflineModelConfig, choose, real_rows


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
    env_kwargs: Mapping[str, Any]
    """Options of the environment, as registered."""


_LEARNER = SACConfig(actor_lr=1e-4, max_temperature=1.0, backup="deterministic")
# One CPU core: a seed takes about a minute and a half.
_SMALL = MOBILEConfig(
    total_updates=10_000,
    samples=1,
    rollout_every=250,
    rollout_starts=1_000,
    members=5,
    elites=4,
    model_hidden=(128, 128),
    model_batch_size=64,
    model_max_steps=2_000,
    log_every=500,
    eval_every=1_000,
    checkpoint_every=5_000,
)
_SMALL_LEARNER = SACConfig(hidden=(64, 64), lr=1e-3, tau=0.02, max_temperature=1.0, backup="deterministic")


def _runner(length: int, weight: float) -> dict[str, MOBILEPreset]:
    """As OfflineRL-Kit runs D4RL's medium-replay sets."""
    return {"published": MOBILEPreset(MOBILEConfig(rollout_length=length, penalty_weight=weight), _LEARNER, {})}


# Rewards of a pole are 1, and 0 at its fall: a regression on a few falls only blurs that step, and its error, which is
# larger than all others, decides when the fit stops.
PRESETS: dict[str, dict[str, MOBILEPreset]] = {
    "Pendulum-v1": {"small": MOBILEPreset(_SMALL, _SMALL_LEARNER, {})},
    "InvertedPendulum-v5": {"small": MOBILEPreset(replace(_SMALL, reward="task"), _SMALL_LEARNER, {})},
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
    return choose(PRESETS, env_id, name, MOBILEPreset(MOBILEConfig(), _LEARNER, {}))
