"""The two passes of iLQR, for batches of trajectories: roll out with a policy, and solve the local model backwards."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from planners.box_qp import box_qp
from planners.ilqr_model import LocalModel
from planners.problem import Problem
from planners.rows import map_rows


class Trajectory(NamedTuple):
    """What a rollout met, rows leading."""

    states: Any
    """[rows, horizon + 1, ...]"""
    actions: Float[Tensor, "rows horizon act"]
    cost: Float[Tensor, "rows"]
    """Minus the discounted return, float64; infinite where something was not finite before an end."""
    alive: Bool[Tensor, "rows horizon+1"]
    """Whether the episode went on before each step, and after the last."""


class Policy(NamedTuple):
    """du_t = step k_t + K_t dx_t, and what the local model expects of it."""

    gains: Float[Tensor, "horizon rows act dx"]
    feedforward: Float[Tensor, "horizon rows act"]
    linear: Float[Tensor, "rows"]
    """A step of length s is expected to change the cost by s linear + s^2 quadratic."""
    quadratic: Float[Tensor, "rows"]
    residual: Float[Tensor, "rows"]
    """Squared slopes over curvatures, summed over the actions that can move: an improvement to be had, in cost units,
    that regularisation does not hide."""
    failed: Bool[Tensor, "rows"]
    """The model is not convex in the actions, or not finite: it means nothing; regularise more."""


def roll(problem: Problem, start: Any, choose: Callable[[int, Any], Tensor], horizon: int) -> Trajectory:
    """Roll the mean transition out from `start` with the actions `choose(t, state)`, [rows, act].

    Raises:
        ValueError: the terminal value has the wrong shape.
    """
    states, actions, steps = [start], [], []
    for t in range(horizon):
        actions.append(choose(t, states[-1]))
        state, step = problem.dynamics.step(states[-1], actions[-1])
        states.append(state)
        steps.append(step)
    rewards, action = torch.stack([step.reward for step in steps], 1), torch.stack(actions, 1)
    ended = torch.stack([step.terminated for step in steps], 1).cummax(1).values
    alive = torch.cat([torch.ones_like(ended[:, :1]), ~ended], 1)
    # A sum is finite only where all of its terms are.
    sums = rewards + torch.stack([step.obs for step in steps], 1).sum(2) + action.sum(2)
    valid = (sums.isfinite() | ~alive[:, :-1]).all(1)
    powers = torch.arange(horizon, dtype=torch.float64, device=action.device)
    cost = -(torch.where(alive[:, :-1], rewards, 0.0) * problem.discount**powers).sum(1)
    if problem.terminal_value is not None:
        value = problem.terminal_value(steps[-1].obs)
        if value.shape != cost.shape:
            raise ValueError(f"terminal_value: expected shape [{len(cost)}], one a row, got {list(value.shape)}")
        cost = cost - problem.discount**horizon * torch.where(alive[:, -1], value, 0.0)
    cost = torch.where(valid & cost.isfinite(), cost, torch.inf)
    return Trajectory(map_rows(lambda *x: torch.stack(x, 1), *states), action, cost, alive)


def solve_backwards(
    model: LocalModel,
    regularization: Float[Tensor, "rows"],
    bounds: tuple[Float[Tensor, "horizon rows act"], Float[Tensor, "horizon rows act"]] | None,
    wanted: Bool[Tensor, "rows"],
) -> Policy:
    """The policy that minimises the model, with `regularization` added to its curvature in the actions.

    Gains come from the regularised model, the cost to go from the plain one, so that regularisation does not add up
    over time. With bounds, each step is a quadratic program in a box, and the gains of clamped actions are zero.
    Source: Tassa, Mansard, Todorov (2014), sections II and III, https://doi.org/10.1109/ICRA.2014.6907001.

    The recursion works on (1, dx, du), so that one product moves the quadratic and the linear terms.

    Args:
        model: of each row.
        regularization: likewise.
        bounds: lowest and highest du; None: free.
        wanted: rows whose failure ends the pass at once, for it will be repeated.
    """
    horizon, rows, size = *model.gradient.shape[:2], model.final_gradient.shape[1]
    act = model.gradient.shape[2] - size
    jacobian, cost, V = _homogeneous(model)
    back, forth, costs = jacobian.mT.contiguous().unbind(), jacobian.unbind(), cost.unbind()
    limits = None if bounds is None else list(zip(*(b.unbind() for b in bounds), strict=True))
    eye = torch.eye(1 + size, dtype=V.dtype, device=V.device).expand(rows, -1, -1)
    damping = regularization[:, None, None] * torch.eye(act, dtype=V.dtype, device=V.device)
    ends = not bool(model.alive.all())
    k, failed = V.new_zeros(rows, act, 1), torch.zeros(rows, dtype=torch.bool, device=V.device)
    steps, slopes, curvatures, clamped = [], [], [], []
    for t in reversed(range(horizon)):
        Q = torch.baddbmm(costs[t], torch.bmm(back[t], V), forth[t])
        if model.curvature is not None:
            extra = torch.bmm(V[:, :1, 1:], model.curvature[t].flatten(2))
            Q[:, 1:, 1:] += extra.view(rows, size + act, size + act)
        Qux, Quu = Q[:, 1 + size :].split([1 + size, act], 2)
        if ends:  # a harmless step where the end is past
            Quu = torch.where(model.alive[t][:, None, None], Quu, torch.eye(act, dtype=V.dtype, device=V.device))
        K, free, bad = _minimise(Quu + damping, Qux, None if limits is None else limits[t], k)
        failed = failed | bad
        if bool((failed & wanted).any()):
            break
        steps.append(K)
        slopes.append(Qux[:, :, 0])
        curvatures.append(Quu)
        clamped.append(~free)
        k = K[:, :, :1]
        along = torch.cat([eye, K], 1)  # (1, dx, du) = along (1, dx)
        V = torch.bmm(along.mT, torch.bmm(Q, along))
        V = 0.5 * (V + V.mT)
    return _policy(failed, horizon, steps, slopes, curvatures, clamped)


def _homogeneous(model: LocalModel) -> tuple[Tensor, Tensor, Tensor]:
    """Dynamics, cost and final cost in (1, dx, du): [[0, c'], [c, C]] stands for c' z + z' C z / 2."""
    horizon, rows, size, width = model.jacobian.shape
    jacobian = model.gradient.new_zeros(horizon, rows, 1 + size, 1 + width)
    jacobian[..., 0, 0] = 1.0
    jacobian[..., 1:, 1:] = model.jacobian
    hessian = model.gradient.new_zeros(horizon, rows, 1 + width, 1 + width)
    hessian[..., 1:, 1:] = model.hessian
    hessian[..., 0, 1:] = hessian[..., 1:, 0] = model.gradient
    V = model.gradient.new_zeros(rows, 1 + size, 1 + size)
    V[:, 1:, 1:] = model.final_hessian
    V[:, 0, 1:] = V[:, 1:, 0] = model.final_gradient
    return jacobian, hessian, V


def _minimise(
    Quu: Tensor, Qux: Tensor, bounds: tuple[Tensor, Tensor] | None, warm: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The best du = K (1, dx) of one step, [rows, act, 1 + dx]; which actions are free; which rows failed."""
    factor, info = torch.linalg.cholesky_ex(Quu)
    K = torch.cholesky_solve(Qux, factor).neg()
    k, failed = K[:, :, :1], info > 0
    if bounds is None:
        return K, torch.ones_like(k[:, :, 0], dtype=torch.bool), failed
    inside = ((k >= bounds[0]) & (k <= bounds[1])).all(1, keepdim=True)
    if bool(inside.all()):
        return K, torch.ones_like(k[:, :, 0], dtype=torch.bool), failed
    solution = box_qp(Quu, Qux[:, :, :1], *bounds, warm)
    gains = torch.cholesky_solve(Qux * solution.free, solution.factor).neg()
    gains[:, :, :1] = solution.x
    # A row within its bounds keeps what it has, to the bit: it must not depend on its neighbours.
    free, failed = inside[:, 0] | solution.free[:, :, 0], torch.where(inside[:, 0, 0], failed, solution.failed)
    return torch.where(inside, K, gains), free, failed


def _policy(failed: Tensor, horizon: int, *collected: list[Tensor]) -> Policy:
    """What the backward pass collected, from the last step to the first one that it came to."""
    if len(collected[0]) < horizon:
        nothing = failed.new_zeros(len(failed), dtype=torch.float64)
        return Policy(*(nothing,) * 5, failed)  # never read: `wanted` rows failed
    K, slope, Quu, clamped = (torch.stack(x[::-1]) for x in collected)
    k = K[..., 0]
    linear = (slope * k).sum((0, 2))
    quadratic = 0.5 * (k[..., None, :] @ Quu @ k[..., None])[..., 0, 0].sum(0)
    blocked = clamped & (k == 0)
    ratio = slope.square() / (Quu.diagonal(dim1=2, dim2=3).abs() + 1e-12)
    residual = torch.where(blocked, 0.0, ratio).sum((0, 2))
    failed = failed | ~(linear + quadratic + residual).isfinite()
    return Policy(K[..., 1:], k, linear, quadratic, residual, failed)
