"""Plans that a policy proposes: candidates of a sampling planner, from rolling the policy out in the model.

Source: TD-MPC2 (Hansen et al. 2024), section 3.2, https://arxiv.org/abs/2310.16828.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from planners.checks import check_sizes
from planners.problem import Problem
from planners.rows import first_leaf, repeat_rows


@dataclass(frozen=True)
class Proposals:
    """Candidates from a policy.

    Args:
        policy: `policy(obs, generator)` -> actions, [rows, obs] -> [rows, act]; draws, if any, from the generator.
        plans: how many rollouts a plan gets; they are candidates in each of its iterations.

    Raises:
        ValueError: `plans` is below 1.
    """

    policy: Callable[[Tensor, Generator], Tensor]
    plans: int

    def __post_init__(self) -> None:
        check_sizes(plans=self.plans)


def propose(
    proposals: Proposals, problem: Problem, start: Any, shape: tuple[int, int], *, generator: Generator
) -> Float[Tensor, "batch plans horizon act"]:
    """The actions of rolling the policy out from `start` [batch, ...], each rollout on a particle of its own.

    Args:
        proposals: policy and number of rollouts.
        problem: with the model.
        start: states, [batch, ...].
        shape: horizon and number of action dimensions.
        generator: source of all randomness.

    Raises:
        ValueError: the policy returned the wrong shape.
    """
    # Observations that are not finite are replaced by the last ones that were: such rows are invalid, or have ended.
    dynamics, plans = problem.dynamics, proposals.plans
    state = dynamics.assign(repeat_rows(start, plans), problem.particles, generator=generator)
    actions, (horizon, dim) = [], shape
    obs = torch.zeros_like(dynamics.observe(state))
    for _ in range(horizon):
        seen = dynamics.observe(state)
        obs = torch.where(seen.isfinite().all(1, keepdim=True), seen, obs)  # a policy may refuse what is not finite
        action = proposals.policy(obs, generator)
        if action.shape != (len(obs), dim):
            raise ValueError(f"policy: expected actions of shape {[len(obs), dim]}, got {list(action.shape)}")
        action = action.to(first_leaf(start))
        actions.append(action)
        state, _ = dynamics.step(state, action, generator=generator)
    stacked = torch.stack(actions, dim=1)
    return stacked.view(-1, plans, *stacked.shape[1:])
