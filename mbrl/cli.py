"""The command `mbrl`. Heavy imports stay inside the commands, so that `mbrl --help` answers at once."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mbrl.pipelines.mpc_config import MPCConfig
from mbrl.pipelines.mpc_config import preset as mpc_preset
from mbrl.pipelines.pets_config import PETSConfig, preset

Runs = tyro.conf.Positional[tuple[Path, ...]]


def demo(seed: int = 0, total_timesteps: int = 2_000, root: Path = Path("runs"), threads: int = 1) -> int:
    """Learn to swing up a MuJoCo cart-pole from nothing, and show it.

    Trains PETS on mbrl/CartPoleSwingUp-v0 until a trial is solved, prints a table of the trials, and writes a video and
    a learning curve. The exit status is 1 if no trial was solved.

    Args:
        seed: Of everything random.
        total_timesteps: Real environment steps at most; a trial has 200.
        root: Folder of run directories.
        threads: CPU threads of torch. More than one rarely pays for networks of this size.
    """
    _prepare(threads, pictures=True)
    from mbrl.experiments.demo import run_demo

    return 0 if run_demo(seed=seed, total_timesteps=total_timesteps, root=root).solved else 1


def train(
    algorithm: tyro.conf.Positional[Literal["pets"]],
    /,
    env_id: str,
    config: Annotated[PETSConfig, tyro.conf.arg(name="")] = PETSConfig(),  # noqa: B008, frozen
    seed: int = 0,
    root: Path = Path("runs"),
    distill: bool = False,
    tensorboard: bool = False,
    threads: int = 1,
) -> int:
    """Train on an environment, in a new run directory.

    The defaults of the settings are the preset of --env-id, where the library has one.

    Args:
        algorithm: pets: a probabilistic ensemble under MPC.
        env_id: Gymnasium id with flat observations and flat, bounded actions; module:Env-v0 imports the module first.
        config: Settings.
        seed: Of everything random.
        root: Folder of run directories.
        distill: At the end, fit a policy without planning to what MPC did.
        tensorboard: Also write TensorBoard events.
        threads: CPU threads of torch. More than one rarely pays for small networks.
    """
    _prepare(threads)
    from mbrl.experiments.pets_runs import create_pets_run, train_pets_run

    run = create_pets_run(root, env_id, config, seed=seed, distill=distill, tensorboard=tensorboard)
    print(f"run directory: {run.path}", flush=True)
    train_pets_run(run)
    _summary(run.path)
    return 0


def resume(run: tyro.conf.Positional[Path], /, tensorboard: bool = False, threads: int = 1) -> int:
    """Go on with a run from its newest checkpoint: to the same numbers, bit for bit, as if it had not stopped.

    Args:
        run: Run directory.
        tensorboard: Also write TensorBoard events.
        threads: CPU threads of torch; the same number as before keeps the results identical.
    """
    _prepare(threads)
    from mbrl.experiments.pets_runs import train_pets_run
    from mbrl.experiments.run import Run

    opened = Run.open(run, tensorboard=tensorboard)
    train_pets_run(opened)
    _summary(opened.path)
    return 0


def evaluate(
    run: tyro.conf.Positional[Path],
    /,
    episodes: int = 5,
    seed: int = 0,
    policy: Literal["mpc", "distilled"] = "mpc",
    video: bool = False,
    threads: int = 1,
) -> int:
    """Play episodes with what a run has learned, and print their returns.

    Args:
        run: Run directory.
        episodes: How many.
        seed: Of the environment.
        policy: mpc: plan through the learned model; distilled: the policy that --distill left.
        video: Write the first episode to evaluation.mp4 in the run directory.
        threads: CPU threads of torch.
    """
    _prepare(threads, pictures=video)
    from mbrl.envs.make import make_env
    from mbrl.experiments import evaluate as evaluation
    from mbrl.experiments.pets_runs import load_policy
    from mbrl.experiments.run import Run

    opened = Run.open(run)
    env = make_env(opened.env_id, render_mode="rgb_array" if video else None)
    player = load_policy(opened, env, policy=policy)
    path = opened.path / "evaluation.mp4" if video else None
    result = evaluation.evaluate(player, env, episodes=episodes, seed=seed, video=path)
    for i, (ret, length) in enumerate(zip(result.returns, result.lengths, strict=True), start=1):
        print(f"episode {i}: return {ret:.2f}, {length} steps")
    print(result)
    if video:
        print(f"video: {result.video}" if result.video else f"video: none ({result.video_problem})")
    return 0


def mpc(
    env_id: str,
    config: Annotated[MPCConfig, tyro.conf.arg(name="")] = MPCConfig(),  # noqa: B008, frozen
    model: str = "simulator",
    seed: int = 0,
    steps: int | None = None,
    video: bool = False,
    root: Path = Path("runs"),
    threads: int = 1,
) -> int:
    """Control an environment for an episode by planning at every step, with a model that is there already.

    The defaults of the settings are those of --planner for --env-id, where the library has them.

    Args:
        env_id: Gymnasium id.
        config: Settings.
        model: simulator: the environment's own physics; or the run directory of a learned model.
        seed: Of the environment and of planning.
        steps: At most; the episode's end by default.
        video: Write episode.mp4 to the run directory.
        root: Folder of run directories.
        threads: CPU threads of torch and of MuJoCo.
    """
    _prepare(threads, pictures=video)
    from mbrl.experiments.control import control

    done = control(env_id, config, model=model, seed=seed, steps=steps, video=video, root=root, threads=threads)
    print(f"run directory: {done.run}")
    if video:
        print(f"video: {done.video}" if done.video else f"video: none ({done.video_problem})")
    if done.latency.missed:
        print(f"missed deadlines: {done.latency.missed} of {done.latency.plans}")
    print(f"return: {done.ret:.1f} over {done.steps} steps, p50 {done.latency.p50_ms:.1f} ms")
    return 0


def plot(runs: Runs, /, out: Path = Path("learning_curves.png")) -> int:
    """Draw the learning curves of runs into one picture.

    Args:
        runs: Run directories.
        out: PNG file to write.
    """
    from mbrl.experiments.plots import plot_runs

    print(f"learning curves: {plot_runs(runs, out)}")
    return 0


def doctor() -> int:
    """Show versions, devices, threads and rendering, and the command that mends what is missing."""
    from mbrl.experiments.doctor import diagnose

    report = diagnose()
    print(report)
    return 0 if report.ok else 1


def main(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit status (0, 1 where a command says no, 2 for bad input)."""
    args = sys.argv[1:] if args is None else args
    env_id = _value(args, "--env-id")
    chosen = functools.partial(train, config=preset(env_id))
    controlled = functools.partial(mpc, config=mpc_preset(env_id, _value(args, "--planner") or MPCConfig.planner))
    commands: dict[str, Callable[..., int]] = {
        "demo": demo,
        "train": chosen,
        "resume": resume,
        "evaluate": evaluate,
        "mpc": controlled,
        "plot": plot,
        "doctor": doctor,
    }
    try:
        status: int = tyro.extras.subcommand_cli_from_dict(
            commands, prog="mbrl", description="Model-based reinforcement learning and planning.", args=args
        )
        return status
    except (ValueError, OSError) as error:
        if os.environ.get("MBRL_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; `mbrl resume RUN` goes on from the last checkpoint", file=sys.stderr)
        return 130


def _value(args: list[str], option: str) -> str:
    """The value of an option that decides the defaults of others; "" where it is missing."""
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") == option:
            return value if equals else (args[i + 1] if i + 1 < len(args) else "")
    return ""


def _prepare(threads: int, *, pictures: bool = False) -> None:
    """Settings that must stand before torch computes and before mujoco is imported."""
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    import torch

    torch.set_num_threads(threads)
    if pictures or "MUJOCO_GL" in os.environ:
        from mbrl.experiments.video import choose_backend

        choose_backend()


def _summary(path: Path) -> None:
    from mbrl.experiments.plots import plot_runs

    print(f"learning curve: {plot_runs([path], path / 'learning_curve.png')}")
    print(f"evaluate it: mbrl evaluate {path} --episodes 5")
