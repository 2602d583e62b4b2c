"""Several steps of a model in one call, where it offers that: small models spend their time between operations."""

from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from planners.dynamics import Dynamics, FunctionDynamics, Step

State = TypeVar("State")

_UNROLLED_ROWS = 2**16
"""Rows times steps of an `unroll`."""


def steps_at_once(dynamics: Dynamics[Any], rows: int) -> int:
    """How many steps to ask `unroll` for: as many as keep its tensors small, and 1 where the model has none."""
    return max(1, _UNROLLED_ROWS // rows) if _has_unroll(dynamics) else 1


def unroll(
    dynamics: Dynamics[State], state: State, actions: Float[Tensor, "steps rows act"], *, generator: Generator
) -> tuple[State, Step]:
    """Take steps; the result's tensors have steps in front."""
    if _has_unroll(dynamics):
        return dynamics.unroll(state, actions, generator=generator)  # type: ignore[attr-defined]
    taken = []
    for action in actions.unbind(0):
        state, step = dynamics.step(state, action, generator=generator)
        taken.append(step)
    if len(taken) == 1:
        return state, Step(*(part.unsqueeze(0) for part in taken[0]))
    return state, Step(*(torch.stack(parts) for parts in zip(*taken, strict=True)))


def _has_unroll(dynamics: Any) -> bool:
    # A subclass of FunctionDynamics with a `step` of its own has not said how to take several.
    own_step = isinstance(dynamics, FunctionDynamics) and type(dynamics).step is not FunctionDynamics.step
    return hasattr(dynamics, "unroll") and not own_step
