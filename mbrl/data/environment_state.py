"""Exact continuation of environments: the episode under way is taken again, from the random state before its reset.

The state of a simulator is not enough: observations may depend on more than it, time limits count in wrappers, and
later resets draw from a random state. Replaying the actions restores all of it in any environment that is
deterministic given `np_random`; for one that is not, the comparison with what was stored notices it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from mbrl.data.stepping import Copies, Vector

_HELP = (
    "supported: a gymnasium.Env or an unwrapped gymnasium.vector.SyncVectorEnv, deterministic given np_random, a "
    "numpy PCG64 generator"
)


class Replayed(NamedTuple):
    """What has to come out of a replay."""

    obs: np.ndarray
    """[obs] float64: the newest observation."""
    ret: float
    """Sum of rewards of the episode so far."""


def snapshot_environments(
    worlds: Copies | Vector, actions: Sequence[Sequence[np.ndarray]], expected: Sequence[Replayed]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `restore_environments` needs: tensors and JSON-able meta data.

    Args:
        worlds: the environments.
        actions: of each environment's episode under way, one [act] a step.
        expected: what each replay must lead to.

    Raises:
        ValueError: the environments can't be continued.
    """
    copies = _copies(worlds)
    tensors = {}
    for i, (taken, now) in enumerate(zip(actions, expected, strict=True)):
        width = copies.envs[i].action_space.shape or ()
        rows = np.array(taken, dtype=np.float64).reshape(len(taken), *width)
        tensors[f"actions.{i}"] = torch.from_numpy(rows)
        tensors[f"obs.{i}"] = torch.from_numpy(now.obs.copy())
    meta = {
        "starts": [_plain(start) for start in copies.starts],
        "random_states": [_plain(_random_state(env)) for env in copies.envs],
        "returns": [now.ret for now in expected],
    }
    return tensors, meta


def restore_environments(
    worlds: Copies | Vector, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> tuple[list[list[np.ndarray]], list[Replayed]]:
    """Replay every environment's episode, and compare observation, return and random state bit for bit.

    Returns:
        The actions of each episode under way, and where they led.

    Raises:
        ValueError: the replay ends elsewhere: the environment can't be continued exactly.
    """
    copies = _copies(worlds)
    if len(meta["starts"]) != copies.num_envs:
        raise ValueError(f"env: expected {len(meta['starts'])} environments, as were stored, got {copies.num_envs}")
    actions, reached = [], []
    for i in range(copies.num_envs):
        rows = tensors[f"actions.{i}"].numpy().astype(copies.envs[i].action_space.dtype)
        now = _replay(copies, i, meta["starts"][i], rows)
        problem = _difference(now, tensors[f"obs.{i}"].numpy(), meta["returns"][i])
        if not problem and _plain(_random_state(copies.envs[i])) != meta["random_states"][i]:
            problem = "its random state is another one"
        if problem:
            raise ValueError(
                f"env: expected environment {i} ({copies.envs[i]}) to come back to where it was after taking the "
                f"{len(rows)} steps of its episode again, but {problem}; this run can't be resumed exactly, so start "
                f"it again ({_HELP})"
            )
        actions.append(list(rows))
        reached.append(now)
    return actions, reached


def _replay(copies: Copies, i: int, start: dict[str, Any], actions: np.ndarray) -> Replayed:
    obs, ret = copies.begin(i, start), 0.0
    for action in actions:
        raw, reward, _, _, _ = copies.envs[i].step(action)
        copies.watches[i].diverged()  # follows the simulation's time
        obs, ret = np.array(raw, dtype=np.float64), ret + float(reward)
    return Replayed(obs, ret)


def _difference(now: Replayed, obs: np.ndarray, ret: float) -> str:
    if now.obs.tobytes() != obs.tobytes():
        if now.obs.shape != obs.shape:
            return f"the observation has shape {list(now.obs.shape)}, not {list(obs.shape)}"
        i = int((now.obs != obs).argmax())
        return f"obs[{i}] is {float(now.obs[i])!r}, not {float(obs[i])!r}"
    if now.ret != ret:
        return f"the return is {now.ret!r}, not {ret!r}"
    return ""


def _copies(worlds: Copies | Vector) -> Copies:
    if not isinstance(worlds, Copies):
        raise ValueError(f"env: expected an environment that can be continued exactly, got {worlds.env}; {_HELP}")
    return worlds


def _random_state(env: gym.Env) -> dict[str, Any]:
    stream = env.unwrapped.np_random
    if not isinstance(stream, np.random.Generator):
        raise ValueError(f"env: expected np_random to be a numpy Generator, got {type(stream).__name__}; {_HELP}")
    return dict(stream.bit_generator.state)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """The state as JSON gives it back, so that a stored one compares equal."""
    try:
        return json.loads(json.dumps(state))
    except TypeError as error:
        raise ValueError(f"env: expected a random state that JSON can hold, got {error}; {_HELP}") from error
