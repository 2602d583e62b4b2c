"""What processors can multiply, and in which precision they are asked to."""

import warnings
from typing import Literal

import torch

Precision = Literal["full", "bfloat16"]
"""Of products between hidden layers: float32, or bfloat16."""


def warn_of_slow_bfloat16(device: torch.device) -> None:
    """Warn where torch would emulate products in bfloat16, at a fraction of the speed of float32."""
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return
    has = torch.cpu.get_capabilities()
    if not any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")):
        warnings.warn(
            "precision: this processor has no products in bfloat16 (AVX512-BF16, AMX, or ARM's BF16), so that "
            "precision='bfloat16' is slower than 'full'",
            stacklevel=3,
        )
