"""What tree search reaches on true models: `python -m benchmarks.mcts_returns [cartpole] [frozenlake] [sweeps]`.

CartPole-v1: UCT on the equations of Gymnasium's environment, compiled; leaves are valued by rollouts of a default
policy that pushes to where the pole leans. Ten seeds, 500 steps each.

FrozenLake-v1, 4x4, slippery: UCT on the environment's tables, outcomes drawn, without rollouts: leaves are valued by
ten in-place sweeps of value iteration from 0 (`value_iteration`: last state first). The figure depends on that: after
ten in-place sweeps the start is worth 0.175, after ten synchronous ones 0.041, and on those the same search is much
poorer. The actions' values differ by little, so that their means need many simulations, 6,000, while two steps are deep
enough. 1,000 episodes of at most 100 steps, so that the share has a standard error of 0.014; the optimal policy reaches
the goal in about 74 % of them.

Sweeps: the same search on both kinds of leaf values. It decides 200 times in every state of the lake; the policy that
has these shares of actions is evaluated exactly, without the luck of episodes.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from benchmarks.report import keep
from planners import UCT, Problem
from planners.finite import FiniteMDP, q_values, value_iteration

DISCOUNT = 0.99


def cartpole(seeds: int = 10, simulations: int = 100, steps: int = 500) -> dict[str, Any]:
    """Returns of `seeds` episodes that run side by side, one batch."""
    problem, planner = cartpole_search(simulations)
    envs = [gym.make("CartPole-v1") for _ in range(seeds)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    generator = torch.Generator().manual_seed(0)
    returns, alive = torch.zeros(seeds), torch.ones(seeds, dtype=torch.bool)
    state = _cartpole_states(envs)
    memory, began = planner.init(problem, state, generator=generator), time.perf_counter()
    for _ in range(steps):
        plan = planner.plan(problem, state, memory, generator=generator)
        action = plan.actions[:, 0]
        memory = planner.advance(problem, plan.memory, action, state)
        for i in alive.nonzero().flatten().tolist():
            _, reward, terminated, truncated, _ = envs[i].step(int(action[i]))
            returns[i] += float(reward)
            alive[i] = not (terminated or truncated)
        if not alive.any():
            break
        state = _cartpole_states(envs)
    return {
        "returns": returns.tolist(),
        "simulations": simulations,
        "seconds_per_step_of_the_batch": (time.perf_counter() - began) / steps,
    }


def cartpole_search(simulations: int) -> tuple[Problem, UCT]:
    """The model and the search, both compiled by numba."""
    from numba import njit

    from planners.mcts.native import NativeDynamics, NativeEvaluator

    limit = math.radians(12)

    @njit
    def transition(state: Any, action: int, after: Any, luck: Any) -> tuple[float, bool]:
        x, speed, angle, spin = state
        force = 10.0 * (2 * action - 1)
        push = (force + 0.05 * spin**2 * math.sin(angle)) / 1.1
        turn = (9.8 * math.sin(angle) - math.cos(angle) * push) / (0.5 * (4 / 3 - 0.1 * math.cos(angle) ** 2 / 1.1))
        pull = push - 0.05 * turn * math.cos(angle) / 1.1
        after[0], after[1] = x + 0.02 * speed, speed + 0.02 * pull
        after[2], after[3] = angle + 0.02 * spin, spin + 0.02 * turn
        return 1.0, abs(after[0]) > 2.4 or abs(after[2]) > limit

    @njit
    def lean(state: Any, logits: Any, mask: Any, luck: Any) -> tuple[float, float]:
        total, weight, now, after = 0.0, 1.0, state.copy(), state.copy()
        for _ in range(50):
            reward, ended = transition(now, 1 if now[2] + now[3] > 0 else 0, after, luck)
            total += weight * reward
            if ended:
                break
            weight *= DISCOUNT
            now[:] = after
        return total, 1.0

    problem = Problem(NativeDynamics(transition, 4), discount=DISCOUNT)
    return problem, UCT(2, simulations=simulations, evaluator=NativeEvaluator(lean, 2))


def _cartpole_states(envs: list[Any]) -> Tensor:
    return torch.from_numpy(np.array([env.unwrapped.state for env in envs], dtype=np.float64))


def frozenlake(episodes: int = 1000, simulations: int = 6000, steps: int = 100) -> dict[str, Any]:
    """The share of episodes that reach the goal."""
    envs = [gym.make("FrozenLake-v1", map_name="4x4", is_slippery=True) for _ in range(episodes)]
    problem, planner = frozenlake_search(FiniteMDP.from_env(envs[0]), simulations)
    generator = torch.Generator().manual_seed(0)
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    alive, returns, began = list(range(episodes)), np.zeros(episodes), time.perf_counter()
    for _ in range(steps):
        state = torch.tensor([[float(envs[i].get_wrapper_attr("s"))] for i in alive], dtype=torch.float64)
        memory = planner.init(problem, state, generator=generator)
        action = planner.plan(problem, state, memory, generator=generator).actions[:, 0].tolist()
        going = []
        for i, a in zip(alive, action, strict=True):
            _, reward, terminated, truncated, _ = envs[i].step(a)
            returns[i] += float(reward)
            if not (terminated or truncated):
                going.append(i)
        alive = going
        if not alive:
            break
    return {
        "success": float(returns.mean()),
        "episodes": episodes,
        "simulations": simulations,
        "seconds": time.perf_counter() - began,
    }


def sweeps(decisions: int = 200, simulations: int = 6000, steps: int = 100) -> dict[str, Any]:
    """The probability to reach the goal in `steps` steps, with leaf values of in-place and of synchronous sweeps."""
    mdp = FiniteMDP.from_env(gym.make("FrozenLake-v1", map_name="4x4", is_slippery=True))
    assert mdp.terminated is not None
    synchronous = torch.zeros(mdp.states, dtype=torch.float64)
    for _ in range(10):
        synchronous = q_values(mdp, synchronous, 1.0).amax(1)
    record: dict[str, Any] = {"decisions": decisions, "simulations": simulations}
    state = torch.arange(mdp.states).repeat_interleave(decisions)
    for name, values in (("in_place", value_iteration(mdp, 1.0, sweeps=10)), ("synchronous", synchronous)):
        problem, planner = frozenlake_search(mdp, simulations, values)
        generator, start = torch.Generator().manual_seed(0), state[:, None].double()
        memory = planner.init(problem, start, generator=generator)
        action = planner.plan(problem, start, memory, generator=generator).actions[:, 0]
        policy = torch.zeros(mdp.states, mdp.actions, dtype=torch.float64)
        policy.index_put_((state, action), torch.tensor(1 / decisions, dtype=torch.float64), accumulate=True)
        place, success = torch.zeros(mdp.states, dtype=torch.float64), 0.0
        place[0] = 1.0
        for _ in range(steps):
            flow = place[:, None, None] * policy[:, :, None] * mdp.probability
            success += float((flow * mdp.reward).sum())
            place = (flow * ~mdp.terminated).sum((0, 1))
        record[name] = {"start": float(values[0]), "success": success}
    return record


def frozenlake_search(mdp: FiniteMDP, simulations: int, worth: Tensor | None = None) -> tuple[Problem, UCT]:
    """The tables as a compiled model, and a search two steps deep on values of states.

    Args:
        worth: the values of states; None: those of ten in-place sweeps of value iteration.
    """
    from numba import njit

    from planners.mcts.native import NativeDynamics, NativeEvaluator, uniform

    values = (value_iteration(mdp, 1.0, sweeps=10) if worth is None else worth).numpy()
    assert mdp.terminated is not None
    reward, ends = mdp.reward.numpy(), mdp.terminated.numpy()
    below = mdp.probability.cumsum(2).numpy()
    below[:, :, -1] = 2.0  # above every number that is drawn, in spite of rounding

    @njit
    def transition(state: Any, action: int, after: Any, luck: Any) -> tuple[float, bool]:
        here, number, following = int(state[0]), uniform(luck), 0
        while below[here, action, following] <= number:
            following += 1
        after[0] = following
        return reward[here, action, following], ends[here, action, following]

    @njit
    def value(state: Any, logits: Any, mask: Any, luck: Any) -> tuple[float, float]:
        return values[int(state[0])], 1.0

    problem = Problem(NativeDynamics(transition, 1, stochastic=True))
    planner = UCT(
        4,
        simulations,
        exploration=1.5,
        evaluator=NativeEvaluator(value, 4),
        horizon=2,
        backup="max",
        stochastic=True,
        reuse=False,
        capacity=64,  # 12 nodes are all there are
    )
    return problem, planner


def main() -> int:
    """Run what is asked for and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mcts_returns", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="task", help="of cartpole, frozenlake, sweeps; none: all")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs; nothing is kept")
    arguments = parser.parse_args()
    known: dict[str, tuple[Callable[..., dict[str, Any]], tuple[int, ...]]] = {
        "cartpole": (cartpole, (2, 10, 5)),
        "frozenlake": (frozenlake, (5, 10, 5)),
        "sweeps": (sweeps, (2, 10)),
    }
    if set(arguments.tasks) - set(known):
        parser.error(f"task: expected cartpole, frozenlake or sweeps, got {', '.join(arguments.tasks)}")
    torch.set_num_threads(1)
    record: dict[str, Any] = {}
    for task in arguments.tasks or known:
        run, small = known[task]
        record[task] = run(*small) if arguments.small else run()
    print(record)
    if not arguments.small:
        print(f"kept in {keep('mcts_returns', record)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
