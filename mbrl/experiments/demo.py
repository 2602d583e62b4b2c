"""The demonstration: a MuJoCo cart-pole learns to swing up, from nothing, in minutes on one CPU core."""

import json
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import torch

from mbrl.data.buffer import ReplayBuffer
from mbrl.data.collect import Episode
from mbrl.envs.make import make_env
from mbrl.experiments.evaluate import evaluate
from mbrl.experiments.pets_runs import create_pets_run, load_policy, train_pets_run
from mbrl.experiments.plots import plot_runs
from mbrl.pipelines.pets_config import preset

ENV_ID = "mbrl/CartPoleSwingUp-v0"
UP = 0.9
"""Cosine of the pole's angle above which it counts as up: within 26 degrees of upright."""


class Trial(NamedTuple):
    steps: int
    """Real environment steps at its end."""
    ret: float
    seconds: float
    up: bool
    """The pole was up during the whole last half."""


class DemoResult(NamedTuple):
    solved: bool
    trials: list[Trial]
    run: Path
    video: Path | None
    plot: Path


def true_model_return() -> float:
    """Return of the same planner on the true dynamics, measured once by `python -m benchmarks.demo_reference`."""
    text = resources.files("mbrl.experiments").joinpath("demo_reference.json").read_text()
    return float(json.loads(text)["mean_return"])


def run_demo(*, seed: int, total_timesteps: int, root: Path, progress: bool = True) -> DemoResult:
    """Train PETS until a trial reaches 80 % of the true model's return with the pole up, or the steps run out.

    Prints a table of the trials as its last lines, and the paths of a video and of a learning curve after it.
    """
    config = replace(preset(ENV_ID), total_timesteps=total_timesteps)
    run = create_pets_run(root, ENV_ID, config, seed=seed)
    print(f"{ENV_ID}, seed {seed}: a random trial, then PETS. Run directory: {run.path}", flush=True)
    reference, started = true_model_return(), time.perf_counter()
    trials: list[Trial] = []

    def stop(episode: Episode, buffer: ReplayBuffer) -> bool:
        up = _stays_up(buffer.all().obs[-episode.length // 2 :])
        steps = (trials[-1].steps if trials else 0) + episode.length
        trials.append(Trial(steps, episode.ret, time.perf_counter() - started, up))
        return _solved(trials[-1], reference)

    train_pets_run(run, stop=stop, progress=progress)
    video, problem = _film(run.path, seed)
    plot = plot_runs([run.path], run.path / "learning_curve.png")
    solved = bool(trials) and _solved(trials[-1], reference)
    print(table(trials, reference, solved), flush=True)
    print(f"video: {video}" if video else f"video: none ({problem})")
    print(f"learning curve: {plot}")
    return DemoResult(solved, trials, run.path, video, plot)


def table(trials: list[Trial], reference: float, solved: bool) -> str:
    """The trials as text, and whether the last one solved the task."""
    head = f"{'trial':>5}  {'real steps':>10}  {'return':>7}  {'wall-clock':>10}  {'true model':>10}  {'pole up':>7}"
    rows = [
        f"{i:>5}  {t.steps:>10}  {t.ret:>7.1f}  {t.seconds:>8.0f} s  {reference:>10.1f}  {'yes' if t.up else 'no':>7}"
        for i, t in enumerate(trials, start=1)
    ]
    return "\n".join([head, *rows, f"solved: {'yes' if solved else 'no'}"])


def _solved(trial: Trial, reference: float) -> bool:
    return trial.up and trial.ret >= 0.8 * reference


def _stays_up(obs: torch.Tensor) -> bool:
    return bool((obs[:, 2] > UP).all())


def _film(run_path: Path, seed: int) -> tuple[Path | None, str | None]:
    from mbrl.experiments.run import Run

    env = make_env(ENV_ID, render_mode="rgb_array")
    policy = load_policy(Run.open(run_path), env)
    result = evaluate(policy, env, episodes=1, seed=seed, video=run_path / "video.mp4")
    env.close()
    return result.video, result.video_problem
