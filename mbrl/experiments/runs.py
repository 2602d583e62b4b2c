"""Runs of every algorithm: go on, change settings, and load what was learned, by what the run directory says it is."""

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import torch

from mbrl.envs.make import make_env
from mbrl.experiments import agent_runs, offline_runs, pets_runs, sb3_runs
from mbrl.experiments.episode import Policy
from mbrl.experiments.lock import locked
from mbrl.experiments.run import Run
from mbrl.experiments.sb3_presets import SB3

PETS = "pets"


def train_run(
    run: Run,
    *,
    minutes: float | None = None,
    dataset: str | Path | None = None,
    progress: bool = True,
    accept_changes: bool = False,
    stop: Callable[[], bool] | None = None,
) -> int:
    """Train a run from its newest checkpoint, or from the start, to its end; returns its real steps, or updates.

    Args:
        run: of any algorithm.
        minutes: stop after about as many, with a checkpoint to go on from.
        dataset: of a run that learns from one: where it is now; None: where it was.
        progress: whether to show a bar.
        accept_changes: whether to go on although the checkpoint was made with other settings.
        stop: asked after every step; True ends it with a checkpoint, too.

    Raises:
        ValueError: the settings are others, something was not finite, the environment does not fit, or another process
            trains the run (`BusyError`).
        MemoryError: the device is full.
        KeyboardInterrupt: Ctrl-C ended it: with a checkpoint, or without one where it came twice.
    """
    check_minutes(minutes)
    if dataset is not None and not _is_offline(run):
        raise ValueError(f"dataset: expected none, for a run of {run.algo} learns by acting, got {str(dataset)!r}")
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    settings: dict[str, Any] = {"progress": progress, "accept_changes": accept_changes}
    with locked(run.path), _interrupts() as asked:

        def ends() -> bool:
            return bool(asked) or time.monotonic() >= end or (stop is not None and stop())

        run.note_process()
        steps = _train(run, ends, dataset, settings)
    if asked and steps < total(run):
        raise KeyboardInterrupt
    return steps


def _train(run: Run, ends: Callable[[], bool], dataset: str | Path | None, settings: dict[str, Any]) -> int:
    if run.algo == PETS:
        return pets_runs.train_pets_run(run, stop_now=ends, **settings).steps
    if _is_offline(run):
        return int(offline_runs.train_offline_run(run, dataset=dataset, stop=ends, **settings).updates)
    if run.algo in SB3:
        return sb3_runs.train_sb3_run(run, stop=ends, progress=settings["progress"])
    return int(agent_runs.train_agent_run(run, stop=ends, **settings).steps)


def settings_of(run: Run) -> dict[str, Any]:
    """The settings of a run: dataclasses, by their name in config.json."""
    if run.algo == PETS:
        return {"pets": pets_runs.pets_config(run)}
    if run.algo in SB3:
        return {"sb3": sb3_runs.sb3_config(run)}
    settings: Any = offline_runs.offline_settings(run) if _is_offline(run) else agent_runs.agent_settings(run)
    return {"loop": settings.config, "learner": settings.learner}


def total(run: Run) -> int:
    """Real steps of the whole run, or updates where it takes none."""
    settings = next(iter(settings_of(run).values()))
    return int(settings.total_updates if _is_offline(run) else settings.total_timesteps)


def run_env(run: Run, *, render_mode: str | None = None) -> gym.Env:
    """The environment that a run was trained on, or is evaluated in.

    Raises:
        ValueError: it learns from a dataset whose environment is not here.
    """
    if run.algo == PETS:
        return make_env(run.env_id, render_mode=render_mode)
    if _is_offline(run):
        return offline_runs.offline_env(run, render_mode=render_mode)
    if run.algo in SB3:
        return sb3_runs.sb3_env(run, render_mode=render_mode)
    return agent_runs.agent_env(run, render_mode=render_mode)


def load_policy(run: Run, env: gym.Env, *, policy: Literal["mpc", "distilled"] | None = None) -> Policy:
    """What a run has learned, from its newest checkpoint.

    Args:
        run: of any algorithm.
        env: its environment, see `run_env`.
        policy: which one of a run of pets: MPC by default, or the distilled one.

    Raises:
        ValueError: there is no such thing in the run directory, or it is damaged.
    """
    if run.algo == PETS:
        return pets_runs.load_policy(run, env, policy=policy or "mpc")
    if policy is not None:
        raise ValueError(f"policy: expected none, for a run of {run.algo} has only one, got {policy!r}")
    if run.algo in SB3:
        return sb3_runs.load_sb3_policy(run, env)
    return agent_runs.load_agent(run, env)


def _is_offline(run: Run) -> bool:
    return run.algo in offline_runs.OFFLINE


def set_threads(threads: int) -> None:
    """CPU threads of torch. Raises ValueError where there would be none."""
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    torch.set_num_threads(threads)


def check_minutes(minutes: float | None) -> None:
    """Raises ValueError where `minutes` is no time to train for."""
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes: expected a positive number, got {minutes}")


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect the first SIGINT (Ctrl-C) instead of raising, so that training ends between steps; the second raises."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where handlers can't be set
        yield asked
        return

    def first(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)
        print("\nstopping after this step, with a checkpoint; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, first)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
