"""Settings of stable-baselines3's and sb3-contrib's algorithms by environment, as Python; docs/baselines.md has more.

The numbers are the libraries' defaults and those that RL Baselines3 Zoo publishes for its tuned agents (Raffin 2020,
https://github.com/DLR-RM/rl-baselines3-zoo, folder hyperparams), which were found on earlier versions of the MuJoCo
tasks (v2 to v4). What the zoo does not have, or has for budgets of another size, is said where it stands.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

SB3Algorithm = Literal["sb3-ppo", "sb3-a2c", "sb3-sac", "sb3-td3", "sb3-dqn", "sb3-trpo", "sb3-crossq"]
SB3: tuple[str, ...] = get_args(SB3Algorithm)
"""Names of the algorithms, as `mbrl train` and run directories have them."""


@dataclass(frozen=True)
class SB3Config:
    """Settings of a run of stable-baselines3 or sb3-contrib.

    Raises:
        ValueError: a number is out of range.
    """

    total_timesteps: int = 100_000
    """Real environment steps in all, those of all environments together."""
    num_envs: int = 1
    """Environments that are stepped together."""
    normalize: bool = False
    """Whether observations are scaled by their running mean and deviation, and rewards by that of returns
    (VecNormalize): in training only, evaluations count true rewards."""
    action_noise: float = 0.0
    """Standard deviation of Gaussian noise on actions, in units of half their range; 0: none."""
    device: str = "cpu"
    """Where the networks live: cpu, cuda, cuda:1, ..."""
    eval_every: int = 5_000
    """Real steps between evaluations, whose episodes are not counted and not learned from; 0: none."""
    eval_episodes: int = 5
    """Episodes per evaluation."""
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    """Arguments of the algorithm's class. "lin_0.001" as learning_rate or clip_range falls to 0 over the run;
    activation_fn in policy_kwargs is the name of a class in torch.nn."""

    def __post_init__(self) -> None:
        for name in ("total_timesteps", "num_envs", "eval_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.eval_every < 0:
            raise ValueError(f"eval_every: expected 0 (none) or more, got {self.eval_every}")
        if not self.action_noise >= 0:
            raise ValueError(f"action_noise: expected 0 (none) or more, got {self.action_noise}")


class SB3Preset(NamedTuple):
    """Settings for one algorithm and one environment."""

    config: SB3Config
    learner: None = None
    """The hyperparameters stand in `config`."""


_ON_POLICY = {
    "gamma": 0.99,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "use_sde": False,
    "sde_sample_freq": -1,
    "policy_kwargs": {
        "net_arch": {"pi": [64, 64], "vf": [64, 64]},
        "activation_fn": "Tanh",
        "log_std_init": 0.0,
        "ortho_init": True,
    },
}
_OFF_POLICY = {
    "buffer_size": 1_000_000,
    "learning_starts": 100,
    "batch_size": 256,
    "gamma": 0.99,
    "train_freq": 1,
    "gradient_steps": 1,
}
_TRPO = {name: value for name, value in _ON_POLICY.items() if name not in ("ent_coef", "vf_coef", "max_grad_norm")}
DEFAULTS: dict[str, dict[str, Any]] = {
    "sb3-ppo": {
        **_ON_POLICY,
        "learning_rate": 3e-4,
        "n_steps": 2048,
        "batch_size": 64,
        "n_epochs": 10,
        "gae_lambda": 0.95,
        "clip_range": 0.2,
    },
    "sb3-a2c": {**_ON_POLICY, "learning_rate": 7e-4, "n_steps": 5, "gae_lambda": 1.0, "normalize_advantage": False},
    "sb3-trpo": {
        **_TRPO,
        "learning_rate": 1e-3,
        "n_steps": 2048,
        "batch_size": 128,
        "gae_lambda": 0.95,
        "cg_max_steps": 15,
        "cg_damping": 0.1,
        "n_critic_updates": 10,
        "target_kl": 0.01,
    },
    "sb3-sac": {**_OFF_POLICY, "learning_rate": 3e-4, "tau": 0.005, "policy_kwargs": {"net_arch": [256, 256]}},
    "sb3-td3": {**_OFF_POLICY, "learning_rate": 1e-3, "tau": 0.005, "policy_kwargs": {"net_arch": [400, 300]}},
    "sb3-crossq": {
        **_OFF_POLICY,
        "learning_rate": 1e-3,
        "policy_delay": 3,
        "policy_kwargs": {"net_arch": {"pi": [256, 256], "qf": [1024, 1024]}},
    },
    "sb3-dqn": {
        **_OFF_POLICY,
        "learning_rate": 1e-4,
        "batch_size": 32,
        "train_freq": 4,
        "target_update_interval": 10_000,
        "exploration_fraction": 0.1,
        "exploration_final_eps": 0.05,
        "policy_kwargs": {"net_arch": [64, 64]},
    },
}
"""The libraries' own defaults by algorithm: those that count for results and costs."""

