"""Models of stable-baselines3 and sb3-contrib: made, stored without pickle, loaded, asked for actions.

This module imports stable-baselines3, which is optional: `mbrl.experiments.sb3_runs` imports it where it is needed.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import TRPO, CrossQ
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from torch import Tensor

from mbrl.experiments.sb3_presets import SB3Config
from mbrl.pipelines.agent_checks import device_of
from mbrl.pipelines.bookkeeping import part
from mbrl.seeding import derive

CLASSES: dict[str, Any] = {
    "sb3-ppo": PPO,
    "sb3-a2c": A2C,
    "sb3-sac": SAC,
    "sb3-td3": TD3,
    "sb3-dqn": DQN,
    "sb3-trpo": TRPO,
    "sb3-crossq": CrossQ,
}
_OURS = ("policy", "env", "seed", "device", "verbose", "tensorboard_log", "action_noise", "_init_setup_model")
"""Arguments that are decided elsewhere."""
Scale = Callable[[np.ndarray], np.ndarray]
"""What is done to an observation before a policy sees it."""


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that stable-baselines3 draws from, and leave them as they were found."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def make_model(algorithm: str, config: SB3Config, make_env: Callable[[], gym.Env], seed: int) -> BaseAlgorithm:
    """A model ready to learn in environments of its own, which it closes with `model.get_env().close()`.

    Raises:
        ValueError: a hyperparameter is unknown or out of range, the device is not here, or the environment does not fit
            the algorithm.
    """
    device_of(config.device)  # where there is no such device, the library would take the CPU without a word
    envs: VecEnv = DummyVecEnv([lambda: Monitor(make_env())] * config.num_envs)
    if config.normalize:
        envs = VecNormalize(envs, gamma=config.hyperparameters.get("gamma", 0.99))
    given = _arguments(algorithm, config, envs.action_space)
    with seeded(seed), _explained(algorithm):
        model: BaseAlgorithm = CLASSES[algorithm]("MlpPolicy", envs, seed=seed, device=config.device, **given)
        return model


class Policy:
    """The policy of a model, as stable-baselines3 predicts.

    Args:
        model: whose policy it is.
        scale: of observations.
        seed: of sampled actions, which touch no other random number.

    Attributes:
        samples: whether the policy itself draws actions; TD3's gets noise in training only.
    """

    def __init__(self, model: BaseAlgorithm, scale: Scale | None, seed: int) -> None:
        self._model: Any = model
        self._scale, self._seed = scale, seed
        self.samples = not isinstance(model, TD3)
        self._predictions = 0

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Actions for [obs] or [n, obs]; `state` counts steps where exploration depends on the state (gSDE).

        Without `deterministic` the actions are sampled as in training, if the policy samples.
        """
        obs = np.asarray(observation)
        obs = obs if self._scale is None else self._scale(obs)
        if deterministic:
            return self._model.predict(obs, deterministic=True)[0], state
        seed, self._predictions = derive(self._seed, "predict", self._predictions), self._predictions + 1
        tick = int(state or 0)
        with seeded(seed):
            if isinstance(self._model, DQN):
                self._model.action_space.seed(seed % 2**31)
            if getattr(self._model, "use_sde", False):
                every = self._model.sde_sample_freq
                if tick % (every if every > 0 else steps_per_round(self._model)) == 0:
                    self._model.policy.reset_noise()
            return self._model.predict(obs, deterministic=False)[0], tick + 1


def policy_of(model: BaseAlgorithm, seed: int) -> Policy:
    """The policy of a model that is being trained, as it is whenever it is asked."""
    envs = model.get_vec_normalize_env()
    scale: Any = None if envs is None else envs.normalize_obs
    return Policy(model, scale, seed)


def tensors_of(model: BaseAlgorithm) -> dict[str, Tensor]:
    """The parameters of a model's policy, and the statistics of its observations."""
    tensors = {f"policy/{name}": value for name, value in model.policy.state_dict().items()}
    if (envs := model.get_vec_normalize_env()) is not None:
        moments: Any = envs.obs_rms
        scale = {"mean": moments.mean, "var": moments.var, "clip": envs.clip_obs, "epsilon": envs.epsilon}
        tensors |= {f"normalize/{name}": torch.as_tensor(value, dtype=torch.float64) for name, value in scale.items()}
    return tensors


