"""What the demonstration's planner reaches on the true dynamics: MuJoCo itself as the model, under the same MPC.

`python -m benchmarks.demo_reference` measures it once, for seeds 0 to 4, and writes
`mbrl/experiments/demo_reference.json`, which the demonstration compares itself with.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from mbrl.envs.make import make_env
from mbrl.envs.tasks import simulator
from mbrl.experiments import demo
from mbrl.experiments.provenance import git_commit, versions
from mbrl.pipelines.pets_config import preset
from planners import CEM, MPC, Box, Problem

SEEDS = range(5)
PLANNER = ("horizon", "population", "elites", "iterations", "replan_every", "discount")
"""Settings of the preset that the planner depends on; particles make no difference to a deterministic model."""


def play(seed: int) -> tuple[float, bool]:
    """One episode: its return, and whether the pole was up during its last half."""
    config = preset(demo.ENV_ID)
    env = make_env(demo.ENV_ID)
    model = simulator(env, threads=1)
    planner = CEM(Box.from_space(env.action_space), config.horizon, config.population, config.elites, config.iterations)
    mpc = MPC(planner, Problem(model, config.discount), seed=seed, replan_every=config.replan_every)
    obs, _ = env.reset(seed=seed)
    ret, cosines, over = 0.0, [], False
    while not over:
        action = mpc.act_from(model.state_of(env))[0].numpy().astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        ret, over = ret + float(reward), terminated or truncated
        cosines.append(float(obs[2]))
    env.close()
    return ret, min(cosines[len(cosines) // 2 :]) > demo.UP


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    returns, ups, started = [], [], time.perf_counter()
    for seed in SEEDS:
        ret, up = play(seed)
        returns.append(round(ret, 3))
        ups.append(up)
        print(
            f"seed {seed}: return {ret:.1f}, pole up in the last half: {up}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    settings = asdict(preset(demo.ENV_ID))
    content = {
        "env_id": demo.ENV_ID,
        "mean_return": round(statistics.fmean(returns), 3),
        "returns": returns,
        "pole_up": ups,
        "planner": {name: settings[name] for name in PLANNER},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "versions": versions(),
    }
    path = Path(demo.__file__).with_name("demo_reference.json")
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"mean return {content['mean_return']} written to {path}")


if __name__ == "__main__":
    main()
