"""TD3 and DDPG: losses worked out by hand for networks that give constants, laws, and a bandit."""

import math
from dataclasses import replace

import pytest
import torch

from mbrl.learners.ddpg import DDPGConfig, DDPGLearner
from mbrl.learners.networks import mlp
from mbrl.learners.td3 import TD3Config, TD3Learner
from mbrl.learners.testing import check_learner
from mbrl.seeding import generator
from planners.rows import leaves, map_rows
from tests.mbrl.learner_cases import HIGH, LOW, OBS, batch_of, set_constant

BOTH = pytest.mark.parametrize("kind", ["td3", "ddpg"])


def learner(kind="td3", **settings):
    made, config = {"td3": (TD3Learner, TD3Config()), "ddpg": (DDPGLearner, DDPGConfig())}[kind]
    return made(OBS, LOW, HIGH, replace(config, **{"hidden": (16, 16)} | settings), torch.float64)


def same(one, other):
    """Bit for bit, NaN as NaN."""
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in pairs)


def set_linear(network, column, factor):
    """Make a network of two hidden layers give `factor` times its input number `column`, which may have any sign."""
    for weight, bias in network:
        weight.zero_(), bias.zero_()
    (first, _), (second, _), (last, _) = network
    first[..., column, 0], first[..., column, 1] = 1, -1
    second[..., 0, 0], second[..., 1, 1] = 1, 1
    last[..., 0, 0], last[..., 1, 0] = factor, -factor


@BOTH
def test_it_keeps_the_laws_of_learners(kind):
    check_learner(learner(kind), OBS, len(LOW), low=-2.0, high=1.0)


def test_critic_loss_of_td3_worked_out_by_hand():
    """Rows that go on, that go on at another discount, and that terminated."""
    made = learner()
    state = made.init([generator(0)])
    set_constant(state.critics, [[[1.0], [-2.0]]])
    set_constant(state.target_critics, [[[5.0], [3.0]]])
    discount = torch.tensor([[0.9, 0.5, 0.0]], dtype=torch.float64)
    batch = batch_of(rows=3, discount=discount)
    target = batch.reward + 3 * discount
    _, metrics = made.update(state, batch, made.noise(3, [generator(7)]))
    expected = (1 - target).square().mean() + (-2 - target).square().mean()
    assert metrics["train/critic_loss"].item() == pytest.approx(expected.item(), rel=1e-9)
    assert metrics["train/q_mean"].item() == pytest.approx(-0.5)


def test_critic_loss_of_ddpg_worked_out_by_hand():
    made = learner("ddpg")
    state = made.init([generator(0)])
    set_constant(state.critic, [[1.0]])
    set_constant(state.target_critic, [[5.0]])
    discount = torch.tensor([[0.9, 0.5, 0.0]], dtype=torch.float64)
    batch = batch_of(rows=3, discount=discount)
    _, metrics = made.update(state, batch)
    expected = (1 - batch.reward - 5 * discount).square().mean()
    assert metrics["train/critic_loss"].item() == pytest.approx(expected.item(), rel=1e-9)
    assert metrics["train/q_mean"].item() == pytest.approx(1)


@pytest.mark.parametrize(("noise", "action"), [(1.0, 0.7), (-1.0, 0.3), (9.0, 1.0), (-9.0, 0.0)])
def test_target_actions_of_td3_are_smoothed(noise, action):
    """The target policy takes 0.5, with noise of standard deviation 0.2 cut to +-0.5: the value is 10 times the sum."""
    made = learner()
    state = made.init([generator(0)])
    set_constant(state.target_actor, [[math.atanh(0.5), 0.0]])
    set_constant(state.critics, [[[0.0], [0.0]]])
    set_linear(state.target_critics, OBS, 10.0)
    batch = batch_of(rows=2)
    _, metrics = made.critic_gradients(state, batch, torch.full((1, 2, 2), noise, dtype=torch.float64))
    expected = 2 * (batch.reward + 0.9 * 10 * action).square().mean()
    assert metrics["train/critic_loss"].item() == pytest.approx(expected.item(), rel=1e-9)


@BOTH
def test_actor_climbs_the_critic_that_it_is_shown_actions_by(kind):
    """Q is twice the first action in units of [-1, 1] (TD3's second critic says the opposite): the loss is -2 a."""
    made, batch = learner(kind), batch_of()
    state = made.init([generator(0)])
    if kind == "td3":
        set_linear([(w[:, 0], b[:, 0]) for w, b in state.critics], OBS, 2.0)
        set_linear([(w[:, 1], b[:, 1]) for w, b in state.critics], OBS, -2.0)
    else:
        set_linear(state.critic, OBS, 2.0)
    before = torch.tanh(mlp(state.actor, batch.obs))[..., 0]
    _, metrics = made.actor_gradients(state, batch)
    assert metrics["train/actor_loss"].item() == pytest.approx(-2 * before.mean().item(), rel=1e-9)
    noise = made.noise(8, [generator(7)])
    for _ in range(3):
        made.update(state, batch._replace(reward=0 * batch.reward, discount=0 * batch.discount), noise)
    assert torch.tanh(mlp(state.actor, batch.obs))[..., 0].mean() > before.mean()


@BOTH
def test_targets_move_by_tau_towards_what_was_updated(kind):
    made = learner(kind, tau=0.25)
    state, noise = made.init([generator(0)]), made.noise(8, [generator(7)])
    for _ in range(2):  # so that targets and what they follow differ
        before = [x.clone() for x in leaves(state[2:4])]
        made.update(state, batch_of(), noise)
    for old, new, followed in zip(before, leaves(state[2:4]), leaves(state[:2]), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * followed)


