"""What a dataset says about itself, and the error of one that is not what it has to be."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium as gym

Doubt = Literal["constant", "single", "jump"]
"""What may be right after all: see `mbrl.data.check_dataset`."""


class DatasetError(ValueError):
    """A dataset, or the file of one, is not what it has to be; the message names the episode and row."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset says about itself; everything in it can stand in JSON."""

    env_id: str | None = None
    """Gymnasium id of the environment, with the module that registers it where it was made so (`module:Env-v0`); None:
    unknown."""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Options it was made with, the registered ones among them."""
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    """Bounds of the environment's actions; None: unknown, or discrete."""
    actions: int | None = None
    """How many discrete actions there are; None: actions are continuous."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that the data were made with."""
    description: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Where the data come from: the policy and run, or the file that they were imported from."""

    @staticmethod
    def of(env: gym.Env, *, made_by: str | None = None, **fields: Any) -> "DatasetInfo":
        """What an environment tells.

        Args:
            env: the environment.
            made_by: the id that it was made by: the environment itself has forgotten a module in it, without which
                nobody else finds it.
            fields: the others.

        Raises:
            ValueError: the action space is neither a flat Box nor a Discrete from 0.
        """
        space: dict[str, Any]
        if isinstance(env.action_space, gym.spaces.Discrete) and env.action_space.start == 0:
            space = {"actions": int(env.action_space.n)}
        elif isinstance(env.action_space, gym.spaces.Box) and len(env.action_space.shape) == 1:
            low, high = env.action_space.low.tolist(), env.action_space.high.tolist()
            space = {"action_low": tuple(low), "action_high": tuple(high)}
        else:
            raise ValueError(f"env: expected actions in a flat Box or a Discrete from 0, got {env.action_space}")
        if env.spec is not None:
            options = {k: v for k, v in env.spec.kwargs.items() if k != "render_mode"}
            module, colon, _ = (made_by or "").rpartition(":")
            space = {"env_id": module + colon + env.spec.id, "env_kwargs": options, **space}
        return DatasetInfo(**{**space, **fields})


def plain_id(env_id: str) -> str:
    """An environment's id without the module that registers it, which may be given or not."""
    return env_id.rpartition(":")[2]


def info_text(info: DatasetInfo) -> str:
    """JSON of `info`, always the same for the same.

    Raises:
        ValueError: something in it is not representable in JSON.
    """
    try:
        return json.dumps(vars(info), sort_keys=True)
    except TypeError as error:
        raise ValueError(f"info: expected values that JSON can hold, got {info}: {error}") from None


def info_from(text: str | bytes, where: Any) -> DatasetInfo:
    """What `info_text` wrote.

    Raises:
        DatasetError: it is not that; `where` says in which file.
    """
    try:
        fields = json.loads(text)
        bounds = {k: tuple(fields[k]) for k in ("action_low", "action_high") if fields.get(k) is not None}
        return DatasetInfo(**{**fields, **bounds})
    except (ValueError, TypeError, AttributeError) as error:
        raise DatasetError(f"{where}: what the file says of itself can't be read: {error}") from None
