"""Holdouts of whole episodes: rows of one episode resemble each other, so that part of one would tell on the rest."""

import torch
from jaxtyping import Int
from torch import Tensor


def split_episodes(
    episode_ids: Int[Tensor, "rows"], fraction: float, *, generator: torch.Generator, newest: int = 0
) -> tuple[Int[Tensor, "train"], Int[Tensor, "holdout"]]:
    """Row numbers for training, and those of whole episodes held out, at random.

    Nothing is held out of one episode alone, nor where every episode is too long.

    Args:
        episode_ids: the episode of each row.
        fraction: how much is held out at most, of the rows of episodes that may be.
        generator: source of all randomness.
        newest: the episodes of so many last rows are never held out: what is under way is what learning is about.

    Raises:
        ValueError: `fraction` is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction: expected a number in [0, 1), got {fraction}")
    _, episode, counts = torch.unique(episode_ids, return_inverse=True, return_counts=True)
    free = torch.ones(len(counts), dtype=torch.bool, device=episode_ids.device)
    free[episode[max(len(episode) - newest, 0) :]] = False
    allowed = fraction * int(counts[free].sum())
    order = torch.randperm(len(counts), generator=generator, device=generator.device).to(episode_ids.device)
    order = order[free[order] & (counts[order] <= allowed)]
    held = torch.zeros_like(free)
    held[order[counts[order].cumsum(0) <= allowed]] = True
    rows = held[episode]
    return (~rows).nonzero()[:, 0], rows.nonzero()[:, 0]
