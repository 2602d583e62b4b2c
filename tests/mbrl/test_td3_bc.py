"""TD3+BC: its actor's loss worked out by hand, what scaling of rewards and observations changes, laws, and a bandit."""

import math

import pytest
import torch

from mbrl.learners.networks import mlp
from mbrl.learners.td3 import TD3Config, TD3Learner
from mbrl.learners.td3_bc import TD3BCConfig, TD3BCLearner
from mbrl.learners.testing import check_learner
from mbrl.seeding import generator
from planners.rows import leaves, map_rows
from tests.mbrl.learner_cases import HIGH, LOW, OBS, batch_of, set_constant


def learner(**settings):
    return TD3BCLearner(OBS, LOW, HIGH, TD3BCConfig(**{"hidden": (16, 16)} | settings), torch.float64)


def test_it_keeps_the_laws_of_learners():
    check_learner(learner(), OBS, len(LOW), low=-2.0, high=1.0)


@pytest.mark.parametrize("value", [5.0, -5.0, 2000.0])
def test_the_actors_loss_worked_out_by_hand(value):
    """The first critic says `value` everywhere, so the weight is 2.5 / |value| and its term 2.5 times the sign."""
    made, batch = learner(), batch_of()
    state = made.init([generator(0)])
    set_constant(state.td3.critics, [[[value], [7.0]]])
    action = torch.tanh(mlp(state.td3.actor, batch.obs))
    imitation = (action - (batch.action + 0.5) / 1.5).square().mean()
    _, metrics = made.actor_gradients(state, batch)
    assert metrics["train/bc_loss"].item() == pytest.approx(imitation.item(), rel=1e-12)
    assert metrics["train/actor_loss"].item() == pytest.approx(imitation.item() - math.copysign(2.5, value), rel=1e-12)


def test_the_actors_gradient_does_not_depend_on_the_units_of_rewards():
    made, batch = learner(), batch_of()
    state = made.init([generator(0)])
    before, _ = made.actor_gradients(state, batch)
    for tensor in state.td3.critics[-1]:
        tensor.mul_(1000)
    after, _ = made.actor_gradients(state, batch)
    torch.testing.assert_close(before, after)


def test_observations_are_scaled_by_what_the_state_holds():
    """Fitted to data and fed with it, it is the learner that was fed with standardised observations."""
    made, batch = learner(), batch_of(rows=64)
    shift, factor = torch.tensor([100.0, 0.0, -3.0]), torch.tensor([1e3, 1e-2, 1.0])
    raw = batch._replace(obs=shift + factor * batch.obs, next_obs=shift + factor * batch.next_obs)
    one, other = made.init([generator(0)]), made.init([generator(0)])
    made.fit_normalizer(one, batch.obs)
    made.fit_normalizer(other, raw.obs)
    noise = made.noise(64, [generator(7)])
    for _ in range(3):
        made.update(one, batch, noise)
        made.update(other, raw, noise)
    torch.testing.assert_close(leaves(one.td3), leaves(other.td3))
    torch.testing.assert_close(made.act(one, batch.obs), made.act(other, raw.obs))
    scaled = (raw.obs - other.mean) / other.std
    torch.testing.assert_close(scaled.mean(1), torch.zeros(1, OBS, dtype=torch.float64), atol=1e-9, rtol=0)


def test_its_critics_are_td3s():
    made, batch = learner(), batch_of()
    td3 = TD3Learner(OBS, LOW, HIGH, TD3Config(hidden=(16, 16), lr=3e-4), torch.float64)
    one, other, noise = made.init([generator(0)]), td3.init([generator(0)]), made.noise(8, [generator(7)])
    for _ in range(3):
        made.update(one, batch, noise, actor=False)
        td3.update(other, batch, noise, actor=False)
    assert all(torch.equal(a, b) for a, b in zip(leaves(one.td3), leaves(other), strict=True))


def learned(alpha):
    """What it does about a reward for actions near 1, given data of actions near -0.5 (in half action ranges)."""
    made = learner(alpha=alpha, lr=1e-2)
    state = made.init([generator(0)])
    for k in range(60):
        batch = batch_of(rows=32, seed=k)
        unit = -0.5 + 0.1 * torch.randn(1, 32, 2, generator=generator(k), dtype=torch.float64)
        batch = batch._replace(action=state.td3.bounds.action(unit), reward=unit.sum(-1), discount=0 * unit[..., 0])
        made.update(state, batch, made.noise(32, [generator(k, "noise")]), actor=k >= 20)
    return state.td3.bounds.unit(made.act(state, batch.obs)).mean().item()


def test_alpha_weighs_the_critic_against_imitation():
    assert learned(0.0) == pytest.approx(-0.5, abs=0.1)
    assert learned(0.0) < learned(0.5) < learned(50.0)


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
    ("name", "value"), [("hidden", ()), ("lr", 0.0), ("tau", 0.0), ("alpha", -1.0), ("critics", 0), ("actor_every", 0)]
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        TD3BCConfig(**{name: value})


def test_sizes_and_bounds_are_checked():
    with pytest.raises(ValueError, match="obs_dim"):
        TD3BCLearner(0, LOW, HIGH)
    with pytest.raises(ValueError, match="high"):
        TD3BCLearner(3, LOW, (1.0, math.inf))
