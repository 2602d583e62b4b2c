"""SAC, REDQ and DroQ: losses worked out by hand for networks that give constants, laws, and a bandit."""

import math
from dataclasses import replace

import pytest
import torch

from mbrl.learners.networks import mlp
from mbrl.learners.sac import DROQ, REDQ, SACConfig, SACLearner
from mbrl.learners.testing import check_learner
from mbrl.seeding import generator
from planners.rows import leaves, map_rows
from tests.mbrl.learner_cases import HIGH, LOW, OBS, batch_of, set_constant

CONFIGS = {"sac": SACConfig(), "redq": REDQ, "droq": DROQ}


def learner(config=None, **settings):
    config = replace(config or SACConfig(), hidden=(16, 16), **settings)
    return SACLearner(OBS, LOW, HIGH, config, torch.float64)


def constants(made, critics, targets, log_std=0.0):
    """A state whose critics and targets are constants [critics], and whose policy is tanh of N(0, e^(2 log_std))."""
    state = made.init([generator(0)])
    set_constant(state.critics, torch.tensor(critics, dtype=torch.float64).view(1, -1, 1))
    set_constant(state.targets, torch.tensor(targets, dtype=torch.float64).view(1, -1, 1))
    set_constant(state.actor, torch.tensor([[0.0, 0.0, log_std, log_std]], dtype=torch.float64))
    return state


def log_probability(noise, log_std=0.0):
    u = math.exp(log_std) * noise
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    return (normal - torch.log(1 - torch.tanh(u).square())).sum(-1)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_it_keeps_the_laws_of_learners(config):
    check_learner(learner(config), OBS, len(LOW), low=-2.0, high=1.0)


def test_critic_loss_worked_out_by_hand():
    """Rows that go on, that go on at another discount, and that terminated."""
    made = learner(temperature=0.2)
    state, noise = constants(made, [1.0, -2.0], [5.0, 3.0]), made.noise(3, [generator(7)])
    discount = torch.tensor([[0.9, 0.5, 0.0]], dtype=torch.float64)
    batch = batch_of(rows=3, discount=discount)
    target = batch.reward + discount * (3.0 - 0.2 * log_probability(noise.next_action))
    expected = 0.5 * ((1 - target).square().mean() + (-2 - target).square().mean())
    _, metrics = made.update(state, batch, noise)
    assert metrics["train/critic_loss"].item() == pytest.approx(expected.item(), rel=1e-9)
    assert metrics["train/q_mean"].item() == pytest.approx(-0.5)


def test_flags_are_not_read():
    """What is bootstrapped stands in `discount` alone: with n steps the flags are those of the last one."""
    made, batch = learner(), batch_of()
    noise, states = made.noise(8, [generator(7)]), [made.init([generator(0)]) for _ in range(2)]
    made.update(states[0], batch, noise)
    made.update(states[1], batch._replace(terminated=~batch.terminated, truncated=~batch.truncated), noise)
    assert all(torch.equal(a, b) for a, b in zip(leaves(states[0]), leaves(states[1]), strict=True))


@pytest.mark.parametrize(("value", "q"), [("min", -4.0), ("mean", -1.5)])
def test_actor_loss_worked_out_by_hand(value, q):
    made = learner(temperature=0.2, actor_value=value)
    state, noise = constants(made, [1.0, -4.0], [0.0, 0.0]), made.noise(8, [generator(7)])
    _, _, metrics = made.actor_gradients(state, batch_of(), noise)
    expected = (0.2 * log_probability(noise.action) - q).mean().item()
    assert metrics["train/actor_loss"].item() == pytest.approx(expected, rel=1e-9)
    assert metrics["train/ent_coef"].item() == pytest.approx(0.2)
    assert "train/ent_coef_loss" not in metrics


def test_targets_move_by_tau_towards_the_updated_critics():
    made = learner(tau=0.25)
    state = made.init([generator(0)])
    for _ in range(2):  # so that critics and targets differ
        before = [x.clone() for x in leaves(state.targets)]
        made.update(state, batch_of(), made.noise(8, [generator(7)]))
    for old, new, critic in zip(before, leaves(state.targets), leaves(state.critics), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * critic)


def test_a_random_subset_of_critics_makes_the_target():
    made = learner(REDQ, temperature=0.2, critics=5)
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    state, noise = constants(made, [0.0] * 5, values), made.noise(4, [generator(7)])
    assert noise.subset.shape == (1, 2)
    for pair in ([0, 2], [3, 4], [1, 0]):
        chosen = noise._replace(subset=torch.tensor([pair]))
        batch = batch_of(rows=4)
        lowest = min(values[i] for i in pair)
        target = batch.reward + 0.9 * (lowest - 0.2 * log_probability(noise.next_action))
        _, metrics = made.critic_gradients(state, batch, chosen)
        assert metrics["train/critic_loss"].item() == pytest.approx(2.5 * target.square().mean().item(), rel=1e-9)


