"""Action sequences given by a few knots: `actions = M values`, with zero-order, linear or cubic interpolation.

Knots stand on a grid that is fixed in time, `interval` steps apart. As time goes on, the window of the plan moves over
the grid: its `phase` is how far its first step lies behind a knot. A knot that falls out of sight is dropped, and a new
one joins at the far end, so that a plan that is shifted by a step is the same plan, a step later.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from planners.checks import check_sizes

Order = Literal["zero", "linear", "cubic"]


@dataclass(frozen=True)
class Knots:
    """Interpolation of action sequences.

    Args:
        count: at most so many knots span the horizon. They stand a whole number of steps apart, so that fewer may do,
            and no step reads those beyond: for 20 steps, 6 knots of order "zero" stand where 5 do.
        order: "zero": the action is held from knot to knot; "linear"; "cubic": Catmull-Rom splines, which need the
            knot before the window as well (one value more) and may overshoot (planners clamp them to the box).

    Raises:
        ValueError: there are too few knots, or the order is unknown.
    """

    count: int
    order: Order = "cubic"

    def __post_init__(self) -> None:
        if self.order not in ("zero", "linear", "cubic"):
            raise ValueError(f'order: expected "zero", "linear" or "cubic", got {self.order!r}')
        least = 1 if self.order == "zero" else 2
        check_sizes(count=self.count)
        if self.count < least:
            raise ValueError(f"count: expected at least {least} knots for order {self.order!r}, got {self.count}")

    def size(self, horizon: int) -> int:
        """How many values describe a sequence."""
        return self.count + (self.order == "cubic")

    def interval(self, horizon: int) -> int:
        """Steps between knots.

        Raises:
            ValueError: there are more knots than steps.
        """
        if self.count > horizon:
            raise ValueError(f"knots: expected at most the horizon of {horizon}, got {self.count}")
        if self.order == "zero":
            return math.ceil(horizon / self.count)
        return max(1, math.ceil((horizon - 1) / (self.count - 1)))

    def actions(
        self, values: Float[Tensor, "batch plans size act"], phase: Int[Tensor, "batch"], horizon: int
    ) -> Float[Tensor, "batch plans horizon act"]:
        """The sequences that knot values describe."""
        return torch.einsum("bhk,bpka->bpha", self._matrices(horizon).to(values)[phase], values)

    def fit(
        self, actions: Float[Tensor, "batch plans horizon act"], phase: Int[Tensor, "batch"], horizon: int
    ) -> Float[Tensor, "batch plans size act"]:
        """The knot values whose sequences come nearest to `actions`, in the sense of least squares.

        Knots that no step reads have the value of the nearest one that is read.
        """
        inverse = _inverses(self.count, self.order, horizon, self.interval(horizon)).to(actions)
        return torch.einsum("bkh,bpha->bpka", inverse[phase], actions)

    def read(self, phase: Int[Tensor, "batch"], horizon: int) -> Bool[Tensor, "batch size"]:
        """Which values have an effect on some step of the window."""
        return _read(self._matrices(horizon)).to(phase.device)[phase]

    def _matrices(self, horizon: int) -> Float[Tensor, "phases horizon size"]:
        return _matrices(self.count, self.order, horizon, self.interval(horizon))


@lru_cache(maxsize=64)
def _matrices(count: int, order: Order, horizon: int, interval: int) -> Float[Tensor, "phases horizon size"]:
    behind = int(order == "cubic")
    result = torch.zeros(interval, horizon, count + behind, dtype=torch.float64)
    for phase in range(interval):
        for step in range(horizon):
            segment, rest = divmod(phase + step, interval)
            for offset, weight in _weights(order, rest / interval):
                # Beyond the last knot its value is held.
                result[phase, step, min(segment + offset, count - 1) + behind] += weight
    return result


@lru_cache(maxsize=64)
def _inverses(count: int, order: Order, horizon: int, interval: int) -> Float[Tensor, "phases size horizon"]:
    matrices = _matrices(count, order, horizon, interval)
    read = _read(matrices).long()
    size = read.shape[1]
    # A stretch of all knots is read; what is not lies before it or behind it.
    first, last = read.argmax(1, keepdim=True), size - 1 - read.flip(1).argmax(1, keepdim=True)
    nearest = torch.arange(size).expand_as(read).clamp(first, last)
    return torch.linalg.pinv(matrices).gather(1, nearest.unsqueeze(-1).expand(-1, -1, horizon))


def _read(matrices: Float[Tensor, "phases horizon size"]) -> Bool[Tensor, "phases size"]:
    return (matrices != 0).any(1)


def _weights(order: Order, u: float) -> list[tuple[int, float]]:
    """Which knots around a segment count how much at its share `u`."""
    if order == "zero":
        return [(0, 1.0)]
    if order == "linear":
        return [(0, 1 - u), (1, u)]
    return [
        (-1, (-u + 2 * u**2 - u**3) / 2),
        (0, (2 - 5 * u**2 + 3 * u**3) / 2),
        (1, (u + 4 * u**2 - 3 * u**3) / 2),
        (2, (-(u**2) + u**3) / 2),
    ]
