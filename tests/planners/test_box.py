"""Action bounds: what is accepted, what is refused, and clamping."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from planners import Box


def test_numbers_and_lists_spread_over_dimensions():
    box = Box(-1.0, [1.0, 3.0])
    assert box.dim == 2
    assert box.low.tolist() == [-1.0, -1.0]
    assert box.center.tolist() == [0.0, 1.0]
    assert box.range.tolist() == [2.0, 4.0]
    assert Box(-2, 2, dim=3).high.tolist() == [2.0, 2.0, 2.0]
    assert Box([-1.0], 1.0).dim == 1


def test_the_callers_tensors_are_not_shared():
    low = torch.tensor([-1.0, -1.0], dtype=torch.float64)
    box = Box(low, [1.0, 1.0])
    low += 5
    assert box.low.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clamp_keeps_the_dtype_and_leaves_inner_actions_alone(dtype):
    box = Box([-1.0, 0.0], [1.0, 2.0])
    actions = torch.tensor([[[-3.0, -3.0], [0.25, 0.5], [3.0, 3.0]]], dtype=dtype)
    clamped = box.clamp(actions)
    assert clamped.dtype == dtype
    assert clamped.tolist() == [[[-1.0, 0.0], [0.25, 0.5], [1.0, 2.0]]]


def test_from_space():
    space = gym.spaces.Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32))
    box = Box.from_space(space)
    assert box.low.tolist() == [-1.0, -2.0]
    assert box.high.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("low", "high", "dim", "message"),
    [
        (1.0, 1.0, 1, "low: expected less than high"),
        ([0.0, 2.0], [1.0, 1.0], None, "low: expected less than high"),
        (-float("inf"), 1.0, 1, "low: expected finite bounds"),
        (0.0, float("nan"), 1, "high: expected finite bounds"),
        ([0.0, 0.0], [1.0, 1.0, 1.0], None, "low: expected 1 or 3 numbers, got 2"),
        ([0.0, 0.0], 1.0, 3, "low: expected 1 or 3 numbers, got 2"),
        (-1.0, 1.0, None, r"dim: expected the number of action dimensions, .*got None; write Box\(-1.0, 1.0, dim=1\)"),
        (np.float32(-1), torch.tensor(1.0), None, "dim: expected the number of action dimensions"),
        (-1.0, 1.0, 0, "dim: expected at least 1, got 0"),
        (-1.0, 1.0, 2.0, r"dim: expected a whole number of at least 1, got 2\.0"),
    ],
)
def test_bad_bounds_are_named(low, high, dim, message):
    with pytest.raises(ValueError, match=message):
        Box(low, high, dim)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gym.spaces.Discrete(3), "space: expected a gymnasium.spaces.Box"),
        (gym.spaces.Box(-1, 1, (2, 2)), "space: expected one dimension"),
        (gym.spaces.Box(-np.inf, np.inf, (2,)), "low: expected finite bounds"),
    ],
)
def test_bad_spaces_are_named(space, message):
    with pytest.raises(ValueError, match=message):
        Box.from_space(space)
