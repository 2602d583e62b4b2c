"""Tree search on a learned model of CartPole-v1: how far 2,000 random steps go.

`python -m benchmarks.mcts_learned` learns an ensemble from 2,000 steps of a random policy, for three seeds, and
balances with UCT on the mean of its members: rewards of plans are the task's objective, ends the task's own. Five
episodes a seed are planned as one batch. Reported are the environment's returns (500 at most), the model's error
against the true transition, and the same planner's returns on the true model. Asked for is a mean above 400.
"""

import argparse
import sys
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from benchmarks.report import keep
from mbrl.data import RandomPolicy, collect
from mbrl.envs import Task, task
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from planners import MPC, FunctionDynamics, Problem
from planners.mcts import UCT

TARGET = 400.0
STEPS, EPISODES, DISCOUNT = 2_000, 5, 0.99
ENSEMBLE: dict[str, Any] = {"members": 5, "hidden": (64, 64)}
GRADIENT_STEPS = 3_000
PLANNER: dict[str, Any] = {"simulations": 30, "rollout": 4}


def learn(known: Task, seed: int) -> EnsembleDynamics:
    """The model that random steps give."""
    env = gym.make("CartPole-v1")
    data = collect(env, RandomPolicy(env.action_space, seed=seed), STEPS, seed=1_000 * seed)
    ensemble = GaussianEnsemble(4, 2, **ENSEMBLE, discrete_actions=True, ignored_inputs=known.ignored_inputs, seed=seed)
    fit(ensemble, data, seed=seed, steps=GRADIENT_STEPS)
    return EnsembleDynamics(ensemble, propagation="expectation", reward=known.objective, termination=known.termination)


def error(known: Task, model: EnsembleDynamics) -> list[float]:
    """Root mean square error of the change, in standard deviations of the change, in states that balancing meets."""
    assert known.transition is not None
    stream = torch.Generator().manual_seed(0)
    obs = torch.randn(2_000, 4, generator=stream) * torch.tensor([0.5, 0.5, 0.07, 0.7])
    action = torch.randint(2, (2_000,), generator=stream)
    _, step = model.step(model.reset(obs), action)
    true = known.transition(obs, action)
    return ((step.obs - true).square().mean(0).sqrt() / (true - obs).std(0)).tolist()


def play(model: Any, seed: int) -> list[float]:
    """Returns of episodes that are planned as one batch; those that are over go on being planned for from rest."""
    envs = [gym.make("CartPole-v1") for _ in range(EPISODES)]
    obs = np.stack([env.reset(seed=10_000 + 100 * seed + i)[0] for i, env in enumerate(envs)])
    mpc = MPC(UCT(2, **PLANNER), Problem(model, DISCOUNT), seed=seed)
    returns, alive, state = np.zeros(EPISODES), np.ones(EPISODES, dtype=bool), None
    while alive.any():
        action, state = mpc.predict(obs, state)
        for i in alive.nonzero()[0]:
            obs[i], reward, terminated, truncated, _ = envs[i].step(action[i])
            returns[i] += reward
            if terminated or truncated:
                alive[i], obs[i] = False, 0.0
    return returns.tolist()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    known = task("CartPole-v1")
    assert known is not None
    assert known.transition is not None
    assert known.objective is not None
    returns, errors, started = [], [], time.perf_counter()
    for seed in seeds:
        model = learn(known, seed)
        errors.append([round(e, 4) for e in error(known, model)])
        returns.append(play(model, seed))
        print(
            f"seed {seed}: returns {returns[-1]}, error {errors[-1]}, {time.perf_counter() - started:.0f} s", flush=True
        )
    true = play(FunctionDynamics(known.transition, known.objective, known.termination), 0)
    result = float(np.mean(returns))
    print(f"mean return {result:.1f} of 500; on the true model {np.mean(true):.1f}; asked for: above {TARGET:.0f}")
    record = {
        "mean_return": result,
        "returns": returns,
        "relative_errors": errors,
        "returns_on_the_true_model": true,
        "target": TARGET,
        "settings": {"steps": STEPS, "gradient_steps": GRADIENT_STEPS, "discount": DISCOUNT, **ENSEMBLE, **PLANNER},
    }
    print(f"kept in {keep('mcts_learned', record)}")
    return int(result <= TARGET)


if __name__ == "__main__":
    sys.exit(main())
