"""Rows sorted by the member that predicts them, so that each member computes its own rows only."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class Grouping(NamedTuple):
    """Places [groups, size] for rows; where groups differ in size, the small ones are filled up with row 0."""

    shape: tuple[int, int]
    row_of_place: Int[Tensor, "groups*size"]
    noise_of_output: Int[Tensor, "groups*out*size"]
    """For each output of each place, its number in the noise [rows, out]: that of the row's particle."""
    output_of_row: Int[Tensor, "rows*out"]
    """For each output of each row, its number in the outputs [groups, out, size]."""


def group_rows(group: Int[Tensor, "rows"], particle: Int[Tensor, "rows"], groups: int, out_dim: int) -> Grouping:
    """Give every row a place in the block of its group.

    Args:
        group: 0 to `groups` - 1.
        particle: of each row.
        groups: number of blocks; one may be empty.
        out_dim: outputs of each row.
    """
    rows = len(group)
    counts = torch.bincount(group, minlength=groups)
    size = int(counts.max()) if rows else 0
    order = group.argsort(stable=True)
    first = counts.cumsum(0) - counts
    sorted_group = group[order]
    rank = torch.arange(rows, device=group.device) - first[sorted_group]
    row_of_place = group.new_zeros(groups * size).index_copy(0, sorted_group * size + rank, order)

    column = torch.arange(out_dim, device=group.device)
    # A state that is a part of a larger one may hold more particles than rows.
    noise = (particle % max(rows, 1))[row_of_place].view(groups, 1, size) * out_dim + column[:, None]
    output = (sorted_group * out_dim * size + rank)[:, None] + column * size
    output_of_row = torch.empty_like(output).index_copy(0, order, output)
    return Grouping((groups, size), row_of_place, noise.flatten(), output_of_row.flatten())