PENDULUM, POLE, SWING_UP = "Pendulum-v1", "InvertedPendulum-v5", "mbrl/CartPoleSwingUp-v0"
REACHER, CARTPOLE = "Reacher-v5", "CartPole-v1"
HOPPER, CHEETAH, WALKER = "Hopper-v5", "HalfCheetah-v5", "Walker2d-v5"
_RUNNERS = (HOPPER, CHEETAH, WALKER)
_MUJOCO = (POLE, SWING_UP, REACHER, *_RUNNERS)
_WIDE = {"net_arch": {"pi": [256, 256], "vf": [256, 256]}, "activation_fn": "ReLU", "log_std_init": -2.0}
_WIDE |= {"ortho_init": False}


def _settings(algorithm: str, changes: Mapping[str, Any], **loop: Any) -> SB3Config:
    """The algorithm's defaults with changes, those of policy_kwargs one by one, and an evaluation every fiftieth."""
    default = DEFAULTS[algorithm]
    kwargs = {**default["policy_kwargs"], **changes.get("policy_kwargs", {})}
    every = max(500, loop.get("total_timesteps", SB3Config.total_timesteps) // 50)
    return SB3Config(**{"eval_every": every, **loop}, hyperparameters={**default, **changes, "policy_kwargs": kwargs})


def _ppo() -> dict[str, SB3Config]:
    def tuned(env_id: str, rates: tuple[float, ...], sizes: tuple[int, ...], **changes: Any) -> SB3Config:
        names = ("gamma", "learning_rate", "ent_coef", "clip_range", "gae_lambda", "max_grad_norm", "vf_coef")
        counts = dict(zip(("n_steps", "batch_size", "n_epochs"), sizes, strict=True))
        changes = {**dict(zip(names, rates, strict=True)), **counts, **changes}
        return _settings("sb3-ppo", changes, total_timesteps=1_000_000, normalize=True)

    pendulum = {"n_steps": 1024, "gamma": 0.9, "learning_rate": 1e-3, "use_sde": True, "sde_sample_freq": 4}
    cartpole: dict[str, Any] = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98}
    cartpole |= {"learning_rate": "lin_0.001", "clip_range": "lin_0.2"}
    # The zoo has no cart-pole like ours: Pendulum's settings with an undiscounted look ahead.
    swing_up = {**pendulum, "gamma": 0.99, "n_steps": 512}
    wide: dict[str, Any] = {"policy_kwargs": _WIDE}
    return {
        PENDULUM: _settings("sb3-ppo", pendulum, total_timesteps=100_000, num_envs=4),
        CARTPOLE: _settings("sb3-ppo", cartpole, total_timesteps=100_000, num_envs=8),
        SWING_UP: _settings("sb3-ppo", swing_up, total_timesteps=100_000, num_envs=4),
        POLE: tuned(POLE, (0.999, 0.000222425, 1.37976e-7, 0.4, 0.9, 0.3, 0.19816), (32, 32, 5)),
        REACHER: tuned(REACHER, (0.9, 0.000104019, 7.52585e-8, 0.3, 1.0, 0.9, 0.950368), (512, 32, 5)),
        HOPPER: tuned(HOPPER, (0.999, 9.80828e-5, 0.00229519, 0.2, 0.99, 0.7, 0.835671), (512, 32, 5), **wide),
        CHEETAH: tuned(CHEETAH, (0.98, 2.0633e-5, 0.000401762, 0.1, 0.92, 0.8, 0.58096), (512, 64, 20), **wide),
        WALKER: tuned(WALKER, (0.99, 5.05041e-5, 0.000585045, 0.1, 0.95, 1.0, 0.871923), (512, 32, 20)),
    }


def _a2c() -> dict[str, SB3Config]:
    pendulum = {"n_steps": 8, "gae_lambda": 0.9, "vf_coef": 0.4, "gamma": 0.9, "learning_rate": "lin_0.0007"}
    pendulum |= {"use_sde": True, "policy_kwargs": {"log_std_init": -2.0, "ortho_init": False}}
    # The zoo's for LunarLanderContinuous and BipedalWalker: Pendulum's, which look further ahead.
    swing_up = {**pendulum, "gamma": 0.99}
    return {
        **{name: _settings("sb3-a2c", {}, total_timesteps=1_000_000, normalize=True) for name in _MUJOCO},
        PENDULUM: _settings("sb3-a2c", pendulum, total_timesteps=1_000_000, num_envs=8, normalize=True),
        SWING_UP: _settings("sb3-a2c", swing_up, total_timesteps=1_000_000, num_envs=8, normalize=True),
        CARTPOLE: _settings("sb3-a2c", {}, total_timesteps=500_000, num_envs=8),
    }


