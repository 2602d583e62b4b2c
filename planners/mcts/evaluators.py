"""What tree search asks about a state: priors, a value, the valid actions, and who is to move."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from planners.mcts.model import take_step
from planners.problem import Problem
from planners.rows import repeat_rows


class Leaf(NamedTuple):
    """An evaluation of states, rows leading."""

    logits: Float[Tensor, "rows actions"]
    """Prior preferences: probabilities are their softmax over the valid actions. -inf: the action can't be taken, as if
    `mask` said so."""
    value: Float[Tensor, "rows"]
    """Estimate of the discounted return from here on, in the sense of the model's rewards whoever is to move. Not
    finite: the state is invalid, and no plan goes there."""
    mask: Bool[Tensor, "rows actions"] | None = None
    """Actions that can be taken; None: all."""
    sign: Float[Tensor, "rows"] | None = None
    """1 where the side to move maximises the model's rewards, -1 where it minimises them; None: 1 everywhere."""


class Evaluator(Protocol):
    """Evaluates states. Rows are independent; the number of draws depends on the number of rows alone."""

    def evaluate(self, state: Any, obs: Float[Tensor, "rows obs"], *, generator: Generator) -> Leaf:
        """The evaluation of `state`, whose observation is `obs`."""


RolloutPolicy = Callable[[Tensor, Generator], Tensor]


@dataclass(frozen=True)
class Rollouts:
    """Values by rollouts of a default policy, with equal priors: the evaluation of plain UCT.

    The value is the mean over `count` rollouts of `sum over t < depth of discount^t r_t + discount^depth V(obs_depth)`,
    with the problem's terminal value V; at `depth=0` it is V alone. A rollout ends before a step that is not finite:
    whether such a step can be avoided is for the search to find out. Source: Kocsis and Szepesvari (2006),
    https://doi.org/10.1007/11871842_29.

    Args:
        problem: gives model, discount and terminal value.
        actions: number of actions.
        depth: steps of a rollout.
        count: rollouts of each state.
        policy: `policy(obs, generator)` -> long [rows]; None: valid actions with equal probability.
        mask: `mask(obs)` -> bool [rows, actions], the valid actions; None: all.
        sign: `sign(obs)` -> [rows], 1 where the side to move maximises rewards and -1 where it minimises; None: 1.
        stochastic: draw the model's steps; False: its mean transition.

    Raises:
        ValueError: a number is out of range.
    """

    problem: Problem
    actions: int
    depth: int
    count: int = 1
    policy: RolloutPolicy | None = None
    mask: Callable[[Tensor], Tensor] | None = None
    sign: Callable[[Tensor], Tensor] | None = None
    stochastic: bool = False

    def __post_init__(self) -> None:
        if self.actions < 1 or self.depth < 0 or self.count < 1:
            raise ValueError(
                f"actions, depth, count: expected at least 1, 0 and 1, got {self.actions}, {self.depth}, {self.count}"
            )

    def evaluate(self, state: Any, obs: Float[Tensor, "rows obs"], *, generator: Generator) -> Leaf:
        mask = None if self.mask is None else self.mask(obs)
        sign = None if self.sign is None else self.sign(obs).to(obs)
        count = self.count if self.depth else 1
        if count > 1:
            state, obs = repeat_rows(state, count), repeat_rows(obs, count)
        value = self._returns(state, obs, generator).view(-1, count).mean(1)
        return Leaf(value.new_zeros(len(value), self.actions), value, mask, sign)

    def _returns(self, state: Any, obs: Tensor, generator: Generator) -> Tensor:
        returns = obs.new_zeros(len(obs))
        going = torch.ones(len(obs), dtype=torch.bool, device=obs.device)
        ended = ~going
        weight = torch.ones_like(returns)  # of the reward or value that comes next, row by row
        for _ in range(self.depth):
            action = self._draw(obs, generator)
            state, step = take_step(self.problem, state, action, generator if self.stochastic else None)
            going = going & (step.reward + 0 * step.obs.sum(-1)).isfinite()
            returns = returns + torch.where(going, weight * step.reward, 0.0)
            weight = torch.where(going, weight * self.problem.discount, weight)
            obs = torch.where(going[:, None], step.obs, obs)
            ended = ended | (going & step.terminated)
            going = going & ~step.terminated
            if not bool(going.any()):
                break
        if self.problem.terminal_value is None:
            return returns
        return returns + torch.where(ended, 0.0, weight * self.problem.terminal_value(obs))

    def _draw(self, obs: Tensor, generator: Generator) -> Tensor:
        if self.policy is not None:
            return self.policy(obs, generator)
        if self.mask is None:
            return torch.randint(self.actions, (len(obs),), generator=generator, device=obs.device)
        # The largest of uniform numbers over the valid actions: where none is valid, action 0, which goes unused.
        luck = torch.rand(len(obs), self.actions, generator=generator, device=obs.device)
        return torch.where(self.mask(obs), luck, -1.0).argmax(1)