def test_subsets_are_drawn_without_replacement_and_evenly():
    made = learner(REDQ)
    drawn = torch.cat([made.noise(1, [generator(k), generator(-1, k)]).subset for k in range(500)])
    assert drawn.shape == (1000, 2)
    assert not (drawn[:, 0] == drawn[:, 1]).any()
    counts = torch.bincount(drawn.flatten(), minlength=10)
    assert counts.min() > 150  # 200 expected, standard deviation 13
    assert counts.max() < 250


def test_dropout_is_in_all_three_places():
    """Masks of ones are no dropout; a mask of zeros silences the critics where it stands, and only there."""
    made, batch = learner(DROQ, layer_norm=False, dropout=0.5), batch_of()
    state, noise = made.init([generator(0)]), made.noise(8, [generator(7)])
    plain, ones = learner(DROQ, layer_norm=False, dropout=0.0), map_rows(torch.ones_like, noise.masks)

    def losses(which, masks):
        given = noise._replace(masks=masks)
        critic = which.critic_gradients(state, batch, given)[1]["train/critic_loss"].item()
        return critic, which.actor_gradients(state, batch, given)[2]["train/actor_loss"].item()

    kept = losses(plain, ())
    assert losses(made, ones) == pytest.approx(kept, rel=1e-9)
    for place, moved in ((0, [True, False]), (1, [True, False]), (2, [False, True])):
        masks = tuple(map_rows(torch.zeros_like, m) if i == place else m for i, m in enumerate(ones))
        assert [a != pytest.approx(b, rel=1e-9) for a, b in zip(losses(made, masks), kept, strict=True)] == moved


@pytest.mark.parametrize(("log_std", "rises"), [(-3.0, True), (0.0, False)])
def test_temperature_steers_the_entropy_to_its_target(log_std, rises):
    """A narrow policy has an entropy below -|A| and its temperature rises; a wide one's falls."""
    made = learner()
    state, noise = constants(made, [0.0, 0.0], [0.0, 0.0], log_std), made.noise(64, [generator(7)])
    _, metrics = made.update(state, batch_of(rows=64), noise)
    assert (log_probability(noise.action, log_std).mean().item() > 2) is rises
    assert state.log_temperature.item() == pytest.approx(3e-4 if rises else -3e-4, rel=1e-3)
    assert metrics["train/ent_coef"].item() == 1  # the one the update used


def test_target_entropy_is_minus_the_number_of_actions_unless_given():
    assert learner().target_entropy == -2
    assert learner(target_entropy=-0.05).target_entropy == -0.05
    assert learner(target_entropy=0.0).target_entropy == 0


def test_a_given_temperature_stays():
    made = learner(temperature=0.3)
    state = made.init([generator(0)])
    _, metrics = made.update(state, batch_of(), made.noise(8, [generator(7)]))
    assert state.log_temperature.item() == math.log(0.3)
    assert metrics["train/ent_coef"].item() == pytest.approx(0.3)


