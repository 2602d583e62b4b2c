"""IQL: expectiles with a known value, losses worked out by hand for constant networks, laws, and a bandit."""

import math

import pytest
import torch

from mbrl.learners.distributions import bounded_gaussian, bounded_gaussian_log_prob
from mbrl.learners.iql import IQLConfig, IQLLearner
from mbrl.learners.networks import mlp
from mbrl.learners.targets import advantage_weights, expectile_loss
from mbrl.learners.testing import check_learner
from mbrl.seeding import generator
from planners.rows import leaves, map_rows
from tests.mbrl.learner_cases import HIGH, LOW, OBS, batch_of, set_constant


def learner(**settings):
    return IQLLearner(OBS, LOW, HIGH, IQLConfig(**{"hidden": (16, 16)} | settings), torch.float64)


def test_it_keeps_the_laws_of_learners():
    check_learner(learner(), OBS, len(LOW), low=-2.0, high=1.0)


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.9])
def test_the_expectile_of_zeros_and_ones_is_the_share_that_its_definition_gives(expectile):
    """For q of 0 and 1 alike often: expectile (1 - v) = (1 - expectile) v, so v = expectile."""
    q = torch.tensor([[0.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    v = torch.tensor([expectile], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(expectile_loss(q, v[:, None].expand_as(q), expectile).sum(), v)
    assert slope.item() == pytest.approx(0, abs=1e-12)


def test_the_expectile_loss_worked_out_by_hand():
    q, v = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0]])  # errors 2 and -1
    assert expectile_loss(q, v, 0.7).item() == pytest.approx((0.7 * 4 + 0.3 * 1) / 2)


def test_weights_are_exponential_and_cut():
    got = advantage_weights(torch.tensor([0.0, 1.0, -2.0, 50.0]), 3.0, 100.0)
    torch.testing.assert_close(got, torch.tensor([1.0, math.exp(3), math.exp(-6), 100.0]))


def test_the_density_is_torchs_and_finite_at_the_bounds():
    g = generator(0)
    output, action = torch.randn(2, 1, 6, 2, generator=g, dtype=torch.float64)
    log_std = torch.tensor([[[-1.0, 0.5]]], dtype=torch.float64)
    action = action.clamp(-1, 1)
    expected = torch.distributions.Normal(torch.tanh(output), log_std.exp()).log_prob(action).sum(-1)
    torch.testing.assert_close(bounded_gaussian_log_prob(output, log_std, action), expected)
    assert bounded_gaussian_log_prob(50 + 0 * output, log_std - 50, 1 + 0 * action).isfinite().all()  # cut at -5
    sampled = bounded_gaussian(output, log_std, torch.full_like(output, 0.3))
    torch.testing.assert_close(sampled, (torch.tanh(output) + 0.3 * log_std.exp()).clamp(-1, 1))


def test_losses_of_constant_networks():
    """Critics of 1 and 2, targets of 3 and 5, a value of 4: u = 3 - 4 = -1 is an error below the value."""
    made, batch = learner(beta=0.5), batch_of()
    state = made.init([generator(0)])
    set_constant(state.critics, [[[1.0], [2.0]]])
    set_constant(state.targets, [[[3.0], [5.0]]])
    set_constant(state.value, [[4.0]])
    assert made.value_gradients(state, batch)[1]["train/value_loss"].item() == pytest.approx(0.3)
    target = batch.reward + 0.9 * 4
    expected = (1 - target).square().mean() + (2 - target).square().mean()
    assert made.critic_gradients(state, batch)[1]["train/critic_loss"].item() == pytest.approx(expected.item())
    unit = (batch.action + 0.5) / 1.5
    log_prob = bounded_gaussian_log_prob(mlp(state.actor, batch.obs), state.log_std, unit)
    _, metrics = made.actor_gradients(state, batch)
    assert metrics["train/weight_mean"].item() == pytest.approx(math.exp(-0.5))
    assert metrics["train/actor_loss"].item() == pytest.approx(-math.exp(-0.5) * log_prob.mean().item())
    assert metrics["train/weights_cut"].item() == 0


def test_critics_bootstrap_from_the_next_state_and_the_value_looks_at_this_one():
    made, batch = learner(), batch_of()
    state = made.init([generator(0)])
    unit = (batch.action + 0.5) / 1.5
    q, q_target = (mlp(x, torch.cat([batch.obs, unit], -1))[..., 0] for x in (state.critics, state.targets))
    target = batch.reward + 0.9 * mlp(state.value, batch.next_obs)[..., 0]
    loss = (q - target[:, None]).square().mean(-1).sum(1)
    torch.testing.assert_close(made.critic_gradients(state, batch)[1]["train/critic_loss"], loss)
    loss = expectile_loss(q_target.amin(1), mlp(state.value, batch.obs)[..., 0], 0.7)
    torch.testing.assert_close(made.value_gradients(state, batch)[1]["train/value_loss"], loss)


def test_nothing_is_bootstrapped_behind_an_end():
    made, batch = learner(), batch_of(discount=torch.zeros(1, 8, dtype=torch.float64))
    state = made.init([generator(0)])
    before = made.critic_gradients(state, batch)[1]["train/critic_loss"]
    set_constant(state.value, [[1e6]])
    assert torch.equal(made.critic_gradients(state, batch)[1]["train/critic_loss"], before)


def test_the_values_of_unseen_actions_do_not_matter():
    """No critic is asked for an action that is not in the batch: one batch twice, or with itself beside it."""
    made, batch = learner(), batch_of(rows=4)
    twice = type(batch)(*(torch.cat([x, x], 1) for x in batch))
    one, other = made.init([generator(0)]), made.init([generator(0)])
    made.update(one, batch)
    made.update(other, twice)
    torch.testing.assert_close(leaves(one), leaves(other))


def bandit(**settings):
    """Rewards -(a - 0.5)^2 for uniform actions in half action ranges: (mean action, value) after training."""
    made = learner(lr=1e-2, tau=0.1, **settings)
    state = made.init([generator(0)])
    for k in range(150):
        batch = batch_of(rows=64, seed=k)
        unit = state.bounds.unit(batch.action)
        reward = -(unit - 0.5).square().sum(-1)
        made.update(state, batch._replace(reward=reward, discount=torch.zeros_like(reward)))
    return state.bounds.unit(made.act(state, batch.obs)).mean().item(), mlp(state.value, batch.obs).mean().item()


def test_it_imitates_the_better_actions_and_a_higher_expectile_values_them_higher():
    cloned, mean_value = bandit(beta=0.0, expectile=0.5)
    better, high_value = bandit(beta=10.0, expectile=0.9)
    assert cloned == pytest.approx(0, abs=0.15)
    assert better == pytest.approx(0.5, abs=0.2)
    assert mean_value == pytest.approx(-2 * (1 / 3 + 1 / 4), abs=0.25)
    assert high_value > mean_value + 0.3


@pytest.mark.parametrize("field", ["obs", "reward", "action"])
def test_an_update_that_is_not_finite_moves_nothing_that_depends_on_it(field):
    made, batch = learner(), batch_of(runs=2)
    state = made.init([generator(0), generator(1)])
    made.update(state, batch)
    kept, poisoned = map_rows(torch.clone, state), getattr(batch, field).clone()
    poisoned[1, 0] = math.nan
    _, metrics = made.update(state, batch._replace(**{field: poisoned}))
    assert metrics["train/critic_loss"].isfinite().tolist() == [True, False]
    for name in ("critics", "targets", "critic_adam", *(() if field == "reward" else ("actor", "value"))):
        pairs = zip(leaves(getattr(kept, name)), leaves(getattr(state, name)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name
    assert all(bool(x.isfinite().all()) for x in leaves(state))


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden", ()), ("lr", 0.0), ("tau", 0.0), ("expectile", 1.0), ("beta", -1.0), ("largest_weight", 0.0)],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        IQLConfig(**{name: value})


def test_sizes_and_bounds_are_checked():
    with pytest.raises(ValueError, match="obs_dim"):
        IQLLearner(0, LOW, HIGH)
    with pytest.raises(ValueError, match="high"):
        IQLLearner(3, LOW, (1.0, math.inf))
