"""Risk measures: from the returns of a plan's particles to the plan's score.

A risk measure is a function `(returns, valid) -> scores`, [batch, plans, particles] -> [batch, plans]. It acts on
returns, after the sum over time. `valid` tells which particles' returns mean anything; invalid ones hold 0, and a plan
with an invalid particle scores -inf whatever the measure says (`evaluate_plans` sees to that afterwards).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Risk = Callable[[Tensor, Tensor], Tensor]


def mean(
    returns: Float[Tensor, "batch plans particles"], valid: Bool[Tensor, "batch plans particles"]
) -> Float[Tensor, "batch plans"]:
    """The risk-neutral score: the expected return."""
    return returns.mean(-1)


def worst(
    returns: Float[Tensor, "batch plans particles"], valid: Bool[Tensor, "batch plans particles"]
) -> Float[Tensor, "batch plans"]:
    """The lowest return of any particle."""
    return returns.amin(-1)


def cvar(alpha: float) -> Risk:
    """Conditional value at risk: the mean of the worst share `alpha` of the particles.

    The share may end inside a particle, which then counts in part, so that the measure is continuous in `alpha`;
    `alpha=1` is the mean. Source: Rockafellar and Uryasev (2000), https://doi.org/10.21314/JOR.2000.038.

    Raises:
        ValueError: `alpha` is outside (0, 1].
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha: expected a share in (0, 1], got {alpha}")

    def measure(returns: Tensor, valid: Tensor) -> Tensor:
        particles = returns.shape[-1]
        rank = torch.arange(particles, dtype=returns.dtype, device=returns.device)
        weight = (alpha * particles - rank).clamp(0, 1) / (alpha * particles)
        return (returns.sort(-1).values * weight).sum(-1)

    return measure


def exponential(temperature: float) -> Risk:
    """Exponential utility, as a certainty equivalent: `-log(mean(exp(-t R))) / t`.

    Positive temperatures avert risk, negative ones seek it; near 0 it is `mean - t/2 variance`. In units of return.
    Source: Howard and Matheson (1972), https://doi.org/10.1287/mnsc.18.7.356.

    Raises:
        ValueError: `temperature` is 0 or not finite (use `mean`).
    """
    if temperature == 0 or not math.isfinite(temperature):
        raise ValueError(f"temperature: expected a finite number other than 0 (the mean), got {temperature}")

    def measure(returns: Tensor, valid: Tensor) -> Tensor:
        particles = returns.shape[-1]
        return -(torch.logsumexp(-temperature * returns, -1) - math.log(particles)) / temperature

    return measure
