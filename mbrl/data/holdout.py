"""Holdouts of whole episodes: rows of one episode resemble each other, so that part of one would tell on the rest."""

import torch
from jaxtyping import Int
from torch import Tensor


def split_episodes(
    episode_ids: Int[Tensor, "rows"], fraction: float, *, generator: torch.Generator
) -> tuple[Int[Tensor, "train"], Int[Tensor, "holdout"]]:
    """Row numbers for training, and those of whole episodes held out: at most `fraction` of the rows, at random.

    Where every episode is longer than that, the shortest is held out; of one episode alone, nothing.

    Raises:
        ValueError: `fraction` is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction: expected a number in [0, 1), got {fraction}")
    _, episode, counts = torch.unique(episode_ids, return_inverse=True, return_counts=True)
    held = torch.zeros(len(counts), dtype=torch.bool, device=episode_ids.device)
    if fraction > 0 and len(counts) > 1:
        allowed = fraction * len(episode_ids)
        order = torch.randperm(len(counts), generator=generator, device=generator.device).to(episode_ids.device)
        order = order[counts[order] <= allowed]
        held[order[counts[order].cumsum(0) <= allowed]] = True
        if not held.any():
            held[counts.argmin()] = True
    rows = held[episode]
    return (~rows).nonzero()[:, 0], rows.nonzero()[:, 0]
