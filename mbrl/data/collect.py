"""Collection: environments are stepped, and each step becomes one row of a TransitionBatch an environment."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool
from torch import Tensor

from mbrl.data.buffer import ReplayBuffer
from mbrl.data.environment_state import Replayed, restore_environments, snapshot_environments
from mbrl.data.policies import RandomPolicy
from mbrl.data.stepping import WORKER_TIMEOUT, Copies, Stepped, worlds_of
from mbrl.types import TransitionBatch

__all__ = ["Collected", "Collector", "Episode", "RandomPolicy", "collect"]


class Predicts(Protocol):
    """What a policy has to have: stable-baselines3's `predict`."""

    def predict(
        self, obs: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Actions [envs, act], or [envs] where they are discrete, for observations [envs, obs], and the next state."""


class Episode(NamedTuple):
    """A finished episode; one that diverged is not finished."""

    env: int
    """Which environment played it."""
    ret: float
    """Undiscounted sum of rewards."""
    length: int
    """Steps."""
    terminated: bool
    """False: it was cut by a time limit."""


class Collected(NamedTuple):
    """One step of every environment."""

    batch: TransitionBatch
    """One row an environment, float64 on the CPU (discrete actions int64); `discount` is 1 - terminated, `log_prob` is
    NaN (unknown)."""
    valid: Bool[Tensor, "envs"]
    """False where there is no transition: the simulation diverged, or a vector spent the step on a reset."""
    episodes: list[Episode]
    """Those that finished in this step."""


class Collector:
    """Steps environments and resets each when its episode is over.

    Args:
        env: one environment, or a vector of them. While collecting, the environments belong to the Collector.
        seed: environment i is reset with `seed + i`; later resets go on from there.
        worker_timeout: seconds that an environment in a process of its own may take for a step or a reset.

    Attributes:
        num_envs: number of environments.
        obs: [envs, obs] float64, what the next action is for.
        episode_start: [envs] bool, True where `obs` is the first of an episode.
        diverged: how many steps so far ended in a simulation that started over. Such a step is not valid, its episode
            is cut, and the environment is reset.

    Raises:
        ValueError: the observation space is not a flat Box, the action space is neither that nor a Discrete from 0, the
            environment returned an observation that is not finite, or a vector does not say how it resets.
    """

    def __init__(self, env: gym.Env | VectorEnv, *, seed: int, worker_timeout: float = WORKER_TIMEOUT) -> None:
        self._action_space = _action_space(env)
        self._worlds = worlds_of(env, worker_timeout)
        self.num_envs = self._worlds.num_envs
        self.obs = self._finite("observation of reset", self._worlds.reset(seed))
        self.episode_start = np.ones(self.num_envs, dtype=bool)
        self.diverged = 0
        self._returns = [0.0] * self.num_envs
        self._actions: list[list[np.ndarray]] = [[] for _ in range(self.num_envs)]

    @property
    def continues(self) -> bool:
        """Whether `snapshot` can be taken: the environments are in this process, and stepped one by one."""
        return isinstance(self._worlds, Copies)

    def step(self, action: np.ndarray | Tensor) -> Collected:
        """Take one step in every environment.

        Args:
            action: [envs, act], on any device; rounded to the action space's type before it is executed and stored.
                Where actions are discrete: whole numbers [envs].

        Raises:
            ValueError: the action has the wrong shape, is not finite or not one of the discrete ones, or the
                environment returned an observation or reward that is not finite (the first bad row is shown), or
                arrays for rewards or ends.
        """
        executed = self._executable(action)
        stepped = self._worlds.step(executed)
        self._one_each(stepped)
        valid = stepped.executed
        if stepped.eventful:
            valid = valid & ~stepped.diverged
        self._finite("observation", stepped.next_obs, executed, valid)
        self._finite("reward", stepped.reward, executed, valid)
        batch = _batch(self.obs, executed, stepped)
        for i, reward in enumerate(stepped.reward.tolist()):
            if stepped.executed[i]:
                self._actions[i].append(executed[i])
                self._returns[i] += reward
        episodes: list[Episode] = []
        if not stepped.eventful:
            self.obs, self.episode_start = stepped.next_obs.copy(), np.zeros(self.num_envs, dtype=bool)
        else:
            over = (stepped.terminated | stepped.truncated | stepped.diverged) & stepped.executed
            episodes = self._close(stepped, over)
            self.obs, self.episode_start = self._worlds.go_on(stepped, over)
            self._finite("observation of reset", self.obs)
        return Collected(batch, torch.from_numpy(valid), episodes)

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and meta data that JSON can hold, from which `restore` goes on exactly.

        Raises:
            ValueError: the environments are not supported; the message says which are.
        """
        now = [Replayed(obs, ret) for obs, ret in zip(self.obs, self._returns, strict=True)]
        tensors, meta = snapshot_environments(self._worlds, self._actions, now)
        return tensors, {**meta, "diverged": self.diverged}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on where `snapshot` was taken, by taking the steps of the episodes under way again.

        Raises:
            ValueError: the environments did not come back to where they were, or are not supported.
        """
        self._actions, now = restore_environments(self._worlds, tensors, meta)
        self.obs = np.stack([one.obs for one in now])
        self._returns = [one.ret for one in now]
        self.episode_start = np.array([not taken for taken in self._actions])
        self.diverged = meta["diverged"]

    def _executable(self, action: np.ndarray | Tensor) -> np.ndarray:
        array = action.detach().cpu().numpy() if isinstance(action, Tensor) else np.asarray(action)
        expected = (self.num_envs, *(self._action_space.shape or ()))
        if array.shape != expected:
            raise ValueError(
                f"action: expected shape {list(expected)}, one row an environment, got {list(array.shape)}"
            )
        self._finite("action", array)
        if isinstance(self._action_space, gym.spaces.Discrete):
            wrong = (array != np.floor(array)) | (array < 0) | (array >= self._action_space.n)
            if wrong.any():
                raise ValueError(f"action: expected whole numbers below {self._action_space.n}, got {array.tolist()}")
        return array.astype(self._action_space.dtype)  # copies: the caller's array may change later

    def _close(self, stepped: Stepped, over: np.ndarray) -> list[Episode]:
        self.diverged += int(stepped.diverged.sum())
        episodes = []
        for i in over.nonzero()[0].tolist():
            if not stepped.diverged[i]:
                end = bool(stepped.terminated[i])
                episodes.append(Episode(i, self._returns[i], len(self._actions[i]), end))
            self._returns[i], self._actions[i] = 0.0, []
        return episodes

    def _one_each(self, stepped: Stepped) -> None:
        for name in ("reward", "terminated", "truncated"):
            told = getattr(stepped, name)
            if told.shape != (self.num_envs,):
                raise ValueError(
                    f"env: expected one {name} a step, a number and no array, got shape {list(told.shape[1:])}: return "
                    f"{name}.item() from its step"
                )

    def _finite(
        self, name: str, x: np.ndarray, action: np.ndarray | None = None, where: np.ndarray | None = None
    ) -> np.ndarray:
        if np.isfinite(x).all():
            return x
        bad = ~np.isfinite(x.reshape(len(x), -1)).all(-1) & (True if where is None else where)
        if not bad.any():
            return x
        row = int(bad.argmax())
        after = "" if action is None else f" after action {action[row].tolist()}"
        source = "a policy" if name == "action" else "an environment"
        raise ValueError(
            f"{name}: expected finite numbers from {source}, got {x[row].tolist()} in row {row}{after}; correct what "
            "made it: training on it would spoil every parameter"
        )


def collect(
    env: gym.Env | VectorEnv, policy: Predicts, steps: int, seed: int = 0, *, buffer: ReplayBuffer | None = None
) -> ReplayBuffer:
    """Collect real steps with a policy, starting with a reset.

    Args:
        env: one environment, or a vector of them; left in the middle of an episode.
        policy: anything with stable-baselines3's `predict`.
        steps: how many, all environments together; a multiple of their number. Steps of diverged simulations count.
        seed: of the environments.
        buffer: where to put them; None: a new one on the CPU that just holds them.

    Raises:
        ValueError: see `Collector`; or `steps` is not a positive multiple of the number of environments.
    """
    collector = Collector(env, seed=seed)
    if steps < 1 or steps % collector.num_envs:
        raise ValueError(f"steps: expected a positive multiple of the {collector.num_envs} environments, got {steps}")
    if buffer is None:
        obs_dim, action_shape = collector.obs.shape[1], collector._action_space.shape
        action_dim = action_shape[0] if action_shape else None
        buffer = ReplayBuffer(steps, obs_dim, action_dim, num_envs=collector.num_envs)
    buffer.end_episodes()
    state = None
    for _ in range(steps // collector.num_envs):
        action, state = policy.predict(collector.obs, state, collector.episode_start)
        collected = collector.step(action)
        buffer.extend(collected.batch, collected.valid)
    buffer.end_episodes()
    return buffer


def _action_space(env: gym.Env | VectorEnv) -> gym.spaces.Box | gym.spaces.Discrete:
    prefix = "single_" if isinstance(env, VectorEnv) else ""
    observation, action = (getattr(env, f"{prefix}{kind}_space", None) for kind in ("observation", "action"))
    if not isinstance(observation, gym.spaces.Box) or len(observation.shape) != 1:
        raise ValueError(f"env.observation_space: expected a flat Box (one axis), got {observation}")
    if isinstance(action, gym.spaces.Discrete) and action.start == 0:
        return action
    if not isinstance(action, gym.spaces.Box) or len(action.shape) != 1:
        raise ValueError(f"env.action_space: expected a flat Box (one axis) or a Discrete from 0, got {action}")
    return action


def _batch(obs: np.ndarray, action: np.ndarray, stepped: Stepped) -> TransitionBatch:
    terminated = torch.from_numpy(stepped.terminated)
    return TransitionBatch(
        torch.from_numpy(obs),
        torch.from_numpy(action.astype(np.float64 if action.ndim > 1 else np.int64)),
        torch.from_numpy(stepped.reward),
        torch.from_numpy(stepped.next_obs),
        terminated,
        torch.from_numpy(stepped.truncated),
        torch.from_numpy((~stepped.terminated).astype(np.float64)),
        torch.from_numpy(np.full(len(obs), np.nan)),
    )
