"""One episode under MPC, in a run directory: the return, what planning took, and a video."""

from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from mbrl.envs.make import make_env
from mbrl.envs.tasks import task
from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.episode import play
from mbrl.experiments.metrics import STEP
from mbrl.experiments.pets_runs import loaded_agent
from mbrl.experiments.run import Run
from mbrl.experiments.video import Film
from mbrl.pipelines.mpc import ModelPolicy, make_policy, true_dynamics
from mbrl.pipelines.mpc_config import TREES, MPCConfig
from mbrl.seeding import derive
from planners.dynamics import Dynamics
from planners.latency import LatencySummary
from planners.mpc import MPCState

SIMULATOR = "simulator"
LOG_EVERY = 50
"""Steps between rows of diagnostics."""


class Control(NamedTuple):
    """What came of an episode."""

    ret: float
    steps: int
    latency: LatencySummary
    run: Path
    video: Path | None
    video_problem: str | None


def control(
    env_id: str,
    config: MPCConfig,
    *,
    model: str = SIMULATOR,
    seed: int = 0,
    steps: int | None = None,
    video: bool = False,
    root: str | Path = "runs",
    threads: int = 1,
) -> Control:
    """Play one episode, at most `steps` steps of it, and keep metrics and video in a new run directory.

    Args:
        env_id: Gymnasium id.
        config: planner and its settings.
        model: "simulator": the environment's own physics; else the run directory of a learned model.
        seed: of the environment and of planning.
        steps: None: to the episode's end.
        video: whether to write episode.mp4.
        root: folder of run directories.
        threads: of MuJoCo.

    Raises:
        ValueError: the environment can't be its own model, the run has none, or a setting is out of range.
    """
    own_model = model == SIMULATOR and config.planner in TREES and task(env_id) is None
    render_mode = "rgb_array" if video else None
    env = make_env(env_id, render_mode=render_mode, discrete=config.planner in TREES, check=not own_model)
    if steps is not None:
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}")
        env = gym.wrappers.TimeLimit(env, steps)
    if model == SIMULATOR:
        dynamics = true_dynamics(env, threads=threads)
    else:
        dynamics, particles = learned_dynamics(model, env)
        config = replace(config, particles=config.particles or particles)
    policy = make_policy(env, dynamics, config, seed=seed)
    settings = {"mpc": asdict(config), "model": model, "steps": steps}
    run = Run.create(root, env_id, f"mpc-{config.planner}", seed, settings)
    film = Film(env, run.path / "episode.mp4") if video else None
    with film or nullcontext(), tqdm(total=steps or _limit(env), unit="step", disable=None) as bar:
        logged = _Logged(policy, run, bar)
        episode = play(logged, env, seed=derive(seed, "episode") % 2**31, watch=film)
    env.close()
    latency = policy.mpc.latency.summary()
    row = {"rollout/ep_rew_mean": episode.ret, "rollout/ep_len_mean": episode.length}
    run.log({STEP: episode.length, **row, **latency.metrics()})
    return Control(
        episode.ret,
        episode.length,
        latency,
        run.path,
        film.result if film else None,
        film.problem if film else None,
    )


def learned_dynamics(path: str | Path, env: gym.Env) -> tuple[Dynamics[Any], int]:
    """The model that a run of PETS has learned, from its newest checkpoint, and with how many particles it planned.

    Raises:
        ValueError: there is no such run, or its model is of other observations or actions.
    """
    run = Run.open(path)
    tensors, _ = load_checkpoint(run.path)
    agent = loaded_agent(run, env, tensors)
    return agent.dynamics, agent.config.particles


class _Logged:
    """A policy whose plans' diagnostics are logged every now and then."""

    def __init__(self, policy: ModelPolicy, run: Run, bar: Any) -> None:
        self._policy, self._run, self._bar = policy, run, bar
        self._steps = 0

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False, /
    ) -> tuple[Any, MPCState]:
        action, state = self._policy.predict(observation, state, episode_start, deterministic)
        self._steps += 1
        self._bar.update()
        if self._steps % LOG_EVERY == 0:
            self._run.log({STEP: self._steps, **plan_metrics(state)})
        return action, state


def plan_metrics(state: MPCState) -> dict[str, float]:
    """Value and diagnostics of the plan that is being executed, means over the batch; those that are numbers."""
    row = {"plan/predicted_return": float(state.plan.value.mean())}
    for name in ("effective_samples", "elite_spread", "std", "at_bound", "iterations"):
        value = getattr(state.plan.info, name, None)
        if value is not None:
            row[f"plan/{name}"] = float(value.double().mean())
    return {name: value for name, value in row.items() if np.isfinite(value)}


def _limit(env: gym.Env) -> int | None:
    return env.spec.max_episode_steps if env.spec is not None else None
