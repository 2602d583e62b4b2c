"""Parking a car, from a rough idea of how: iLQR finds the best known way, and keeps to the bounds."""

import pytest
import torch

from planners import ILQR
from planners.ilqr import ILQRMemory
from planners.testing.car_parking import BEST_COST, HORIZON, car_parking

# torch's own, as forward mode is loaded.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")

# What `benchmarks/car_parking.py` finds from random starts, averaged over 25 steps and rounded to 0.05.
ANGLE = [0, 0.2, 0.1, -0.2, -0.15, 0.4, 0.5, 0.5, 0.5, 0.5, 0.15, -0.05, -0.05, 0, 0, 0, 0, 0, 0, 0]
ACCELERATION = [1.9, -0.4, -2, -2, -2, -2, -2, -1.05, 2, 2, 2, 2, 1.9, 0.15, -0.4, -0.1, 0, 0, 0, 0]


def test_a_rough_manoeuvre_becomes_the_best_known_one() -> None:
    problem, start, box = car_parking()
    rough = torch.tensor([ANGLE, ACCELERATION], dtype=torch.float64).T.repeat_interleave(25, 0)
    planner = ILQR(box, HORIZON, iterations=8)
    plan = planner.plan(problem, start, ILQRMemory(rough[None]), generator=torch.Generator())
    costs = -plan.info.values[0]
    assert costs[0] > 1.15 * BEST_COST
    assert costs[-1] < 1.01 * BEST_COST
    assert bool((plan.actions >= box.low).all() & (plan.actions <= box.high).all())
    held = ((plan.actions == box.low) | (plan.actions == box.high)).any(1)
    assert bool(held.all())  # both controls are at a bound for a while
