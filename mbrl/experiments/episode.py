"""One episode of a policy in an environment: what evaluation, videos and demonstrations share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np

from mbrl import divergence


class Policy(Protocol):
    """Anything that predicts as stable-baselines3 does: its models, MPC, distilled policies, RandomPolicy."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        /,
    ) -> tuple[Any, Any]: ...


class Episode(NamedTuple):
    """How one episode went."""

    ret: float
    """Sum of rewards; -inf where the simulation diverged, so that it can't pass for a good one."""
    length: int
    terminated: bool
    """False: a time limit, or a diverged simulation, ended it."""
    diverged: bool


Watch = Callable[[Any, float], None]
"""Called with (observation, reward) after the reset, with reward 0, and after every step."""


def play(policy: Policy, env: gym.Env, *, seed: int, deterministic: bool = True, watch: Watch | None = None) -> Episode:
    """Run one episode from `env.reset(seed=seed)` to its end.

    The policy starts with `state=None` and `episode_start=[True]`, gets single observations `[obs]` and keeps its state
    in what it returns, so nothing of this episode stays in it. Raises ValueError where the environment returns a
    number that is not finite, or the policy an action of the wrong shape.
    """
    going = _Going(env, seed, watch)
    state, start = None, np.array([True])
    while going.result is None:
        action, state = policy.predict(going.obs, state, start, deterministic)
        going.step(np.asarray(action))
        start = np.array([False])
    return going.result


def play_together(
    policy: Policy, envs: Sequence[gym.Env], *, seeds: Sequence[int], deterministic: bool = True
) -> list[Episode]:
    """Run an episode in each environment, side by side: `play` for policies to which a batch is cheaper, as planners.

    The policy gets the observations of all episodes, `[episodes, obs]`, in every call. Of an episode that is over it
    gets the observation of the last action, and what it answers is not used. Raises ValueError as `play` does.
    """
    goings = [_Going(env, seed, None) for env, seed in zip(envs, seeds, strict=True)]
    state, start = None, np.ones(len(goings), dtype=bool)
    while any(going.result is None for going in goings):
        actions, state = policy.predict(np.stack([going.obs for going in goings]), state, start, deterministic)
        if len(actions) != len(goings):
            raise ValueError(f"policy: expected {len(goings)} actions, one an observation, got {len(actions)}")
        for going, action in zip(goings, actions, strict=True):
            if going.result is None:
                going.step(np.asarray(action))
        start = np.zeros(len(goings), dtype=bool)
    return [going.result for going in goings if going.result is not None]


class _Going:
    """An episode that goes on until it has a result."""

    def __init__(self, env: gym.Env, seed: int, watch: Watch | None) -> None:
        self._env, self._seed, self._watch = env, seed, watch
        self.obs, _ = env.reset(seed=seed)
        self.result: Episode | None = None
        self._simulation = divergence.Watch(env)
        self._simulation.started()
        self._return, self._length = 0.0, 0
        if watch is not None:
            watch(self.obs, 0.0)

    def step(self, action: np.ndarray) -> None:
        if self._length == 0 and action.shape != self._env.action_space.shape:
            raise ValueError(
                f"policy: expected actions of shape {self._env.action_space.shape} for one observation of shape "
                f"{np.shape(self.obs)}, got {action.shape}"
            )
        obs, reward, terminated, truncated, _ = self._env.step(action[()])  # a discrete action is a number
        self._length += 1
        if self._simulation.diverged():
            self.result = Episode(float("-inf"), self._length, False, True)
            return
        if not (np.isfinite(float(reward)) and np.all(np.isfinite(obs))):
            raise ValueError(
                f"env: expected finite observations and rewards, got reward {reward} and observation {obs} at step "
                f"{self._length} of the episode with seed {self._seed}, after action {action}"
            )
        self._return += float(reward)
        if self._watch is not None:
            self._watch(obs, float(reward))
        if terminated or truncated:
            self.result = Episode(self._return, self._length, bool(terminated), False)
            return
        self.obs = obs
