"""Distributions of actions: samples and log-probabilities as functions of given standard normal noise.

Policies and critics see actions in [-1, 1]; `ActionBounds` takes them to the environment's units and back.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from planners.box import Box

LOG_STD_RANGE = (-20.0, 2.0)
BOUNDED_LOG_STD_RANGE = (-5.0, 2.0)


def squashed_gaussian(
    mean: Float[Tensor, "*rows act"], log_std: Float[Tensor, "*rows act"], noise: Float[Tensor, "*rows act"]
) -> tuple[Float[Tensor, "*rows act"], Float[Tensor, "*rows"]]:
    """An action a = tanh(u), u = mean + exp(log_std) noise, and its log-probability density.

        log p(a) = sum_i -noise_i^2 / 2 - log_std_i - log(2 pi) / 2 - log(1 - tanh^2 u_i)

    with log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2 u)), which stays exact where tanh u rounds to 1. The density is
    that of actions in [-1, 1]: in units of the environment it would be less by the sum of the logarithms of half the
    action ranges, so that a target entropy would mean something else for every choice of units.

    Source: Haarnoja et al. (2018), https://arxiv.org/abs/1812.05905, appendix C.

    Args:
        mean: before tanh.
        log_std: logarithm of the standard deviation before tanh.
        noise: standard normal.
    """
    u = torch.addcmul(mean, log_std.exp(), noise)
    slope = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    return torch.tanh(u), (normal - slope).sum(-1)


def squashed_gaussian_log_prob(
    mean: Float[Tensor, "*rows act"], log_std: Float[Tensor, "*rows act"], action: Float[Tensor, "*rows act"]
) -> Float[Tensor, "*rows"]:
    """The log-probability density of given actions in [-1, 1]: `squashed_gaussian` with the noise worked out from them.

    Actions at a bound, where tanh has been rounded to 1, are taken to be half a rounding of their type inside of it:
    any larger u may have been meant, so that only ratios of such densities mean much.

    Args:
        mean: before tanh.
        log_std: logarithm of the standard deviation before tanh.
        action: in [-1, 1]; slightly beyond by rounding is within.
    """
    inside = 1 - torch.finfo(action.dtype).eps / 2
    u = action.double().clamp(-inside, inside).atanh()
    noise = (u - mean) / log_std.double().exp()
    slope = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    return (normal - slope).sum(-1).to(mean.dtype)


def gaussian_head(
    output: Float[Tensor, "*rows two_act"],
) -> tuple[Float[Tensor, "*rows act"], Float[Tensor, "*rows act"]]:
    """A network's output as mean and log_std, the latter cut to `LOG_STD_RANGE`, as stable-baselines3 does it."""
    mean, log_std = output.chunk(2, -1)
    return mean, log_std.clamp(*LOG_STD_RANGE)


def bounded_gaussian(
    output: Float[Tensor, "runs rows act"], log_std: Float[Tensor, "runs 1 act"], noise: Float[Tensor, "runs rows act"]
) -> Float[Tensor, "runs rows act"]:
    """Actions tanh(output) + exp(log_std) noise, cut to [-1, 1]: what `bounded_gaussian_log_prob` fits."""
    return (torch.tanh(output) + log_std.clamp(*BOUNDED_LOG_STD_RANGE).exp() * noise).clamp(-1, 1)


def bounded_gaussian_log_prob(
    output: Float[Tensor, "runs rows act"], log_std: Float[Tensor, "runs 1 act"], action: Float[Tensor, "runs rows act"]
) -> Float[Tensor, "runs rows"]:
    """The log-density of actions under a Gaussian around tanh(output), before it is cut to [-1, 1].

    Unlike a squashed Gaussian's it is finite at the bounds, where logged actions like to be. IQL, Kostrikov et al.
    (2021), https://arxiv.org/abs/2110.06169, fits such a policy, with one standard deviation for all states.

    Args:
        output: of a network; its tanh is the mean.
        log_std: logarithm of the standard deviation, cut to `BOUNDED_LOG_STD_RANGE`.
        action: in [-1, 1].
    """
    log_std = log_std.clamp(*BOUNDED_LOG_STD_RANGE)
    noise = (action - torch.tanh(output)) / log_std.exp()
    return (-0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


class ActionBounds(NamedTuple):
    """Where a learner's actions in [-1, 1] lie in the environment: tensors, so that they move with a state."""

    center: Float[Tensor, "runs 1 act"]
    half_range: Float[Tensor, "runs 1 act"]

    def unit(self, action: Float[Tensor, "runs rows act"]) -> Float[Tensor, "runs rows act"]:
        """Actions of the environment as ones in [-1, 1]: what critics are shown."""
        return (action - self.center) / self.half_range

    def action(self, unit: Float[Tensor, "runs rows act"]) -> Float[Tensor, "runs rows act"]:
        """The environment's actions, within the bounds up to rounding."""
        return torch.addcmul(self.center, unit, self.half_range)


def action_bounds(low: Sequence[float], high: Sequence[float], runs: int, like: Tensor) -> ActionBounds:
    """The bounds as tensors of the dtype and on the device of `like`.

    Raises:
        ValueError: bounds that are not finite or not in order.
    """
    box = Box(low, high, len(low))
    return ActionBounds(*(x.to(like).expand(runs, 1, -1).clone() for x in (box.center, box.range / 2)))
