"""Tree search against exhaustive search, and the laws of trees."""

import pytest
import torch

from planners import FunctionDynamics, Problem
from planners.mcts import PUCT, UCT, Gumbel
from planners.testing import check_planner

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


PATHS = Problem(FunctionDynamics(transition, reward, ends), discount=0.9)
PLANNERS = {
    "uct": UCT(3, simulations=60, rollout=2),
    "puct": PUCT(3, simulations=60),
    "gumbel": Gumbel(3, simulations=30),
    "puct, noisy": PUCT(3, simulations=60, noise_fraction=0.25),
    "uct, stochastic": UCT(3, simulations=40, rollout=2, stochastic=True),
}


@pytest.mark.parametrize("planner", PLANNERS.values(), ids=PLANNERS)
def test_the_laws_of_planners(planner):
    check_planner(planner, PATHS, START)
