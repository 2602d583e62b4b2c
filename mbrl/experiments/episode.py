"""One episode of a policy in an environment: what evaluation, videos and demonstrations share."""

from collections.abc import Callable
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
    obs, _ = env.reset(seed=seed)
    simulation = divergence.Watch(env)
    simulation.started()
    state, start, ret, length = None, np.array([True]), 0.0, 0
    if watch is not None:
        watch(obs, 0.0)
    while True:
        action, state = policy.predict(obs, state, start, deterministic)
        action = np.asarray(action)
        if length == 0 and action.shape != env.action_space.shape:
            raise ValueError(
                f"policy: expected actions of shape {env.action_space.shape} for one observation of shape "
                f"{np.shape(obs)}, got {action.shape}"
            )
        obs, reward, terminated, truncated, _ = env.step(action[()])  # a discrete action is a number
        start = np.array([False])
        length += 1
        if simulation.diverged():
            return Episode(float("-inf"), length, False, True)
        if not (np.isfinite(float(reward)) and np.all(np.isfinite(obs))):
            raise ValueError(
                f"env: expected finite observations and rewards, got reward {reward} and observation {obs} at step "
                f"{length} of the episode with seed {seed}, after action {action}"
            )
        ret += float(reward)
        if watch is not None:
            watch(obs, float(reward))
        if terminated or truncated:
            return Episode(ret, length, bool(terminated), False)
