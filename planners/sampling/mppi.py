"""Model predictive path integral control: the mean of disturbed plans, weighted by `exp(return / lambda)`."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from planners.box import Box
from planners.checks import check_sizes, is_whole
from planners.sampling.checks import check_at_least, check_positive, check_sequences
from planners.sampling.knots import Knots
from planners.sampling.noise import colored_noise
from planners.sampling.proposals import Proposals
from planners.sampling.search import SamplingMemory, SamplingPlanner, weighted_sum

_BISECTIONS = 40


@dataclass(frozen=True)
class MPPI(SamplingPlanner):
    """MPPI within a box.

    Source: Williams et al. (2017), algorithm 2, https://arxiv.org/abs/1707.02342. Deviations: no cost of the
    disturbance itself (its weight is 0 there as a rule); the nominal plan is a candidate; disturbed plans are clamped
    to the box before they are scored and averaged. With `elites` and `min_std` it is TD-MPC2's planner (Hansen et al.
    2024, https://arxiv.org/abs/2310.16828; 512 samples, 64 elites, 24 proposals, horizon 3, 6 iterations, lambda 2,
    standard deviation 0.05 to 2).

    Args:
        box: action bounds.
        horizon: length of the sequences, in steps.
        population: sequences drawn per iteration.
        iterations: at most; `stop` is asked in between.
        temperature: lambda, in units of return. None: chosen for each plan so that `effective_samples` is met.
        effective_samples: target of `1 / sum(weights^2)` where `temperature` is None.
        initial_std: standard deviation of the disturbance, in units of the half range.
        beta: exponent of the disturbance's spectrum, see `colored_noise`; 0 is white.
        elites: only this many of the best have weight; None: all.
        min_std: the standard deviation follows the weighted candidates, from `initial_std` down to this, in units of
            the half range; None: it stays.
        score_mean: whether the plan, which is no candidate, is rolled out at the end for its value and validity. False
            saves that time: the value is then the weighted mean of the candidates' scores.
        knots: how few values make a sequence; None: an action for each step.
        proposals: candidates from a policy.

    Raises:
        ValueError: a number is out of range.
    """

    box: Box
    horizon: int
    population: int = 512
    iterations: int = 1
    temperature: float | None = None
    effective_samples: float = 10.0
    initial_std: float = 0.5
    beta: float = 0.0
    elites: int | None = None
    min_std: float | None = None
    score_mean: bool = True
    knots: Knots | None = None
    proposals: Proposals | None = None
    executes = "mean"

    def __post_init__(self) -> None:
        check_sequences(self)
        check_sizes(population=self.population)
        check_positive(initial_std=self.initial_std)
        if self.temperature is not None:
            check_positive(temperature=self.temperature)
        if self.min_std is not None:
            check_positive(min_std=self.min_std)
            if self.min_std > self.initial_std:
                raise ValueError(f"min_std: expected at most initial_std ({self.initial_std}), got {self.min_std}")
        check_at_least(0, beta=self.beta)
        among = self.population if self.elites is None else self.elites
        if not (is_whole(among) and 1 <= among <= self.population):
            size = self.population
            raise ValueError(f"elites: expected 1 to the population of {size}, a whole number, got {self.elites}")
        if self.temperature is None and not 1 <= self.effective_samples <= among:
            raise ValueError(f"effective_samples: expected 1 to {among}, got {self.effective_samples}")

    def sample(self, memory: SamplingMemory, iteration: int, *, generator: Generator) -> Tensor:
        mean = memory.mean.unsqueeze(1)
        shape = (len(mean), self.population + 1, *mean.shape[2:])
        noise = colored_noise(shape, self.beta, generator=generator, device=mean.device, dtype=mean.dtype)
        noise[:, 0] = 0.0  # the nominal plan
        return torch.addcmul(mean, noise, memory.variance.sqrt().unsqueeze(1))

    def update(self, memory: SamplingMemory, candidates: Tensor, scores: Tensor) -> tuple[SamplingMemory, Tensor]:
        weights = self._weights(scores)
        used = (weights.sum(1) > 0)[:, None, None]
        mean = torch.where(used, weighted_sum(weights, candidates), memory.mean)
        if self.min_std is None:
            return memory._replace(mean=mean), weights
        half = self.box.range.to(mean) / 2
        variance = weighted_sum(weights, (candidates - mean.unsqueeze(1)).square())
        low, high = (self.min_std * half).square(), (self.initial_std * half).square()
        variance = torch.where(used, torch.minimum(torch.maximum(variance, low), high), memory.variance)
        return memory._replace(mean=mean, variance=variance), weights

    def _weights(self, scores: Float[Tensor, "batch plans"]) -> Float[Tensor, "batch plans"]:
        if self.elites is not None:
            best = scores.topk(self.elites, dim=1)
            scores = torch.full_like(scores, -torch.inf).scatter(1, best.indices, best.values)
        if self.temperature is None:
            return weights_of_size(scores, self.effective_samples)
        return softmax_weights(scores, torch.full_like(scores[:, :1], self.temperature))


def softmax_weights(
    scores: Float[Tensor, "batch plans"], temperature: Float[Tensor, "batch 1"]
) -> Float[Tensor, "batch plans"]:
    """`softmax(scores / temperature)` over valid plans; 0 everywhere where none is valid."""
    valid = scores.isfinite()
    best = torch.where(valid, scores, -torch.inf).amax(1, keepdim=True)
    raw = torch.where(valid, ((scores - best) / temperature).exp(), 0.0)
    return raw / raw.sum(1, keepdim=True).clamp(min=1.0)  # the best one counts 1


def weights_of_size(scores: Float[Tensor, "batch plans"], effective_samples: float) -> Float[Tensor, "batch plans"]:
    """Softmax weights of the temperature at which `1 / sum(weights^2)` is `effective_samples`, by bisection.

    The size grows with the temperature, from the number of best plans to the number of valid ones; a target outside
    gives the nearer end.
    """
    valid = scores.isfinite()
    best = torch.where(valid, scores, -torch.inf).amax(1, keepdim=True)
    gap = torch.where(valid, best - scores, torch.inf)
    # A single bad plan may be many orders of magnitude below the others: the bracket begins at the smallest gap.
    tiny = torch.finfo(scores.dtype).tiny
    widest = torch.where(valid, gap, 0.0).amax(1, keepdim=True).clamp(min=tiny)
    smallest = torch.where(gap > 0, gap, torch.inf).amin(1, keepdim=True).minimum(widest)
    low, high = (smallest * 1e-2).clamp(min=tiny).log(), (widest * 1e3).log()
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        raw = (gap / -middle.exp()).exp()
        small = raw.sum(1, keepdim=True).square() < effective_samples * raw.square().sum(1, keepdim=True)
        low, high = torch.where(small, middle, low), torch.where(small, high, middle)
    return softmax_weights(scores, high.exp())
