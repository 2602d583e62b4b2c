"""The cross-entropy method: fit a Gaussian over action sequences to the best of its own samples, again and again."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from planners.box import Box
from planners.checks import check_sizes
from planners.sampling.checks import (
    check_at_least,
    check_elites,
    check_positive,
    check_sequences,
    check_share,
)
from planners.sampling.elites import best_elites, elite_weights, fit_gaussian
from planners.sampling.knots import Knots
from planners.sampling.noise import truncated_normal
from planners.sampling.proposals import Proposals
from planners.sampling.search import SamplingMemory, SamplingPlanner


@dataclass(frozen=True)
class CEM(SamplingPlanner):
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
        knots: how few values make a sequence; None: an action for each step.
        proposals: candidates from a policy.

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
    knots: Knots | None = None
    proposals: Proposals | None = None
    executes = "mean"
    repeat_last = False

    def __post_init__(self) -> None:
        check_sequences(self)
        check_sizes(population=self.population, elites=self.elites)
        check_elites(self.elites, self.population)
        check_share(alpha=self.alpha)
        check_positive(initial_std=self.initial_std)
        check_at_least(0, min_variance=self.min_variance)
        if self.min_variance > self.initial_std**2:
            raise ValueError(
                f"min_variance: expected at most initial_std squared ({self.initial_std**2:.3g}), or no iteration "
                f"would run, got {self.min_variance}; 0 never stops early"
            )

    def sample(self, memory: SamplingMemory, iteration: int, *, generator: Generator) -> Tensor:
        """Within two standard deviations and therefore, up to rounding, within the bounds."""
        mean = memory.mean
        to_low, to_high = mean - self.box.low.to(mean), self.box.high.to(mean) - mean
        capped = torch.minimum(memory.variance, torch.minimum(to_low, to_high).div(2).square())
        shape = (len(mean), self.population, *mean.shape[1:])
        noise = truncated_normal(shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean.unsqueeze(1) + capped.sqrt().unsqueeze(1) * noise

    def update(self, memory: SamplingMemory, candidates: Tensor, scores: Tensor) -> tuple[SamplingMemory, Tensor]:
        elites = best_elites(candidates, scores, self.elites)
        mean, variance = fit_gaussian(elites, memory, self.alpha)
        return memory._replace(mean=mean, variance=variance), elite_weights(elites, scores)
