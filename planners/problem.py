"""The problem that planners solve: maximise the expected discounted return of a sequence of actions,

    sum over t < horizon of discount^t r_t  +  discount^horizon V(obs_horizon),

where nothing counts after an end, under a model that may be uncertain (particles, and a risk measure over them).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from planners.checks import check_sizes
from planners.dynamics import Dynamics, Step
from planners.risk import Risk, mean
from planners.rows import repeat_rows
from planners.unroll import steps_at_once, unroll


@dataclass(frozen=True)
class Problem:
    """What is to be maximised.

    Args:
        dynamics: the model.
        discount: per step, in (0, 1].
        terminal_value: value of the last observation, [rows, obs] -> [rows]; None: zero.
        particles: rollouts of each plan; more than one where the dynamics are stochastic or uncertain.
        risk: makes one score of the particles' returns.

    Raises:
        ValueError: a number is out of range.
    """

    dynamics: Dynamics[Any]
    discount: float = 1.0
    terminal_value: Callable[[Tensor], Tensor] | None = None
    particles: int = 1
    risk: Risk = mean

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount: expected a number in (0, 1], got {self.discount}")
        check_sizes(particles=self.particles)
        if not hasattr(self.dynamics, "step"):
            raise ValueError(f"dynamics: expected a model, got {self.dynamics}; wrap functions as FunctionDynamics")


class Evaluation(NamedTuple):
    """The result of rolling out plans."""

    scores: Float[Tensor, "batch plans"]
    """-inf where the plan is invalid."""
    valid: Bool[Tensor, "batch plans"]
    """False: a particle met something that is not finite while it was alive."""


def evaluate_plans(
    problem: Problem, start: Any, actions: Float[Tensor, "batch plans horizon act"], *, generator: Generator
) -> Evaluation:
    """Roll every plan out from its batch element's start, open loop, and score it.

    Rows are batch x plans x particles, particle fastest. A row is invalid if it was alive before a step that returned
    a non-finite observation or reward; what happens after an end counts for nothing.

    Args:
        start: states, [batch, ...].
        actions: plans to score.
        generator: source of all randomness.

    Raises:
        ValueError: there are no plans, or they have no steps; the terminal value or the risk measure returned the wrong
            shape.
    """
    batch, plans, horizon, _ = actions.shape
    check_sizes(batch=batch, plans=plans, horizon=horizon)
    particles = problem.particles
    state = repeat_rows(start, plans * particles)
    state = problem.dynamics.assign(state, particles, generator=generator)
    by_step = repeat_rows(actions.flatten(0, 1), particles).transpose(0, 1).contiguous()  # [horizon, rows, act]

    rows = batch * plans * particles
    returns = actions.new_zeros(rows)
    endless = getattr(problem.dynamics, "endless", False)
    alive = torch.ones(rows, dtype=torch.bool, device=actions.device)
    weight = 1.0
    for block in by_step.split(steps_at_once(problem.dynamics, rows)):
        state, steps = unroll(problem.dynamics, state, block, generator=generator)
        for reward, ended in zip(_marked(steps).unbind(0), steps.terminated.unbind(0), strict=True):
            returns = returns.add(reward if endless else torch.where(alive, reward, 0.0), alpha=weight)
            alive = alive if endless else alive > ended
            weight *= problem.discount
    if problem.terminal_value is not None:
        obs = steps.obs[-1]
        value = problem.terminal_value(obs)
        if value.shape != returns.shape:
            raise ValueError(f"terminal_value: expected shape [{rows}], one number a row, got {list(value.shape)}")
        last = _marked(Step(obs, value, alive))
        returns = returns.add(torch.where(alive, last, 0.0), alpha=weight)

    shape = (batch, plans, particles)
    valid = returns.isfinite().view(shape)
    returns = torch.where(valid, returns.view(shape), 0.0)
    scores = problem.risk(returns, valid)
    if scores.shape != shape[:2]:
        raise ValueError(f"risk: expected scores of shape {list(shape[:2])}, got {list(scores.shape)}")
    scores = scores.to(actions.dtype)  # rewards and terminal values may be finer
    valid = valid.all(-1) & scores.isfinite()
    return Evaluation(torch.where(valid, scores, -torch.inf), valid)


def _marked(step: Step) -> Tensor:
    """The reward [..., rows]; not finite where the observation is not.

    A sum is not finite if a term is not, and nothing that is added later makes a return finite again: so the returns
    carry the mark of an invalid row, and no mask has to be kept beside them from step to step.
    """
    obs, reward = step.obs, step.reward
    if obs.dtype == reward.dtype:  # one pass over the observations: 0 times what is not finite is NaN
        zeros = obs.new_zeros(obs.shape[-1])
        return torch.addmv(reward.flatten(), obs.flatten(0, -2), zeros).view(reward.shape)
    return torch.add(reward, obs.sum(-1), alpha=0)
