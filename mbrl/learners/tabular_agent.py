"""The agent around a tabular rule: it steps an environment, and has the interface of stable-baselines3."""

from __future__ import annotations

import math
from dataclasses import asdict
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from mbrl.learners import files
from mbrl.learners.tabular import (
    DIVERGED,
    DoubleQLearning,
    MonteCarloControl,
    QLearning,
    Rule,
    SarsaLambda,
    TDLambda,
    Transition,
)
from mbrl.learners.tabular_dyna import DynaQ, PrioritizedSweeping
from mbrl.seeding import derive
from mbrl.types import NonFiniteUpdate

RULES = (QLearning, DoubleQLearning, SarsaLambda, TDLambda, MonteCarloControl, DynaQ, PrioritizedSweeping)


class Played(NamedTuple):
    """An episode that `learn` played."""

    ret: float
    """Undiscounted sum of rewards."""
    length: int
    """Steps."""
    terminated: bool
    """False: it was cut by a time limit."""


class Tabular:
    """A tabular agent: `learn`, `predict`, `save`, `load`.

        agent = Tabular(env.observation_space, env.action_space, QLearning(alpha=0.1), seed=0)
        agent.learn(env, episodes=500)

    Args:
        observation_space: a `gymnasium.spaces.Discrete` from 0: states are their numbers.
        action_space: likewise.
        rule: how it learns, with the settings: one of `mbrl.learners.tabular` or `tabular_dyna`, or one's own.
        seed: of everything random. Episode number n, of environment and actions, is a function of (seed, n).

    Attributes:
        tables: what has been learned, numpy arrays by name: `q` [states, actions] (`DoubleQLearning`: [2, states,
            actions]), or `v` [states] for prediction.
        episodes: how many have been played.
        history: those since the agent was made or loaded.

    Raises:
        ValueError: a space of another kind.
    """

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, rule: Rule, *, seed: int = 0) -> None:
        for name, space in (("observation_space", observation_space), ("action_space", action_space)):
            if not isinstance(space, gym.spaces.Discrete) or space.start != 0:
                raise ValueError(
                    f"{name}: expected a gymnasium.spaces.Discrete from 0, got {space}; tables need numbered states "
                    "and actions: for vectors use DQN (discrete actions) or SAC (continuous ones)"
                )
        self.observation_space, self.action_space = observation_space, action_space
        self.rule, self.seed, self.episodes = rule, seed, 0
        self.tables = rule.tables(int(observation_space.n), int(action_space.n))  # type: ignore[attr-defined]
        self.history: list[Played] = []
        self._predictions = np.random.default_rng(derive(seed, "tabular", "predict"))

    def learn(self, env: gym.Env, episodes: int) -> Tabular:
        """Play `episodes` more episodes, each from a seeded reset to its end, and learn from every step.

        Learning in two calls is learning in one, also with `save` and `load` in between, where the environment's
        episode is a function of the seed of its reset.

        Raises:
            ValueError: the environment has other spaces, or returned a state that is not in them or a reward that is
                not finite; or `episodes` is below 1.
            NonFiniteUpdate: the tables diverged.
        """
        if not isinstance(episodes, Integral) or episodes < 1:
            raise ValueError(f"episodes: expected a whole number from 1, got {episodes!r}")
        if not all(map(_same, (env.observation_space, env.action_space), (self.observation_space, self.action_space))):
            raise ValueError(
                f"env: expected spaces {self.observation_space} and {self.action_space}, got {env.observation_space} "
                f"and {env.action_space}"
            )
        for _ in range(episodes):
            self.history.append(self._play(env))
            self.episodes += 1
        return self

    def _play(self, env: gym.Env) -> Played:
        rule, tables = self.rule, self.tables
        rng = np.random.default_rng(derive(self.seed, "tabular", "episode", self.episodes))
        start, _ = env.reset(seed=derive(self.seed, "tabular", "environment", self.episodes) % 2**31)
        state = self._known(start)
        memory, action = rule.begin(tables), rule.act(tables, state, rng)
        ret, length = 0.0, 0
        while True:
            seen, reward, terminated, truncated, _ = env.step(action)
            t = Transition(state, action, float(reward), self._known(seen), bool(terminated), bool(truncated))
            if not math.isfinite(t.reward):
                raise ValueError(f"env: expected finite rewards, got {reward} for action {action} in state {state}")
            action, state = rule.step(tables, memory, t, rng), t.next_state
            ret, length = ret + t.reward, length + 1
            if terminated or truncated:
                if not all(np.isfinite(table).all() for table in tables.values()):
                    raise NonFiniteUpdate(DIVERGED)
                return Played(ret, length, t.terminated)

    def _known(self, state: Any) -> int:
        """A state's number; -1 would be the last row of a table."""
        if not 0 <= int(state) < self.observation_space.n:  # type: ignore[attr-defined]
            raise ValueError(f"env: expected states of {self.observation_space}, got {state}")
        return int(state)

    def predict(
        self,
        observation: np.ndarray | int,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """The action for a state, or actions [n] for states [n].

        Args:
            observation: a state's number, or [n] of them.
            state: handed back as it is.
            episode_start: not used.
            deterministic: the greedy action; else one of the policy that explores, drawn from the agent's own stream.

        Raises:
            ValueError: a number that is no state.
        """
        states = np.asarray(observation)
        if not np.issubdtype(states.dtype, np.integer) or states.ndim > 1:
            raise ValueError(f"observation: expected a state's number, or [n] of them, got {observation!r}")
        if not all(self.observation_space.contains(s) for s in states.reshape(-1)):
            raise ValueError(f"observation: expected states of {self.observation_space}, got {states.tolist()}")
        if deterministic:
            actions = [self.rule.greedy(self.tables, int(s)) for s in states.reshape(-1)]
        else:
            actions = [self.rule.act(self.tables, int(s), self._predictions) for s in states.reshape(-1)]
        return np.array(actions, dtype=np.int64).reshape(states.shape), state

    def save(self, path: str | Path) -> Path:
        """Write tables and settings to `path`, which gets the ending .safetensors where it lacks it; atomically.

        Raises:
            ValueError: the rule is not one of this library, so that `load` could not make it again.
        """
        if type(self.rule) not in RULES:
            raise ValueError(f"rule: expected one of {', '.join(r.__name__ for r in RULES)}, got {self.rule}")
        config = {
            "rule": type(self.rule).__name__,
            "settings": asdict(self.rule),  # type: ignore[call-overload]
            "states": int(self.observation_space.n),  # type: ignore[attr-defined]
            "actions": int(self.action_space.n),  # type: ignore[attr-defined]
            "seed": self.seed,
            "episodes": self.episodes,
        }
        return files.save(
            path, "Tabular", config, [torch.from_numpy(self.tables[name]) for name in sorted(self.tables)]
        )

    @classmethod
    def load(cls, path: str | Path) -> Tabular:
        """Read what `save` wrote; learning goes on from there as if it had not stopped.

        Raises:
            ValueError: no such file, or damaged, of another learner, or of a newer version.
        """
        config, tensors = files.load(path, "Tabular")
        rule = next((r for r in RULES if r.__name__ == config["rule"]), None)
        if rule is None:
            raise ValueError(f"path: {path} was learned by {config['rule']}, which this version does not have")
        states, actions = (gym.spaces.Discrete(config[name]) for name in ("states", "actions"))
        agent = cls(states, actions, rule(**config["settings"]), seed=config["seed"])
        files.copy_into([torch.from_numpy(agent.tables[name]) for name in sorted(agent.tables)], tensors, path)
        agent.episodes = config["episodes"]
        return agent


def _same(space: gym.Space, other: gym.Space) -> bool:
    """Whether two spaces hold the same numbers, of whatever type."""
    return isinstance(space, gym.spaces.Discrete) and (space.n, space.start) == (other.n, other.start)  # type: ignore[attr-defined]
