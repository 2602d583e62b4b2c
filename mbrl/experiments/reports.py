"""What commands print at their end."""

from pathlib import Path
from typing import Literal

from mbrl.data.workers import WorkerError
from mbrl.experiments import runs
from mbrl.experiments.control import Control
from mbrl.experiments.evaluate import evaluate
from mbrl.experiments.metrics import STEP
from mbrl.experiments.plots import plot_runs
from mbrl.experiments.run import Run
from mbrl.experiments.sb3_presets import SB3
from mbrl.experiments.scores import summarize
from mbrl.learners.fast import ParityError


def report_training(run: Run, steps: int) -> None:
    """Say how far a run has come and what its evaluations come to, and draw its learning curve."""
    total = runs.total(run)
    if steps < total:
        unit = "step" if run.x == STEP else "update"
        again = "start anew, for it can't be resumed" if run.algo in SB3 else "go on"
        print(f"stopped at {unit} {steps} of {total}; to {again}: mbrl resume {run.path}")
    if summary := summarize(run.metrics(), run.env_id, run.x):
        print(summary)
    print(f"learning curve: {plot_runs([run.path], run.path / 'learning_curve.png')}")
    if run.config.get("evaluated_in", run.env_id) is None:
        print(f"what it is worth on data: mbrl ope {run.path} --dataset FILE")
    else:
        print(f"evaluate it: mbrl evaluate {run.path} --episodes 5")


def report_evaluation(
    path: Path, *, episodes: int, seed: int, policy: Literal["mpc", "distilled"] | None, video: bool
) -> None:
    """Play episodes with what a run has learned, and print their returns; see `mbrl.experiments.runs.load_policy`."""
    run = Run.open(path)
    env = runs.run_env(run, render_mode="rgb_array" if video else None)
    player = runs.load_policy(run, env, policy=policy)
    film = run.path / "evaluation.mp4" if video else None
    result = evaluate(player, env, episodes=episodes, seed=seed, video=film)
    for i, (ret, length) in enumerate(zip(result.returns, result.lengths, strict=True), start=1):
        print(f"episode {i}: return {ret:.2f}, {length} steps")
    print(result)
    if video:
        print(f"video: {result.video}" if result.video else f"video: none ({result.video_problem})")


def report_control(done: Control) -> None:
    """Say how an episode under MPC went."""
    print(f"run directory: {done.run}")
    if done.video or done.video_problem:
        print(f"video: {done.video}" if done.video else f"video: none ({done.video_problem})")
    if done.latency.missed:
        print(f"missed deadlines: {done.latency.missed} of {done.latency.plans}")
    print(f"return: {done.ret:.1f} over {done.steps} steps, p50 {done.latency.p50_ms:.1f} ms")


def raise_defects(error: RuntimeError) -> None:
    """Raise an error again whose message does not say all that a user needs: defects want a traceback."""
    if not isinstance(error, (WorkerError, ParityError)):
        raise error
