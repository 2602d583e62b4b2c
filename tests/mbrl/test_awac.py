"""AWAC: losses worked out by hand for constant networks, laws, and a bandit."""

import math

import pytest
import torch

from mbrl.learners.awac import AWACConfig, AWACLearner
from mbrl.learners.distributions import bounded_gaussian, bounded_gaussian_log_prob
from mbrl.learners.networks import mlp
from mbrl.learners.testing import check_learner
from mbrl.seeding import generator
from planners.rows import leaves, map_rows
from tests.mbrl.learner_cases import HIGH, LOW, OBS, batch_of, set_constant


def learner(**settings):
    return AWACLearner(OBS, LOW, HIGH, AWACConfig(**{"hidden": (16, 16)} | settings), torch.float64)


def test_it_keeps_the_laws_of_learners():
    check_learner(learner(), OBS, len(LOW), low=-2.0, high=1.0)


def test_the_critics_loss_of_constant_networks():
    made, batch = learner(), batch_of()
    state, noise = made.init([generator(0)]), made.noise(8, [generator(7)])
    set_constant(state.critics, [[[1.0], [2.0]]])
    set_constant(state.targets, [[[5.0], [3.0]]])
    target = batch.reward + 0.9 * 3
    expected = (1 - target).square().mean() + (2 - target).square().mean()
    _, metrics = made.critic_gradients(state, batch, noise)
    assert metrics["train/critic_loss"].item() == pytest.approx(expected.item())


def test_the_critics_bootstrap_from_the_policys_actions_at_the_next_state():
    made, batch = learner(), batch_of()
    state, noise = made.init([generator(0)]), made.noise(8, [generator(7)])
    unit = (batch.action + 0.5) / 1.5
    action = bounded_gaussian(mlp(state.actor, batch.next_obs), state.log_std, noise.next_action)
    value = mlp(state.targets, torch.cat([batch.next_obs, action], -1))[..., 0].amin(1)
    q = mlp(state.critics, torch.cat([batch.obs, unit], -1))[..., 0]
    loss = (q - (batch.reward + 0.9 * value)[:, None]).square().mean(-1).sum(1)
    torch.testing.assert_close(made.critic_gradients(state, batch, noise)[1]["train/critic_loss"], loss)


def test_the_actors_weights_compare_the_datas_actions_with_the_policys():
    made, batch = learner(temperature=2.0), batch_of()
    state, noise = made.init([generator(0)]), made.noise(8, [generator(7)])
    unit = (batch.action + 0.5) / 1.5
    own = bounded_gaussian(mlp(state.actor, batch.obs), state.log_std, noise.action)
    shown, value = (mlp(state.critics, torch.cat([batch.obs, a], -1))[..., 0].amin(1) for a in (unit, own))
    weight = ((shown - value) / 2).exp()
    log_prob = bounded_gaussian_log_prob(mlp(state.actor, batch.obs), state.log_std, unit)
    _, metrics = made.actor_gradients(state, batch, noise)
    assert metrics["train/actor_loss"].item() == pytest.approx(-(weight * log_prob).mean().item())
    assert metrics["train/weight_mean"].item() == pytest.approx(weight.mean().item())


def test_where_all_actions_are_worth_the_same_it_clones_the_data():
    """Equal values give weights of 1, so that the mean of the policy moves to that of the data."""
    made = learner(lr=1e-2)
    state = made.init([generator(0)])
    for k in range(80):
        batch = batch_of(rows=64, seed=k)
        set_constant(state.critics, [[[1.0], [1.0]]])
        grads, _ = made.actor_gradients(state, batch, made.noise(64, [generator(k, "noise")]))
        for tensor, grad in zip(leaves((state.actor, state.log_std)), grads, strict=True):
            tensor.sub_(0.05 * grad)
    assert state.bounds.unit(made.act(state, batch.obs)).mean().item() == pytest.approx(0, abs=0.1)
    assert state.log_std.exp().mean().item() == pytest.approx(1 / math.sqrt(3), abs=0.1)  # of uniform actions


def bandit(temperature):
    """Rewards -(a - 0.5)^2 for uniform actions in half action ranges: the mean action after training."""
    made = learner(lr=1e-2, temperature=temperature)
    state = made.init([generator(0)])
    for k in range(150):
        batch = batch_of(rows=64, seed=k)
        reward = -(state.bounds.unit(batch.action) - 0.5).square().sum(-1)
        batch = batch._replace(reward=reward, discount=torch.zeros_like(reward))
        made.update(state, batch, made.noise(64, [generator(k, "noise")]))
    return state.bounds.unit(made.act(state, batch.obs)).mean().item()


def test_it_imitates_the_better_actions():
    assert bandit(0.1) == pytest.approx(0.5, abs=0.2)
    assert bandit(1e6) == pytest.approx(0, abs=0.15)


def test_an_update_that_is_not_finite_moves_nothing():
    made, batch = learner(), batch_of(runs=2)
    state, noise = made.init([generator(0), generator(1)]), made.noise(8, [generator(7), generator(8)])
    made.update(state, batch, noise)
    kept, poisoned = map_rows(torch.clone, state), batch.reward.clone()
    poisoned[1, 0] = math.nan
    _, metrics = made.update(state, batch._replace(reward=poisoned), noise)
    assert metrics["train/critic_loss"].isfinite().tolist() == [True, False]
    assert all(torch.equal(a, b) for a, b in zip(leaves(kept), leaves(state), strict=True))


@pytest.mark.parametrize(
    ("name", "value"), [("hidden", ()), ("lr", 0.0), ("tau", 0.0), ("temperature", 0.0), ("largest_weight", 0.0)]
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        AWACConfig(**{name: value})


@pytest.mark.parametrize("value", [None, 0.0])
def test_a_temperature_that_could_be_learned_is_refused(value):
    with pytest.raises(ValueError, match="temperature: expected a positive number, for AWAC learns none, got"):
        AWACConfig(temperature=value)


def test_sizes_and_bounds_are_checked():
    with pytest.raises(ValueError, match="obs_dim"):
        AWACLearner(0, LOW, HIGH)
    with pytest.raises(ValueError, match="high"):
        AWACLearner(3, LOW, (1.0, math.inf))
