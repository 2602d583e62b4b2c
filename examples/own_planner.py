"""A sampling planner of your own: two functions, and knots, particles, deadlines and diagnostics are there."""

from dataclasses import dataclass

import torch

from planners import Box, FunctionDynamics, Knots, Problem
from planners.sampling.search import SamplingPlanner, weighted_sum
from planners.testing import check_planner


@dataclass(frozen=True)
class RankWeighted(SamplingPlanner):
    """The mean of all candidates, weighted by 1 / rank."""

    box: Box
    horizon: int
    population: int = 100
    iterations: int = 4
    initial_std: float = 0.4
    knots: Knots | None = None
    proposals = None
    executes = "mean"

    def sample(self, memory, iteration, *, generator):
        mean = memory.mean.unsqueeze(1)
        noise = torch.randn(len(mean), self.population, *mean.shape[2:], generator=generator, dtype=mean.dtype)
        return mean + 0.6**iteration * memory.variance.sqrt().unsqueeze(1) * noise

    def update(self, memory, candidates, scores):
        rank = 1 + scores.argsort(descending=True).argsort()
        weights = torch.where(scores.isfinite(), 1 / rank, 0.0).to(scores)
        total = weights.sum(1, keepdim=True)
        weights = weights / total.clamp(min=1e-9)
        mean = torch.where(total[:, :, None] > 0, weighted_sum(weights, candidates), memory.mean)
        return memory._replace(mean=mean), weights


planner = RankWeighted(Box(-1.0, 1.0, dim=1), horizon=20, knots=Knots(5))
problem = Problem(FunctionDynamics(lambda x, u: x + 0.1 * u, lambda x, u, next_x: -(next_x**2).sum(1)))
start = torch.tensor([[1.0], [-0.5]])
check_planner(planner, problem, start)
g = torch.Generator().manual_seed(0)
plan = planner.plan(problem, start, planner.init(problem, start, generator=g), generator=g)
print(f"it obeys the laws of planners; predicted return {plan.value[0].item():.2f}")
