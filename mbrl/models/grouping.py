"""Rows sorted by the member that predicts them, so that each member computes its own rows only."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Grouping(NamedTuple):
    """Places [groups, size] for rows; where groups differ in size, the small ones are filled up with row 0."""

    shape: tuple[int, int]
    row_of_place: Int[Tensor, "groups*size"]
    noise_of_output: Int[Tensor, "groups*out*size"]
    """For each output of each place, its number in the noise [rows, out]: that of the row's particle."""
    output_of_row: Int[Tensor, "rows*out"]
    """For each output of each row, its number in the outputs [groups, out, size]."""
    lost: Bool[Tensor, "rows"] | None
    """Rows that found no place in their block, where its size was given; None: every row has found one."""


def group_rows(
    group: Int[Tensor, "rows"], particle: Int[Tensor, "rows"], groups: int, out_dim: int, size: int | None = None
) -> Grouping:
    """Give every row a place in the block of its group.

    Args:
        group: 0 to `groups` - 1.
        particle: of each row.
        groups: number of blocks; one may be empty.
        out_dim: outputs of each row.
        size: places of each block, so that a GPU need not be asked how many the largest group needs; None: ask.
    """
    rows = len(group)
    sorted_group, order = group.sort(stable=True)
    blocks = torch.arange(groups + 1, device=group.device)
    first = torch.searchsorted(sorted_group, blocks)
    rank = torch.arange(rows, device=group.device) - first[sorted_group]
    lost = None
    place_size = int(first.diff().max()) if size is None else size
    place = sorted_group * place_size + rank
    if size is not None:
        late = rank >= size
        place = torch.where(late, groups * size, place)  # one place more than there are, which nobody reads
        lost = torch.empty_like(late).index_copy(0, order, late)
    row_of_place = group.new_zeros(groups * place_size + 1).index_copy(0, place, order)[:-1]

    column = torch.arange(out_dim, device=group.device)
    # A state that is a part of a larger one may hold more particles than rows.
    noise = (particle % max(rows, 1))[row_of_place].view(groups, 1, place_size) * out_dim + column[:, None]
    start = sorted_group * (out_dim * place_size) + (rank if size is None else rank.clamp(max=size - 1))
    output = start[:, None] + column * place_size
    output_of_row = torch.empty_like(output).index_copy(0, order, output)
    return Grouping((groups, place_size), row_of_place, noise.flatten(), output_of_row.flatten(), lost)
