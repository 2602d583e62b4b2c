"""The cross-entropy method: fit a Gaussian over action sequences to the best of its own samples, again and again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from planners.box import Box
from planners.planner import Plan, never
from planners.problem import Problem, evaluate_plans
from planners.rows import first_leaf
from planners.sampling.checks import check_sizes
from planners.sampling.noise import truncated_normal
from planners.sampling.warm_start import action_at, shift


class CEMMemory(NamedTuple):
    """The Gaussian, independent over steps and action dimensions."""

    mean: Float[Tensor, "batch horizon act"]
    variance: Float[Tensor, "batch horizon act"]


class CEMInfo(NamedTuple):
    iterations: Int[Tensor, "batch"]
    """Iterations before the variance fell below its threshold or the planner was stopped."""
    std: Float[Tensor, "batch"]
    """Mean standard deviation left, in units of the half range of the actions."""


class _Search(NamedTuple):
    mean: Tensor
    variance: Tensor
    best: Tensor  # [batch, horizon, act], the best candidate
    score: Tensor  # [batch], its score
    iterations: Tensor


@dataclass(frozen=True)
class CEM:
    """CEM as PETS uses it: truncated samples, smoothed mean and variance, and the mean is what is executed.

    Source: Chua et al. (2018), https://arxiv.org/abs/1805.12114, and its published code for the settings. Deviation:
    invalid candidates are left out of the elites, and with fewer than two valid ones the Gaussian stays as it is.

    Args:
        box: action bounds.
        horizon: length of the sequences, in steps.
        population: sequences drawn per iteration.
        elites: how many of the best the Gaussian is fitted to.
        iterations: at most; `stop` is asked in between.
        alpha: weight of the old mean and the old variance in the new ones, in [0, 1).
        initial_std: standard deviation before the first iteration of a step, in units of the half range.
        min_variance: an element stops when its largest variance, in units of the half range squared, is below this.

    Raises:
        ValueError: a number is out of range, or there are more elites than samples.
    """

    box: Box
    horizon: int
    population: int = 400
    elites: int = 40
    iterations: int = 5
    alpha: float = 0.1
    initial_std: float = 0.5
    min_variance: float = 1e-3

    def __post_init__(self) -> None:
        check_sizes(horizon=self.horizon, population=self.population, elites=self.elites, iterations=self.iterations)
        if self.elites > self.population:
            raise ValueError(f"elites: expected at most the population of {self.population}, got {self.elites}")
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha: expected a number in [0, 1), got {self.alpha}")
        if not self.initial_std > 0:
            raise ValueError(f"initial_std: expected a positive number, got {self.initial_std}")

    def init(self, problem: Problem, start: Any, *, generator: Generator) -> CEMMemory:
        like = first_leaf(start)
        mean = self.box.center.to(like).repeat(len(like), self.horizon, 1)
        return CEMMemory(mean, self._initial_variance(mean))

    def plan(
        self,
        problem: Problem,
        start: Any,
        memory: CEMMemory,
        *,
        generator: Generator,
        stop: Callable[[], bool] = never,
    ) -> Plan:
        mean, variance = memory
        search = _Search(
            mean, variance, mean, mean.new_full((len(mean),), -torch.inf), mean.new_zeros(len(mean)).long()
        )
        threshold = self.min_variance * self._half_range(mean) ** 2
        # For the final score: its draws must not move those of the iterations, so that two plans of n iterations draw
        # what one of 2n draws, nor be moved by them, as how many there are depends on other batch elements.
        final_generator = generator.clone_state()
        for _ in range(self.iterations):
            active = (search.variance >= threshold).flatten(1).any(1)
            if stop() or not active.any():
                break
            search = self._iterate(problem, start, search, active, generator)
        final = evaluate_plans(problem, start, search.mean.unsqueeze(1), generator=final_generator)
        use_mean = final.valid[:, 0]
        return Plan(
            actions=torch.where(use_mean[:, None, None], search.mean, search.best),
            value=torch.where(use_mean, final.scores[:, 0], search.score),
            valid=use_mean | search.score.isfinite(),
            memory=CEMMemory(search.mean, search.variance),
            info=CEMInfo(search.iterations, (search.variance.sqrt() / self._half_range(mean)).mean((1, 2))),
        )

    def advance(self, problem: Problem, memory: CEMMemory, action: Tensor, start: Any) -> CEMMemory:
        return CEMMemory(shift(memory.mean, self.box), self._initial_variance(memory.mean))

    def action(self, problem: Problem, plan: Plan, age: Tensor, state: Any) -> Tensor:
        return action_at(plan, age)

    def _iterate(self, problem: Problem, start: Any, search: _Search, active: Tensor, generator: Generator) -> _Search:
        candidates = self._sample(search.mean, search.variance, generator)
        scores = evaluate_plans(problem, start, candidates, generator=generator).scores
        mean, variance = self._update(search, candidates, scores)
        top, index = scores.max(1)
        rows = torch.arange(len(scores), device=scores.device)
        better = active & (top > search.score)
        return _Search(
            mean=torch.where(active[:, None, None], mean, search.mean),
            variance=torch.where(active[:, None, None], variance, search.variance),
            best=torch.where(better[:, None, None], candidates[rows, index], search.best),
            score=torch.where(better, top, search.score),
            iterations=search.iterations + active.long(),
        )

    def _sample(self, mean: Tensor, variance: Tensor, generator: Generator) -> Tensor:
        """[batch, population, horizon, act], within two standard deviations and therefore within the bounds."""
        to_low, to_high = mean - self.box.low.to(mean), self.box.high.to(mean) - mean
        capped = torch.minimum(variance, torch.minimum(to_low, to_high).div(2).square())
        shape = (len(mean), self.population, *mean.shape[1:])
        noise = truncated_normal(shape, generator=generator, device=mean.device, dtype=mean.dtype)
        # The clamp only takes away what rounding adds.
        return self.box.clamp(mean.unsqueeze(1) + capped.sqrt().unsqueeze(1) * noise)

    def _update(self, search: _Search, candidates: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        elite_scores, index = scores.topk(self.elites, dim=1)
        elites = candidates[torch.arange(len(scores), device=scores.device).unsqueeze(1), index]
        weight = elite_scores.isfinite().to(elites.dtype)[:, :, None, None]
        count = weight.sum(1)
        mean = (weight * elites).sum(1) / count.clamp(min=1)
        variance = (weight * (elites - mean.unsqueeze(1)).square()).sum(1) / count.clamp(min=1)
        enough = count >= 2
        mean = torch.where(enough, torch.lerp(mean, search.mean, self.alpha), search.mean)
        variance = torch.where(enough, torch.lerp(variance, search.variance, self.alpha), search.variance)
        return mean, variance

    def _half_range(self, like: Tensor) -> Tensor:
        return self.box.range.to(like) / 2

    def _initial_variance(self, mean: Tensor) -> Tensor:
        return (self.initial_std * self._half_range(mean)).square().expand_as(mean).clone()