def load_model(
    algorithm: str, config: SB3Config, spaces: Any, tensors: Mapping[str, Tensor], exploration: float, seed: int
) -> Policy:
    """What `tensors_of` gave, as a policy on the CPU.

    Args:
        algorithm: of the model.
        config: its settings.
        spaces: an environment with its observation and action space.
        tensors: of `tensors_of`.
        exploration: share of random actions where the policy is asked for samples (DQN).
        seed: of sampled actions.

    Raises:
        ValueError: the tensors are of another policy.
    """
    given = _arguments(algorithm, config, spaces.action_space)
    # What only training needs is left small, and is not read from an environment, which the model has none of.
    known = inspect.signature(CLASSES[algorithm]).parameters
    given |= {name: value for name, value in {"buffer_size": 1, "target_entropy": 0.0}.items() if name in known}
    with seeded(seed), _explained(algorithm):
        model = CLASSES[algorithm]("MlpPolicy", None, device="cpu", _init_setup_model=False, **given)
        model.observation_space, model.action_space = copy.deepcopy((spaces.observation_space, spaces.action_space))
        model.n_envs = 1
        model._setup_model()
    try:
        model.policy.load_state_dict(part(tensors, "policy"))
    except RuntimeError as error:
        raise ValueError(
            f"run: the checkpoint's policy does not fit its settings or its environment: {error}"
        ) from None
    if isinstance(model, DQN):
        model.exploration_rate = exploration
    return Policy(model, _scale(part(tensors, "normalize")), seed)


def steps_per_round(model: Any) -> int:
    """Steps of an environment between updates; where those wait for the end of an episode, no step is known as last."""
    if isinstance(model, OnPolicyAlgorithm):
        return model.n_steps
    return model.train_freq.frequency if model.train_freq.unit.value == "step" else 1


def _arguments(algorithm: str, config: SB3Config, action_space: gym.Space) -> dict[str, Any]:
    """Arguments of an algorithm's class out of settings that JSON can hold."""
    given = copy.deepcopy(config.hyperparameters)
    known = set(inspect.signature(CLASSES[algorithm]).parameters) - set(_OURS)
    if unknown := sorted(set(given) - known):
        raise ValueError(
            f"hyperparameters: expected arguments of {CLASSES[algorithm].__name__} ({', '.join(sorted(known))}), got "
            f"{', '.join(unknown)}"
        )
    kwargs = given.get("policy_kwargs", {})
    if "activation_fn" in kwargs:
        name = kwargs["activation_fn"]
        if not hasattr(torch.nn, name):
            raise ValueError(f"activation_fn: expected the name of a class in torch.nn, such as ReLU, got {name!r}")
        kwargs["activation_fn"] = getattr(torch.nn, name)
    for name in ("learning_rate", "clip_range"):
        if isinstance(given.get(name), str):
            given[name] = _linear(name, given[name])
    if isinstance(given.get("train_freq"), list):
        given["train_freq"] = tuple(given["train_freq"])
    if config.action_noise > 0:
        if "action_noise" not in inspect.signature(CLASSES[algorithm]).parameters:
            raise ValueError(f"action_noise: expected 0, for {algorithm} takes none, got {config.action_noise}")
        size = action_space.shape or (1,)
        given["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, config.action_noise))
    return given


def _linear(name: str, text: str) -> float | Callable[[float], float]:
    """A number, or a schedule: an option whose preset falls to 0 takes text."""
    falls = text.startswith("lin_")
    try:
        start = float(text.removeprefix("lin_"))
    except ValueError:
        start = math.nan
    if not math.isfinite(start):
        raise ValueError(f"{name}: expected a number, or lin_NUMBER for one that falls to 0, got {text!r}")
    return (lambda left: left * start) if falls else start


@contextlib.contextmanager
def _explained(algorithm: str) -> Iterator[None]:
    """Tell what the library refuses as a ValueError: it asserts, and fails in the middle of arithmetic."""
    try:
        yield
    except (AssertionError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"hyperparameters: {algorithm} refuses the settings or the environment: {error}") from error


def _scale(stored: Mapping[str, Tensor]) -> Scale | None:
    if not stored:
        return None
    mean, deviation = stored["mean"].numpy(), (stored["var"] + stored["epsilon"]).sqrt().numpy()
    clip = float(stored["clip"])
    return lambda obs: np.clip((obs - mean) / deviation, -clip, clip).astype(np.float32)
