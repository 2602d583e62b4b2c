"""Risk measures against hand tables, and the laws that tie them together."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planners.risk import cvar, exponential, mean, worst

RETURNS = torch.tensor([[[4.0, 1.0, 3.0, 2.0]]], dtype=torch.float64)
VALID = torch.ones(1, 1, 4, dtype=torch.bool)
floats = st.floats(-100, 100)


@pytest.mark.parametrize(
    ("risk", "expected"),
    [
        (mean, 2.5),
        (worst, 1.0),
        (cvar(1.0), 2.5),
        (cvar(0.5), 1.5),  # the mean of 1 and 2
        (cvar(0.25), 1.0),
        (cvar(0.1), 1.0),  # less than one particle: the worst
        (cvar(0.375), (1 + 0.5 * 2) / 1.5),  # one particle and a half
        (exponential(1.0), -math.log((math.exp(-4) + math.exp(-1) + math.exp(-3) + math.exp(-2)) / 4)),
        (exponential(-1.0), math.log((math.exp(4) + math.exp(1) + math.exp(3) + math.exp(2)) / 4)),
    ],
)
def test_hand_table(risk, expected):
    torch.testing.assert_close(risk(RETURNS, VALID), torch.tensor([[expected]], dtype=torch.float64))


@settings(deadline=None)
@given(st.lists(floats, min_size=1, max_size=12), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_mean_at_least_cvar_at_least_worst_and_cvar_grows_with_alpha(values, a, b):
    returns = torch.tensor(values, dtype=torch.float64)[None, None]
    valid = torch.ones_like(returns, dtype=torch.bool)
    low, high = (float(cvar(alpha)(returns, valid)) for alpha in sorted((a, b)))
    assert float(worst(returns, valid)) - 1e-9 <= low <= high + 1e-9
    assert high <= float(mean(returns, valid)) + 1e-9
    torch.testing.assert_close(cvar(1.0)(returns, valid), mean(returns, valid))


@settings(deadline=None)
@given(st.lists(floats, min_size=1, max_size=12), st.floats(0.01, 5.0), st.floats(-50, 50), st.randoms())
def test_measures_are_monotone_in_shift_and_blind_to_order(values, temperature, shift, random):
    returns = torch.tensor(values, dtype=torch.float64)[None, None]
    valid = torch.ones_like(returns, dtype=torch.bool)
    shuffled = random.sample(values, len(values))
    for risk in (mean, worst, cvar(0.3), exponential(temperature), exponential(-temperature)):
        score = risk(returns, valid)
        torch.testing.assert_close(risk(returns + shift, valid), score + shift, rtol=1e-9, atol=1e-9)
        other = torch.tensor(shuffled, dtype=torch.float64)[None, None]
        torch.testing.assert_close(risk(other, valid), score, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(st.lists(floats, min_size=1, max_size=12), st.floats(0.001, 20.0))
def test_exponential_averts_or_seeks_risk(values, temperature):
    returns = torch.tensor(values, dtype=torch.float64)[None, None]
    valid = torch.ones_like(returns, dtype=torch.bool)
    averse, seeking = (float(exponential(sign * temperature)(returns, valid)) for sign in (1, -1))
    slack = 1e-9 / temperature + 1e-9
    assert min(values) - slack <= averse <= float(returns.mean()) + slack
    assert float(returns.mean()) - slack <= seeking <= max(values) + slack


def test_exponential_limits():
    torch.testing.assert_close(exponential(1e-7)(RETURNS, VALID), mean(RETURNS, VALID), rtol=1e-5, atol=0)
    torch.testing.assert_close(exponential(1e4)(RETURNS, VALID), worst(RETURNS, VALID), rtol=1e-3, atol=0)
    # To first order in the temperature: the mean less half the temperature times the variance.
    t, variance = 1e-3, 1.25
    expected = torch.tensor([[2.5 - t / 2 * variance]], dtype=torch.float64)
    torch.testing.assert_close(exponential(t)(RETURNS, VALID), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.1, math.nan])
def test_cvar_refuses_shares_out_of_range(alpha):
    with pytest.raises(ValueError, match="alpha: expected a share"):
        cvar(alpha)


@pytest.mark.parametrize("temperature", [0.0, math.inf, math.nan])
def test_exponential_refuses_degenerate_temperatures(temperature):
    with pytest.raises(ValueError, match="temperature: expected a finite number other than 0"):
        exponential(temperature)
