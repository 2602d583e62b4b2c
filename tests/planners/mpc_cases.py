"""A small problem for tests of MPC."""

import numpy as np
import torch

from planners import (
    CEM,
    Box,
    FunctionDynamics,
    Problem,
)

BOX = Box(-1.0, 1.0, dim=1)
PLANNER = CEM(BOX, 4, population=30, elites=4, iterations=2)
OBS = np.array([[0.5, -0.5], [1.0, 2.0], [-1.0, 0.3]])


def transition(x, u):
    return 0.9 * x + 0.1 * u


def reward(x, u, next_x):
    return -next_x.square().sum(-1)


PROBLEM = Problem(FunctionDynamics(transition, reward))
BROKEN = Problem(FunctionDynamics(transition, lambda x, u, y: torch.where(x[:, 0] > 0.9, torch.nan, y[:, 0])))


def rollout(mpc, obs, starts):
    """Actions of a few steps, each from the observation that the model predicts."""
    actions, state = [], None
    for start in starts:
        action, state = mpc.predict(obs, state, start)
        actions.append(action)
        obs = np.asarray(transition(torch.as_tensor(obs), torch.as_tensor(action)))
    return np.stack(actions)
