"""Making environments that the library supports, and saying clearly why others are not."""

import difflib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import find_highest_version, parse_env_id

SWING_UP = "mbrl/CartPoleSwingUp-v0"
_WITH_X = {"exclude_current_positions_from_observation": False}
_OPTIONS: dict[str, dict[str, Any]] = dict.fromkeys(
    ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Swimmer-v5"), _WITH_X
)
_RUNS_AWAY = ("HalfCheetah-v5", "Swimmer-v5", "Ant-v5")
"""Gymnasium's default camera loses these; the model has one that keeps up."""
SUPPORTED = "supported: flat Box observations and flat, finite Box actions"

if SWING_UP not in gym.registry:
    gym.register(SWING_UP, entry_point="mbrl.envs.cartpole_swingup:CartPoleSwingUpEnv", max_episode_steps=200)


def make_env(
    env_id: str,
    *,
    render_mode: str | None = None,
    discrete: bool = False,
    check: bool = True,
    as_registered: bool = False,
    **kwargs: Any,
) -> gym.Env:
    """`gymnasium.make`, with the options of the library's task of that id as defaults, and checked spaces.

    Args:
        env_id: a Gymnasium id, or `module:Env-v0`, which imports the module first.
        render_mode: as in Gymnasium.
        discrete: whether discrete actions are fine, too.
        check: whether spaces are checked at all; planning on copies of the environment takes any observation.
        as_registered: leave the options as Gymnasium has them, as published results of learners without a model do.
        kwargs: options of the environment. They win over the task's (HalfCheetah-v5, Hopper-v5, Walker2d-v5 and
            Swimmer-v5: the observation includes x, without which it does not tell the reward).

    Raises:
        ValueError: there is no such environment, module or option, or its spaces are not supported.
    """
    name = env_id.rpartition(":")[2]
    _check_version(env_id)
    options = kwargs if as_registered else {**task_options(name), **kwargs}
    if render_mode is not None and name in _RUNS_AWAY and not {"camera_id", "camera_name"} & set(kwargs):
        options = {**options, "camera_name": "track"}
    if render_mode is not None:  # environments need not take it
        options = {**options, "render_mode": render_mode}
    try:
        env = gym.make(env_id, **options)
    except gym.error.UnregisteredEnv as error:
        raise ValueError(_unknown(env_id)) from error
    except (gym.error.Error, ImportError) as error:  # malformed, deprecated, a missing module or dependency
        raise ValueError(f"env_id: can't make {env_id!r}: {error}") from error
    except TypeError as error:  # what Gymnasium raises where the environment has no such option
        raise ValueError(f"env_id: can't make {env_id!r}, or not with options {options}: {error}") from error
    try:
        if check:
            check_spaces(env, discrete=discrete)
    except ValueError:
        env.close()
        raise
    return env


def _check_version(env_id: str) -> None:
    """Gymnasium takes the newest version where none is named; presets and tasks here are of a version."""
    name = env_id.rpartition(":")[2]
    try:
        namespace, bare, version = parse_env_id(name)
    except gym.error.Error:  # told where it is made
        return
    newest = find_highest_version(namespace, bare)
    if version is None and newest is not None and name not in gym.registry:
        raise ValueError(f"env_id: expected one with its version, such as {name}-v{newest}, got {env_id!r}")


def task_options(env_id: str) -> dict[str, Any]:
    """Gymnasium options with which the observation of `env_id` tells the reward; `make_env` uses them."""
    return dict(_OPTIONS.get(env_id, {}))


def check_spaces(env: gym.Env | gym.vector.VectorEnv, *, discrete: bool = False) -> None:
    """Check that an environment, or each one of a vector, has spaces that the library supports.

    Args:
        env: what is to be checked.
        discrete: whether the caller can use discrete actions, too.

    Raises:
        ValueError: discrete, dict, image or other observations or actions, or infinite action bounds.
    """
    if isinstance(env, gym.vector.VectorEnv):
        obs_space, action_space = env.single_observation_space, env.single_action_space
    else:
        obs_space, action_space = env.observation_space, env.action_space
    name = env.spec.id if env.spec is not None else str(env)
    _check_box("observations", obs_space, name)
    if isinstance(action_space, gym.spaces.Discrete):
        if not discrete:
            raise ValueError(
                f"env: {name} has actions in {action_space}; {SUPPORTED}. Discrete actions are for DQN and discrete "
                "SAC (mbrl train dqn), and for tree search: planners.mcts on a true or learned model, or mbrl mpc "
                "--planner uct"
            )
        if action_space.start != 0:
            raise ValueError(f"env: expected discrete actions from 0, {name} has {action_space}; wrap its actions")
        return
    action = _check_box("actions", action_space, name)
    if not (np.isfinite(action.low).all() and np.isfinite(action.high).all()):
        raise ValueError(
            f"env: expected finite action bounds, {name} has {action.low.tolist()} to {action.high.tolist()}; "
            "bound them with a gymnasium.wrappers.RescaleAction or TransformAction of your own"
        )


def _check_box(kind: str, space: gym.Space, name: str) -> gym.spaces.Box:
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"env: {name} has {kind} in {space}; {SUPPORTED}")
    if len(space.shape) != 1:
        flatten = "; gymnasium.wrappers.FlattenObservation may help" if kind == "observations" else ""
        raise ValueError(f"env: {name} has {kind} of shape {list(space.shape)}; {SUPPORTED}{flatten}")
    if not np.issubdtype(space.dtype, np.floating):
        raise ValueError(f"env: {name} has {kind} of {space.dtype}, expected floating-point numbers; {SUPPORTED}")
    return space


def _unknown(env_id: str) -> str:
    name = env_id.rpartition(":")[2]
    lower = {known.lower(): known for known in gym.registry}
    close = [lower[c] for c in difflib.get_close_matches(name.lower(), list(lower), n=3, cutoff=0.5)]
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    return f"env_id: there is no environment {env_id!r}{hint} (an id of your own package is module:Env-v0)"
