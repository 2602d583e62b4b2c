"""The best candidates of an iteration, and a Gaussian fitted to them."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from planners.sampling.search import SamplingMemory, take_plans


class Elites(NamedTuple):
    values: Float[Tensor, "batch elites size act"]
    """Best first."""
    valid: Bool[Tensor, "batch elites"]
    """False: there were fewer valid candidates than elites."""
    plan: Int[Tensor, "batch elites"]
    """Which candidates they are."""


def best_elites(
    candidates: Float[Tensor, "batch plans size act"], scores: Float[Tensor, "batch plans"], count: int
) -> Elites:
    """The candidates with the highest scores."""
    top, index = scores.topk(count, dim=1)
    return Elites(take_plans(candidates, index), top.isfinite(), index)


def fit_gaussian(
    elites: Elites, memory: SamplingMemory, alpha: float
) -> tuple[Float[Tensor, "batch size act"], Float[Tensor, "batch size act"]]:
    """Mean and variance of the valid elites, with a share `alpha` of the old ones; of fewer than two: the old ones."""
    weight = elites.valid.to(elites.values.dtype)[:, :, None, None]
    count = weight.sum(1)
    mean = (weight * elites.values).sum(1) / count.clamp(min=1)
    variance = (weight * (elites.values - mean.unsqueeze(1)).square()).sum(1) / count.clamp(min=1)
    enough = count >= 2
    mean = torch.where(enough, torch.lerp(mean, memory.mean, alpha), memory.mean)
    variance = torch.where(enough, torch.lerp(variance, memory.variance, alpha), memory.variance)
    return mean, variance


def elite_weights(elites: Elites, scores: Float[Tensor, "batch plans"]) -> Float[Tensor, "batch plans"]:
    """Equal weights for valid elites, 0 for all other candidates."""
    valid = elites.valid.to(scores.dtype)
    return torch.zeros_like(scores).scatter(1, elites.plan, valid / valid.sum(1, keepdim=True).clamp(min=1))


def keep_best(
    memory: SamplingMemory, candidates: Float[Tensor, "batch plans size act"], scores: Float[Tensor, "batch plans"]
) -> tuple[SamplingMemory, Float[Tensor, "batch plans"]]:
    """The update of planners that search around the best candidate: it becomes the mean."""
    best = best_elites(candidates, scores, 1)
    mean = torch.where(best.valid[:, :, None], best.values[:, 0], memory.mean)
    return memory._replace(mean=mean), elite_weights(best, scores)
