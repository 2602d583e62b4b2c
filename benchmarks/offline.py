"""How offline algorithms learn: METHOD@DATASET, a line a seed in results/offline.jsonl.

`python -m benchmarks.offline --methods bc naive mopo combo --data pendulum-narrow --seeds 0 1 2 3 4` trains in run
directories under --root, on datasets that it makes where they are missing (benchmarks/offline_data.py). A seed that was
interrupted, or stopped by `--minutes`, goes on from its newest checkpoint; one that has its line, of the same data and
settings, is not repeated.
With a GPU: `--data hopper-replay halfcheetah-replay --total-updates 1000000 --device cuda --minutes 10`.
`python -m benchmarks.offline_report` makes tables. "naive" is MOPO without a penalty, all else alike; "mbpo" has
rollouts of one step besides, as MBPO has them for the pole: as many model rows, each from a row of the data.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.offline_data import DATA, dataset_path
from benchmarks.report import RESULTS, keep
from mbrl.experiments.offline_runs import OFFLINE, create_offline_run, offline_env, run_dataset
from mbrl.experiments.run import Run
from mbrl.experiments.runs import load_policy, settings_of, train_run
from mbrl.experiments.settings import completed
from mbrl.learners.networks import mlp
from mbrl.pipelines.bookkeeping import differences

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "bc": ("bc", {}),
    "mbpo": ("mopo", {"penalty": "none", "rollout_length": 1, "rollout_starts": 5_000}),
    "naive": ("mopo", {"penalty": "none"}),
    **{name: (name, {}) for name in ("mopo", "combo", "mobile", "cql", "iql", "awac", "td3bc")},
}
"""Algorithms of the library, and what is changed in their presets."""
WITH_MODEL = ("mopo", "combo", "mobile")
_SMALL = {"total_updates": 5_000, "log_every": 250, "eval_every": 250, "eval_episodes": 5, "checkpoint_every": 2_500}
_RUNNER = {
    "total_updates": 10_000,  # what CPU cores can do: an update of CQL or COMBO takes one a third of a second
    "log_every": 500,
    "eval_every": 500,
    "eval_episodes": 5,
    "checkpoint_every": 500,
}
LOOPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pendulum": (_SMALL, {}),
    "inverted": ({**_SMALL, "total_updates": 20_000, "eval_every": 500}, {}),
    "halfcheetah": (_RUNNER, {"checkpoint_model_buffer": False}),
    "hopper": (_RUNNER, {"checkpoint_model_buffer": False}),
}
"""By the first part of a dataset's name: settings of the loop, and more of them where there is a model."""


def learn(
    method: str, data: str, seed: int, root: Path, data_root: Path, minutes: float | None, longer: dict[str, Any]
) -> bool:
    """Train a seed, from where it is; whether it is finished."""
    folder = root / f"{method}@{data}" / str(seed)
    run = _open(method, data, seed, folder, data_root, longer)
    what = {
        "experiment": f"{method}@{data}",
        "seed": seed,
        "settings": {"loop": _without(run.config["loop"], "model_cache"), "learner": run.config["learner"]},
        "dataset": {key: run.config["dataset"][key] for key in ("hash", "rows")},
    }
    if is_kept(what, settings_of(run)):
        (folder / "kept").touch()
        return True
    updates = train_run(run, minutes=minutes, progress=False)
    if updates < run.config["loop"]["total_updates"]:
        print(f"{method}@{data} seed {seed}: {updates} updates so far", flush=True)
        return False
    rows = [row for row in run.metrics() if row.get("eval/mean_reward") is not None]
    record = {
        **what,
        "updates": [row["train/n_updates"] for row in rows],
        "returns": [round(row["eval/mean_reward"], 2) for row in rows],
        **_values(run),
        **seconds(run.metrics()),
    }
    print(f"{method}@{data} seed {seed}: {record['returns']}\nkept in {keep('offline', record)}", flush=True)
    (folder / "kept").touch()
    return True