def test_without_its_turn_the_actor_stays_and_critics_do_not_notice():
    made, batch, noise = learner(), batch_of(), learner().noise(8, [generator(7)])
    with_actor, without = (made.init([generator(0)]) for _ in range(2))
    before = [x.clone() for x in leaves((without.actor, without.log_temperature, without.actor_adam))]
    _, metrics = made.update(without, batch, noise, actor=False)
    made.update(with_actor, batch, noise)
    after = leaves((without.actor, without.log_temperature, without.actor_adam))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert set(metrics) == {"train/critic_loss", "train/q_mean"}
    same = zip(leaves(with_actor.critics), leaves(without.critics), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


@pytest.mark.parametrize("field", ["obs", "reward", "next_obs", "action", "discount"])
def test_an_update_that_is_not_finite_moves_nothing(field):
    made, batch = learner(), batch_of(runs=2)
    state = made.init([generator(0), generator(1)])
    made.update(state, batch, made.noise(8, [generator(7), generator(8)]))
    kept, poisoned = [x.clone() for x in leaves(state)], getattr(batch, field).clone()
    poisoned[1, 0] = math.nan
    _, metrics = made.update(state, batch._replace(**{field: poisoned}), made.noise(8, [generator(9), generator(10)]))
    assert metrics["train/critic_loss"].isfinite().tolist() == [True, False]
    assert all(torch.equal(a, b) for a, b in zip(kept, leaves(state), strict=True))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


def test_a_bad_loss_of_the_actor_stops_what_comes_after_the_critics():
    """The critics, which were updated before, move; actor, temperature and targets do not, in no run."""
    made, batch = learner(), batch_of(runs=2)
    state, noise = made.init([generator(0), generator(1)]), made.noise(8, [generator(7), generator(8)])
    made.update(state, batch, noise)
    before = [map_rows(torch.clone, part) for part in state]
    noise.action[1, 0] = math.nan
    _, metrics = made.update(state, batch, noise)
    assert metrics["train/critic_loss"].isfinite().all()
    assert metrics["train/actor_loss"].isfinite().tolist() == [True, False]
    assert [same(old, part) for old, part in zip(before, state, strict=True)] == [
        part not in ("critics", "critic_adam") for part in state._fields
    ]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients_whose_squares_overflow_move_nothing(config):
    """Observations of 1e15 give a finite loss and gradients of 1e25 and more, whose squares Adam can't keep."""
    made = replace(learner(config, layer_norm=False), dtype=torch.float32)
    batch = batch_of(runs=2, dtype=torch.float32)
    state, noise = made.init([generator(0), generator(1)]), made.noise(8, [generator(7), generator(8)])
    before = map_rows(torch.clone, state)
    batch.obs[1] *= 1e15
    _, metrics = made.update(state, batch, noise)
    assert metrics["train/critic_loss"].isfinite().tolist() == [True, False]
    assert same(before, state)


def test_target_values_are_soft_values_of_every_target_critic():
    made = learner(temperature=0.2)
    state, noise = constants(made, [0.0, 0.0], [5.0, 3.0]), made.act_noise(4, [generator(7)])
    values = made.target_values(state, batch_of(rows=4).obs, noise)
    entropy = 0.2 * log_probability(noise)
    torch.testing.assert_close(values, torch.stack([5 - entropy, 3 - entropy], 1))
    valued = made.valued_actions(state, batch_of(rows=4).obs, noise)
    torch.testing.assert_close(valued.value, values)
    torch.testing.assert_close(valued.entropy, -entropy)
    torch.testing.assert_close(valued.action, made.act(state, batch_of(rows=4).obs, noise))  # one draw, not two


@pytest.mark.parametrize("backup", ["soft", "deterministic"])
def test_targets_have_the_entropy_or_leave_it_out(backup):
    made, batch = learner(temperature=0.2, backup=backup), batch_of(rows=4)
    state, noise = constants(made, [0.0, 0.0], [5.0, 3.0]), made.noise(4, [generator(7)])
    entropy = -0.2 * log_probability(noise.next_action) if backup == "soft" else torch.zeros(1, 4, dtype=torch.float64)
    target = batch.reward + batch.discount * (3 + entropy)
    torch.testing.assert_close(made.target(state, batch, noise), target)
    _, metrics = made.critic_gradients(state, batch, noise)
    torch.testing.assert_close(metrics["train/critic_loss"], target.square().mean(1))  # of two critics, half each
    valued = made.valued_actions(state, batch.next_obs, noise.next_action)
    torch.testing.assert_close(valued.entropy, entropy)
    torch.testing.assert_close(valued.value, torch.stack([5 + entropy, 3 + entropy], 1))


def test_acting_is_the_policy_in_the_units_of_the_environment():
    made, obs = learner(), batch_of().obs
    state, noise = made.init([generator(0)]), made.act_noise(8, [generator(7)])
    mean, log_std = mlp(state.actor, obs).chunk(2, -1)
    torch.testing.assert_close(made.act(state, obs), -0.5 + 1.5 * torch.tanh(mean))
    torch.testing.assert_close(made.act(state, obs, noise), -0.5 + 1.5 * torch.tanh(mean + log_std.exp() * noise))


def test_it_finds_the_best_action_of_a_bandit():
    made = learner(lr=1e-2, target_entropy=-6.0)
    state = made.init([generator(0)])
    best = torch.tensor([0.5, -1.0], dtype=torch.float64)
    for k in range(200):
        batch = batch_of(rows=64, seed=k)
        reward = -(batch.action - best).square().sum(-1)
        batch = batch._replace(reward=reward, discount=torch.zeros_like(reward))
        made.update(state, batch, made.noise(64, [generator(k, "noise")]))
    errors = (made.act(state, batch.obs) - best).abs()
    assert errors.mean() < 0.15  # uniformly random actions: 0.8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", ()),
        ("hidden", (256, 0)),
        ("lr", 0.0),
        ("lr", math.nan),
        ("tau", 0.0),
        ("tau", 1.5),
        ("temperature", 0.0),
        ("critics", 0),
        ("subset", 3),
        ("subset", 0),
        ("actor_value", "median"),
        ("dropout", 1.0),
        ("backup", "max"),
        ("actor_every", 0),
    ],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        SACConfig(**{name: value})


def test_sizes_and_bounds_are_checked():
    with pytest.raises(ValueError, match="obs_dim"):
        SACLearner(0, LOW, HIGH)
    with pytest.raises(ValueError, match="high"):
        SACLearner(3, LOW, (1.0, math.inf))
