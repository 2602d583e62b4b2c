"""Distributions of actions: samples and log-probabilities as functions of given standard normal noise."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

LOG_STD_RANGE = (-20.0, 2.0)


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


def gaussian_head(
    output: Float[Tensor, "*rows two_act"],
) -> tuple[Float[Tensor, "*rows act"], Float[Tensor, "*rows act"]]:
    """A network's output as mean and log_std, the latter cut to `LOG_STD_RANGE`, as stable-baselines3 does it."""
    mean, log_std = output.chunk(2, -1)
    return mean, log_std.clamp(*LOG_STD_RANGE)
