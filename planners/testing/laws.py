"""What the checks of dynamics and of planners share: comparing trees of tensors, and saying what differs."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Generator, Tensor

from planners.rows import map_rows, where_rows

Tree = TypeVar("Tree")


def require(holds: bool, sentence: str) -> None:
    """Raise AssertionError with the sentence where the law does not hold."""
    # Not an assert statement: the kit must work under `python -O` too.
    if not holds:
        raise AssertionError(sentence)


def named_leaves(tree: object, name: str) -> list[tuple[str, Tensor]]:
    """The tensors of a tree with their paths, such as `state.physics`."""
    if isinstance(tree, Tensor):
        return [(name, tree)]
    if not isinstance(tree, tuple):
        raise AssertionError(f"{name} must be a tensor or a NamedTuple of tensors, it is a {type(tree).__name__}")
    parts = getattr(tree, "_fields", range(len(tree)))
    return [leaf for part, child in zip(parts, tree, strict=True) for leaf in named_leaves(child, f"{name}.{part}")]


def copy(tree: Tree) -> Tree:
    return map_rows(lambda x: x.clone(), tree)


def take(tree: Tree, rows: Tensor) -> Tree:
    return map_rows(lambda x: x[rows], tree)


def with_other_rows(tree: Tree, keep: Tensor, shift: int) -> Tree:
    """The rows `keep` as they are, the others replaced by the contents of the rows `shift` before them."""
    return where_rows(keep, tree, map_rows(lambda x: x.roll(shift, 0), tree))


def with_nan_rows(tree: Tree, keep: Tensor) -> Tree:
    """The rows `keep` as they are, NaN in every floating-point number of the others."""
    return where_rows(keep, tree, map_rows(lambda x: x * torch.nan if x.is_floating_point() else x, tree))


def require_rows(tree: object, rows: int, name: str, like: object = None) -> None:
    """Require that rows lead in every leaf, and that structure, dtypes and devices are those of `like`."""
    leaves = named_leaves(tree, name)
    for path, leaf in leaves:
        require(
            leaf.dim() > 0 and len(leaf) == rows,
            f"Rows lead everywhere: {path} must have {rows} rows, its shape is {list(leaf.shape)}.",
        )
    if like is None:
        return
    expected = named_leaves(like, name)
    require(
        [path for path, _ in leaves] == [path for path, _ in expected],
        f"The structure never changes: {name} had {[p for p, _ in expected]}, now it has {[p for p, _ in leaves]}.",
    )
    for (path, leaf), (_, old) in zip(leaves, expected, strict=True):
        require(
            leaf.shape == old.shape and leaf.dtype == old.dtype and leaf.device == old.device,
            f"Shapes, dtypes and devices never change: {path} was {_kind(old)}, now it is {_kind(leaf)}.",
        )


def require_same(
    law: str, name: str, got: object, expected: object, *, rows: Tensor | None = None, exact: bool = False
) -> None:
    """Require that two trees agree in `rows` (a mask; None: all), NaN equal to NaN.

    Unless `exact`, numbers may differ by rounding: by eps^(3/4) relative and absolute, 6e-6 in float32 and 2e-12 in
    float64. That leaves room for a product computed in another order, and none for a law that does not hold.
    """
    for (path, x), (_, y) in zip(named_leaves(got, name), named_leaves(expected, name), strict=True):
        require(x.shape == y.shape, f"{law}: {path} has shape {list(x.shape)} and {list(y.shape)}.")
        tolerance = 0.0 if exact or not x.is_floating_point() else torch.finfo(x.dtype).eps ** 0.75
        agree = torch.isclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True).reshape(len(x), -1).all(1)
        if rows is not None:
            agree = agree | ~rows
        if not bool(agree.all()):
            row = int((~agree).nonzero()[0, 0])
            raise AssertionError(f"{law}: {path} differs in row {row}: {x[row].tolist()} against {y[row].tolist()}.")


@contextmanager
def no_global_randomness(what: str) -> Iterator[None]:
    """Require that the block leaves the global random streams of torch, numpy and Python alone."""
    before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002
    yield
    after = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002
    for library, same in (
        ("torch", torch.equal(before[0], after[0])),
        ("numpy", before[1] == after[1]),
        ("random", before[2] == after[2]),
    ):
        require(
            same,
            f"Randomness comes from the generator alone: {what} drew from the global random stream of {library}; "
            "pass generator=generator to every draw.",
        )


def seeded(seed: int, device: torch.device) -> Generator:
    return torch.Generator(device).manual_seed(seed)


def _kind(x: Tensor) -> str:
    return f"{x.dtype} {list(x.shape)} on {x.device}"
