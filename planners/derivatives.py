"""Derivatives of a model in the tangent coordinates z = (dx, u), about states s and actions a:

    s' = retract(s'_0, A dx + B u + z' D z / 2),    r = r_0 + g' z + z' H z / 2.

`expand_autodiff` gets A, B, g and H from torch, `expand_differences` from steps of the model alone, and `curvature` or
`curvature_differences` get D, which differential dynamic programming adds. What they evaluate is one batch of rows: a
direction of z is a row, so that a model meets few large calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from planners.rows import map_rows, repeat_rows

if TYPE_CHECKING:
    from planners.dynamics import Smooth

MAX_ROWS = 32_768
"""Rows of one call of a model: more are dealt with one part after the other, to bound the memory."""


class Expansion(NamedTuple):
    """Linear dynamics and quadratic reward in the tangent coordinates z = (dx, u)."""

    state_jacobian: Float[Tensor, "rows dx dx"]
    action_jacobian: Float[Tensor, "rows dx act"]
    reward_gradient: Float[Tensor, "rows z"]
    reward_hessian: Float[Tensor, "rows z z"]


def expand_autodiff(dynamics: Smooth[Any], state: Any, action: Float[Tensor, "rows act"]) -> Expansion:
    """The expansion of the mean transition, by automatic differentiation through `retract`, `step` and `difference`.

    One forward-over-reverse pass in which every row stands once for each coordinate of z.

    Raises:
        RuntimeError: the dynamics are not differentiable by torch.
    """
    reached, _ = dynamics.step(state, action)
    size = dynamics.difference(state, state).shape[1]
    width = size + action.shape[1]

    def part(state: Any, action: Tensor, reached: Any) -> Expansion:
        rows, (state, action, reached) = len(action), repeat_rows((state, action, reached), width)

        def reward(z: Tensor) -> tuple[Tensor, Tensor]:
            after, step = dynamics.step(dynamics.retract(state, z[:, :size]), action + z[:, size:])
            # Rows are independent, so the gradient of a sum over rows holds every row's own gradient.
            return step.reward.sum(), dynamics.difference(after, reached)

        basis = torch.eye(width, dtype=action.dtype, device=action.device).repeat(rows, 1)
        slopes = torch.func.grad(reward, has_aux=True)
        (gradient, _), (hessian, jacobian) = torch.func.jvp(slopes, (torch.zeros_like(basis),), (basis,))[:2]
        hessian, jacobian = hessian.view(rows, width, width), jacobian.view(rows, width, size).mT
        return Expansion(jacobian[..., :size], jacobian[..., size:], gradient[::width], 0.5 * (hessian + hessian.mT))

    return _in_parts(part, (state, action, reached), width)


def curvature(dynamics: Smooth[Any], state: Any, action: Float[Tensor, "rows act"]) -> Float[Tensor, "rows dx z z"]:
    """Second derivatives D of the mean transition, by automatic differentiation (forward over forward).

    Raises:
        RuntimeError: the dynamics are not differentiable by torch.
    """
    reached, _ = dynamics.step(state, action)
    size = dynamics.difference(state, state).shape[1]
    width = size + action.shape[1]
    first, second = torch.triu_indices(width, width)
    pairs = len(first)

    def part(state: Any, action: Tensor, reached: Any) -> Tensor:
        rows, (state, action, reached) = len(action), repeat_rows((state, action, reached), pairs)

        def change(z: Tensor) -> Tensor:
            after, _ = dynamics.step(dynamics.retract(state, z[:, :size]), action + z[:, size:])
            return dynamics.difference(after, reached)

        basis = torch.eye(width, dtype=action.dtype, device=action.device)
        one, other = basis[first].repeat(rows, 1), basis[second].repeat(rows, 1)
        zero = torch.zeros_like(one)
        with torch.enable_grad():  # without it torch takes formulas, SiLU's say, that it can't differentiate again
            along = torch.func.jvp(lambda z: torch.func.jvp(change, (z,), (one,))[1], (zero,), (other,))[1]
        return _symmetric(along.view(rows, pairs, size).mT, first, second, width)

    return _in_parts(part, (state, action, reached), pairs)


def expand_differences(
    dynamics: Smooth[Any],
    state: Any,
    action: Float[Tensor, "rows act"],
    *,
    eps: float | None = None,
    reward: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Expansion:
    """The expansion by central differences of the mean transition, for models that torch can't differentiate.

    Args:
        dynamics: the model.
        state: [rows, ...].
        action: about which to expand.
        eps: of the differences, in units of z; None: the third root of the precision of `action`.
        reward: the reward as a function `(obs, action, next_obs)` that torch can differentiate. Then the Hessian is
            that of Gauss and Newton, J' (d2 reward) J with J = d(obs, action, next_obs)/dz, and costs no further
            steps. None: differences of the reward itself, which cost z^2 + z steps a row more and lose half of the
            digits.
    """
    eps = _precision(action) ** (1 / 3) if eps is None else eps
    size = dynamics.difference(state, state).shape[1]
    reached, centre = dynamics.step(state, action)

    def evaluate(state: Any, action: Tensor, reached: Any, z: Tensor) -> tuple[Tensor, ...]:
        moved = dynamics.retract(state, z[:, :size])
        after, step = dynamics.step(moved, action + z[:, size:])
        change = dynamics.difference(after, reached)
        if reward is None:
            return change, step.reward[:, None]
        # A step that failed may have left the observation as it was: it has no derivative.
        change = torch.where(step.reward.isfinite()[:, None], change, torch.nan)
        return change, torch.cat([dynamics.observe(moved), action + z[:, size:], step.obs], 1)

    width = size + action.shape[1]
    jacobian, other = central_differences(evaluate, (state, action, reached), width, eps)
    if reward is None:
        gradient = other[:, 0]
        hessian = second_differences(
            lambda *about: evaluate(*about)[1], (state, action, reached), width, _precision(action) ** 0.25
        )[:, 0]
    else:
        inputs = dynamics.observe(state), action, centre.obs
        gradient, hessian = gauss_newton(reward, inputs, other)
    return Expansion(jacobian[..., :size], jacobian[..., size:], gradient, hessian)


def curvature_differences(
    dynamics: Smooth[Any], state: Any, action: Float[Tensor, "rows act"], *, eps: float | None = None
) -> Float[Tensor, "rows dx z z"]:
    """Second derivatives D of the mean transition by second differences: z^2 + z steps a row."""
    eps = _precision(action) ** 0.25 if eps is None else eps
    size = dynamics.difference(state, state).shape[1]
    reached, _ = dynamics.step(state, action)

    def change(state: Any, action: Tensor, reached: Any, z: Tensor) -> Tensor:
        after, _ = dynamics.step(dynamics.retract(state, z[:, :size]), action + z[:, size:])
        return dynamics.difference(after, reached)

    return second_differences(change, (state, action, reached), size + action.shape[1], eps)


def expand_value(
    dynamics: Smooth[Any], value: Callable[[Tensor], Tensor], state: Any
) -> tuple[Float[Tensor, "rows dx"], Float[Tensor, "rows dx dx"]]:
    """Gradient and Hessian of `value(obs)`, [rows, obs] -> [rows], in the tangent space of states.

    By automatic differentiation through `observe(retract(...))`, or, where torch can't, by differences.
    """
    zero = torch.zeros_like(dynamics.difference(state, state))
    width = zero.shape[1]

    def at(state: Any, dx: Tensor) -> Tensor:
        return value(dynamics.observe(dynamics.retract(state, dx)))

    if tracked(lambda dx: at(state, dx), zero):
        basis = torch.eye(width, dtype=zero.dtype, device=zero.device).repeat(len(zero), 1)
        many = repeat_rows(state, width)
        slope = torch.func.grad(lambda dx: at(many, dx).sum())
        gradient, hessian = torch.func.jvp(slope, (torch.zeros_like(basis),), (basis,))[:2]
        hessian = hessian.view(len(zero), width, width)
        return gradient[::width], 0.5 * (hessian + hessian.mT)

    def black_box(state: Any, _: Tensor, dx: Tensor) -> Tensor:
        return at(state, dx)[:, None]

    (gradient,) = central_differences(lambda *x: (black_box(*x),), (state, zero), width, _precision(zero) ** (1 / 3))
    return gradient[:, 0], second_differences(black_box, (state, zero), width, _precision(zero) ** 0.25)[:, 0]


def tracked(function: Callable[[Tensor], Tensor], at: Tensor) -> bool:
    """Whether torch follows `function` from its argument to its result."""
    try:
        with torch.enable_grad():
            return function(at.detach().clone().requires_grad_()).requires_grad
    except RuntimeError:
        return False


def central_differences(
    evaluate: Callable[..., tuple[Tensor, ...]], about: tuple[Any, ...], width: int, eps: float
) -> tuple[Float[Tensor, "rows out z"], ...]:
    """Jacobians of functions of z at 0, from two evaluations for each coordinate.

    Args:
        evaluate: `evaluate(*about, z)` -> tensors [rows, out], for rows of `about` repeated as `z` [rows, z] asks.
        about: trees with rows leading; the second one is the action [rows, act].
        width: coordinates of z.
        eps: distance to either side.
    """

    def part(*about: Any) -> tuple[Tensor, ...]:
        rows = len(about[1])
        steps = eps * torch.eye(width, dtype=about[1].dtype, device=about[1].device)
        z = torch.cat([steps, -steps]).repeat(rows, 1)
        sides = [y.view(rows, 2, width, -1) for y in evaluate(*repeat_rows(about, 2 * width), z)]
        return tuple(((y[:, 0] - y[:, 1]) / (2 * eps)).mT for y in sides)

    return _in_parts(part, about, 2 * width)


def gauss_newton(
    value: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    jacobian: Float[Tensor, "rows y z"],
) -> tuple[Float[Tensor, "rows z"], Float[Tensor, "rows z z"]]:
    """Gradient J'g of value(y(z)), and its Hessian J'HJ without the second derivatives of y.

    Args:
        value: of `inputs`, [rows]; torch must be able to differentiate it.
        inputs: y in parts, each [rows, ...], side by side in the order of the rows of `jacobian`.
        jacobian: dy/dz.
    """
    shapes = [x.shape[1:] for x in inputs]
    sizes = [shape.numel() for shape in shapes]

    def total(y: Tensor) -> Tensor:
        return value(*(p.reshape(len(y), *s) for p, s in zip(y.split(sizes, 1), shapes, strict=True))).sum()

    def part(y: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        rows, width = len(y), jacobian.shape[2]
        many, along = y.repeat_interleave(width, 0), jacobian.mT.flatten(0, 1)
        gradient, curved = torch.func.jvp(torch.func.grad(total), (many,), (along,))[:2]
        hessian = curved.view(rows, width, -1) @ jacobian
        return (gradient.view(rows, width, -1)[:, :1] @ jacobian)[:, 0], 0.5 * (hessian + hessian.mT)

    return _in_parts(part, (torch.cat([x.reshape(len(x), -1) for x in inputs], 1), jacobian), jacobian.shape[2])


def second_differences(
    evaluate: Callable[..., Tensor], about: tuple[Any, ...], width: int, eps: float
) -> Float[Tensor, "rows out z z"]:
    """Second derivatives of functions of z at 0, from z^2 + z + 1 evaluations:

    f_ij = (f(+i+j) + f(-i-j) + 2 f(0) - f(+i) - f(-i) - f(+j) - f(-j)) / (2 eps^2).

    Arguments are those of `central_differences`, but `evaluate` returns one tensor [rows, out].
    """
    first, second = torch.triu_indices(width, width, offset=1)
    points = 1 + 2 * width + 2 * len(first)

    def part(*about: Any) -> Tensor:
        basis = eps * torch.eye(width, dtype=about[1].dtype, device=about[1].device)
        pairs = basis[first] + basis[second]
        z = torch.cat([torch.zeros_like(basis[:1]), basis, -basis, pairs, -pairs]).repeat(len(about[1]), 1)
        y = evaluate(*repeat_rows(about, points), z).view(len(about[1]), points, -1)
        centre, plus, minus, out, back = y.split([1, width, width, len(first), len(first)], 1)
        single = plus + minus - 2 * centre
        mixed = 0.5 * (out + back - 2 * centre - single[:, first] - single[:, second])
        diagonal = torch.arange(width)
        rows, columns = torch.cat([diagonal, first]), torch.cat([diagonal, second])
        return _symmetric(torch.cat([single, mixed], 1).mT / eps**2, rows, columns, width)

    return _in_parts(part, about, points)


def _symmetric(upper: Float[Tensor, "rows out pairs"], first: Tensor, second: Tensor, width: int) -> Tensor:
    """Symmetric matrices [rows, out, width, width] with the entries `upper` at (first, second)."""
    full = upper.new_zeros(*upper.shape[:2], width, width)
    full[..., first, second] = upper
    full[..., second, first] = upper
    return full


def _in_parts(part: Callable[..., Any], about: tuple[Any, ...], times: int) -> Any:
    """`part(*about)` on blocks of rows that become at most MAX_ROWS when each is repeated `times` times."""
    rows, block = len(about[1]), max(1, MAX_ROWS // times)
    if rows <= block:
        return part(*about)
    done = [part(*map_rows(lambda x, a=a: x[a : a + block], about)) for a in range(0, rows, block)]
    return map_rows(lambda *parts: torch.cat(parts), *done)


def _precision(like: Tensor) -> float:
    return torch.finfo(like.dtype).eps
