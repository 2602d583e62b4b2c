"""How many episodes Dyna-Q needs on the Dyna maze: `python -m benchmarks.dyna_maze [--seeds 10]`.

The maze of Sutton and Barto's example 8.1 with its settings: alpha 0.1, discount 0.95, epsilon 0.1. Counted are the
episodes until the greedy policy goes from start to goal in 14 steps, the fewest there are, and still does after each of
the next four episodes.

Tables start at 1, which is optimistic, so that everything is tried: then every seed gets there. From tables of 0, as in
the book, the greedy policy stays with a way of 16 steps on many seeds, Q-learning's and Dyna-Q's alike, for hundreds of
episodes; for these are counted the seeds that found 14 steps, and the episodes until 16 or fewer.
"""

import argparse
import statistics
import sys
import time
from typing import Any

from benchmarks.report import keep
from mbrl.envs.gridworlds import Maze
from mbrl.learners.tabular import QLearning, Rule
from mbrl.learners.tabular_agent import Tabular
from mbrl.learners.tabular_dyna import DynaQ, PrioritizedSweeping

BEST = 14
LASTS = 5  # episodes after which the greedy policy has to be as short
RULES: dict[str, Rule] = {
    "q_learning": QLearning(alpha=0.1, discount=0.95, epsilon=0.1),
    "dyna_q_5": DynaQ(alpha=0.1, discount=0.95, epsilon=0.1, planning_steps=5),
    "dyna_q_50": DynaQ(alpha=0.1, discount=0.95, epsilon=0.1, planning_steps=50),
    "prioritized_sweeping_5": PrioritizedSweeping(alpha=0.1, discount=0.95, epsilon=0.1, planning_steps=5),
}


def greedy_length(agent: Tabular, env: Maze, limit: int = 100) -> int:
    """Steps of the greedy policy from start to goal; `limit` where it does not get there."""
    state, _ = env.reset()
    for length in range(1, limit):
        state, _, terminated, _, _ = env.step(int(agent.predict(state, deterministic=True)[0]))
        if terminated:
            return length
    return limit


def learn(rule: Rule, seed: int, *, start: float, good: int, episodes: int) -> dict[str, Any]:
    """Episodes, real steps and updates until the greedy policy takes `good` steps or fewer, and lasts; else None."""
    env = Maze()
    agent = Tabular(env.observation_space, env.action_space, rule, seed=seed)
    agent.tables["q"][:] = start
    lengths: list[int] = []
    while len(lengths) < episodes:
        agent.learn(env, 1)
        lengths.append(greedy_length(agent, env))
        if len(lengths) >= LASTS and max(lengths[-LASTS:]) <= good:
            first = len(lengths) - LASTS + 1
            return {"episodes": first, "steps": sum(played.length for played in agent.history[:first])}
    return {"episodes": None, "steps": None}


def optimistic(seeds: int, episodes: int) -> dict[str, Any]:
    """Tables of 1: every seed, to 14 steps."""
    record: dict[str, Any] = {}
    for name, rule in RULES.items():
        began = time.process_time()
        runs = [learn(rule, seed, start=1.0, good=BEST, episodes=episodes) for seed in range(seeds)]
        record[name] = _columns(runs) | {"cpu_seconds": round(time.process_time() - began, 1)}
    plain = record["q_learning"]["median_episodes"]
    for name in record:
        ours = record[name]["median_episodes"]
        record[name]["share_of_q_learnings_episodes"] = round(ours / plain, 4) if ours and plain else None
    return record


def zero(seeds: int, episodes: int) -> dict[str, Any]:
    """Tables of 0: how many seeds find 14 steps at all, and the episodes until 16 steps or fewer."""
    record: dict[str, Any] = {}
    for name, rule in RULES.items():
        best = [learn(rule, seed, start=0.0, good=BEST, episodes=episodes) for seed in range(seeds)]
        good = [learn(rule, seed, start=0.0, good=BEST + 2, episodes=episodes) for seed in range(seeds)]
        found = sum(run["episodes"] is not None for run in best)
        record[name] = {"found_14": found, "to_14": _columns(best)["episodes"], "to_16": _columns(good)}
    return record


def _columns(runs: list[dict[str, Any]]) -> dict[str, Any]:
    columns: dict[str, Any] = {key: [run[key] for run in runs] for key in runs[0]}
    for key in ("episodes", "steps"):
        known = [value for value in columns[key] if value is not None]
        columns[f"median_{key}"] = statistics.median(known) if len(known) == len(runs) else None
    return columns


def main() -> int:
    """Run both and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dyna_maze", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="one seed and few episodes; nothing is kept")
    arguments = parser.parse_args()
    seeds = 1 if arguments.small else arguments.seeds
    record: dict[str, Any] = {
        "seeds": seeds,
        "optimistic": optimistic(seeds, 20 if arguments.small else 1000),
        "zero": zero(seeds, 10 if arguments.small else 100),
    }
    print(record)
    for name, row in record["optimistic"].items():
        print(f"{name}: {row['median_episodes']} episodes, {row['share_of_q_learnings_episodes']} of Q-learning's")
    if not arguments.small:
        print(f"kept in {keep('dyna_maze', record)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
