"""The datasets of the offline benchmarks, made here: from random actions, and from runs of our SAC.

`python -m benchmarks.offline_data` shows them; `--root` is where `benchmarks.offline` looks for them, and makes those
that are missing. The same machine and versions make the same bytes.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mbrl.data.datasets import save_dataset
from mbrl.experiments.agent_runs import ALGORITHMS, create_agent_run
from mbrl.experiments.collection import Kind, collect_dataset
from mbrl.experiments.run import Run
from mbrl.experiments.runs import train_run


class Made(NamedTuple):
    """How a dataset is made."""

    env_id: str
    kind: Kind
    rows: int | None = None
    """None: all that the run has in its buffer."""
    sac_steps: int | None = None
    """Real steps of the run of SAC."""
    sac_seed: int = 0
    """Its seed."""
    noise: float = 0.0
    """Around the policy's best actions, in half their range; 0: actions are drawn as in training."""


DATA: dict[str, Made] = {
    "pendulum-random": Made("Pendulum-v1", "random", 5_000),
    "pendulum-replay": Made("Pendulum-v1", "medium-replay", None, 5_000),
    # A policy that is half way, with little noise: eight episodes, most of what can be done is not in them.
    "pendulum-narrow": Made("Pendulum-v1", "medium", 1_600, 3_000, noise=0.1),
    # Four episodes of random actions, hanging for most of the time.
    "pendulum-few": Made("Pendulum-v1", "random", 800),
    "inverted-random": Made("InvertedPendulum-v5", "random", 5_000),
    "inverted-replay": Made("InvertedPendulum-v5", "medium-replay", None, 4_000),
    # Almost no noise: what else could have been done is hardly in it. The policy of seed 2 runs into both ends of the
    # rail; where data show one only, nothing keeps a policy from the other.
    "inverted-narrow": Made("InvertedPendulum-v5", "medium", 2_000, 4_000, sac_seed=2, noise=0.005),
    "halfcheetah-replay": Made("HalfCheetah-v5", "medium-replay", None, 40_000),
    "hopper-replay": Made("Hopper-v5", "medium-replay", None, 40_000),
}
_SMALL: tuple[dict[str, Any], dict[str, Any]] = ({}, {"hidden": (64, 64), "lr": 1e-3})
_RUNNER: tuple[dict[str, Any], dict[str, Any]] = ({"initial_steps": 5_000, "checkpoint_every": 10_000}, {})
SAC = {"Pendulum-v1": _SMALL, "InvertedPendulum-v5": _SMALL, "HalfCheetah-v5": _RUNNER, "Hopper-v5": _RUNNER}
"""What is changed in SAC's presets: settings of the loop, and of the learner."""


def dataset_path(name: str, root: Path) -> Path:
    """The file of a dataset, made where there is none yet."""
    path, made = root / f"{name}.hdf5", DATA[name]
    if not path.exists():
        root.mkdir(parents=True, exist_ok=True)
        run = None if made.sac_steps is None else str(_sac(made, root).path)
        env_id = made.env_id if run is None else None
        dataset = collect_dataset(made.kind, steps=made.rows, run=run, env_id=env_id, seed=0, noise=made.noise)
        save_dataset(dataset, path)
    return path


def _sac(made: Made, root: Path) -> Run:
    """The run of SAC that a dataset is of, trained to its end; goes on where it was interrupted."""
    env_id, steps, seed = made.env_id, made.sac_steps, made.sac_seed
    folder = root / f"sac-{env_id}-{steps}-{seed}"
    found = sorted(folder.glob("*__*/config.json"))
    if found:
        run = Run.open(found[-1].parent)
    else:
        config, learner, env_kwargs = ALGORITHMS["sac"].preset(env_id, None)
        loop, changes = SAC[env_id]
        config = replace(config, total_timesteps=steps, **{"checkpoint_every": steps, **loop})
        learner = replace(learner, **changes)
        run = create_agent_run(folder, env_id, "sac", config, learner, seed=seed, env_kwargs=env_kwargs)
    train_run(run, progress=False)
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="datasets to make; none: only show what there is")
    parser.add_argument("--root", type=Path, default=Path("runs/offline-data"))
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(DATA):
        parser.error(f"NAME: expected some of {', '.join(DATA)}, got {', '.join(sorted(unknown))}")
    for name in arguments.names or DATA:
        there = (arguments.root / f"{name}.hdf5").exists()
        print(name, dataset_path(name, arguments.root) if arguments.names or there else "not made yet", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
