"""Operations on rows of tensors and of nested NamedTuples."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from planners.rows import first_leaf, map_rows, repeat_rows, where_rows


class Inner(NamedTuple):
    x: Tensor
    n: Tensor


class State(NamedTuple):
    inner: Inner
    flag: Tensor


def state() -> State:
    return State(Inner(torch.arange(6.0).view(3, 2), torch.arange(3)), torch.tensor([True, False, True]))


def test_map_keeps_the_structure():
    doubled = map_rows(lambda x: x + x, state())
    assert isinstance(doubled, State)
    assert isinstance(doubled.inner, Inner)
    assert doubled.inner.n.tolist() == [0, 2, 4]
    assert map_rows(torch.add, (torch.ones(1),), (torch.ones(1),)) == (torch.tensor([2.0]),)


def test_where_takes_whole_rows_of_any_rank_and_type():
    other = map_rows(lambda x: ~x if x.dtype == torch.bool else x + 100, state())
    mixed = where_rows(torch.tensor([True, False, True]), state(), other)
    assert mixed.inner.x.tolist() == [[0, 1], [102, 103], [4, 5]]
    assert mixed.inner.n.tolist() == [0, 101, 2]
    assert mixed.flag.tolist() == [True, True, True]


def test_where_never_multiplies_so_nan_stays_in_its_rows():
    bad = torch.full((2, 2), torch.nan)
    assert where_rows(torch.tensor([False, True]), bad, torch.zeros(2, 2))[0].tolist() == [0, 0]


def test_repeat_makes_the_copy_the_fastest_index():
    assert repeat_rows(torch.tensor([[1], [2]]), 3).flatten().tolist() == [1, 1, 1, 2, 2, 2]


def test_first_leaf():
    assert first_leaf(state()).shape == (3, 2)
    assert first_leaf(torch.ones(4)).shape == (4,)


def test_states_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="a state must be a tensor or a NamedTuple of tensors, got dict"):
        map_rows(lambda x: x, {"x": torch.ones(1)})
    with pytest.raises(TypeError, match="got list"):
        first_leaf([torch.ones(1)])
    with pytest.raises(ValueError, match="zip"):
        map_rows(torch.add, (torch.ones(1),), (torch.ones(1), torch.ones(1)))
