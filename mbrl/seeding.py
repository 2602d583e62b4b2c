"""Seeds by name: every random stream is a function of (seed, purpose, counters), so that no generator state is kept."""

import hashlib

import torch


def derive(*key: int | str) -> int:
    """A 63-bit seed from a key such as `(seed, "fit", 3)`. The same key always gives the same seed."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded from a key such as `(seed, "fit", 3)`."""
    return torch.Generator(device).manual_seed(derive(*key))
