"""Quadratic programs within a box, many at once:

    minimise over x:  x' H x / 2 + g' x,    low <= x <= high,

with H positive definite. Each row is a program of its own.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ARMIJO, BACKTRACK = 0.1, 0.5


class BoxQP(NamedTuple):
    """The solution of each row. Vectors are columns, as batched products want them."""

    x: Float[Tensor, "rows x 1"]
    free: Bool[Tensor, "rows x 1"]
    """False: clamped, at a bound that the gradient pushes against."""
    factor: Float[Tensor, "rows x x"]
    """Cholesky factor of H on the free coordinates, with the identity in place of the others."""
    failed: Bool[Tensor, "rows"]
    """H is not positive definite on the coordinates that were free, or something is not finite: x means nothing."""


def box_qp(
    hessian: Float[Tensor, "rows x x"],
    gradient: Float[Tensor, "rows x 1"],
    low: Float[Tensor, "rows x 1"],
    high: Float[Tensor, "rows x 1"],
    initial: Float[Tensor, "rows x 1"],
    *,
    iterations: int = 50,
    tolerance: float = 1e-12,
) -> BoxQP:
    """Projected Newton: Newton steps on the free coordinates, clamped to the box, with an Armijo line search.

    Source: Tassa, Mansard, Todorov (2014), "Control-limited differential dynamic programming", section III-B,
    https://doi.org/10.1109/ICRA.2014.6907001; after Bertsekas (1982), https://doi.org/10.1137/0320018. Deviation: the
    line search tries all step lengths at once where the full step of any row fails.

    Args:
        hessian: symmetric.
        gradient: of the objective at x = 0.
        low: bounds; may be infinite.
        high: likewise.
        initial: where to start; clamped to the box.
        iterations: at most; a handful is usual, for each finds the free set anew.
        tolerance: a row is solved where the gradient on its free coordinates is below this, relative to the terms that
            it is the sum of.
    """
    x = torch.clamp(initial, low, high)
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    failed = torch.zeros_like(low[:, :1], dtype=torch.bool)
    small = tolerance * (gradient.abs().amax(1) + hessian.abs().amax((1, 2))[:, None] * x.abs().amax(1))
    for i in range(iterations + 1):
        slope = torch.baddbmm(gradient, hessian, x)
        free = x != torch.where(slope > 0, low, high)  # the bound that a descent would meet
        factor, info = torch.linalg.cholesky_ex(torch.where(free & free.mT, hessian, eye))
        failed = failed | ((info > 0) | ~slope.isfinite().all(1)[:, 0])[:, None, None]
        slope = slope * free
        unsolved = (slope.abs().amax(1) > small)[:, :, None] & ~failed
        if i == iterations or not bool(unsolved.any()):
            break
        step = torch.cholesky_solve(slope, factor).neg()
        x = torch.where(unsolved, _search(hessian, low, high, x, slope, step, unsolved), x)
    return BoxQP(x, free, factor, failed[:, 0, 0] | ~x.isfinite().all(1)[:, 0])


def _search(
    hessian: Tensor, low: Tensor, high: Tensor, x: Tensor, slope: Tensor, step: Tensor, wanted: Tensor
) -> Tensor:
    """x after the longest clamped step that decreases the objective enough; x itself where none does."""

    def enough(move: Tensor) -> Tensor:
        # The move is on free coordinates only, where `slope` is the whole gradient.
        promised = -(move * slope).sum(-2)
        return (1 - ARMIJO) * promised >= 0.5 * (move * (hessian @ move)).sum(-2)

    whole = torch.clamp(x + step, low, high)
    fine = enough(whole - x)[:, :, None]
    if bool((fine | ~wanted).all()):
        return whole
    # Step lengths lead: [lengths, rows, x, 1].
    lengths = BACKTRACK ** torch.arange(1, 31, dtype=x.dtype, device=x.device)[:, None, None, None]
    lengths[-1] = 0.0
    shorter = torch.clamp(x + lengths * step, low, high)
    first = enough(shorter - x)[..., 0].to(torch.uint8).argmax(0)
    return torch.where(fine, whole, shorter[first, torch.arange(len(x), device=x.device)])
