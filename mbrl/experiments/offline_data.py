"""What a dataset is of, where runs learn from it: its bounds of actions, and whether it is what a run began with."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from mbrl.data.dataset_checks import allowed_at_import, check_dataset
from mbrl.data.dataset_info import DatasetInfo, info_from, info_text, plain_id
from mbrl.data.datasets import Dataset
from mbrl.experiments.agent_runs import Spaces


def check_learnable(data: Dataset) -> None:
    """Look for what makes data misleading to learn from, or to evaluate on, but for what import let through.

    A constant dimension, or a single episode, is nothing to be proud of, but it can be learned from.

    Raises:
        DatasetError: see `mbrl.data.check_dataset`.
    """
    check_dataset(data, allow=("constant", "single", *allowed_at_import(data.info)))


def same_info(now: DatasetInfo, began: DatasetInfo, place: Path) -> DatasetInfo:
    """What a dataset says of itself, with the environment and the bounds that a run began with where it says none.

    Args:
        now: what it says.
        began: what the run was told when it began.
        place: of the dataset, for messages.

    Raises:
        ValueError: it is of another environment, or has other bounds.
    """
    if now.env_id is None:
        now = replace(now, env_id=began.env_id, env_kwargs=began.env_kwargs)
    if now.action_low is None and now.actions is None:
        now = replace(now, action_low=began.action_low, action_high=began.action_high)
    present = info_from(info_text(now), place)
    for name in ("env_id", "env_kwargs", "action_low", "action_high", "actions"):
        was, found = getattr(began, name), getattr(present, name)
        if was != found and not (name == "env_id" and was and found and plain_id(was) == plain_id(found)):
            raise ValueError(
                f"dataset: expected the {name} that the run began with, {was}, got {found} in {place}: start a new run"
            )
    return present


def with_environment(data: Dataset, env_id: str | None, env_kwargs: dict[str, Any]) -> Dataset:
    """The dataset as one of an environment, where that is known and it does not name its own."""
    if data.info.env_id is not None or env_id is None:
        return data
    return replace(data, info=replace(data.info, env_id=env_id, env_kwargs=env_kwargs))


def with_bounds(data: Dataset, env: Spaces | None) -> Dataset:
    """The dataset with the bounds of actions of an environment, or what has its spaces, where it does not say them."""
    if data.info.action_low is not None or data.action_dim is None:
        return data
    if env is None:
        warnings.warn(
            "action bounds: the dataset does not say them, so the policy stays between the least and the largest "
            "actions in it; to say them, write it anew with mbrl dataset import FILE --out NEW --env-id ID, or pass "
            "--env-id",
            stacklevel=4,
        )
        return data
    if not isinstance(env.action_space, gym.spaces.Box) or env.action_space.shape != (data.action_dim,):
        return data  # which does not fit the environment, as is told where they are compared
    low, high = (tuple(bound.tolist()) for bound in (env.action_space.low, env.action_space.high))
    return replace(data, info=replace(data.info, action_low=low, action_high=high))
