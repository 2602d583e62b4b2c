"""Several copies of an environment that step together, in this process or in one process each."""

import faulthandler
import multiprocessing
import signal
from multiprocessing.connection import wait
from typing import Any, Literal

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from mbrl.divergence import Watched
from mbrl.envs.make import make_env

_STDERR = 2


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
        RuntimeError: a worker died while it made its environment.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs: expected at least 1, got {num_envs}")
    if kind not in ("sync", "async"):
        raise ValueError(f"kind: expected 'sync' or 'async', got {kind!r}")

    def make() -> gym.Env:
        return make_env(env_id, **kwargs)

    if kind == "sync":
        return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)

    def make_watched() -> gym.Env:
        if multiprocessing.parent_process() is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the one that trains decides
            faulthandler.enable(_STDERR)  # a crash in native code leaves a traceback,
            if hasattr(faulthandler, "register"):  # and so does a worker that hangs, see `mbrl.data.workers`
                faulthandler.register(signal.SIGUSR1, _STDERR)
        return Watched(make())

    try:
        return _Workers([make_watched] * num_envs, context=context, autoreset_mode=AutoresetMode.DISABLED)
    except _Died as died:
        raise RuntimeError(
            f"env_id: a worker died while it made {env_id!r}: {died}; what it printed stands above"
        ) from died


class _Died(Exception):
    """Which workers died, and their exit codes."""


class _Workers(AsyncVectorEnv):
    """Ends all its workers where one dies before it has made its environment."""

    def _check_spaces(self) -> None:
        try:
            super()._check_spaces()  # waits for their first answers
        except (EOFError, ConnectionError) as error:
            closed = wait([worker.sentinel for worker in self.processes], timeout=5.0)
            for worker in self.processes:
                worker.join(5.0 if worker.sentinel in closed else 0.0)  # a sentinel is closed before there is a code
            codes = [(i, worker.exitcode) for i, worker in enumerate(self.processes) if worker.exitcode is not None]
            for worker in self.processes:
                worker.kill()
                worker.join()
            raise _Died(", ".join(f"number {i} with exit code {code}" for i, code in codes)) from error
