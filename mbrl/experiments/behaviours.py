"""Policies that data are collected with: what they do, and how likely that was."""

import math
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from scipy.special import ndtr, ndtri

from mbrl.data.policies import RandomPolicy
from mbrl.experiments.episode import Policy
from mbrl.pipelines.agents import Agent
from mbrl.seeding import derive, generator


class Behaviour(Protocol):
    """A policy that collects data in one environment."""

    def act(self, obs: np.ndarray, tick: int, first: bool) -> tuple[np.ndarray, float]:
        """What to do in step `tick` of the collection.

        Args:
            obs: [obs].
            tick: counts steps over all episodes; what is drawn follows from it and the seed.
            first: whether an episode begins.

        Returns:
            The action, [act] in the space's type or a whole number, and its log-probability (of a density where
            actions are continuous); NaN: not known.
        """


class Uniform:
    """Uniform actions.

    Raises:
        ValueError: see `RandomPolicy`.
    """

    def __init__(self, space: gym.Space, seed: int) -> None:
        self._policy = RandomPolicy(space, seed=derive(seed, "behaviour"))
        if isinstance(space, gym.spaces.Discrete):
            self._log_prob = -math.log(space.n)
        else:
            assert isinstance(space, gym.spaces.Box)
            self._log_prob = -float(np.log(space.high.astype(np.float64) - space.low).sum())

    def act(self, obs: np.ndarray, tick: int, first: bool) -> tuple[np.ndarray, float]:
        return self._policy.predict(obs, tick)[0], self._log_prob


class Explored:
    """An agent as it acts in training: sampled, or with its noise (then it is not known how likely actions are)."""

    def __init__(self, agent: Agent, seed: int) -> None:
        self._agent, self._seed = agent, seed
        self._known = agent.samples and hasattr(agent.learner, "log_prob")

    def act(self, obs: np.ndarray, tick: int, first: bool) -> tuple[np.ndarray, float]:
        g = generator(self._seed, "behaviour", 0, tick, device=self._agent.device)
        action = self._agent.explore(obs[None], g)
        log_prob = float(self._agent.log_prob(obs[None], action)[0]) if self._known else math.nan
        return action[0], log_prob


class Played:
    """The action of any policy, the best one or as it samples, with noise around it where `noise` says so.

    Where actions are continuous the noise is normal, cut to the bounds: its density is known everywhere. Where they
    are discrete a share of `noise` is uniform.

    Args:
        policy: has stable-baselines3's `predict`.
        space: of actions.
        noise: standard deviation, in half the range of each action; or the share of random actions.
        seed: of the noise.
        deterministic: whether the action is the best one.

    Raises:
        ValueError: `noise` is out of range.
    """

    def __init__(
        self, policy: Policy, space: gym.Space, noise: float, seed: int, *, deterministic: bool = True
    ) -> None:
        discrete = isinstance(space, gym.spaces.Discrete)
        if not 0 <= noise <= (1 if discrete else math.inf) or math.isinf(noise):
            expected = "a share from 0 to 1" if discrete else "a number from 0"
            raise ValueError(f"noise: expected {expected}, got {noise}")
        self._policy, self._space, self._noise, self._seed = policy, space, noise, seed
        self._deterministic, self._state = deterministic, None

    def act(self, obs: np.ndarray, tick: int, first: bool) -> tuple[np.ndarray, float]:
        state: Any = None if first else self._state
        best, self._state = self._policy.predict(obs, state, np.array([first]), self._deterministic)
        if self._noise == 0:
            return np.asarray(best), math.nan
        stream = np.random.default_rng(derive(self._seed, "behaviour", 0, tick))
        if isinstance(self._space, gym.spaces.Discrete):
            return _sometimes(int(best), int(self._space.n), self._noise, stream)
        assert isinstance(self._space, gym.spaces.Box)
        return around(np.asarray(best), self._space, self._noise, stream)


def around(
    center: np.ndarray, space: gym.spaces.Box, noise: float, stream: np.random.Generator
) -> tuple[np.ndarray, float]:
    """A draw from the normal distribution around `center`, cut to the bounds, and its log-density.

    Args:
        center: [act], within the bounds.
        space: of the action.
        noise: standard deviation, in half the range of each action.
        stream: of the draw.
    """
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    std = noise * (high - low) / 2
    ends = ndtr((low - center) / std), ndtr((high - center) / std)
    share = ends[0] + stream.random(len(low)) * (ends[1] - ends[0])
    action = np.clip(center + std * ndtri(share), low, high).astype(space.dtype)
    z = (action - center) / std
    density = -0.5 * z**2 - np.log(std * math.sqrt(2 * math.pi)) - np.log(ends[1] - ends[0])
    return action, float(density.sum())


def _sometimes(best: int, count: int, share: float, stream: np.random.Generator) -> tuple[np.ndarray, float]:
    action = int(stream.integers(count)) if stream.random() < share else best
    return np.array(action), math.log(share / count + (1 - share) * (action == best))
