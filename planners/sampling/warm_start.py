"""What sampling planners carry from one step to the next, and how a plan is executed."""

import torch
from jaxtyping import Float
from torch import Tensor

from planners.box import Box
from planners.planner import Plan


def shift(actions: Float[Tensor, "batch horizon act"], box: Box) -> Float[Tensor, "batch horizon act"]:
    """Drop the executed first action; the new last one is the centre of the box."""
    last = box.center.to(actions).expand_as(actions[:, :1])
    return torch.cat([actions[:, 1:], last], dim=1)


def action_at(plan: Plan, age: Tensor) -> Tensor:
    """Row i's action `age[i]` steps after the plan was made: open loop, whatever the state has become."""
    return plan.actions[torch.arange(len(age), device=age.device), age]
