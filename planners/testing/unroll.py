"""The laws of what a model may offer beside its steps, for speed: `unroll` and `endless`."""

from typing import Any

import torch
from torch import Tensor

from planners.dynamics import Dynamics, Step
from planners.testing.laws import no_global_randomness, require, require_same, seeded
from planners.unroll import steps_at_once


def check_shortcuts(dynamics: Dynamics[Any], state: Any, actions: Tensor, *, seed: int) -> None:
    """`unroll`, where there is one, equals the steps one by one, draws included; an `endless` model never terminates.

    Args:
        dynamics: the part to check.
        state: states, rows leading, particles assigned.
        actions: one step after the other, [steps, rows, ...].
        seed: of the generators.

    Raises:
        AssertionError: a law is broken.
    """
    one_by_one, together = seeded(seed, actions.device), seeded(seed, actions.device)
    taken, after = [], state
    for action in actions:
        after, step = dynamics.step(after, action, generator=one_by_one)
        taken.append(step)
    steps = Step(*(torch.stack(parts) for parts in zip(*taken, strict=True)))
    if getattr(dynamics, "endless", False):
        require(not bool(steps.terminated.any()), "An endless model never terminates, and a step did.")
    if steps_at_once(dynamics, 1) == 1:
        return
    with no_global_randomness("unroll"):
        result = dynamics.unroll(state, actions, generator=together)  # type: ignore[attr-defined]
    require_same("unroll equals the steps one by one", "(state, Step) of unroll", tuple(result), (after, steps))
    same = torch.equal(one_by_one.get_state(), together.get_state())
    require(same, "unroll equals the steps one by one: it draws another number of times.")
