"""How algorithms learn: one seed of one experiment at a time, each finished one a line in results/learning.jsonl.

`python -m benchmarks.learning NAME --seeds 0 1 2` trains in run directories under --root. A seed that was interrupted,
or stopped by `--minutes`, goes on from its newest checkpoint when it is asked for again, and one that is finished is
not repeated. `--list` shows the experiments. `python -m benchmarks.learning_report` makes tables and pictures.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import keep
from mbrl.experiments.agent_runs import ALGORITHMS, create_agent_run
from mbrl.experiments.metrics import STEP
from mbrl.experiments.pets_runs import create_pets_run
from mbrl.experiments.run import Run
from mbrl.experiments.runs import PETS, total, train_run
from mbrl.pipelines.pets_config import preset as pets_preset

EVALUATION, TRIAL = "eval/mean_reward", "rollout/ep_rew_mean"


@dataclass(frozen=True)
class Experiment:
    """A preset of the library, and what is changed in it."""

    algorithm: str
    env_id: str
    loop: dict[str, Any] = field(default_factory=dict)
    learner: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None


_PENDULUM = {"total_timesteps": 10_000, "eval_every": 1_000, "eval_episodes": 20}
_SWING_UP = "mbrl/CartPoleSwingUp-v0"
_RATIO_10 = {"update_ratio": 10, "batch_size": 128}
_SMALL_SAC = {"hidden": (128, 128), "lr": 1e-3, "tau": 0.02}
_GPU = {
    "device": "cuda",
    "updates": "graph",
    "checkpoint_model_buffer": False,
    "checkpoint_every": 1_000,
    "eval_every": 1_000,
}
EXPERIMENTS = {
    # As stable-baselines3 does by default, whose curves stand beside these: 100 random steps.
    "sac@Pendulum-v1": Experiment("sac", "Pendulum-v1", {**_PENDULUM, "initial_steps": 100}, {"lr": 1e-3}),
    "td3@Pendulum-v1": Experiment("td3", "Pendulum-v1", _PENDULUM),
    "ddpg@Pendulum-v1": Experiment("ddpg", "Pendulum-v1", _PENDULUM),
    "mbpo@InvertedPendulum-v5": Experiment("mbpo", "InvertedPendulum-v5", preset="small"),
    # The same learner, batches and updates per step, without the model, whose rewards and ends are the task's own.
    "sac-ratio10@InvertedPendulum-v5": Experiment(
        "sac",
        "InvertedPendulum-v5",
        {**_RATIO_10, "total_timesteps": 2_500, "initial_steps": 250, "eval_every": 250},
        _SMALL_SAC,
    ),
    # Planning costs 200 times what a step of a policy does: the trials that are learned from are the curve.
    "pets@CartPoleSwingUp-v0": Experiment("pets", _SWING_UP),
    "sac-ratio10@CartPoleSwingUp-v0": Experiment(
        "sac",
        _SWING_UP,
        {**_RATIO_10, "total_timesteps": 2_000, "initial_steps": 100, "eval_every": 200, "checkpoint_every": 200},
        _SMALL_SAC,
    ),
    "dqn@CartPole-v1": Experiment("dqn", "CartPole-v1", {"total_timesteps": 50_000, "eval_episodes": 20}),
    "mbpo-cpu@Hopper-v5": Experiment(
        "mbpo", "Hopper-v5", {"total_timesteps": 15_000, "model_max_steps": 500, "update_ratio": 10}
    ),
    # For a GPU, in pieces of ten minutes: --minutes 10, again and again.
    "mbpo@Hopper-v5": Experiment("mbpo", "Hopper-v5", _GPU),
    "mbpo@HalfCheetah-v5": Experiment("mbpo", "HalfCheetah-v5", {**_GPU, "total_timesteps": 50_000}),
}


def learn(name: str, seed: int, root: Path, minutes: float | None) -> bool:
    """Train a seed, from where it is; whether it is finished."""
    folder = root / name / str(seed)
    run = _open(name, seed, folder)
    spent = folder / "cpu_seconds"
    before = float(spent.read_text()) if spent.exists() else 0.0
    cpu = time.process_time()
    steps = train_run(run, minutes=minutes, progress=False)
    cpu_seconds = before + time.process_time() - cpu
    spent.write_text(str(cpu_seconds))
    if steps < total(run):
        print(f"{name} seed {seed}: {steps} steps so far", flush=True)
        return False
    metric = TRIAL if run.algo == PETS else EVALUATION
    rows = [row for row in run.metrics() if row.get(metric) is not None]
    record = {
        "experiment": name,
        "library": "ours",
        "seed": seed,
        "settings": run.config,
        "episodes": 1 if run.algo == PETS else run.config["loop"]["eval_episodes"],
        "steps": [row[STEP] for row in rows],
        "returns": [round(row[metric], 2) for row in rows],
        "wall_seconds": round(run.metrics()[-1]["time/wall_clock"], 1),
        "cpu_seconds": round(cpu_seconds, 1),  # without pieces that were killed
    }
    print(f"{name} seed {seed}: {record['returns']}\nkept in {keep('learning', record)}", flush=True)
    (folder / "kept").touch()
    return True


def _open(name: str, seed: int, folder: Path) -> Run:
    """The seed's run directory, made where there is none yet."""
    runs = sorted(folder.glob("*__*/config.json"))
    if runs:
        return Run.open(runs[-1].parent)
    wanted = EXPERIMENTS[name]
    if wanted.algorithm == PETS:
        config = replace(pets_preset(wanted.env_id), **wanted.loop)
        return create_pets_run(folder, wanted.env_id, config, seed=seed)
    config, learner, env_kwargs = ALGORITHMS[wanted.algorithm].preset(wanted.env_id, wanted.preset)
    return create_agent_run(
        folder,
        wanted.env_id,
        wanted.algorithm,
        replace(config, **wanted.loop),
        replace(learner, **wanted.learner),
        seed=seed,
        env_kwargs=env_kwargs,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments, see --list")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--root", type=Path, default=Path("runs/learning"))
    parser.add_argument("--minutes", type=float, help="stop each seed after about as many, with a checkpoint")
    parser.add_argument("--list", action="store_true", help="show the experiments")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(EXPERIMENTS))
        return 0
    if unknown := set(arguments.names) - set(EXPERIMENTS):
        parser.error(f"NAME: expected some of {', '.join(EXPERIMENTS)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    finished = True
    for name in arguments.names:
        for seed in arguments.seeds:
            if not (arguments.root / name / str(seed) / "kept").exists():
                finished &= learn(name, seed, arguments.root, arguments.minutes)
    return 0 if finished else 3


if __name__ == "__main__":
    sys.exit(main())
