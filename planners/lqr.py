"""Linear-quadratic regulators, in the cost convention of their field:

    minimise  E sum over t < T of (x'Q x + u'R u)/2 + x'N u + q'x + r'u  +  x_T'P_T x_T/2 + p_T'x_T,
    where     x_t+1 = A x_t + B u_t + c + w_t,    E w_t = 0,  E w_t w_t' = W.

Step t counts discount^t. `lqr` lets all of these vary with time; `lqr_infinite` knows no linear terms and no end. The
best action is u = K x + k, with or without noise, and the cost to go is x'P x/2 + p'x + s, where s holds the noise.

Everything is float64, batched, and differentiable with respect to every matrix.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from planners.lqr_inputs import (
    Terms,
    arrange,
    check_costs,
    check_discount,
    check_semidefinite,
    read,
    rounding,
    shapes,
    symmetric,
)

TOLERANCE = 2.0**-26
"""The root of the precision: how far rounding moves the eigenvalues of a double one. A closed loop this close to the
unit circle is not stable, and an action that moves a mode by less, relative to the system, does not reach it."""


class LQR(NamedTuple):
    """The best feedback u = K x + k and the cost to go x'P x/2 + p'x + s, before each step and after the last."""

    K: Float[Tensor, "*batch T act obs"]
    k: Float[Tensor, "*batch T act"]
    P: Float[Tensor, "*batch T+1 obs obs"]
    p: Float[Tensor, "*batch T+1 obs"]
    s: Float[Tensor, "*batch T+1"]


class InfiniteLQR(NamedTuple):
    """The best feedback u = K x for ever, and the cost to go x'P x/2 of a system without noise."""

    K: Float[Tensor, "*batch act obs"]
    P: Float[Tensor, "*batch obs obs"]
    noise: Float[Tensor, "*batch"]
    """What noise adds a step, discount tr(P W)/2: the average cost where the discount is 1, and noise / (1 - discount)
    is added to the cost to go where it is below."""


def lqr(
    A: Tensor,
    B: Tensor,
    Q: Tensor,
    R: Tensor,
    *,
    horizon: int | None = None,
    N: Tensor | None = None,
    q: Tensor | None = None,
    r: Tensor | None = None,
    c: Tensor | None = None,
    W: Tensor | None = None,
    P_final: Tensor | None = None,
    p_final: Tensor | None = None,
    discount: float = 1.0,
) -> LQR:
    """The finite-horizon regulator, by the Riccati recursion.

    Each argument is a matrix (or vector) for all steps; one for each step, [T, ...]; or one for each batch element and
    step, [batch, T, ...], where either may be 1. Only the symmetric parts of Q, R, W and P_final count. Source:
    Bertsekas, Dynamic Programming and Optimal Control, vol. I, 4th ed., section 3.1,
    https://www.mit.edu/~dimitrib/dpbook.html.

    Args:
        A: dynamics, [obs, obs].
        B: likewise, [obs, act].
        Q: cost of states, [obs, obs].
        R: cost of actions, [act, act].
        horizon: T; None: as the arguments that vary with time have it.
        N: cost of both, [obs, act]; None: 0, as with all that follow.
        q: linear cost of states, [obs].
        r: linear cost of actions, [act].
        c: offset of the dynamics, [obs].
        W: covariance of the noise, [obs, obs].
        P_final: final cost, [obs, obs] or [batch, obs, obs].
        p_final: linear final cost, [obs] or [batch, obs].
        discount: per step, in (0, 1].

    Returns:
        Without a leading batch where no argument has one.

    Raises:
        ValueError: shapes, horizons or batches disagree; R is not positive definite; [[Q, N], [N', R]], P_final or W
            is not positive semidefinite; or something is not finite.
    """
    check_discount(discount)
    given = {"A": A, "B": B, "c": c, "Q": Q, "R": R, "N": N, "q": q, "r": r, "W": W}
    terms, P, p, single = arrange(given, {"P_final": P_final, "p_final": p_final}, horizon)
    rounded = rounding(*given.values(), P_final)
    check_costs(terms, rounded)
    check_semidefinite("P_final", P, rounded)
    s = p.new_zeros(len(p))
    gains, costs = [], [(P, p, s)]
    for t in reversed(range(terms.A.shape[1])):
        step = Terms(*(x[:, t] for x in terms))
        K, k, P, p, s = _backup(step, discount * P, discount * p, discount * s)
        gains.append((K, k))
        costs.append((P, p, s))
    K, k = (torch.stack(x[::-1], 1) for x in zip(*gains, strict=True))
    P, p, s = (torch.stack(x[::-1], 1) for x in zip(*costs, strict=True))
    return LQR(*(x[0] if single else x for x in (K, k, P, p, s)))


