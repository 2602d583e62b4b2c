"""Predictive sampling: disturb the nominal plan, and go on with the best that came out."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from planners.box import Box
from planners.checks import check_sizes
from planners.sampling.checks import check_positive, check_sequences
from planners.sampling.elites import keep_best
from planners.sampling.knots import Knots
from planners.sampling.proposals import Proposals
from planners.sampling.search import SamplingMemory, SamplingPlanner


@dataclass(frozen=True)
class PredictiveSampling(SamplingPlanner):
    """Predictive sampling: the simplest planner that works in real time.

    Source: Howell et al. (2022), section 3.3, https://arxiv.org/abs/2212.00541. The nominal plan is a candidate too, so
    that a plan never becomes worse in a deterministic model.

    Args:
        box: action bounds.
        horizon: length of the sequences, in steps.
        population: disturbed sequences per iteration.
        iterations: the source has one.
        initial_std: standard deviation of the Gaussian disturbance, in units of the half range.
        knots: how few values make a sequence; None: an action for each step. The source has a few, zero-order or cubic.
        proposals: candidates from a policy.

    Raises:
        ValueError: a number is out of range.
    """

    box: Box
    horizon: int
    population: int = 32
    iterations: int = 1
    initial_std: float = 0.3
    knots: Knots | None = None
    proposals: Proposals | None = None
    executes = "best"

    def __post_init__(self) -> None:
        check_sequences(self)
        check_sizes(population=self.population)
        check_positive(initial_std=self.initial_std)

    def sample(self, memory: SamplingMemory, iteration: int, *, generator: Generator) -> Tensor:
        mean = memory.mean.unsqueeze(1)
        shape = (len(mean), self.population, *mean.shape[2:])
        noise = torch.randn(shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return torch.cat([mean, mean + memory.variance.sqrt().unsqueeze(1) * noise], dim=1)

    def update(self, memory: SamplingMemory, candidates: Tensor, scores: Tensor) -> tuple[SamplingMemory, Tensor]:
        return keep_best(memory, candidates, scores)
