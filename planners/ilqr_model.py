"""The quadratic model of the cost to go about a trajectory (x_t, u_t), in deviations z_t = (dx_t, du_t):

    minimise  sum over t of (c_t' z_t + z_t' C_t z_t / 2)  +  v' dx_T + dx_T' V dx_T / 2,   dx_t+1 = F_t z_t.

Costs are minus discounted rewards. What follows an end has neither cost nor dynamics.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from planners.derivatives import expand_value
from planners.problem import Problem
from planners.rows import map_rows


class LocalModel(NamedTuple):
    """The model of each trajectory: time leads, then rows. In float64, whatever the dynamics compute in."""

    jacobian: Float[Tensor, "horizon rows dx z"]
    gradient: Float[Tensor, "horizon rows z"]
    hessian: Float[Tensor, "horizon rows z z"]
    final_gradient: Float[Tensor, "rows dx"]
    final_hessian: Float[Tensor, "rows dx dx"]
    curvature: Float[Tensor, "horizon rows dx z z"] | None
    """Second derivatives of the dynamics, which differential dynamic programming adds; None: left out."""
    alive: Bool[Tensor, "horizon+1 rows"]
    """Whether the episode goes on before each step, and after the last."""

    def finite(self) -> Bool[Tensor, "rows"]:
        """Rows all of whose derivatives are finite."""
        parts = [self.jacobian, self.gradient, self.hessian, self.final_gradient[None], self.final_hessian[None]]
        if self.curvature is not None:
            parts.append(self.curvature)
        # A sum is finite only where its terms are.
        return torch.stack([p.flatten(2).sum((0, 2)) for p in parts]).isfinite().all(0)


def local_model(
    problem: Problem,
    states: Any,
    actions: Float[Tensor, "rows horizon act"],
    alive: Bool[Tensor, "rows horizon+1"],
    *,
    second_order: bool,
) -> LocalModel:
    """Expand the problem about trajectories, all their steps in one call of the dynamics.

    Args:
        problem: its dynamics are `Smooth`.
        states: [rows, horizon + 1, ...].
        actions: of the trajectories.
        alive: before each step, and after the last.
        second_order: with second derivatives of the dynamics (`dynamics.curvature`).
    """
    dynamics: Any = problem.dynamics
    rows, horizon = actions.shape[:2]
    before = map_rows(lambda x: x[:, :-1].flatten(0, 1), states)
    action = actions.flatten(0, 1)
    powers = torch.arange(horizon + 1, dtype=torch.float64, device=actions.device)
    weight = (problem.discount**powers)[:, None] * alive.T

    def by_time(x: Tensor, times: Tensor) -> Tensor:
        x = x.view(rows, horizon, *x.shape[1:]).transpose(0, 1).double()
        scale = times.view(horizon, rows, *(1,) * (x.dim() - 2))
        return torch.where(scale != 0, scale * x, 0.0)

    expansion = dynamics.expand(before, action)
    jacobian = torch.cat([expansion.state_jacobian, expansion.action_jacobian], -1)
    live = alive[:, :-1].T.double()
    curvature = by_time(dynamics.curvature(before, action), live) if second_order else None
    size = jacobian.shape[1]
    final_gradient, final_hessian = weight.new_zeros(rows, size), weight.new_zeros(rows, size, size)
    if problem.terminal_value is not None:
        gradient, hessian = expand_value(dynamics, problem.terminal_value, map_rows(lambda x: x[:, -1], states))
        last = weight[-1]
        final_gradient = -torch.where(last[:, None] != 0, last[:, None] * gradient, 0.0)
        final_hessian = -torch.where(last[:, None, None] != 0, last[:, None, None] * hessian, 0.0)
    return LocalModel(
        by_time(jacobian, live),
        -by_time(expansion.reward_gradient, weight[:-1]),
        -by_time(expansion.reward_hessian, weight[:-1]),
        final_gradient,
        final_hessian,
        curvature,
        alive.T,
    )
