"""The command `mbrl`. Heavy imports stay inside the commands, so that `mbrl --help` answers at once."""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from mbrl.experiments.compare_commands import compare
from mbrl.experiments.report_commands import report
from mbrl.experiments.sb3_presets import SB3, SB3Algorithm, sb3_preset
from mbrl.experiments.trust_commands import online, ope
from mbrl.experiments.tune_commands import oracle_gap, tune
from mbrl.pipelines.mpc_config import MPCConfig
from mbrl.pipelines.mpc_config import preset as mpc_preset
from mbrl.pipelines.pets_config import preset as pets_preset

Online = Literal["sac", "redq", "droq", "td3", "ddpg", "dqn", "discrete_sac", "reinforce", "dyna", "mbpo", "pets"]
Offline = Literal["mopo", "combo", "mobile", "bc", "td3bc", "cql", "iql", "awac"]
ALGORITHMS: tuple[str, ...] = (*get_args(Online), *get_args(SB3Algorithm), *get_args(Offline))
Settings = Annotated[Any, tyro.conf.arg(name="")]
"""A dataclass of settings, whose fields are options; which one is seen from the default."""
Runs = tyro.conf.Positional[tuple[Path, ...]]


@dataclass(frozen=True)
class _NoSettings:
    """Of an algorithm that is not known yet."""


_NONE = _NoSettings()


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
    algorithm: tyro.conf.Positional[Online | SB3Algorithm | Offline],
    /,
    env_id: str | None = None,
    dataset: Path | None = None,
    config: Settings = _NONE,
    learner: Settings = _NONE,
    preset: str | None = None,
    seed: int = 0,
    root: Path = Path("runs"),
    distill: bool = False,
    minutes: float | None = None,
    tensorboard: bool = False,
    threads: int = 1,
) -> int:
    """Train on an environment, or on a dataset, in a new run directory.

    The defaults of the settings are the preset of the environment, where the library has one; mbrl train ALGORITHM
    --help shows them.

    Args:
        algorithm: Without a model: sac, redq, droq, td3, ddpg (continuous actions), dqn, discrete_sac, reinforce, and
            those of stable-baselines3 and sb3-contrib, which start anew where others resume: sb3-ppo and so on. With a
            learned one: dyna (DQN or SAC), mbpo (SAC on short rollouts in it) and pets (MPC through it). On a dataset,
            without real steps: bc, td3bc, cql, iql, awac, and with a learned model mopo, combo, mobile.
        env_id: Gymnasium id with flat observations; module:Env-v0 imports the module first. With --dataset: where to
            evaluate, the dataset's own environment by default.
        dataset: File to learn from, see mbrl dataset.
        config: Settings.
        learner: Settings of the learner.
        preset: Name of a preset, where the environment has several.
        seed: Of everything random.
        root: Folder of run directories.
        distill: pets: at the end, fit a policy without planning to what MPC did.
        minutes: Stop after about as many, with a checkpoint: mbrl resume goes on.
        tensorboard: Also write TensorBoard events.
        threads: CPU threads of torch. More than one rarely pays for small networks.
    """
    _prepare(threads)
    from mbrl.experiments import runs
    from mbrl.experiments.reports import report_training
    from mbrl.experiments.start import start_run

    runs.check_minutes(minutes)
    run = start_run(
        algorithm,
        root=root,
        env_id=env_id,
        dataset=dataset,
        config=config,
        learner=learner,
        preset=preset,
        seed=seed,
        distill=distill,
        tensorboard=tensorboard,
    )
    print(f"run directory: {run.path}", flush=True)
    report_training(run, runs.train_run(run, minutes=minutes))
    return 0


