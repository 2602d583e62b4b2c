"""Noise of the sampling planners."""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor


def truncated_normal(
    shape: tuple[int, ...], *, bound: float = 2.0, generator: Generator, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "..."]:
    """Standard normal draws cut to [-bound, bound], by inversion: the number of draws does not depend on luck."""
    edge = math.erf(bound / math.sqrt(2))
    uniform = torch.rand(shape, generator=generator, device=device, dtype=dtype)
    return torch.erfinv((2 * uniform - 1) * edge) * math.sqrt(2)
