"""Targets and losses against tables worked out by hand, in float64."""

import math

import pytest
import torch

from mbrl.learners import targets
from mbrl.learners.distributions import LOG_STD_RANGE, action_bounds, gaussian_head, squashed_gaussian
from mbrl.seeding import generator


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_td_target():
    """Going on, going on at half the discount, terminated."""
    got = targets.td_target(t(1, -2, 3), t(0.9, 0.45, 0), t(10, 10, 10))
    torch.testing.assert_close(got, t(10, 2.5, 3))


def test_minimum_over_critics():
    q = t([[1, 5], [2, 4], [3, 3]], [[0, 0], [9, -1], [-2, 7]])  # [runs, critics, rows]
    torch.testing.assert_close(targets.minimum_over_critics(q), t([1, 3], [-2, -1]))
    subset = torch.tensor([[1, 2], [1, 0]])  # each run has its own
    torch.testing.assert_close(targets.minimum_over_critics(q, subset), t([2, 3], [0, -1]))


def test_soft_value():
    """An action of low probability is worth more than its q."""
    q, log_prob, temperature = t([4, 4], [4, 4]), t([-1, 2], [-1, 2]), t(0.5, 0)
    torch.testing.assert_close(targets.soft_value(q, log_prob, temperature), t([4.5, 3], [4, 4]))
    both = torch.stack([q, q + 1], 1)
    torch.testing.assert_close(targets.soft_value(both, log_prob, temperature)[:, 1], t([5.5, 4], [5, 5]))


def test_smoothed_action():
    """Plain noise; noise cut to the clip, both ways; the sum cut to the bounds."""
    got = targets.smoothed_action(t(0, 0, 0, 0.9, -0.9), t(1, 10, -10, 1, -10), std=0.2, clip=0.5)
    torch.testing.assert_close(got, t(0.2, 0.5, -0.5, 1, -1))


def test_squared_error():
    target = t([1, 2]).requires_grad_()  # [runs, rows]
    q = t([[1, 4], [0, 0]]).requires_grad_()  # [runs, critics, rows]
    loss = targets.squared_error(q, target[:, None])
    torch.testing.assert_close(loss, t([2, 2.5]))
    loss.sum().backward()
    torch.testing.assert_close(q.grad, t([[0, 2], [-1, -2]]))
    assert target.grad is None


def test_huber():
    torch.testing.assert_close(targets.huber(t(0, 0.5, 1, 3, -3)), t(0, 0.125, 0.5, 2.5, 2.5))
    torch.testing.assert_close(targets.huber(t(1, 2, 4), delta=2.0), t(0.5, 2, 6))


def test_policy_losses():
    q, log_prob = t([1, 3], [0, 0]), t([-2, 0], [1, 3])
    torch.testing.assert_close(targets.policy_loss(q), t(-2, 0))
    # run 0: mean of 0.5 * -2 - 1 and 0.5 * 0 - 3; run 1: mean of 2 * 1 and 2 * 3
    torch.testing.assert_close(targets.soft_policy_loss(q, log_prob, t(0.5, 2)), t(-2.5, 4))


def test_temperature_loss():
    """Entropy 1 (log-probability -1): above a target of -2 the temperature is to fall, below one of 3 to rise."""
    log_temperature = t(0.5).requires_grad_()
    log_prob = t([-2, 0]).requires_grad_()
    loss = targets.temperature_loss(log_temperature, log_prob, -2.0)
    torch.testing.assert_close(loss, t(1.5))
    loss.sum().backward()
    assert log_temperature.grad.item() == 3  # a descent step lowers it
    assert log_prob.grad is None
    assert torch.autograd.grad(targets.temperature_loss(log_temperature, log_prob, 3.0).sum(), log_temperature)[0] == -2


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_log_probability_agrees_with_torch_distributions(scale):
    mean, log_std, noise = scale * torch.randn(3, 64, 5, generator=generator(0), dtype=torch.float64)
    log_std = log_std.clamp(-5, 2)
    action, log_prob = squashed_gaussian(mean, log_std, noise)
    normal = torch.distributions.Normal(mean, log_std.exp())
    tanh = torch.distributions.transforms.TanhTransform(cache_size=1)
    reference = torch.distributions.TransformedDistribution(normal, [tanh])
    u = mean + log_std.exp() * noise
    torch.testing.assert_close(action, tanh(u))
    torch.testing.assert_close(log_prob, reference.log_prob(tanh(u)).sum(-1), rtol=0, atol=1e-6)


