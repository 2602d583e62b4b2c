"""Runs of every algorithm: go on, change settings, and load what was learned, by what the run directory says it is."""

import time
from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym

from mbrl.envs.make import make_env
from mbrl.experiments import agent_runs, pets_runs
from mbrl.experiments.episode import Policy
from mbrl.experiments.run import Run

PETS = "pets"


def train_run(run: Run, *, minutes: float | None = None, progress: bool = True, accept_changes: bool = False) -> int:
    """Train a run from its newest checkpoint, or from the start, to its end; returns its real steps.

    Args:
        run: of any algorithm.
        minutes: stop after about as many, with a checkpoint to go on from.
        progress: whether to show a bar.
        accept_changes: whether to go on although the checkpoint was made with other settings.

    Raises:
        ValueError: the settings are others, something was not finite, or the environment does not fit.
        MemoryError: the device is full.
    """
    stop = None if minutes is None else _after(minutes)
    if run.algo == PETS:
        asked = None if stop is None else lambda episode, buffer: stop()
        return pets_runs.train_pets_run(run, stop=asked, progress=progress, accept_changes=accept_changes).steps
    return int(agent_runs.train_agent_run(run, stop=stop, progress=progress, accept_changes=accept_changes).steps)


def settings_of(run: Run) -> dict[str, Any]:
    """The settings of a run: dataclasses, by their name in config.json."""
    if run.algo == PETS:
        return {"pets": pets_runs.pets_config(run)}
    settings = agent_runs.agent_settings(run)
    return {"loop": settings.config, "learner": settings.learner}


def total_timesteps(run: Run) -> int:
    """Real steps of the whole run."""
    return int(next(iter(settings_of(run).values())).total_timesteps)


def run_env(run: Run, *, render_mode: str | None = None) -> gym.Env:
    """The environment that a run was trained on."""
    if run.algo == PETS:
        return make_env(run.env_id, render_mode=render_mode)
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
    return agent_runs.load_agent(run, env)


def _after(minutes: float) -> Callable[[], bool]:
    if not minutes > 0:
        raise ValueError(f"minutes: expected a positive number, got {minutes}")
    end = time.monotonic() + 60 * minutes
    return lambda: time.monotonic() >= end
