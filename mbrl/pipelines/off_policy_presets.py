"""Settings of off-policy learning by algorithm and environment, as Python; docs/learners says where they come from."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

from mbrl.learners.ddpg import DDPGConfig
from mbrl.learners.discrete_sac import DiscreteSACConfig
from mbrl.learners.dqn import DQNConfig
from mbrl.learners.sac import DROQ, REDQ, SACConfig
from mbrl.learners.td3 import TD3Config
from mbrl.pipelines.mbpo_config import PRESETS as MBPO_PRESETS
from mbrl.pipelines.mbpo_config import mbpo_preset
from mbrl.pipelines.off_policy_config import OffPolicyConfig


class OffPolicyPreset(NamedTuple):
    """Settings for one algorithm and one environment."""

    config: OffPolicyConfig
    learner: Any
    env_kwargs: Mapping[str, Any]
    """Options of the environment."""


DEFAULTS: dict[str, OffPolicyPreset] = {
    "sac": OffPolicyPreset(OffPolicyConfig(), SACConfig(), {}),
    "redq": OffPolicyPreset(OffPolicyConfig(initial_steps=5_000, update_ratio=20), REDQ, {}),
    "droq": OffPolicyPreset(OffPolicyConfig(initial_steps=5_000, update_ratio=20), DROQ, {}),
    "td3": OffPolicyPreset(OffPolicyConfig(), TD3Config(), {}),
    "ddpg": OffPolicyPreset(OffPolicyConfig(), DDPGConfig(), {}),
    "dqn": OffPolicyPreset(OffPolicyConfig(initial_steps=1_000, batch_size=64), DQNConfig(), {}),
    "discrete_sac": OffPolicyPreset(OffPolicyConfig(initial_steps=1_000, batch_size=64), DiscreteSACConfig(), {}),
}
"""By algorithm."""

_PENDULUM = OffPolicyConfig(
    total_timesteps=10_000, initial_steps=1_000, eval_every=1_000, eval_episodes=10, checkpoint_every=1_000
)
# An update a step, in rounds of 16, and 5-step returns: docs/learners/dqn.md says what the zoo's settings do here.
_CARTPOLE = OffPolicyConfig(
    total_timesteps=50_000,
    initial_steps=1_000,
    update_every=16,
    update_ratio=1,
    batch_size=64,
    buffer_size=100_000,
    n_step=5,
    eval_every=2_500,
    eval_episodes=10,
)
# Episodes of up to 1,000 steps in all of these; the papers' numbers for one million steps.
_MUJOCO = OffPolicyConfig(total_timesteps=1_000_000, initial_steps=10_000, eval_every=10_000, checkpoint_every=20_000)
_SHORT = OffPolicyConfig(
    total_timesteps=20_000, initial_steps=500, eval_every=500, checkpoint_every=1_000, update_ratio=1
)
_OFTEN = OffPolicyConfig(
    total_timesteps=300_000, initial_steps=5_000, update_ratio=20, eval_every=5_000, checkpoint_every=5_000
)
_RUNNERS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5")
_POLES = ("InvertedPendulum-v5", "InvertedDoublePendulum-v5")
_REDQ_ENTROPY = {"Hopper-v5": -1.0, "HalfCheetah-v5": -3.0, "Walker2d-v5": -3.0, "Ant-v5": -4.0, "Humanoid-v5": -2.0}
"""Target entropies of REDQ's and DroQ's papers, which follow MBPO's."""


def _presets() -> dict[tuple[str, str], OffPolicyPreset]:
    plain: dict[str, Any] = {"sac": SACConfig(), "td3": TD3Config(), "ddpg": DDPGConfig()}
    often = {"redq": REDQ, "droq": DROQ}
    made = {
        ("sac", "Pendulum-v1"): OffPolicyPreset(_PENDULUM, SACConfig(lr=1e-3), {}),
        ("sac", "mbrl/CartPoleSwingUp-v0"): OffPolicyPreset(_SHORT, SACConfig(lr=1e-3), {}),
        ("sac", "Reacher-v5"): OffPolicyPreset(_SHORT, SACConfig(), {}),
    }
    dqn = DQNConfig(
        hidden=(64, 64), lr=5e-4, target_every=1, tau=0.005, exploration_final=0.04, exploration_updates=7_000
    )
    made["dqn", "CartPole-v1"] = OffPolicyPreset(_CARTPOLE, dqn, {})
    made["discrete_sac", "CartPole-v1"] = OffPolicyPreset(
        replace(_CARTPOLE, total_timesteps=20_000, n_step=1, update_every=2, update_ratio=0.5),
        DiscreteSACConfig(hidden=(64, 64), lr=1e-3, target_entropy=0.3),
        {},
    )
    for name in ("td3", "ddpg"):
        made[name, "Pendulum-v1"] = OffPolicyPreset(replace(_PENDULUM, discount=0.98), plain[name], {})
    for name, learner in plain.items():
        made |= {(name, env_id): OffPolicyPreset(_SHORT, learner, {}) for env_id in _POLES}
        made |= {(name, env_id): OffPolicyPreset(_MUJOCO, learner, {}) for env_id in _RUNNERS}
    for name, learner in often.items():
        for env_id, entropy in _REDQ_ENTROPY.items():
            made[name, env_id] = OffPolicyPreset(_OFTEN, replace(learner, target_entropy=entropy), {})
    return made


PRESETS = _presets()
"""By algorithm and environment id."""


def loop_defaults(learner: Any) -> OffPolicyConfig:
    """The loop's settings in `DEFAULTS` for a learner's: of its kind, and of SAC's kin of the nearest.

    Nearest is where the fewest hyperparameters differ; SAC itself where it is as near as another.
    """

    def differing(preset: OffPolicyPreset) -> int:
        return sum(getattr(preset.learner, field.name) != getattr(learner, field.name) for field in fields(learner))

    return min((p for p in DEFAULTS.values() if type(p.learner) is type(learner)), key=differing).config


def off_policy_preset(algorithm: str, env_id: str, name: str | None = None) -> OffPolicyPreset:
    """The preset of an algorithm and an environment; the algorithm's defaults where there is none.

    Args:
        name: "mbpo", of SAC where MBPO has a preset: MBPO without its model. None: the algorithm's own.

    Raises:
        ValueError: there is no preset of that name.
    """
    known = env_id.rpartition(":")[2]
    if name is None:
        return PRESETS.get((algorithm, known), DEFAULTS[algorithm])
    if algorithm != "sac":
        raise ValueError(f"preset: expected none, for {algorithm} has one an environment, got {name!r}")
    if known not in MBPO_PRESETS:
        raise ValueError(f"preset: expected none for {env_id}, where MBPO has no preset either, got {name!r}")
    if name != "mbpo":
        raise ValueError(f"preset: expected mbpo or none for {env_id}, got {name!r}")
    return _without_model(env_id)


def _without_model(env_id: str) -> OffPolicyPreset:
    """SAC with the settings that it has within MBPO: what is left of a difference is the model's doing."""
    mbpo, learner, env_kwargs = mbpo_preset(env_id)
    config = OffPolicyConfig(**{field.name: getattr(mbpo, field.name) for field in fields(OffPolicyConfig)})
    return OffPolicyPreset(config, learner, env_kwargs)