def test_density_of_actions_integrates_to_one():
    edges = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    action = (edges[1:] + edges[:-1]) / 2
    mean, log_std = t(0.4), t(-0.7)
    noise = (action.atanh()[:, None] - mean) / log_std.exp()
    got, log_prob = squashed_gaussian(mean.expand_as(noise), log_std.expand_as(noise), noise)
    torch.testing.assert_close(got[:, 0], action)
    assert (log_prob.exp() * (edges[1] - edges[0])).sum().item() == pytest.approx(1, abs=1e-6)


def test_log_probability_is_finite_where_tanh_rounds_to_one():
    mean = torch.tensor([[30.0], [-30.0]], requires_grad=True)
    action, log_prob = squashed_gaussian(mean, torch.zeros(2, 1), torch.zeros(2, 1))
    assert action.tolist() == [[1], [-1]]
    # log(1 - tanh^2 u) = 2 log 2 - 2 |u| there
    torch.testing.assert_close(log_prob, torch.full((2,), -0.5 * math.log(2 * math.pi) + 60 - 2 * math.log(2)))
    slope = torch.autograd.grad(log_prob.sum(), mean)[0]
    assert slope.tolist() == [[2], [-2]]


def test_gaussian_head_cuts_the_log_std():
    mean, log_std = gaussian_head(t(100, -100, 100, -100))
    assert mean.tolist() == [100, -100]
    assert log_std.tolist() == [LOG_STD_RANGE[1], LOG_STD_RANGE[0]]


def test_action_bounds_go_both_ways():
    bounds = action_bounds((-2.0, 0.0), (2.0, 1.0), 3, t(0))
    unit = t([[-1, -1], [1, 1], [0, 0.5]]).expand(3, 3, 2)
    action = bounds.action(unit)
    torch.testing.assert_close(action[1], t([-2, 0], [2, 1], [0, 0.75]))
    torch.testing.assert_close(bounds.unit(action), unit)


def test_value_of_action():
    q = t([[1, 2], [3, 4]], [[5, 6], [7, 8]])  # [critics, rows, actions]
    got = targets.value_of_action(q, torch.tensor([[1, 0]]).expand(2, -1))
    torch.testing.assert_close(got, t([2, 3], [6, 7]))
    both = q[None]  # [runs, critics, rows, actions], actions [runs, 1, rows]
    torch.testing.assert_close(targets.value_of_action(both, torch.tensor([[[1, 0]]])), got[None])


def test_greedy_and_double_value():
    q, selector = t([1, 5, 3], [-1, -2, -3]), t([0, 0, 9], [0, 1, 0])
    torch.testing.assert_close(targets.greedy_value(q), t(5, -1))
    torch.testing.assert_close(targets.double_q_value(q, selector), t(3, -2))


def test_expected_soft_value():
    """Of probabilities 1/4 and 3/4; without temperature the expectation alone."""
    log_prob = t([[0.25, 0.75]], [[0.25, 0.75]]).log()  # [runs, rows, actions]
    q, temperature = t([[4, 8]], [[4, 8]]), t(0.5, 0)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    expected = t([7 + 0.5 * entropy], [7])
    torch.testing.assert_close(targets.expected_soft_value(q, log_prob, temperature), expected)
    torch.testing.assert_close(targets.mean_log_prob(log_prob), t([-entropy], [-entropy]))