def seconds(metrics: list[dict[str, Any]]) -> dict[str, float]:
    """CPU seconds of training, without evaluations, and how many of them fitted the model: none where it was cached."""
    fits = [row["time/cpu_seconds"] for row in metrics if "time/fit_seconds" in row and not row.get("model/cached")]
    return {
        "training_seconds": round(metrics[-1]["time/cpu_seconds"], 1),
        "fit_seconds": round(max(fits, default=0.0), 1),  # it comes first
    }


def is_kept(what: dict[str, Any], configs: dict[str, Any]) -> bool:
    """Whether a finished seed of the same experiment, data and settings has its line.

    Args:
        what: "experiment", "seed", "dataset", and "settings" by name, as a line has them.
        configs: the settings as dataclasses: those that a line does not know yet had their defaults.
    """
    file = RESULTS / "offline.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    same = [line for line in lines if all(line[key] == what[key] for key in ("experiment", "seed", "dataset"))]
    now = what["settings"]

    def differs(stored: dict[str, Any]) -> bool:
        return any(differences(completed(stored[name], config), now[name]) for name, config in configs.items())

    return any(not differs(line["settings"]) for line in same)


def _without(settings: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != name}


def _values(run: Run) -> dict[str, float]:
    """What SAC's critics say of the policy's actions in the dataset's states; nothing of other kinds of learners, whose
    rewards or observations are scaled, or that have no critics of actions."""
    if run.algo not in WITH_MODEL:
        return {}
    env = offline_env(run)
    agent: Any = load_policy(run, env)
    env.close()
    obs = run_dataset(run).transitions(dtype=agent.learner.dtype).obs[None]
    action = agent.state.bounds.unit(agent.learner.act(agent.state, obs))
    with torch.no_grad():
        q = mlp(agent.state.critics, torch.cat([obs, action], -1))[..., 0].amin(1)
    return {"q_mean": round(float(q.mean()), 2), "q_max": round(float(q.max()), 2)}


def _open(method: str, data: str, seed: int, folder: Path, data_root: Path, longer: dict[str, Any]) -> Run:
    """The seed's run directory, made where there is none yet."""
    found = sorted(folder.glob("*__*/config.json"))
    if found:
        return Run.open(found[-1].parent)
    algorithm, changes = METHODS[method]
    config, learner, *_ = OFFLINE[algorithm].preset(DATA[data].env_id, None)
    loop, model = LOOPS[data.partition("-")[0]]
    changes = {**loop, **longer, **changes}
    if algorithm in WITH_MODEL:
        changes |= {**model, "model_seed": seed, "model_cache": str(data_root / "models")}
    path = dataset_path(data, data_root)
    return create_offline_run(folder, path, algorithm, replace(config, **changes), learner, seed=seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["bc", "naive", "mopo", "combo"])
    parser.add_argument("--data", nargs="+", choices=DATA, default=[name for name in DATA if name[0] in "pi"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--root", type=Path, default=Path("runs/offline"))
    parser.add_argument("--data-root", type=Path, default=Path("runs/offline-data"))
    parser.add_argument("--minutes", type=float, help="stop each seed after about as many, with a checkpoint")
    parser.add_argument("--total-updates", type=int, help="of new runs, in place of what two CPU cores can do")
    parser.add_argument("--device", help="of new runs: cpu, or cuda")
    parser.add_argument("--precision", choices=["full", "bfloat16"], help="of new runs' updates")
    arguments = parser.parse_args()
    chosen = {name: getattr(arguments, name) for name in ("total_updates", "device", "precision")}
    longer = {name: value for name, value in chosen.items() if value is not None}
    torch.set_num_threads(1)
    finished = True
    for seed in arguments.seeds:
        for data in arguments.data:
            for method in arguments.methods:
                if not (arguments.root / f"{method}@{data}" / str(seed) / "kept").exists():
                    roots = arguments.root, arguments.data_root
                    finished &= learn(method, data, seed, *roots, arguments.minutes, longer)
    return 0 if finished else 1


if __name__ == "__main__":
    sys.exit(main())
