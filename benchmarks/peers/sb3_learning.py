"""stable-baselines3 learning a task, evaluated as our runs are: the same seeds, episodes and steps.

`python -m benchmarks.peers.sb3_learning sac Pendulum-v1 --seeds 0 1 2 3 4 --steps 10000` appends a line a seed to
benchmarks/results/learning.jsonl. `--settings learning_rate=1e-3` go to stable-baselines3 as they are.
"""

import argparse
import json
import sys
import time
from typing import Any

import gymnasium as gym
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.report import keep
from mbrl.experiments.evaluate import evaluate
from mbrl.seeding import derive

ALGORITHMS = {
    "sac": stable_baselines3.SAC,
    "td3": stable_baselines3.TD3,
    "ddpg": stable_baselines3.DDPG,
    "dqn": stable_baselines3.DQN,
}


class Evaluations(BaseCallback):
    """The mean return of evaluation episodes every `every` steps, in an environment of their own."""

    def __init__(self, env_id: str, seed: int, every: int, episodes: int) -> None:
        super().__init__()
        self.env, self.seed, self.every, self.episodes = gym.make(env_id), seed, every, episodes
        self.steps: list[int] = []
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            seed = derive(self.seed, "evaluate", self.num_timesteps)
            self.steps.append(self.num_timesteps)
            self.returns.append(evaluate(self.model, self.env, episodes=self.episodes, seed=seed).mean)
            print(f"{self.num_timesteps}: {self.returns[-1]:.1f}", flush=True)
        return True


def learn(algorithm: str, env_id: str, settings: dict[str, Any], arguments: argparse.Namespace, seed: int) -> None:
    """One seed, kept as a line."""
    wall, cpu = time.perf_counter(), time.process_time()
    model = ALGORITHMS[algorithm]("MlpPolicy", gym.make(env_id), seed=seed, **settings)
    callback = Evaluations(env_id, seed, arguments.every, arguments.episodes)
    model.learn(arguments.steps, callback=callback)
    record = {
        "experiment": f"{algorithm}@{env_id}",
        "library": f"stable-baselines3 {stable_baselines3.__version__}",
        "seed": seed,
        "settings": settings,
        "episodes": arguments.episodes,
        "steps": callback.steps,
        "returns": [round(value, 2) for value in callback.returns],
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    print(f"kept in {keep('learning', record)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm", choices=ALGORITHMS)
    parser.add_argument("env_id")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=1_000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--settings", nargs="*", default=[], metavar="NAME=JSON")
    arguments = parser.parse_args()
    settings = {name: json.loads(value) for name, _, value in (one.partition("=") for one in arguments.settings)}
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        learn(arguments.algorithm, arguments.env_id, settings, arguments, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
