"""Random shooting: the best of many uniformly drawn action sequences."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from planners.box import Box
from planners.planner import Plan, never
from planners.problem import Problem, evaluate_plans
from planners.rows import first_leaf
from planners.sampling.checks import check_sizes
from planners.sampling.warm_start import action_at, shift


class RandomShootingMemory(NamedTuple):
    actions: Float[Tensor, "batch horizon act"]
    """The best sequence so far: a candidate of the next plan."""


class RandomShootingInfo(NamedTuple):
    spread: Float[Tensor, "batch"]
    """Standard deviation of the last iteration's valid scores; 0 with fewer than two."""


@dataclass(frozen=True)
class RandomShooting:
    """Random shooting within a box.

    Source: Nagabandi et al. (2018), section IV-C, https://arxiv.org/abs/1708.02596. Deviation: the best sequence of the
    previous step, shifted, is one more candidate.

    Args:
        box: action bounds.
        horizon: length of the sequences, in steps.
        population: sequences drawn per iteration.
        iterations: how many times a population is drawn; `stop` is asked in between.

    Raises:
        ValueError: a number is below 1.
    """

    box: Box
    horizon: int
    population: int
    iterations: int = 1

    def __post_init__(self) -> None:
        check_sizes(horizon=self.horizon, population=self.population, iterations=self.iterations)

    def init(self, problem: Problem, start: Any, *, generator: Generator) -> RandomShootingMemory:
        like = first_leaf(start)
        return RandomShootingMemory(self.box.center.to(like).repeat(len(like), self.horizon, 1))

    def plan(
        self,
        problem: Problem,
        start: Any,
        memory: RandomShootingMemory,
        *,
        generator: Generator,
        stop: Callable[[], bool] = never,
    ) -> Plan:
        actions = memory.actions
        # Not drawn from `generator`, so that evaluating the warm start does not move the draws of the iterations.
        first = evaluate_plans(problem, start, actions.unsqueeze(1), generator=generator.clone_state())
        value, spread = first.scores[:, 0], torch.zeros_like(first.scores[:, 0])
        low, span = self.box.low.to(actions), self.box.range.to(actions)
        for _ in range(self.iterations):
            if stop():
                break
            shape = (len(actions), self.population, self.horizon, self.box.dim)
            uniform = torch.rand(shape, generator=generator, device=actions.device, dtype=actions.dtype)
            candidates = low + span * uniform
            scores = evaluate_plans(problem, start, candidates, generator=generator).scores
            best = scores.argmax(1)
            rows = torch.arange(len(actions), device=actions.device)
            better = scores[rows, best] > value
            actions = torch.where(better[:, None, None], candidates[rows, best], actions)
            value = torch.where(better, scores[rows, best], value)
            spread = _spread(scores)
        return Plan(actions, value, value.isfinite(), RandomShootingMemory(actions), RandomShootingInfo(spread))

    def advance(
        self, problem: Problem, memory: RandomShootingMemory, action: Tensor, start: Any
    ) -> RandomShootingMemory:
        return RandomShootingMemory(shift(memory.actions, self.box))

    def action(self, problem: Problem, plan: Plan, age: Tensor, state: Any) -> Tensor:
        return action_at(plan, age)


def _spread(scores: Tensor) -> Tensor:
    valid = scores.isfinite()
    count = valid.sum(1).clamp(min=1)
    mean = torch.where(valid, scores, 0.0).sum(1) / count
    return (torch.where(valid, scores - mean[:, None], 0.0).square().sum(1) / count).sqrt()
