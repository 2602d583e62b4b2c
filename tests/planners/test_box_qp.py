"""Quadratic programs in a box against an exhaustive search over which bounds are active."""

from itertools import product

import pytest
import torch
from torch import Tensor

from planners.box_qp import box_qp


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exhaustive(H: Tensor, g: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The best point of all that are stationary with some coordinates at a bound and the others between."""
    best, found = torch.inf, low
    for choice in product((-1, 0, 1), repeat=len(g)):
        at = torch.tensor(choice)
        x = torch.where(at < 0, low, high)
        free = at == 0
        if free.any():
            x[free] = torch.linalg.solve(H[free][:, free], -(g[free] + H[free][:, ~free] @ x[~free]))
        value = float(0.5 * x @ H @ x + g @ x)
        if bool(((x >= low) & (x <= high)).all()) and value < best:
            best, found = value, x
    return found


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_solutions_equal_an_exhaustive_search(size: int, condition: float) -> None:
    rows = 30
    root = random(rows, size, size, seed=size)
    scale = condition ** -torch.linspace(0, 0.5, size, dtype=torch.float64)
    H = scale[:, None] * (root @ root.mT + 0.1 * torch.eye(size, dtype=torch.float64)) * scale
    g, low = 2 * random(rows, size, seed=10), -random(rows, size, seed=11).abs()
    high = low + 2 * random(rows, size, seed=12).abs()
    solution = box_qp(H, *(x[..., None] for x in (g, low, high, random(rows, size, seed=13))))
    expected = torch.stack([exhaustive(*row) for row in zip(H, g, low, high, strict=True)])
    torch.testing.assert_close(solution.x[..., 0], expected, rtol=1e-8, atol=1e-8)
    assert not bool(solution.failed.any())
    slope = (g + (H @ solution.x)[..., 0]).abs()
    free = solution.free[..., 0]
    assert bool((slope[free] < 1e-8).all())
    assert bool(((expected == low) | (expected == high))[~free].all())
    assert 0 < int(free.sum()) < free.numel()  # both kinds occur
    mask = (free[:, :, None] & free[:, None, :]) | torch.eye(size, dtype=torch.bool)
    masked = torch.where(mask, H, 0.0)
    masked = torch.where(free[:, :, None] | ~torch.eye(size, dtype=torch.bool), masked, 1.0)
    torch.testing.assert_close(solution.factor @ solution.factor.mT, masked)


def test_without_bounds_it_is_one_newton_step() -> None:
    H, g = torch.eye(3, dtype=torch.float64)[None] * 2, random(1, 3, 1, seed=0)
    free = torch.full((1, 3, 1), torch.inf, dtype=torch.float64)
    solution = box_qp(H, g, -free, free, torch.zeros_like(g), iterations=1)
    torch.testing.assert_close(solution.x, -g / 2)


def test_a_row_that_fails_says_so_and_leaves_its_neighbours_alone() -> None:
    good = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    H = torch.stack([good, -good, good * torch.nan, good])
    g, one = random(4, 2, 1, seed=1), torch.ones(4, 2, 1, dtype=torch.float64)
    solution = box_qp(H, g, -one, one, 0 * one)
    assert solution.failed.tolist() == [False, True, True, False]
    for value in (torch.nan, torch.inf, -torch.inf):
        wrong = torch.where(torch.tensor([0, 0, 0, 1]).view(4, 1, 1) == 1, value, g)
        broken = box_qp(good.expand(4, 2, 2), wrong, -one, one, 0 * one)
        assert broken.failed.tolist() == [False, False, False, True]
    alone = box_qp(good[None], g[3:], -one[3:], one[3:], 0 * one[3:])
    torch.testing.assert_close(solution.x[3:], alone.x, rtol=0, atol=0)


def test_a_clamped_step_that_climbs_is_shortened() -> None:
    """Cut off at a bound, a Newton step of these skewed bowls may raise the objective; then it is shortened."""
    rows, size = 200, 4
    root = random(rows, size, size, seed=1)
    H = root @ root.mT + 1e-3 * torch.eye(size, dtype=torch.float64)
    g, low = 3 * random(rows, size, 1, seed=2), -random(rows, size, 1, seed=3).abs()
    high, x = low + 2 * random(rows, size, 1, seed=4).abs(), 5 * random(rows, size, 1, seed=5)

    def objective(x: Tensor) -> Tensor:
        return (0.5 * x.mT @ H @ x + g.mT @ x)[:, 0, 0]

    x, climbed = torch.clamp(x, low, high), 0
    for _ in range(20):
        step = box_qp(H, g, low, high, x, iterations=1)
        assert bool((objective(step.x) <= objective(x) + 1e-12).all())
        slope = g + H @ x
        free = x != torch.where(slope > 0, low, high)
        masked = torch.where(free & free.mT, H, torch.eye(size, dtype=torch.float64))
        whole = torch.clamp(x - torch.linalg.solve(masked, slope * free), low, high)
        climbed += int((objective(whole) > objective(x) + 1e-9).sum())
        x = step.x
    assert climbed > 0  # such steps do occur here
    torch.testing.assert_close(x, box_qp(H, g, low, high, 0 * x).x, rtol=0, atol=1e-7)
