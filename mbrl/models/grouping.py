"""Rows sorted by the member that predicts them, so that each member computes its own rows only."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class Grouping(NamedTuple):
    """Places [groups, size] for rows; where groups differ in size, the small ones are filled up with row 0."""

    shape: tuple[int, int]
    row_of_place: Int[Tensor, "groups*size"]
    noise_of_place: Int[Tensor, "groups*size"]
    """Which row of the noise: that of the row's particle."""
    place_of_row: Int[Tensor, "rows"]


def group_rows(group: Int[Tensor, "rows"], particle: Int[Tensor, "rows"], groups: int) -> Grouping:
    """Give every row a place in the block of its group.

    Args:
        group: 0 to `groups` - 1.
        particle: of each row.
        groups: number of blocks; one may be empty.
    """
    rows = len(group)
    counts = torch.bincount(group, minlength=groups)
    size = int(counts.max()) if rows else 0
    order = group.argsort(stable=True)
    first = counts.cumsum(0) - counts
    sorted_group = group[order]
    place = sorted_group * size + torch.arange(rows, device=group.device) - first[sorted_group]
    row_of_place = group.new_zeros(groups * size).index_copy(0, place, order)
    place_of_row = torch.empty_like(group).index_copy(0, order, place)
    # A state that is a part of a larger one may hold more particles than rows.
    noise = particle % max(rows, 1)
    return Grouping((groups, size), row_of_place, noise[row_of_place], place_of_row)
