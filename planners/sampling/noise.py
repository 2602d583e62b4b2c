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


def colored_noise(
    shape: tuple[int, ...], beta: float, *, generator: Generator, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "*batch steps act"]:
    """Gaussian noise whose power falls with frequency as `1 / f^beta` along the last axis but one; variance 1.

    0 is white, 1 pink, 2 brown. The lowest frequency counts as that of one period in the whole length. Source: Timmer
    and Koenig (1995), https://ui.adsabs.harvard.edu/abs/1995A&A...300..707T.

    Args:
        shape: [..., steps, act]; the sequences of the last axis are independent.
        beta: exponent, at least 0.
        generator: source of the draws.
        device: of the result.
        dtype: of the result.
    """
    *batch, steps, act = shape
    if beta == 0 or steps == 1:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)
    frequency = torch.fft.rfftfreq(steps, device=device, dtype=dtype).clamp(min=1 / steps)
    amplitude = frequency.pow(-beta / 2)
    parts = torch.randn((*batch, act, len(frequency), 2), generator=generator, device=device, dtype=dtype)
    # The constant and, for even lengths, the highest frequency have a real part only, and stand once in the
    # spectrum where the others stand twice.
    single = torch.zeros(len(frequency), dtype=torch.bool, device=device)
    single[0] = True
    single[-1] = steps % 2 == 0
    power = amplitude.square()
    variance = (torch.where(single, 2 * power, 4 * power)).sum() / steps**2
    real = torch.where(single, math.sqrt(2) * parts[..., 0], parts[..., 0])
    imaginary = torch.where(single, 0.0, parts[..., 1])
    noise = torch.fft.irfft(torch.complex(real, imaginary) * amplitude, n=steps) / variance.sqrt()
    return noise.transpose(-1, -2)
