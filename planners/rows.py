"""Operations on states: a tensor, or a NamedTuple (of NamedTuples ...) of tensors, whose leading axis is rows."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

Tree = TypeVar("Tree")


def map_rows(function: Callable[..., Tensor], tree: Tree, *others: Tree) -> Tree:
    """Apply `function` to corresponding tensors of trees of the same structure.

    Raises:
        TypeError: a leaf is neither a tensor nor a tuple.
    """
    if isinstance(tree, Tensor):
        return function(tree, *others)  # type: ignore[return-value]
    if isinstance(tree, tuple):
        children = [map_rows(function, *parts) for parts in zip(tree, *others, strict=True)]
        return type(tree)(*children) if hasattr(tree, "_fields") else tuple(children)  # type: ignore[return-value]
    raise TypeError(f"a state must be a tensor or a NamedTuple of tensors, got {type(tree).__name__}")


def where_rows(mask: Tensor, yes: Tree, no: Tree) -> Tree:
    """Rows of `yes` where `mask` [rows] is True, rows of `no` elsewhere."""
    return map_rows(lambda a, b: torch.where(mask.reshape(-1, *(1,) * (a.dim() - 1)), a, b), yes, no)


def repeat_rows(tree: Tree, times: int) -> Tree:
    """Each row `times` times in a row: [rows, ...] -> [rows * times, ...]. Once: the tree itself."""
    if times == 1:
        return tree
    return map_rows(lambda x: x.repeat_interleave(times, dim=0), tree)


def first_leaf(tree: object) -> Tensor:
    """The first tensor of a state: tells its number of rows, its device and its floating-point type."""
    while isinstance(tree, tuple):
        tree = tree[0]
    if not isinstance(tree, Tensor):
        raise TypeError(f"a state must be a tensor or a NamedTuple of tensors, got {type(tree).__name__}")
    return tree


def leaves(tree: object) -> list[Tensor]:
    """The tensors of a state, depth first: what a checkpoint stores."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, tuple):
        return [leaf for child in tree for leaf in leaves(child)]
    raise TypeError(f"a state must be a tensor or a NamedTuple of tensors, got {type(tree).__name__}")


def with_leaves(tree: Tree, tensors: Iterable[Tensor]) -> Tree:
    """A state of the structure of `tree` that holds `tensors`: the inverse of `leaves`."""
    remaining = iter(tensors)
    filled = map_rows(lambda _: next(remaining), tree)
    if next(remaining, None) is not None:
        raise ValueError(f"tensors: expected {len(leaves(tree))}, one for each leaf of the state, got more")
    return filled
