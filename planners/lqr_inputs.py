"""What `planners.lqr` is given: arguments of many shapes become one shape, and bad ones are named."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from planners.checks import check_sizes

_ROUNDING = 1e-13
"""Of eigenvalues in float64, beside the largest."""


class Terms(NamedTuple):
    """Dynamics and cost of a step, or of all of them."""

    A: Tensor
    B: Tensor
    c: Tensor
    Q: Tensor
    R: Tensor
    N: Tensor
    q: Tensor
    r: Tensor
    W: Tensor


def arrange(
    given: dict[str, Tensor | None], final: dict[str, Tensor | None], horizon: int | None
) -> tuple[Terms, Tensor, Tensor, bool]:
    """All arguments as [batch, T, ...], the final ones as [batch, ...], and whether none of them has a batch."""
    shape = shapes(given["A"], given["B"])
    device = given["A"].device  # type: ignore[union-attr]
    terms = {name: read(name, x, shape[name], device, 2) for name, x in given.items()}
    ends = {name: read(name, x, shape[name], device, 1) for name, x in final.items()}
    lengths = {name: x.shape[1] for name, x in terms.items() if x.shape[1] != 1}
    if horizon is not None:
        check_sizes(horizon=horizon)
    T = horizon if horizon is not None else max(lengths.values(), default=0)
    if T == 0:
        raise ValueError("horizon: expected a number of steps, for no argument has more than one, got None")
    wrong = {name: length for name, length in lengths.items() if length != T}
    if wrong:
        raise ValueError(
            f"horizon: expected {T} steps in every argument that varies with time, got {wrong}; pass [T, ...], or a "
            "matrix without an axis for time"
        )
    sizes = {name: len(x) for name, x in (*terms.items(), *ends.items()) if len(x) != 1}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"batch: expected one size in every argument, got {sizes}; an axis of time alone is [T, ...]")
    batch = max(sizes.values(), default=1)
    single = all(
        x is None or x.dim() < len(shape[name]) + axes
        for some, axes in ((given, 2), (final, 1))
        for name, x in some.items()
    )
    steps = Terms(**{name: x.expand(batch, T, *shape[name]) for name, x in terms.items()})
    P, p = (ends[name].expand(batch, *shape[name]) for name in ("P_final", "p_final"))
    return steps, P, p, single


def shapes(A: Tensor | None, B: Tensor | None) -> dict[str, tuple[int, ...]]:
    """What each argument's last axes must be, from the last axes of A and B."""
    check_tensor("A", A)
    check_tensor("B", B)
    if A is None or B is None or A.dim() < 2 or B.dim() < 2:
        raise ValueError("A, B: expected matrices [obs, obs] and [obs, act]")
    size, act = A.shape[-1], B.shape[-1]
    square, vector = (size, size), (size,)
    costs = {"Q": square, "R": (act, act), "N": (size, act), "q": vector, "r": (act,)}
    return {"A": square, "B": (size, act), "c": vector, "W": square, "P_final": square, "p_final": vector, **costs}


def read(name: str, x: Tensor | None, shape: tuple[int, ...], device: torch.device, axes: int | None = None) -> Tensor:
    """An argument in float64, with `axes` axes before `shape` (None: as many as it has); symmetric where it must be."""
    if x is None:
        x = torch.zeros(shape, dtype=torch.float64, device=device)
    check_tensor(name, x)
    leading = x.dim() - len(shape)
    if x.shape[leading:] != shape or leading < 0 or (axes is not None and leading > axes):
        wanted = "".join(f"{n}, " for n in shape)[:-2]
        before = "..., " if axes is None else {1: "[batch], ", 2: "[batch, [T]], "}[axes]
        raise ValueError(f"{name}: expected shape [{before}{wanted}], got {list(x.shape)}")
    x = x.to(torch.float64)
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    if name in ("Q", "R", "W", "P_final"):
        x = symmetric(x)
    return x if axes is None else x.reshape(*(1,) * (axes - leading), *x.shape)


def check_tensor(name: str, x: object) -> None:
    if x is not None and not isinstance(x, Tensor):
        raise ValueError(
            f"{name}: expected a torch tensor, got {type(x).__name__}; use torch.as_tensor(..., dtype=torch.float64)"
        )


def symmetric(x: Tensor) -> Tensor:
    return 0.5 * (x + x.mT)


def check_discount(discount: float) -> None:
    if not 0 < discount <= 1:
        raise ValueError(f"discount: expected a number in (0, 1], got {discount}")


def rounding(*given: Tensor | None) -> float:
    """The relative rounding of the coarsest argument."""
    return max((torch.finfo(x.dtype).eps for x in given if x is not None and x.is_floating_point()), default=0.0)


def check_costs(terms: Terms, rounded: float) -> None:
    lowest, where = _lowest_eigenvalue(terms.R)
    if not lowest > 0:
        raise ValueError(
            f"R: expected a positive definite cost of actions, got the eigenvalue {lowest:.3g}{where}; where "
            "actions are free, add a small multiple of the identity"
        )
    stage = torch.cat([torch.cat([terms.Q, terms.N], -1), torch.cat([terms.N.mT, terms.R], -1)], -2)
    name = "Q, N" if bool((terms.N != 0).any()) else "Q"
    check_semidefinite(name, stage, rounded)
    check_semidefinite("W", terms.W, rounded)


def check_semidefinite(name: str, matrix: Tensor, rounded: float) -> None:
    lowest, where = _lowest_eigenvalue(matrix, max(_ROUNDING, 4 * rounded * matrix.shape[-1]))
    if lowest < 0:
        what = {"Q, N": "[[Q, N], [N', R]]", "Q": "Q"}.get(name, name)
        advice = "a covariance has no negative one" if name == "W" else "for costs that are not convex, use ILQR"
        raise ValueError(
            f"{name}: expected {what} to be positive semidefinite, got the eigenvalue {lowest:.3g}{where}; {advice}"
        )


def _lowest_eigenvalue(matrix: Tensor, rounded: float = _ROUNDING) -> tuple[float, str]:
    """The lowest eigenvalue of all matrices, 0 where rounding may have made it, and where it is."""
    values = torch.linalg.eigvalsh(matrix.detach())
    lowest, scale = values[..., 0], values.abs().amax(-1)
    lowest = torch.where(lowest.abs() <= rounded * scale, 0.0, lowest)
    at = int(lowest.argmin())
    index = np.unravel_index(at, lowest.shape)
    return float(lowest.flatten()[at]), f" at {[int(i) for i in index]}" if lowest.numel() > 1 else ""
