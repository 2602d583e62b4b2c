"""Random shooting: the best of many uniformly drawn action sequences."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from planners.box import Box
from planners.checks import check_sizes
from planners.sampling.checks import check_sequences
from planners.sampling.elites import keep_best
from planners.sampling.knots import Knots
from planners.sampling.proposals import Proposals
from planners.sampling.search import SamplingMemory, SamplingPlanner


@dataclass(frozen=True)
class RandomShooting(SamplingPlanner):
    """Random shooting within a box.

    Source: Nagabandi et al. (2018), section IV-C, https://arxiv.org/abs/1708.02596. Deviation: the best sequence so far
    (at first that of the previous step, shifted) is one more candidate.

    Args:
        box: action bounds.
        horizon: length of the sequences, in steps.
        population: sequences drawn per iteration.
        iterations: how many times a population is drawn; `stop` is asked in between.
        knots: how few values make a sequence; None: an action for each step.
        proposals: candidates from a policy.

    Raises:
        ValueError: a number is below 1.
    """

    box: Box
    horizon: int
    population: int
    iterations: int = 1
    knots: Knots | None = None
    proposals: Proposals | None = None
    initial_std = 3**-0.5  # of a uniform distribution: a diagnostic here
    executes = "best"
    repeat_last = False

    def __post_init__(self) -> None:
        check_sequences(self)
        check_sizes(population=self.population)

    def sample(self, memory: SamplingMemory, iteration: int, *, generator: Generator) -> Tensor:
        mean = memory.mean
        shape = (len(mean), self.population, *mean.shape[1:])
        uniform = torch.rand(shape, generator=generator, device=mean.device, dtype=mean.dtype)
        drawn = self.box.low.to(mean) + self.box.range.to(mean) * uniform
        return torch.cat([mean.unsqueeze(1), drawn], dim=1)

    def update(self, memory: SamplingMemory, candidates: Tensor, scores: Tensor) -> tuple[SamplingMemory, Tensor]:
        return keep_best(memory, candidates, scores)