def resume(
    run: tyro.conf.Positional[Path],
    /,
    minutes: float | None = None,
    dataset: Path | None = None,
    settings: tuple[str, ...] = (),
    accept_changes: bool = False,
    tensorboard: bool = False,
    threads: int = 1,
) -> int:
    """Go on with a run from its newest checkpoint: to the same numbers, bit for bit, as if it had not stopped.

    Runs of stable-baselines3 (sb3-...) that were interrupted start anew: that library does not store all they are made
    of. They come to the same numbers, too.

    Args:
        run: Run directory.
        minutes: Stop after about as many, with a checkpoint.
        dataset: Where the dataset of the run is now; by default where it was.
        settings: Other ones than it began with, such as lr=1e-4 total_timesteps=20000: shown, and refused without
            --accept-changes.
        accept_changes: Go on with other settings.
        tensorboard: Also write TensorBoard events.
        threads: CPU threads of torch; the same number as before keeps the results identical.
    """
    _prepare(threads)
    from mbrl.experiments import runs
    from mbrl.experiments.reports import report_training
    from mbrl.experiments.run import Run
    from mbrl.experiments.settings import change_settings

    opened = Run.open(run, tensorboard=tensorboard)
    if settings:
        change_settings(opened, _changed(runs.settings_of(opened), settings), accept=accept_changes)
    report_training(opened, runs.train_run(opened, minutes=minutes, dataset=dataset, accept_changes=accept_changes))
    return 0


def evaluate(
    run: tyro.conf.Positional[Path],
    /,
    episodes: int = 5,
    seed: int = 0,
    policy: Literal["mpc", "distilled"] | None = None,
    video: bool = False,
    threads: int = 1,
) -> int:
    """Play episodes with what a run has learned, and print their returns.

    Args:
        run: Run directory.
        episodes: How many.
        seed: Of the environment.
        policy: Of a run of pets. mpc (default): plan through the learned model; distilled: what --distill left.
        video: Write the first episode to evaluation.mp4 in the run directory.
        threads: CPU threads of torch.
    """
    _prepare(threads, pictures=video)
    from mbrl.experiments.reports import report_evaluation

    report_evaluation(run, episodes=episodes, seed=seed, policy=policy, video=video)
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
    from mbrl.experiments.reports import report_control

    report_control(
        control(env_id, config, model=model, seed=seed, steps=steps, video=video, root=root, threads=threads)
    )
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


def dataset(command: tyro.conf.Positional[str], /) -> int:
    """Collect, inspect, verify, import and export logged data: mbrl dataset --help.

    Args:
        command: With options of its own.
    """
    raise AssertionError(f"main answers {command} itself")


def doctor() -> int:
    """Show versions, devices, threads and rendering, and the command that mends what is missing."""
    from mbrl.experiments.doctor import diagnose

    report = diagnose()
    print(report)
    return 0 if report.ok else 1


NAMES_OF_SB3 = {
    "learning_rate": "--lr",
    "gamma": "--discount",
    "learning_starts": "--initial-steps",
    "train_freq": "--update-every",
    "gradient_steps": "--update-ratio, updates per real step",
    "ent_coef": "--temperature, or none to learn it",
    "policy_delay": "--actor-every",
    "net_arch": "--hidden",
    "target_update_interval": "--target-every, in updates",
}
"""What other libraries call settings, and what they are called here."""


