"""Action bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from planners.checks import check_sizes


class Box:
    """Finite lower and upper bounds of an action vector.

    Args:
        low: lower bound, a number for all dimensions or one for each.
        high: upper bound, likewise.
        dim: number of action dimensions; needed where both bounds are plain numbers, and only there.

    Raises:
        ValueError: a bound is not finite, `low` is not below `high`, the sizes disagree, or `dim` is missing or no
            whole number of at least 1.
    """

    def __init__(self, low: float | Sequence[float], high: float | Sequence[float], dim: int | None = None) -> None:
        lows, highs = (torch.as_tensor(bound, dtype=torch.float64) for bound in (low, high))
        if dim is not None:
            check_sizes(dim=dim)
        elif lows.dim() == highs.dim() == 0:
            raise ValueError(
                "dim: expected the number of action dimensions, for both bounds are plain numbers, got None; write "
                f"Box({low}, {high}, dim=1) for one"
            )
        lows, highs = lows.reshape(-1), highs.reshape(-1)
        size = max(len(lows), len(highs)) if dim is None else dim
        for name, bound in (("low", lows), ("high", highs)):
            if len(bound) not in (1, size):
                raise ValueError(f"{name}: expected 1 or {size} numbers, got {len(bound)}")
            if not bound.isfinite().all():
                raise ValueError(
                    f"{name}: expected finite bounds, got {bound.tolist()}; "
                    "planners sample between the bounds, so rescale or clip the action space first"
                )
        if not (lows < highs).all():
            raise ValueError(
                f"low: expected less than high in every dimension, got {lows.tolist()} and {highs.tolist()}"
            )
        self.low: Float[Tensor, "act"] = lows.expand(size).clone()
        self.high: Float[Tensor, "act"] = highs.expand(size).clone()
        alike = bool((self.low == self.low[0]).all() and (self.high == self.high[0]).all())
        self._alike = (float(self.low[0]), float(self.high[0])) if alike else None

    @classmethod
    def from_space(cls, space: Any) -> Box:
        """The bounds of a `gymnasium.spaces.Box` of one dimension.

        Raises:
            ValueError: the space is of another kind (discrete ones need tree search), not flat, or unbounded.
        """
        if getattr(space, "n", None) is not None:
            raise ValueError(
                f"space: expected a gymnasium.spaces.Box, got {space}; for discrete actions use tree search: "
                "UCT, PUCT or Gumbel of planners.mcts"
            )
        low, high = getattr(space, "low", None), getattr(space, "high", None)
        if low is None or high is None:
            raise ValueError(f"space: expected a gymnasium.spaces.Box with finite bounds, got {space}")
        if low.ndim != 1:
            raise ValueError(f"space: expected one dimension, got shape {list(low.shape)}; flatten the actions first")
        return cls(low.tolist(), high.tolist())

    @property
    def dim(self) -> int:
        """Number of action dimensions."""
        return len(self.low)

    @property
    def center(self) -> Float[Tensor, "act"]:
        return (self.low + self.high) / 2

    @property
    def range(self) -> Float[Tensor, "act"]:
        return self.high - self.low

    def clamp(self, actions: Float[Tensor, "*batch act"]) -> Float[Tensor, "*batch act"]:
        """The nearest actions within the bounds, in the dtype and on the device of `actions`."""
        if self._alike:  # several times as fast as with bounds of each dimension
            return actions.clamp(*self._alike)
        return torch.minimum(torch.maximum(actions, self.low.to(actions)), self.high.to(actions))

    def __repr__(self) -> str:
        return f"Box(low={self.low.tolist()}, high={self.high.tolist()})"
