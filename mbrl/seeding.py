"""Seeds by name: every random stream is a function of (seed, purpose, counters), so that no generator state is kept."""

import hashlib
import operator

import torch


def derive(*key: int | str) -> int:
    """A 63-bit seed from a key such as `(seed, "fit", 3)`. The same key always gives the same seed.

    Raises:
        ValueError: a seed is no whole number, of Python's or NumPy's.
    """
    plain = tuple(part if isinstance(part, str) else whole(part) for part in key)
    digest = hashlib.sha256(repr(plain).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded from a key such as `(seed, "fit", 3)`."""
    return torch.Generator(device).manual_seed(derive(*key))


def whole(seed: int) -> int:
    """A seed as a number of Python's: NumPy's look otherwise, and would give other streams.

    Raises:
        ValueError: it is no whole number.
    """
    try:
        return operator.index(seed)
    except TypeError as error:
        raise ValueError(f"seed: expected a whole number, such as 0, got {seed!r}: every run has a seed") from error