def _trpo() -> dict[str, SB3Config]:
    pendulum = {"n_steps": 1024, "gamma": 0.9, "n_critic_updates": 15, "use_sde": True, "sde_sample_freq": 4}
    cartpole = {"n_steps": 512, "batch_size": 512, "cg_damping": 1e-3, "gae_lambda": 0.98, "n_critic_updates": 20}
    mujoco = {"n_steps": 1024, "cg_max_steps": 25, "n_critic_updates": 20}
    large = {"total_timesteps": 1_000_000, "num_envs": 2, "normalize": True}
    return {
        **{name: _settings("sb3-trpo", mujoco, **large) for name in _MUJOCO},
        CHEETAH: _settings("sb3-trpo", {**mujoco, "target_kl": 0.04}, **large),
        PENDULUM: _settings("sb3-trpo", pendulum, total_timesteps=100_000, num_envs=2),
        CARTPOLE: _settings("sb3-trpo", cartpole, total_timesteps=100_000, num_envs=2),
    }


def _off_policy() -> dict[tuple[str, str], SB3Config]:
    late, noisy = {"learning_starts": 10_000}, {"action_noise": 0.1}
    # With the zoo's 10,000 random steps Pendulum's TD3 would have learned nothing within our budgets.
    pendulum = {"gamma": 0.98, "buffer_size": 200_000, "learning_starts": 1_000}
    small: dict[str, Any] = {"policy_delay": 2, "policy_kwargs": {"net_arch": [256, 256]}}
    huge = {"learning_starts": 5_000, "policy_kwargs": {"net_arch": {"pi": [256, 256], "qf": [2048, 2048]}}}
    cartpole: dict[str, Any] = {
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1_000,
    }
    cartpole |= {"target_update_interval": 10, "train_freq": 256, "gradient_steps": 128}
    cartpole |= {"exploration_fraction": 0.16, "exploration_final_eps": 0.04, "policy_kwargs": {"net_arch": [256, 256]}}
    made = {
        ("sb3-sac", PENDULUM): _settings("sb3-sac", {"learning_rate": 1e-3}, total_timesteps=20_000),
        ("sb3-td3", PENDULUM): _settings("sb3-td3", pendulum, total_timesteps=20_000, **noisy),
        ("sb3-crossq", PENDULUM): _settings("sb3-crossq", small, total_timesteps=20_000),
        ("sb3-dqn", CARTPOLE): _settings("sb3-dqn", cartpole, total_timesteps=50_000),
    }
    for env_id in (POLE, SWING_UP, REACHER):  # which the zoo has in other simulators only: the libraries' defaults
        made["sb3-sac", env_id] = _settings("sb3-sac", {}, total_timesteps=50_000)
        made["sb3-td3", env_id] = _settings("sb3-td3", {"learning_starts": 1_000}, total_timesteps=50_000, **noisy)
        made["sb3-crossq", env_id] = _settings("sb3-crossq", small, total_timesteps=50_000)
    for env_id in _RUNNERS:
        made["sb3-sac", env_id] = _settings("sb3-sac", late, total_timesteps=1_000_000)
        made["sb3-td3", env_id] = _settings("sb3-td3", late, total_timesteps=1_000_000, **noisy)
        made["sb3-crossq", env_id] = _settings("sb3-crossq", huge, total_timesteps=1_000_000)
    return made


def _presets() -> dict[tuple[str, str], SB3Config]:
    made = _off_policy()
    for algorithm, settings in (("sb3-ppo", _ppo()), ("sb3-a2c", _a2c()), ("sb3-trpo", _trpo())):
        made |= {(algorithm, env_id): config for env_id, config in settings.items()}
    return made


PRESETS = _presets()
"""By algorithm and environment id."""


def sb3_preset(algorithm: str, env_id: str) -> SB3Preset:
    """The preset of an algorithm and an environment; the library's defaults where there is none."""
    found = PRESETS.get((algorithm, env_id), PRESETS.get((algorithm, env_id.rpartition(":")[2])))
    noise = {"action_noise": 0.1} if algorithm == "sb3-td3" else {}
    return SB3Preset(found or _settings(algorithm, {}, **noise))