def lqr_infinite(
    A: Float[Tensor, "*batch obs obs"],
    B: Float[Tensor, "*batch obs act"],
    Q: Float[Tensor, "*batch obs obs"],
    R: Float[Tensor, "*batch act act"],
    *,
    N: Float[Tensor, "*batch obs act"] | None = None,
    W: Float[Tensor, "*batch obs obs"] | None = None,
    discount: float = 1.0,
) -> InfiniteLQR:
    """The infinite-horizon regulator: the stabilising solution of the algebraic Riccati equation.

    Solved by `scipy.linalg.solve_discrete_are`, element by element. Gradients come from the equation itself, by the
    implicit function theorem: a Lyapunov equation backwards, so that first derivatives are exact. A discount is taken
    into A and B: sqrt(discount) x_t is what is brought to rest.

    Args:
        A, B, Q, R: as in `lqr`; batches broadcast.
        N: likewise; None: 0.
        W: likewise.
        discount: per step, in (0, 1].

    Raises:
        ValueError: as `lqr`; or A, B can't be stabilised; or the cost does not see a mode on the unit circle; or
            numbers are so badly scaled that the solution does not stabilise.
    """
    check_discount(discount)
    shape = shapes(A, B)
    given = {"A": A, "B": B, "Q": Q, "R": R, "N": N, "W": W, "c": None, "q": None, "r": None}
    parts = {name: read(name, x, shape[name], A.device) for name, x in given.items()}
    batch = torch.broadcast_shapes(*(x.shape[:-2] for x in parts.values()))
    terms = Terms(**{name: x.expand(*batch, *shape[name]) for name, x in parts.items()})
    check_costs(terms, rounding(*given.values()))
    A, B = discount**0.5 * terms.A, discount**0.5 * terms.B
    matrices = [x.detach().reshape(-1, *x.shape[-2:]).cpu().numpy() for x in (A, B, terms.Q, terms.R, terms.N)]
    P = torch.from_numpy(np.stack([_solve_are(*element) for element in zip(*matrices, strict=True)])).to(A).view_as(A)
    K, closed = _feedback(terms, A, B, P)
    # One step of the recursion from the fixed point: it moves nothing, and carries the gradients.
    P = symmetric(terms.Q + A.mT @ P @ A + (terms.N + A.mT @ P @ B) @ K)
    if P.requires_grad:
        settled = closed.detach()
        P.register_hook(lambda gradient: None if gradient is None else _lyapunov(settled, gradient))
    K, _ = _feedback(terms, A, B, P)
    return InfiniteLQR(K, P, 0.5 * discount * (P * terms.W).sum((-2, -1)))


