"""The car-parking problem of Tassa, Mansard, Todorov (2014), a hard one for trajectory optimisers.

A car at (1, 1) that heads south has to stand at the origin, heading east, after 15 s: 500 steps of 0.03 s, the front
wheels turned by at most 0.5 rad, accelerations of at most 2 m/s^2. It has to shunt. Source: section V-B,
https://doi.org/10.1109/ICRA.2014.6907001, with the constants of the demonstration published with it.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from planners.box import Box
from planners.dynamics import FunctionDynamics
from planners.problem import Problem

HORIZON = 500
BEST_COST = 1.6450
"""The lowest that is known. A general optimiser (L-BFGS-B) got to 1.7023 from the best of twenty starts."""
STEP, LENGTH = 0.03, 2.0
"""Seconds, and metres between the axles."""


def drive(x: Float[Tensor, "rows 4"], u: Float[Tensor, "rows 2"]) -> Float[Tensor, "rows 4"]:
    """(x, y) of the rear axle, heading and speed of the front wheels; (front wheels' angle, acceleration)."""
    px, py, heading, speed = x.unbind(1)
    front = STEP * speed
    sideways = front * torch.sin(u[:, 0])
    back = front * torch.cos(u[:, 0]) + LENGTH - torch.sqrt(LENGTH**2 - sideways.square())
    turn = torch.asin(sideways / LENGTH)
    moved = [px + back * torch.cos(heading), py + back * torch.sin(heading), heading + turn, speed + STEP * u[:, 1]]
    return torch.stack(moved, 1)


def reward(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
    """Minus the cost of a step: little for the distance and the controls, so that it is the end that counts."""
    controls = 0.01 * u[:, 0].square() + 0.0001 * u[:, 1].square()
    return -controls - 0.001 * _smooth_distance(x[:, :2], 0.1).sum(1)


def final_value(x: Tensor) -> Tensor:
    """Minus the cost of the last state."""
    place = 0.1 * _smooth_distance(x[:, :2], 0.01).sum(1)
    return -(place + _smooth_distance(x[:, 2], 0.01) + 0.3 * _smooth_distance(x[:, 3], 1.0))


def _smooth_distance(x: Tensor, scale: float) -> Tensor:
    """|x|, but quadratic within about `scale` of 0."""
    return torch.sqrt(x.square() + scale**2) - scale


def car_parking(batch: int = 1, *, dtype: torch.dtype = torch.float64) -> tuple[Problem, Float[Tensor, "batch 4"], Box]:
    """The problem, its start, and the bounds of the actions."""
    start = torch.tensor([1.0, 1.0, 1.5 * math.pi, 0.0], dtype=dtype).repeat(batch, 1)
    return Problem(FunctionDynamics(drive, reward), terminal_value=final_value), start, Box([-0.5, -2.0], [0.5, 2.0])
