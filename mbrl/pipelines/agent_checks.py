"""What agents check of spaces, devices and settings, in the sentences that users read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch

from mbrl.data.datasets import Dataset

if TYPE_CHECKING:
    from mbrl.pipelines.agents import Agent


def with_fields(config: Any, changes: Mapping[str, Any], what: str) -> Any:
    """A dataclass with other values of some of its fields.

    Raises:
        ValueError: it has no such field, or a value is out of range.
    """
    known = [field.name for field in fields(config)]
    if unknown := [name for name in changes if name not in known]:
        raise ValueError(
            f"{', '.join(unknown)}: expected {what}, which are {', '.join(known)}; docs/learners has a table of "
            "stable-baselines3's names"
        )
    return replace(config, **changes)


def device_of(name: torch.device | str) -> torch.device:
    """The device of a name, with its number.

    Raises:
        ValueError: there is no such device here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # an assertion where torch was built without that kind
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: expected one that is here, such as cpu, got {str(name)!r}: {reason}") from error


class Spaces:
    """Spaces that look like an environment's, for `check_spaces`."""

    spec = None

    def __init__(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def __str__(self) -> str:
        return "the environment"


def check_actions(name: str, space: gym.Space, *, discrete: bool, instead: str) -> None:
    """Check that an action space is of the kind that an agent is for.

    Args:
        name: of the agent.
        space: of the environment or the dataset.
        discrete: whether the agent is for discrete actions.
        instead: what to do about the other kind.

    Raises:
        ValueError: it is of the other kind.
    """
    own, other = ("discrete", gym.spaces.Box) if discrete else ("continuous", gym.spaces.Discrete)
    if isinstance(space, other):
        raise ValueError(f"action_space: {name} is for {own} actions, got {space}: {instead}")


def arguments(observation_space: Any, action_space: Any) -> tuple[Any, ...]:
    """What a learner is made of, before its configuration."""
    size = observation_space.shape[0]
    if isinstance(action_space, gym.spaces.Discrete):
        return size, int(action_space.n)
    return size, tuple(action_space.low.tolist()), tuple(action_space.high.tolist())


def check_learn(total_timesteps: Any, env: Any) -> None:
    """Check the arguments of `learn`, which other libraries, and tabular agents, have in another order.

    Raises:
        ValueError: they are not a number of steps and an environment.
    """
    if not isinstance(total_timesteps, Integral) or total_timesteps < 1:
        raise ValueError(f"total_timesteps: expected a number of steps from 1, got {total_timesteps!r}")
    if not isinstance(env, (gym.Env, gym.vector.VectorEnv)):
        raise ValueError(
            f"env: expected an environment, such as gymnasium.make('Pendulum-v1'), or a vector of them, got {env!r}"
        )


def check_rows_alike(agent: Agent) -> None:
    """Check that an agent's learner takes all rows of a batch alike, and of any policy.

    Raises:
        ValueError: it takes the first as data and the others as a model's, wherever they come from, or learns from
            whole episodes of its own policy.
    """
    if agent.on_policy:
        raise ValueError(
            "agent: expected one that learns from rows of any policy, such as SAC or DQN, got "
            f"{type(agent).__name__}, which learns from episodes of its own: use mbrl.pipelines.reinforce"
        )
    if hasattr(agent.config, "real_rows"):
        name = type(agent).__name__
        raise ValueError(
            f"agent: expected one whose learner takes all rows of a batch alike, such as SAC, got {name}, which takes "
            "the first ones as data and the others as a model's: train it with mbrl.pipelines.combo.train_combo"
        )


def check_as_they_are(agent: Agent) -> None:
    """Check that an agent's learner takes observations as they are, or has a dataset's scaling already.

    Raises:
        ValueError: it standardises them by a dataset that it has not seen.
    """
    if hasattr(agent.learner, "fit_normalizer") and not agent.updates:
        name = type(agent).__name__
        raise ValueError(
            f"agent: expected one whose learner takes observations as they are, such as SAC, got {name}, which "
            "standardises them by a dataset: train it with mbrl.pipelines.offline.train_offline first"
        )


def check_data_match(dataset: Dataset, agent: Agent, device: str) -> None:
    """Check that an agent is for a dataset's observations and actions, and lives where training is to be.

    Raises:
        ValueError: it is not, or does not.
    """
    name, info, own, action_space = type(agent).__name__, dataset.info, agent.action_space, dataset.spaces()[1]
    check_actions(name, action_space, discrete=agent.discrete, instead=agent.instead)
    if (dataset.obs_dim, dataset.action_dim) != agent.sizes:
        raise ValueError(
            f"dataset: expected observations and actions of {agent.sizes[0]} and {agent.sizes[1]} numbers, as the "
            f"agent was made for, got {dataset.obs_dim} and {dataset.action_dim}; make the agent of dataset.spaces()"
        )
    if not agent.discrete:
        _check_bounds(own, action_space, exactly=info.action_low is not None and info.action_high is not None)
    if device_of(device) != agent.device:
        raise ValueError(f"device: expected {agent.device}, where the agent lives, got {device}")


def _check_bounds(own: Any, data: Any, *, exactly: bool) -> None:
    """Check that the bounds of a dataset's actions are an agent's, or, where they are not known, hold all actions."""
    if exactly:
        fits = np.allclose(own.low, data.low) and np.allclose(own.high, data.high)
    else:
        slack = 1e-5 * (own.high - own.low)  # float32 actions of float64 bounds
        fits = bool(((data.low >= own.low - slack) & (data.high <= own.high + slack)).all())
    if not fits:
        raise ValueError(f"dataset: expected actions in {own}, as the agent's, got {data}")
