"""Your own dynamics function into CEM: a point mass is driven to the origin."""

import torch

from planners import CEM, Box, FunctionDynamics, Problem


def transition(x, u):  # [rows, 2], [rows, 1] -> [rows, 2]: position and velocity, 0.1 s later
    return torch.stack([x[:, 0] + 0.1 * x[:, 1], x[:, 1] + 0.1 * u[:, 0]], dim=1)


def reward(x, u, next_x):  # -> [rows]
    return -(next_x**2).sum(1) - 0.01 * (u**2).sum(1)


problem, g = Problem(FunctionDynamics(transition, reward)), torch.Generator().manual_seed(0)
planner = CEM(Box(-1.0, 1.0, dim=1), horizon=20, population=200, elites=20, iterations=5)
start = torch.tensor([[1.0, 0.0]])
plan = planner.plan(problem, start, planner.init(problem, start, generator=g), generator=g)
print(f"first action {plan.actions[0, 0].item():.2f}, predicted return {plan.value.item():.2f}")
