"""Telling states apart: by a 64-bit key within a tree, and up to rounding between one plan and the next."""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from planners.dynamics import Step
from planners.rows import leaves

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_ODD = (-7046029254386353131, -4658895280553007687, -7723592293110705685)  # splitmix64's, as signed numbers
TOLERANCE = 1e-5
"""Relative and absolute: numbers of two states that differ by less are the same, up to rounding."""


def outcome_key(state: Any, step: Step) -> Int[Tensor, "rows"]:
    """A hash of the next state, the reward and the end: equal for equal outcomes, bit by bit (0.0 equals -0.0).

    Different outcomes of one edge share a key with a probability of 2^-64 each, and would then be taken for one.
    """
    key = torch.zeros_like(step.terminated, dtype=torch.int64)
    for leaf in (*leaves(state), step.reward, step.terminated):
        number = leaf + 0.0 if leaf.is_floating_point() else leaf.contiguous()
        words = number.view(_BITS[number.element_size()]).flatten(1) if number.dim() > 1 else _column(number)
        place = torch.arange(1, words.shape[1] + 1, device=words.device)
        key = _mix(key * _ODD[0] + _mix(words.long() + place * _ODD[0]).sum(1))
    return key


def _column(number: Tensor) -> Tensor:
    return number.view(_BITS[number.element_size()])[:, None]


def _mix(x: Tensor) -> Tensor:
    """A permutation of 64-bit numbers that spreads every bit over all (the finaliser of splitmix64)."""
    for shift, factor in ((30, _ODD[1]), (27, _ODD[2])):
        x = (x ^ _logical_shift(x, shift)) * factor
    return x ^ _logical_shift(x, 31)


def _logical_shift(x: Tensor, by: int) -> Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)


def same_state(one: Any, other: Any, *, tolerance: float = TOLERANCE) -> Bool[Tensor, "rows"]:
    """Whether whole states agree, not what is observed of them alone: floating-point numbers up to `tolerance`."""
    pairs = list(zip(leaves(one), leaves(other), strict=True))
    same = torch.ones(len(pairs[0][0]), dtype=torch.bool, device=pairs[0][0].device)
    for x, y in pairs:
        real = x.is_floating_point()
        equal = torch.isclose(x, y.to(x), rtol=tolerance, atol=tolerance) if real else x == y
        same = same & equal.flatten(1).all(1) if equal.dim() > 1 else same & equal
    return same
