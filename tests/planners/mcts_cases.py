"""A tree of paths, a critic of its states and a way to plan that tests of tree search share."""

import torch

from planners import FunctionDynamics, Problem
from planners.mcts import Leaf

START = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0]], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transition(x, a):
    """A tree that never meets itself: the second column numbers the paths."""
    return torch.stack([x[:, 0] + 1, 3 * x[:, 1] + a.to(x)], 1)


def reward(x, a, next_x):
    return (7.3 * next_x[:, 1] + 3.1 * next_x[:, 0]).sin()


def ends(x, a, next_x):
    return next_x[:, 0] >= 4


def noise(x, a, g):
    """A coin adds 10 to the number of the path."""
    coin = torch.rand(len(x), generator=g) < 0.3
    return torch.stack([torch.zeros_like(x[:, 0]), 10.0 * coin.to(x)], 1)


PATHS = Problem(FunctionDynamics(transition, reward, ends), discount=0.9)
CHANCE = Problem(FunctionDynamics(transition, reward, ends, noise), discount=0.9)


class Critic:
    """An evaluator with opinions: no draws."""

    def evaluate(self, state, obs, *, generator):
        logits = torch.stack([obs[:, 1].cos(), obs[:, 0].sin(), (obs[:, 0] * obs[:, 1]).sin()], 1)
        return Leaf(logits, obs[:, 1].sin())


def make_plan(planner, problem=PATHS, start=START, seed=0, memory=None):
    g = generator(seed)
    if memory is None:
        memory = planner.init(problem, start, generator=g)
    return planner.plan(problem, start, memory, generator=g)
