"""One way to step environments, whatever they are: a single one, copies in a list, or a vector of Gymnasium's.

A step gives the observation that the transition ended in, also at the end of an episode, and apart from it the one that
the next action is for. In a vector the two mix, in a way that its `metadata["autoreset_mode"]` names.
"""

from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from mbrl.data.workers import guard
from mbrl.divergence import DIVERGED, Watch

WORKER_TIMEOUT = 60.0
"""Seconds."""


class Stepped(NamedTuple):
    """One step of every environment."""

    next_obs: np.ndarray
    """[envs, obs] float64: what the step led to, before any reset."""
    reward: np.ndarray
    """[envs] float64."""
    terminated: np.ndarray
    """[envs] bool."""
    truncated: np.ndarray
    """[envs] bool."""
    executed: np.ndarray
    """[envs] bool: False where the environment was reset instead of stepped (NEXT_STEP)."""
    diverged: np.ndarray
    """[envs] bool: the simulation started over."""
    eventful: bool
    """False where every environment was stepped, and none ended or diverged: most steps."""


class Worlds(Protocol):
    """Environments that step together."""

    num_envs: int

    def reset(self, seed: int) -> np.ndarray:
        """Reset all, environment i with `seed + i`: observations [envs, obs], float64."""

    def step(self, action: np.ndarray) -> Stepped:
        """Step all with actions [envs, act], or [envs] where they are discrete."""

    def go_on(self, stepped: Stepped, over: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Begin new episodes where `over` [envs]: observations [envs, obs] to act on, and which are first."""


class Copies:
    """A single environment, or the environments of a SyncVectorEnv, stepped and reset one by one.

    The environments of a SyncVectorEnv are stepped directly, whatever its mode: a diverged simulation is then seen
    before an automatic reset hides it, no step is spent on resets, and every random state before a reset is known.
    The SyncVectorEnv itself has to be reset before it is stepped by anyone else.
    """

    def __init__(self, envs: list[gym.Env]) -> None:
        self.envs, self.num_envs = envs, len(envs)
        self.watches = [Watch(env) for env in envs]
        self.starts: list[dict[str, Any]] = [{} for _ in envs]
        """How each environment's episode was begun: {"seed": int}, or {"random_state": the state before the reset}."""

    def reset(self, seed: int) -> np.ndarray:
        return np.stack([self.begin(i, {"seed": seed + i}) for i in range(self.num_envs)])

    def begin(self, i: int, start: dict[str, Any] | None = None) -> np.ndarray:
        """Begin an episode in environment i, by default from its random state as it is: an observation [obs]."""
        env = self.envs[i]
        if start is None:
            start = {"random_state": env.unwrapped.np_random.bit_generator.state}
        elif "random_state" in start:
            env.unwrapped.np_random.bit_generator.state = start["random_state"]
        obs, _ = env.reset(seed=start.get("seed"))
        self.starts[i] = start
        self.watches[i].started()
        return np.array(obs, dtype=np.float64)

    def step(self, action: np.ndarray) -> Stepped:
        obs, reward, terminated, truncated, diverged = [], [], [], [], []
        eventful = False
        for env, watch, one in zip(self.envs, self.watches, action, strict=True):
            o, r, end, cut, _ = env.step(one)
            obs.append(o)
            reward.append(r)
            terminated.append(end)
            truncated.append(cut)
            away = watch.diverged()
            diverged.append(away)
            eventful = eventful or end or cut or away
        return Stepped(
            np.array(obs, dtype=np.float64),
            np.array(reward, dtype=np.float64),
            np.array(terminated, dtype=bool),
            np.array(truncated, dtype=bool),
            np.ones(self.num_envs, dtype=bool),
            np.array(diverged, dtype=bool),
            bool(eventful),
        )

    def go_on(self, stepped: Stepped, over: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        obs = stepped.next_obs.copy()
        for i in over.nonzero()[0].tolist():
            obs[i] = self.begin(i)
        return obs, over


class Vector:
    """Any other vector of environments, in the autoreset mode that it declares.

    Simulations are watched where the environments are in this process (`env.unwrapped.envs`), and in worker processes
    where each environment is a `mbrl.divergence.Watched`, as those of `mbrl.envs.make_vector_env` are. Elsewhere a
    simulation that starts over goes unnoticed. Workers that die or hang end in a `mbrl.data.workers.WorkerError`.

    Args:
        env: the vector.
        worker_timeout: seconds that a worker process may take for a step or a reset.

    Raises:
        ValueError: the vector declares no autoreset mode, or it resets MuJoCo simulations in the same step, which
            hides that they diverged.
    """

    def __init__(self, env: VectorEnv, worker_timeout: float = WORKER_TIMEOUT) -> None:
        self.env, self.num_envs = env, env.num_envs
        if isinstance(env.unwrapped, AsyncVectorEnv):
            guard(env.unwrapped, worker_timeout)
        mode = (env.metadata or {}).get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ValueError(
                f"env: expected a vector environment whose metadata['autoreset_mode'] is a gymnasium.vector."
                f"AutoresetMode, got {mode!r}; set it to how the environment resets"
            )
        self.mode = mode
        self.watches = [Watch(one) for one in getattr(env.unwrapped, "envs", [])]
        if mode is AutoresetMode.SAME_STEP and any(watch.watches for watch in self.watches):
            raise ValueError(
                "env: expected AutoresetMode.DISABLED or NEXT_STEP for MuJoCo environments in a wrapped vector, got "
                "SAME_STEP, which hides simulations that diverged; make the vector with autoreset_mode=DISABLED"
            )
        self._resetting = np.zeros(self.num_envs, dtype=bool)

    def reset(self, seed: int) -> np.ndarray:
        obs, _ = self.env.reset(seed=seed)
        self._resetting[:] = False
        self._started(np.ones(self.num_envs, dtype=bool))
        return np.array(obs, dtype=np.float64)

    def step(self, action: np.ndarray) -> Stepped:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._obs = np.array(obs, dtype=np.float64)
        executed = ~self._resetting
        self._started(self._resetting)
        diverged = np.zeros(self.num_envs, dtype=bool)
        for i, watch in enumerate(self.watches):
            diverged[i] = executed[i] and watch.diverged()
        for told in (info, info.get("final_info", {})):  # the latter where the vector reset in the same step
            if DIVERGED in told:
                diverged |= executed & np.asarray(told[DIVERGED], dtype=bool)
        next_obs = self._obs.copy()
        if self.mode is AutoresetMode.SAME_STEP:
            for i in (terminated | truncated).nonzero()[0]:
                next_obs[i] = info["final_obs"][i]
        return Stepped(
            next_obs,
            np.array(reward, dtype=np.float64),
            np.array(terminated, dtype=bool),
            np.array(truncated, dtype=bool),
            executed,
            diverged,
            bool((terminated | truncated | diverged | ~executed).any()),
        )

    def go_on(self, stepped: Stepped, over: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        obs, starts = self._obs, over | self._resetting
        ended = (stepped.terminated | stepped.truncated) & stepped.executed
        if self.mode is AutoresetMode.NEXT_STEP:
            # The vector resets these in its next step; until then the last observation stands, and any action does.
            self._resetting = ended & over
            starts = starts & ~self._resetting
            reset_now = over & ~ended
        else:
            reset_now = over & ~ended if self.mode is AutoresetMode.SAME_STEP else over
        if reset_now.any():
            # A new dict each time: the mask is popped from it.
            fresh, _ = self.env.reset(options={"reset_mask": reset_now.copy()})
            obs = np.where(reset_now[:, None], np.asarray(fresh, dtype=np.float64), obs)
            self._started(reset_now)
        return obs, starts

    def _started(self, which: np.ndarray) -> None:
        for i, watch in enumerate(self.watches):
            if which[i]:
                watch.started()


def worlds_of(env: gym.Env | VectorEnv, worker_timeout: float = WORKER_TIMEOUT) -> Copies | Vector:
    """The environments behind `env`; see `Vector` for `worker_timeout`.

    Raises:
        ValueError: `env` is neither an environment nor a vector of them, or see `Vector`.
    """
    if isinstance(env, gym.Env):
        return Copies([env])
    if type(env) is SyncVectorEnv:
        return Copies(list(env.envs))
    if isinstance(env, VectorEnv):
        return Vector(env, worker_timeout)
    raise ValueError(f"env: expected a gymnasium.Env or a gymnasium.vector.VectorEnv, got {type(env).__name__}")
