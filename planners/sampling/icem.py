"""The improved cross-entropy method: CEM with coloured noise, kept elites and a shrinking population, for real time."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from planners.box import Box
from planners.checks import check_sizes, is_whole
from planners.sampling.checks import (
    check_at_least,
    check_elites,
    check_positive,
    check_sequences,
    check_share,
)
from planners.sampling.elites import best_elites, elite_weights, fit_gaussian
from planners.sampling.knots import Knots
from planners.sampling.noise import colored_noise
from planners.sampling.proposals import Proposals
from planners.sampling.search import SamplingMemory, SamplingPlanner


@dataclass(frozen=True)
class ICEM(SamplingPlanner):
    """iCEM: with a tenth of CEM's samples as good, where smooth actions are good ones.

    Samples are disturbed by noise whose power falls with frequency, and clipped to the box. The population shrinks from
    iteration to iteration; the best elites are tried again in the next iteration and, shifted, in the next step; the
    mean is a candidate of the last iteration; the best candidate is what is executed.

    Source: Pinneri et al. (2020), https://arxiv.org/abs/2008.06389. Deviations: the noise has variance 1 with its
    constant part counted; the best candidate is that of all iterations; invalid candidates are never elites, and with
    fewer than two valid ones the Gaussian stays as it is.

    Args:
        box: action bounds.
        horizon: length of the sequences, in steps.
        population: sequences drawn in the first iteration.
        elites: how many of the best the Gaussian is fitted to.
        iterations: at most; `stop` is asked in between.
        beta: exponent of the noise's spectrum, see `colored_noise`; 0 is white.
        decay: the population is divided by this after each iteration, down to twice the elites.
        keep: elites that are candidates of the next iteration, and of the next step.
        alpha: weight of the old mean and the old variance in the new ones, in [0, 1).
        initial_std: standard deviation before the first iteration of a step, in units of the half range.
        knots: how few values make a sequence; None: an action for each step.
        proposals: candidates from a policy.

    Raises:
        ValueError: a number is out of range, or there are more elites than samples.
    """

    box: Box
    horizon: int
    population: int = 40
    elites: int = 10
    iterations: int = 3
    beta: float = 3.0
    decay: float = 1.25
    keep: int = 3
    alpha: float = 0.1
    initial_std: float = 0.5
    knots: Knots | None = None
    proposals: Proposals | None = None
    executes = "best"

    def __post_init__(self) -> None:
        check_sequences(self)
        check_sizes(population=self.population, elites=self.elites)
        check_elites(self.elites, self.population)
        check_share(alpha=self.alpha)
        check_positive(initial_std=self.initial_std)
        check_at_least(0, beta=self.beta)
        check_at_least(1, decay=self.decay)
        if not (is_whole(self.keep) and 0 <= self.keep <= self.elites):
            raise ValueError(f"keep: expected 0 to the elites of {self.elites}, a whole number, got {self.keep}")

    def sample(self, memory: SamplingMemory, iteration: int, *, generator: Generator) -> Tensor:
        mean = memory.mean.unsqueeze(1)
        drawn = min(self.population, max(int(self.population / self.decay**iteration), 2 * self.elites))
        shape = (len(mean), drawn, *mean.shape[2:])
        noise = colored_noise(shape, self.beta, generator=generator, device=mean.device, dtype=mean.dtype)
        candidates = [mean + memory.variance.sqrt().unsqueeze(1) * noise, memory.kept]
        if iteration == self.iterations - 1:
            candidates.append(mean)
        return torch.cat(candidates, dim=1)

    def update(self, memory: SamplingMemory, candidates: Tensor, scores: Tensor) -> tuple[SamplingMemory, Tensor]:
        elites = best_elites(candidates, scores, self.elites)
        mean, variance = fit_gaussian(elites, memory, self.alpha)
        usable = elites.valid[:, : self.keep, None, None]
        kept = torch.where(usable, elites.values[:, : self.keep], mean.unsqueeze(1))
        return SamplingMemory(mean, variance, kept, memory.phase), elite_weights(elites, scores)
