"""A pendulum for iLQR, and shorthands."""

import torch
from torch import Tensor

from planners import ILQR, FunctionDynamics, Problem
from planners.ilqr import ILQRMemory
from planners.planner import Plan


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def solve(planner: ILQR, problem: Problem, start: Tensor, actions: Tensor | None = None) -> Plan:
    memory = planner.init(problem, start, generator=generator()) if actions is None else ILQRMemory(actions)
    return planner.plan(problem, start, memory, generator=generator())


def swing(x: Tensor, u: Tensor) -> Tensor:
    """A pendulum that hangs at angle pi; 0.05 s a step."""
    speed = x[:, 1] + 0.05 * (15 * torch.sin(x[:, 0]) + 3 * u[:, 0])
    return torch.stack([x[:, 0] + 0.05 * speed, speed], 1)


def upright(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
    return -(2 * (1 - torch.cos(next_x[:, 0])) + 0.1 * next_x[:, 1] ** 2 + 0.01 * u[:, 0] ** 2)


PENDULUM = Problem(FunctionDynamics(swing, upright))
