"""Coloured noise and knots: what sampling planners disturb plans with."""

import colorednoise
import numpy as np
import pytest
import torch

from planners import Knots
from planners.sampling.noise import colored_noise

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Noise


@pytest.mark.parametrize("steps", [9, 30])
@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_colored_noise_has_variance_one_and_the_spectrum_of_the_package(steps, beta):
    x = colored_noise((40_000, steps, 2), beta, generator=generator(), device=CPU, dtype=torch.float64)
    other = colorednoise.powerlaw_psd_gaussian(beta, (80_000, steps), random_state=0)
    assert abs(float(x.var()) - 1) < 0.03
    assert abs(float(x[:, 0, 0].var()) - 1) < 0.05  # at the edge too: no window
    power = torch.fft.rfft(x, dim=1).abs().square().mean((0, 2)).numpy()
    expected = (np.abs(np.fft.rfft(other, axis=1)) ** 2).mean(0)
    # The package leaves the constant out of what it brings to variance 1: the shape is the same.
    np.testing.assert_allclose(power / power[1], expected / expected[1], rtol=0.06)


def test_colored_noise_is_independent_over_dimensions():
    x = colored_noise((20_000, 8, 2), 2.0, generator=generator(), device=CPU, dtype=torch.float64)
    assert abs(float((x[..., 0] * x[..., 1]).mean())) < 0.03
    assert float((x[:, 1:] * x[:, :-1]).mean()) > 0.5


# Knots


def expand(knots, values, horizon, phase=0):
    tensor = torch.tensor(values, dtype=torch.float64)[None, None, :, None]
    return knots.actions(tensor, torch.tensor([phase]), horizon)[0, 0, :, 0].tolist()


def test_zero_order_knots_hold_their_value():
    assert expand(Knots(3, "zero"), [1.0, 2.0, 5.0], 6) == [1, 1, 2, 2, 5, 5]
    assert expand(Knots(3, "zero"), [1.0, 2.0, 5.0], 6, phase=1) == [1, 2, 2, 5, 5, 5]


def test_linear_knots_are_joined_by_lines():
    assert expand(Knots(3, "linear"), [0.0, 2.0, -2.0], 5) == [0, 1, 2, 0, -2]
    assert expand(Knots(3, "linear"), [0.0, 2.0, -2.0], 5, phase=1) == [1, 2, 0, -2, -2]


def test_cubic_knots_pass_through_their_values_and_reproduce_a_parabola():
    knots, horizon = Knots(5, "cubic"), 9  # one knot every 2 steps, the first one 2 steps before the window
    parabola = [float(t * t) for t in range(-2, 10, 2)]
    actions = expand(knots, parabola, horizon)
    assert actions[::2] == parabola[1:]
    assert actions[:7] == pytest.approx([t * t for t in range(7)])  # beyond, the last knot is held
    later = expand(knots, parabola, horizon, phase=1)
    assert later[:8] == pytest.approx(actions[1:])


@pytest.mark.parametrize("order", ["zero", "linear", "cubic"])
@pytest.mark.parametrize("phase", [0, 1, 2])
def test_the_fit_of_a_sequence_of_knots_is_that_sequence(order, phase):
    knots, horizon, phases = Knots(4, order), 12, torch.tensor([phase])
    values = torch.randn(1, 5, knots.size(horizon), 2, generator=generator(), dtype=torch.float64)
    actions = knots.actions(values, phases, horizon)
    again = knots.actions(knots.fit(actions, phases, horizon), phases, horizon)
    torch.testing.assert_close(again, actions)


@pytest.mark.parametrize("order", ["zero", "linear", "cubic"])
@pytest.mark.parametrize(("count", "horizon"), [(5, 20), (6, 20), (9, 12), (12, 32), (30, 50), (10, 25), (7, 7)])
def test_knots_that_no_step_reads_have_no_effect_and_hold_the_value_beside_them(order, count, horizon):
    knots = Knots(count, order)
    phases = torch.arange(knots.interval(horizon))
    read = knots.read(phases, horizon)
    values = torch.randn(len(phases), 1, knots.size(horizon), 1, generator=generator(), dtype=torch.float64)
    moved = torch.where(read[:, None, :, None], values, values + 1)
    assert torch.equal(knots.actions(moved, phases, horizon), knots.actions(values, phases, horizon))
    constant = torch.full((len(phases), 1, horizon, 1), 7.5, dtype=torch.float64)
    fit = knots.fit(constant, phases, horizon)
    torch.testing.assert_close(fit, torch.full_like(fit, 7.5))


def test_which_knots_are_read_by_hand():
    assert Knots(6, "zero").read(torch.tensor([0, 1]), 20).tolist() == [[True] * 5 + [False], [True] * 6]
    # Every second step has a knot: at phase 0 the window of 12 ends between two, at phase 1 on one.
    read = Knots(9, "linear").read(torch.tensor([0, 1]), 12)
    assert read.sum(1).tolist() == [7, 7]
    # A knot on each step: neither that before the window nor any other is needed to get between them.
    assert Knots(3, "cubic").read(torch.tensor([0]), 3).tolist() == [[False, True, True, True]]
