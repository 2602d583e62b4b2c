"""Settings of COMBO, and those that suit known environments."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from mbrl.learners.combo import COMBOLearnerConfig
from mbrl.pipelines.offline_model_config import SMALL, SMALL_POLE, OfflineModelConfig, choose


@dataclass(frozen=True)
class COMBOConfig(OfflineModelConfig):
    """Settings of `train_combo`; those of the learner stand apart, and with them the share of real rows in a batch.

    Raises:
        ValueError: a number is out of range, or an option is unknown.
    """

    total_updates: int = 1_000_000
    """Updates of the learner in all."""


class COMBOPreset(NamedTuple):
    """Settings for one environment."""

    config: COMBOConfig
    learner: COMBOLearnerConfig


_SMALL = COMBOLearnerConfig(hidden=(64, 64), lr=1e-3, actor_lr=1e-3, actions=4)
_POLE = replace(_SMALL, tau=0.02, weight=0.1)


def _runner(length: int, weight: float) -> dict[str, COMBOPreset]:
    """As OfflineRL-Kit runs D4RL's medium-replay sets; "published" with its logsumexp over three actions at a time."""
    config, learner = COMBOConfig(rollout_length=length), COMBOLearnerConfig(weight=weight)
    return {
        "default": COMBOPreset(config, learner),
        "published": COMBOPreset(config, replace(learner, triples=True)),
    }


PRESETS: dict[str, dict[str, COMBOPreset]] = {
    "Pendulum-v1": {"small": COMBOPreset(COMBOConfig(**SMALL), _SMALL)},
    "InvertedPendulum-v5": {"small": COMBOPreset(COMBOConfig(**SMALL_POLE), _POLE)},
    "HalfCheetah-v5": _runner(5, 0.5),
    "Hopper-v5": _runner(5, 0.5),
    "Walker2d-v5": _runner(1, 0.5),
}
"""By environment id and name; the first is the default. docs/mopo.md says where the numbers come from."""


def combo_preset(env_id: str | None, name: str | None = None) -> COMBOPreset:
    """The preset of an environment: the first, or that of a name; the defaults where there is none.

    Raises:
        ValueError: there is no preset of that name.
    """
    return choose(PRESETS, env_id, name, COMBOPreset(COMBOConfig(), COMBOLearnerConfig()))
