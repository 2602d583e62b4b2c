"""Several copies of an environment that step together, in this process or in one process each."""

from typing import Any, Literal

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from mbrl.divergence import Watched
from mbrl.envs.make import make_env


def make_vector_env(
    env_id: str,
    num_envs: int,
    *,
    kind: Literal["sync", "async"] = "sync",
    context: Literal["fork", "forkserver", "spawn"] | None = None,
    **kwargs: Any,
) -> VectorEnv:
    """A vector of environments made by `make_env`, without automatic resets (a `Collector` resets each by a mask).

    Sync: all in this process, one after the other; cheaper where a step takes less than about 0.1 ms. It can be
    continued exactly from a checkpoint. Async: one process each. A `Collector` says which worker died and of what, and
    simulations are watched in the workers.

    Args:
        env_id: see `make_env`.
        num_envs: how many.
        kind: "sync" or "async".
        context: how the processes of "async" begin, see `multiprocessing`; None: as Python does by default.
        kwargs: of `make_env`.

    Raises:
        ValueError: `num_envs` is below 1, `kind` is unknown, or see `make_env`.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs: expected at least 1, got {num_envs}")
    if kind not in ("sync", "async"):
        raise ValueError(f"kind: expected 'sync' or 'async', got {kind!r}")

    def make() -> gym.Env:
        return make_env(env_id, **kwargs)

    if kind == "sync":
        return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
    return AsyncVectorEnv([lambda: Watched(make())] * num_envs, context=context, autoreset_mode=AutoresetMode.DISABLED)