@BOTH
def test_without_its_turn_the_actor_stays_and_td3s_targets_with_it(kind):
    made = learner(kind)
    state, noise = made.init([generator(0)]), made.noise(8, [generator(7)])
    made.update(state, batch_of(), noise)
    before = [[x.clone() for x in leaves(part)] for part in state]
    _, metrics = made.update(state, batch_of(), noise, actor=False)
    same = [
        all(torch.equal(a, b) for a, b in zip(old, leaves(part), strict=True))
        for old, part in zip(before, state, strict=True)
    ]
    targets_stay = kind == "td3"
    assert same == [True, False, targets_stay, targets_stay, True, False, True]
    assert set(metrics) == {"train/critic_loss", "train/q_mean"}


@BOTH
@pytest.mark.parametrize("field", ["obs", "reward", "next_obs", "action", "discount"])
def test_an_update_that_is_not_finite_moves_nothing(kind, field):
    made, batch = learner(kind), batch_of(runs=2)
    state = made.init([generator(0), generator(1)])
    noise = made.noise(8, [generator(7), generator(8)])
    made.update(state, batch, noise)
    kept, poisoned = [x.clone() for x in leaves(state)], getattr(batch, field).clone()
    poisoned[1, 0] = math.nan
    _, metrics = made.update(state, batch._replace(**{field: poisoned}), noise)
    assert metrics["train/critic_loss"].isfinite().tolist() == [True, False]
    assert all(torch.equal(a, b) for a, b in zip(kept, leaves(state), strict=True))


@BOTH
def test_a_bad_loss_of_the_actor_stops_what_comes_after_the_critic(kind):
    """The actor's outputs overflow. The critic, which was updated before, moves; no target follows."""
    made, batch = learner(kind), batch_of()
    state, noise = made.init([generator(0)]), made.noise(8, [generator(7)])
    made.update(state, batch, noise)
    for weight, _ in state.actor:
        weight.mul_(1e200)
    before = [map_rows(torch.clone, part) for part in state]
    _, metrics = made.update(state, batch, noise)
    assert metrics["train/critic_loss"].isfinite().all()
    assert metrics["train/actor_loss"].isnan().all()
    assert [same(old, part) for old, part in zip(before, state, strict=True)] == [
        part not in ("critic", "critics", "critic_adam") for part in state._fields
    ]


@BOTH
def test_gradients_whose_squares_overflow_move_nothing(kind):
    """Observations of 1e15 give a finite loss and gradients of 1e25 and more, whose squares Adam can't keep."""
    made = replace(learner(kind), dtype=torch.float32)
    batch = batch_of(dtype=torch.float32)
    state, noise = made.init([generator(0)]), made.noise(8, [generator(7)])
    before = map_rows(torch.clone, state)
    _, metrics = made.update(state, batch._replace(obs=1e15 * batch.obs), noise)
    assert metrics["train/critic_loss"].isnan().all()
    assert same(before, state)


@BOTH
def test_exploration_is_noise_in_half_action_ranges_within_the_bounds(kind):
    made, obs = learner(kind, exploration=0.2), batch_of().obs
    state, unit = made.init([generator(0)]), torch.ones(1, 8, 2, dtype=torch.float64)
    plain = made.act(state, obs)
    torch.testing.assert_close(plain, -0.5 + 1.5 * torch.tanh(mlp(state.actor, obs)))
    torch.testing.assert_close(made.act(state, obs, unit), plain + 0.2 * 1.5)
    torch.testing.assert_close(made.act(state, obs, 100 * unit), torch.full_like(plain, 1.0))
    torch.testing.assert_close(made.act(state, obs, -100 * unit), torch.full_like(plain, -2.0))


@BOTH
def test_it_finds_the_best_action_of_a_bandit(kind):
    """The critic comes first: an actor that follows a wrong one into tanh's flat part has no gradient to come back."""
    made = learner(kind, lr=1e-2, hidden=(64, 64))
    state = made.init([generator(0)])
    best = torch.tensor([0.0, -1.0], dtype=torch.float64)
    for k in range(200):
        batch = batch_of(rows=64, seed=k)
        reward = -(batch.action - best).square().sum(-1)
        batch = batch._replace(reward=reward, discount=torch.zeros_like(reward))
        made.update(state, batch, made.noise(64, [generator(k, "noise")]), actor=k >= 100)
    errors = (made.act(state, batch.obs) - best).abs()
    assert errors.mean() < 0.3  # uniformly random actions: 0.8


WRONG = [("hidden", ()), ("lr", 0.0), ("tau", 0.0), ("tau", 1.5), ("exploration", -0.1), ("actor_every", 0)]


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        *((kind, *wrong) for kind in (TD3Config, DDPGConfig) for wrong in WRONG),
        (TD3Config, "critics", 0),
        (TD3Config, "smoothing", -1.0),
        (TD3Config, "smoothing_clip", math.nan),
    ],
)
def test_settings_are_checked(config, name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        config(**{name: value})


@pytest.mark.parametrize("kind", [TD3Learner, DDPGLearner])
def test_sizes_and_bounds_are_checked(kind):
    with pytest.raises(ValueError, match="obs_dim"):
        kind(0, LOW, HIGH)
    with pytest.raises(ValueError, match="high"):
        kind(3, LOW, (1.0, math.inf))
