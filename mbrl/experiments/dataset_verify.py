"""Whether a dataset is one of the environment that the library's task functions are for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym

from mbrl.data.dataset_info import plain_id
from mbrl.data.datasets import Dataset, DatasetError
from mbrl.envs.make import make_env
from mbrl.envs.tasks import task_of
from mbrl.pipelines.dataset_agreement import check_agreement

WITHOUT_TERMINATION = (
    "no function says where an episode ends. In a model, steps would go on behind every fall, and what they earn there "
    "is believed: on Hopper's data scores stay below 7 of 100 then. Learn one: mbrl train mopo and its kin do so where "
    "the task has none, or fit mbrl.models.termination.LearnedTermination to dataset.transitions() and pass it as "
    "EnsembleDynamics(termination=...)"
)


class Verified(NamedTuple):
    """What was compared."""

    rows: int
    reward: bool
    """False: the task has no reward of observations; it has to be learned."""
    termination: bool
    """False: episodes never terminate."""
    warning: str | None


def verify_dataset(
    data: Dataset, *, env_id: str | None = None, env_kwargs: Mapping[str, Any] | None = None
) -> Verified:
    """Run the task functions of an environment over a dataset.

    Args:
        data: the dataset.
        env_id: the environment; None: the one that the dataset names.
        env_kwargs: its options; None: the dataset's where it is the one that it names, else none.

    Raises:
        DatasetError: observations or actions have other sizes or bounds, or rewards or terminations disagree; the
            message names the episode and row.
        ValueError: no environment is named, or there is no such one.
    """
    name = env_id or data.info.env_id
    if name is None:
        raise ValueError("env_id: expected one, for the dataset does not name its environment, got none")
    same = data.info.env_id is not None and plain_id(name) == plain_id(data.info.env_id)
    options = dict(env_kwargs if env_kwargs is not None else data.info.env_kwargs if same else {})
    env = make_env(name, discrete=True, as_registered=True, **options)
    try:
        _check_sizes(data, env, name)
        known = task_of(name, env.spec.kwargs if env.spec is not None else options)
    finally:
        env.close()
    if known is None:
        ends = bool(data.terminated.any())
        return Verified(
            0, False, False, f"the library has no functions for {name}; " + WITHOUT_TERMINATION if ends else None
        )
    check_agreement(data, known)
    return Verified(len(data), known.reward is not None, known.termination is not None, None)


def check_fits(data: Dataset, env_id: str, env_kwargs: Mapping[str, Any]) -> None:
    """Raise DatasetError where observations or actions are not such as the environment has."""
    env = make_env(env_id, discrete=True, as_registered=True, **env_kwargs)
    try:
        _check_sizes(data, env, env_id)
    finally:
        env.close()


def _check_sizes(data: Dataset, env: gym.Env, name: str) -> None:
    space, actions = env.observation_space, env.action_space
    assert space.shape is not None
    if space.shape != (data.obs_dim,):
        raise DatasetError(
            f"observations: expected {space.shape[0]} numbers, as {name} has, got {data.obs_dim}: the dataset is of "
            "another environment, or of one with other options (env_kwargs)"
        )
    if isinstance(actions, gym.spaces.Discrete):
        if data.action_dim is not None or data.actions.max() >= actions.n:
            raise DatasetError(f"actions: expected whole numbers below {actions.n}, as {name} has, got others")
        return
    if actions.shape != (data.action_dim,):
        raise DatasetError(f"actions: expected {actions.shape}, as {name} has, got {data.action_dim} numbers")
    assert isinstance(actions, gym.spaces.Box)
    slack = 1e-5 * (actions.high - actions.low)
    wrong = ((data.actions < actions.low - slack) | (data.actions > actions.high + slack)).any(-1)
    if wrong.any():
        row = int(wrong.argmax())
        raise DatasetError(
            f"actions: expected numbers within {actions.low.tolist()} to {actions.high.tolist()}, the bounds of "
            f"{name}, got {data.actions[row].tolist()} in {data.place(row)}"
        )