def main(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit status (0, 1 where a command says no, 2 for bad input)."""
    args = sys.argv[1:] if args is None else args
    env_id = _value(args, "--env-id")
    controlled = functools.partial(mpc, config=mpc_preset(env_id, _value(args, "--planner") or MPCConfig.planner))
    commands: dict[str, Callable[..., int]] = {
        "demo": demo,
        "train": train,
        "resume": resume,
        "evaluate": evaluate,
        "mpc": controlled,
        "plot": plot,
        "compare": compare,
        "report": report,
        "oracle-gap": oracle_gap,
        "tune": tune,
        "ope": ope,
        "online": online,
        "dataset": dataset,
        "doctor": doctor,
    }
    prog, description = "mbrl", "Model-based reinforcement learning and planning."
    try:
        if args[:1] == ["dataset"]:
            from mbrl.experiments.dataset_commands import COMMANDS

            prog, description, commands, args = "mbrl dataset", "Logged data.", COMMANDS, args[1:]
        if args[:1] == ["train"]:
            commands["train"] = _train_command(args, env_id)
        status: int = tyro.extras.subcommand_cli_from_dict(commands, prog=prog, description=description, args=args)
        return status
    except BrokenPipeError:  # is no error: `mbrl ... | head`
        raise
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if os.environ.get("MBRL_TRACEBACK"):
            raise
        if isinstance(error, RuntimeError):
            from mbrl.experiments.reports import raise_defects

            raise_defects(error)
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resume_it = "`mbrl resume RUN` goes on from the newest checkpoint, or from the start"
        print(f"stopped; {resume_it if prog == 'mbrl' else 'nothing was written'}", file=sys.stderr)
        return 130


def _value(args: list[str], option: str) -> str:
    """The value of an option that decides the defaults of others; "" where it is missing."""
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") == option:
            return value if equals else (args[i + 1] if i + 1 < len(args) else "")
    return ""


def _train_command(args: list[str], env_id: str) -> Callable[..., int]:
    """`train` with the settings of the algorithm that is asked for as options, their defaults from its preset."""
    named = ("--preset", "--root", "--env-id", "--dataset")
    values = {i + 1 for i, arg in enumerate(args) if arg.replace("_", "-") in named}
    algorithm = next((arg for i, arg in enumerate(args) if i not in values and arg in ALGORITHMS), None)
    if algorithm is None:
        if f"sb3-{args[1] if len(args) > 1 else ''}" in SB3:
            raise ValueError(f"algorithm: expected one of the library's, got {args[1]!r}: did you mean sb3-{args[1]}?")
        return train
    if algorithm == "pets":
        return functools.partial(train, config=pets_preset(env_id))
    if algorithm in SB3:
        return functools.partial(train, config=sb3_preset(algorithm, env_id).config)
    for arg in args:
        theirs = arg.removeprefix("--").partition("=")[0].replace("-", "_")
        if arg.startswith("--") and theirs in NAMES_OF_SB3:
            raise ValueError(
                f"{theirs}: expected a setting of {algorithm}, got one of stable-baselines3: here it is "
                f"{NAMES_OF_SB3[theirs]}; mbrl train {algorithm} --env-id ID --help shows all"
            )
    from mbrl.experiments.start import find_preset  # which imports torch

    found = find_preset(algorithm, env_id, _value(args, "--dataset"), _value(args, "--preset") or None)
    return functools.partial(train, config=found.config, learner=found.learner)


def _changed(present: dict[str, Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """Dataclasses of settings with `name=value` in place: each name is a field of one of them."""
    options: dict[str, list[str]] = {name: [] for name in present}
    for setting in settings:
        field, equals, value = setting.partition("=")
        owner = next((name for name, config in present.items() if hasattr(config, field.split(".")[0])), None)
        if owner is None or not equals:
            raise ValueError(f"settings: expected name=value, with the name of a setting of the run, got {setting!r}")
        options[owner] += _option(present[owner], field, value)
    return {
        name: tyro.cli(type(config), default=config, args=options[name], prog="mbrl resume --settings")
        for name, config in present.items()
    }


def _option(config: Any, field: str, value: str) -> list[str]:
    """A setting as options; those that are True or False have none with a value."""
    if not isinstance(functools.reduce(lambda held, name: getattr(held, name, None), field.split("."), config), bool):
        return [f"--{field}", *(value.split(",") if value else [])]
    if value.lower() not in ("true", "false"):
        raise ValueError(f"settings: expected {field}=true or {field}=false, got {value!r}")
    head, dot, last = field.rpartition(".")
    return [f"--{field}"] if value.lower() == "true" else [f"--{head}{dot}no-{last}"]


def _prepare(threads: int, *, pictures: bool = False) -> None:
    """Settings that must stand before torch computes and before mujoco is imported."""
    from mbrl.experiments.runs import set_threads

    set_threads(threads)
    if pictures or "MUJOCO_GL" in os.environ:
        from mbrl.experiments.video import choose_backend

        choose_backend()