def _backup(step: Terms, P: Tensor, p: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(K, k) of a step and the cost to go (P, p, s) before it, from the discounted one after it."""
    A, B, c = step.A, step.B, step.c[:, :, None]
    ahead = P @ c + p[:, :, None]
    Quu, Qux, qu = step.R + B.mT @ P @ B, step.N.mT + B.mT @ P @ A, step.r[:, :, None] + B.mT @ ahead
    both = -torch.cholesky_solve(torch.cat([Qux, qu], 2), torch.linalg.cholesky(symmetric(Quu)))
    K, k = both[:, :, :-1], both[:, :, -1:]
    s = s + (0.5 * c.mT @ (P @ c) + c.mT @ p[:, :, None] + 0.5 * qu.mT @ k)[:, 0, 0] + 0.5 * (P * step.W).sum((1, 2))
    p = step.q + (A.mT @ ahead + Qux.mT @ k)[:, :, 0]
    return K, k[:, :, 0], symmetric(step.Q + A.mT @ P @ A + Qux.mT @ K), p, s


def _feedback(terms: Terms, A: Tensor, B: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """The gain for a cost to go x'P x/2, and what A becomes with it."""
    factor = torch.linalg.cholesky(symmetric(terms.R + B.mT @ P @ B))
    K = -torch.cholesky_solve(terms.N.mT + B.mT @ P @ A, factor)
    return K, A + B @ K


def _lyapunov(A: Tensor, G: Tensor) -> Tensor:
    """X = A X A' + G of a stable A, by doubling: sums of 2^i terms; 64 doublings reach any A that counts as stable."""
    X = symmetric(G)
    for _ in range(64):
        X, A = X + A @ X @ A.mT, A @ A
        if not bool((A.abs() > 1e-18).any()):
            break
    return X


def _solve_are(A: np.ndarray, B: np.ndarray, Q: np.ndarray, R: np.ndarray, N: np.ndarray) -> np.ndarray:
    """The stabilising solution of one element, whose closed loop is looked at: solvers return others in silence."""
    from scipy.linalg import solve_discrete_are

    reach, mode = _weakest(A, B)
    if reach <= TOLERANCE:
        raise _unreachable(mode)
    try:
        P = solve_discrete_are(A, B, Q, R, s=N)
        K = np.linalg.solve(R + B.T @ P @ B, N.T + B.T @ P @ A)
        radius = float(np.abs(np.linalg.eigvals(A - B @ K)).max())
    except np.linalg.LinAlgError:
        radius = np.inf
    if radius < 1 - TOLERANCE:
        return P
    free = np.linalg.solve(R, N.T)  # with u = v - free x the cost has no cross term
    sight, hidden = _weakest((A - B @ free).T, Q - N @ free, circle=True)
    if sight <= 1e3 * TOLERANCE:
        raise ValueError(
            f"Q: expected a cost that sees every mode on the unit circle, but it does not see the eigenvalue "
            f"{hidden:.6g} of A (times the root of the discount): no stabilising solution; give this mode a "
            "cost, lower the discount, or use lqr with a finite horizon"
        )
    if reach <= 1e3 * TOLERANCE:
        raise _unreachable(mode)
    raise ValueError(
        f"A, B, Q, R: expected a system that can be stabilised and a cost that sees it, in comparable units, but the "
        f"solution leaves a closed loop of spectral radius {radius:.9g}; scale states, actions and costs to about 1, "
        "lower the discount, or use lqr with a finite horizon"
    )


def _weakest(A: np.ndarray, B: np.ndarray, *, circle: bool = False) -> tuple[float, complex]:
    """Of the modes that don't fade (with `circle`: neither grow) the one that B reaches least, and how far it does.

    The Popov-Belevitch-Hautus test: the least singular value of [value I - A, B], relative to the greatest.
    """
    weakest: tuple[float, complex] = (np.inf, 0.0)
    for value in np.linalg.eigvals(A):
        if abs(value) < 1 - 1e3 * TOLERANCE or (circle and abs(value) > 1 + 1e3 * TOLERANCE):
            continue
        reach = np.linalg.svd(np.hstack([value * np.eye(len(A)) - A, B]), compute_uv=False)
        weakest = min(weakest, (float(reach[-1] / max(1.0, reach[0])), complex(value)), key=lambda found: found[0])
    return weakest


def _unreachable(mode: complex) -> ValueError:
    return ValueError(
        f"A, B: expected a system that can be stabilised, but no action reaches the mode of eigenvalue {mode:.6g} of A "
        "(times the root of the discount); add an actuator, lower the discount, or use lqr with a finite horizon"
    )
