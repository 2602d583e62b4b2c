"""Problems whose optimum is known: one smooth, by the Riccati recursion, and one with an end, by construction."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from planners.box import Box
from planners.dynamics import FunctionDynamics
from planners.problem import Problem


class Reference(NamedTuple):
    """A problem, states to start from, and the best that can be done there."""

    problem: Problem
    start: Float[Tensor, "batch obs"]
    box: Box
    value: Float[Tensor, "batch"]
    """The highest return over the horizon."""


def riccati(
    A: Float[Tensor, "obs obs"],
    B: Float[Tensor, "obs act"],
    Q: Float[Tensor, "obs obs"],
    R: Float[Tensor, "act act"],
    horizon: int,
    discount: float = 1.0,
) -> tuple[Float[Tensor, "obs obs"], Float[Tensor, "horizon act obs"]]:
    """The linear-quadratic optimum of `sum over t < horizon of discount^t (x_t+1' Q x_t+1 + u_t' R u_t)`.

    The cost reads the *next* state, as rewards here do. With x_t+1 = A x_t + B u_t, the cost to go is `x' P x` and the
    best action `-K_t x`. Source: Bertsekas, Dynamic Programming and Optimal Control, vol. I, section on linear systems
    and quadratic cost.

    Returns:
        P at the start, and the gains K_t.
    """
    P, gains = torch.zeros_like(Q), []
    for _ in range(horizon):
        ahead = Q + discount * P
        K = torch.linalg.solve(R + B.T @ ahead @ B, B.T @ ahead @ A)
        P = A.T @ ahead @ (A - B @ K)
        gains.append(K)
    return P, torch.stack(gains[::-1])


def lq_reference(horizon: int, *, discount: float = 1.0, dtype: torch.dtype = torch.float64) -> Reference:
    """A double integrator (0.1 s steps, position and velocity) to be brought to rest, from four states.

    The best actions lie well within the box, so that the optimum of the problem without bounds is the optimum.
    """
    A = torch.tensor([[1.0, 0.1], [0.0, 1.0]], dtype=dtype)
    B = torch.tensor([[0.005], [0.1]], dtype=dtype)
    Q = torch.diag(torch.tensor([1.0, 0.1], dtype=dtype))
    R = torch.tensor([[0.01]], dtype=dtype)

    def transition(x: Tensor, u: Tensor) -> Tensor:
        return x @ A.T + u @ B.T

    def reward(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
        return -((next_x @ Q) * next_x).sum(-1) - ((u @ R) * u).sum(-1)

    start = torch.tensor([[1.0, 0.0], [-0.5, 0.5], [0.0, -1.0], [0.3, 0.3]], dtype=dtype)
    P, _ = riccati(A, B, Q, R, horizon, discount)
    value = -((start @ P) * start).sum(-1)
    return Reference(Problem(FunctionDynamics(transition, reward), discount), start, Box(-20.0, 20.0, dim=1), value)


def cliff_reference(
    horizon: int, box: Box, *, batch: int = 2, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu"
) -> Reference:
    """A cliff at the first step with riches below that come too late.

    A first action above the centre of the box (in its first dimension) ends the episode with a reward of 0.5; the
    model goes on and pays 100 for every step after the end. Staying pays 1 a step, so the optimum is the horizon. Who
    counts rewards after an end jumps.
    """
    edge = float(box.center[0])

    def transition(x: Tensor, u: Tensor) -> Tensor:  # x: steps taken, and 1 after the jump
        jump = (x[:, 0] == 0) & (u[:, 0] > edge)
        return torch.stack([x[:, 0] + 1, torch.where(jump, 1.0, x[:, 1])], dim=1)

    def reward(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
        return torch.where(next_x[:, 1] == 0, 1.0, torch.where(x[:, 1] == 0, 0.5, 100.0)).to(x)

    def termination(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
        return next_x[:, 1] == 1

    start = torch.zeros(batch, 2, dtype=dtype, device=device)
    value = torch.full((batch,), float(horizon), dtype=dtype, device=device)
    return Reference(Problem(FunctionDynamics(transition, reward, termination)), start, box, value)


def hazard(box: Box, bad: str) -> Problem:
    """A first action above the centre meets something that is not finite; otherwise a step costs 1 (low) to 2 (high).

    `bad` is "reward" or "observation", a space, and "NaN" or "inf". Every valid return is negative, so that a number
    which stands for "invalid" shows where it wins. Columns of the state: steps taken, 1 after the bad action, a number
    that is not finite then, 1 where every action is bad.
    """
    low, center, span = float(box.low[0]), float(box.center[0]), float(box.range[0])
    value = torch.inf if bad.endswith("inf") else torch.nan
    in_reward = bad.startswith("reward")

    def transition(x: Tensor, u: Tensor) -> Tensor:
        hit = (x[:, 1] == 1) | ((x[:, 0] == 0) & (u[:, 0] > center)) | (x[:, 3] != 0)
        seen = torch.where(hit, 0.0 if in_reward else value, 0.0)
        return torch.stack([x[:, 0] + 1, hit.to(x), seen.to(x), x[:, 3]], dim=1)

    def reward(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
        return torch.where(next_x[:, 1] == 1, value if in_reward else 1.0, -1.0 - (u[:, 0] - low) / span).to(x)

    return Problem(FunctionDynamics(transition, reward))
