"""CQL: its logsumexp against a plain loop, losses worked out by hand for constant networks, laws, and a bandit."""

import math
from dataclasses import replace

import pytest
import torch

from mbrl.learners.conservative import (
    conservative_logsumexp,
    proposal_noise,
    proposal_values,
    propose,
    soft_maximum,
)
from mbrl.learners.cql import LARGEST_MULTIPLIER, CQLConfig, CQLLearner
from mbrl.learners.distributions import gaussian_head, squashed_gaussian
from mbrl.learners.networks import mlp
from mbrl.learners.sac import SACConfig, SACLearner
from mbrl.learners.testing import check_learner
from mbrl.seeding import generator
from planners.rows import leaves, map_rows
from tests.mbrl.learner_cases import HIGH, LOW, OBS, batch_of, set_constant


def learner(**settings):
    config = CQLConfig(**{"hidden": (16, 16), "actions": 4, "actor_lr": 3e-4} | settings)
    return CQLLearner(OBS, LOW, HIGH, config, torch.float64)


def values_and_densities(runs=2, critics=2, rows=3, actions=5):
    g = generator(0, "values")
    q = [5 * torch.randn(runs, critics, rows, actions, generator=g, dtype=torch.float64) for _ in range(3)]
    log = [torch.randn(runs, rows, actions, generator=g, dtype=torch.float64) for _ in range(3)]
    return q, log


@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0])
def test_the_logsumexp_spans_all_actions_of_a_row(scale):
    q, log = values_and_densities()
    got = conservative_logsumexp(*q, *log, scale=scale)
    for run in range(2):
        for critic in range(2):
            for row in range(3):
                total = 0.0
                for kind in range(3):
                    for action in range(5):
                        weight = 1 / math.exp(log[kind][run, row, action])
                        total += weight * math.exp(q[kind][run, critic, row, action] / scale)
                assert got[run, critic, row].item() == pytest.approx(scale * math.log(total), rel=1e-12)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_triples_reproduce_the_shape_that_is_thrown_away(scale):
    """What torch.cat and logsumexp along axis 1 make of three [rows * actions, 1] columns, with rows' means taken."""
    q, log = values_and_densities(runs=1, critics=1)
    columns = [(q[kind][0, 0] - log[kind][0]).reshape(-1, 1) for kind in range(3)]
    theirs = (torch.cat(columns, 1) / scale).logsumexp(1).mean() * scale
    got = conservative_logsumexp(*q, *log, scale=scale, triples=True)
    assert got.mean().item() == pytest.approx(theirs.item(), rel=1e-12)
    assert got.mean() < conservative_logsumexp(*q, *log, scale=scale).mean()


def test_the_soft_maximum_estimates_the_integral_over_actions():
    """Of exp(Q) for one action in [-1, 1]; importance weights make every proposal an estimate of the same thing."""
    one = SACLearner(OBS, (-1.0,), (1.0,), SACConfig(hidden=(16, 16)), torch.float64)
    state, g = one.init([generator(0)]), [generator(3)]
    obs = batch_of(rows=1).obs
    grid = torch.linspace(-1, 1, 2_001, dtype=torch.float64)[None, None, :, None]
    exact = torch.trapezoid(proposal_values(state.critics, obs, grid).exp(), grid[0, 0, :, 0]).log()
    proposals = propose(state.actor, obs, obs, proposal_noise(1, 5_000, 1, g, torch.float64))
    estimate = soft_maximum(state.critics, obs, proposals) - math.log(15_000)
    torch.testing.assert_close(estimate, exact, atol=0.1, rtol=0)


def test_proposals_come_from_the_box_and_from_the_policy_at_both_states():
    made, batch = learner(), batch_of()
    state, noise = made.init([generator(0)]), proposal_noise(8, 4, 2, [generator(7)], torch.float64)
    found = propose(state.sac.actor, batch.obs, batch.next_obs, noise)
    assert found.uniform.shape == (1, 8, 4, 2)
    assert found.uniform.abs().max() <= 1
    assert found.uniform.min() < -0.8 < 0.8 < found.uniform.max()
    assert (found.log_uniform == -2 * math.log(2)).all()
    for obs, drawn, action, log in (
        (batch.obs, noise.policy, found.policy, found.log_policy),
        (batch.next_obs, noise.next_policy, found.next_policy, found.log_next_policy),
    ):
        for k in range(4):
            expected = squashed_gaussian(*gaussian_head(mlp(state.sac.actor, obs)), drawn[:, :, k])
            torch.testing.assert_close((action[:, :, k], log[:, :, k]), expected)


def test_values_of_several_actions_are_those_of_each():
    made, obs = learner(), batch_of(runs=2).obs
    critics = made.init([generator(0), generator(1)]).sac.critics
    actions = torch.rand(2, 8, 5, 2, generator=generator(2), dtype=torch.float64)
    together = proposal_values(critics, obs, actions)
    for k in range(5):
        alone = mlp(critics, torch.cat([obs, actions[:, :, k]], -1))[..., 0]
        torch.testing.assert_close(together[..., k], alone)


@pytest.mark.parametrize(
    "settings", [{}, {"threshold": 3.0}, {"backup": "soft", "temperature": 0.2}, {"triples": True, "critics": 3}]
)
def test_learner_laws(settings):
    check_learner(within_one(learner(**settings)), OBS, 2, low=-1.0, high=1.0)


def within_one(made):
    return replace(made, low=(-1.0, -1.0), high=(1.0, 1.0))


@pytest.mark.parametrize("temperature", [None, 0.3])
def test_without_weight_and_with_soft_backup_it_is_sac(temperature):
    cql = learner(weight=0.0, backup="soft", temperature=temperature)
    sac = SACLearner(OBS, LOW, HIGH, SACConfig(hidden=(16, 16), temperature=temperature), torch.float64)
    one, other = cql.init([generator(0)]), sac.init([generator(0)])
    for k in range(5):
        batch = batch_of(seed=k)
        noise = cql.noise(8, [generator(k, "noise")])
        cql.update(one, batch, noise)
        sac.update(other, batch, noise.sac)
    assert all(torch.equal(a, b) for a, b in zip(leaves(one.sac), leaves(other), strict=True))


@pytest.mark.parametrize("backup", ["deterministic", "soft"])
def test_the_critics_loss_of_constant_networks(backup):
    """Critics of 1 and 2, targets of 3 and 4: the gap of a constant critic is the logarithm of a known sum."""
    made, batch = learner(backup=backup, temperature=0.5, weight=2.0), batch_of()
    state, noise = made.init([generator(0)]), made.noise(8, [generator(7)])
    set_constant(state.sac.critics, [[[1.0], [2.0]]])
    set_constant(state.sac.targets, [[[3.0], [4.0]]])
    proposals = propose(state.sac.actor, batch.obs, batch.next_obs, noise.proposals)
    gap = torch.cat([(-log).exp() for log in proposals[3:]], -1).sum(-1).log().mean()
    _, log_prob = squashed_gaussian(*gaussian_head(mlp(state.sac.actor, batch.next_obs)), noise.sac.next_action)
    target = batch.reward + 0.9 * (3.0 - (0.5 * log_prob if backup == "soft" else 0.0))
    expected = sum(0.5 * (q - target).square().mean() + gap for q in (1.0, 2.0))
    _, _, metrics = made.critic_gradients(state, batch, noise)
    assert metrics["train/critic_loss"].item() == pytest.approx(expected.item(), rel=1e-12)
    assert metrics["train/conservative_gap"].item() == pytest.approx(gap.item(), rel=1e-12)


def test_the_multiplier_steers_the_gap_to_its_threshold():
    made, batch = learner(threshold=1e3, weight=1.0), batch_of()
    state, noise = made.init([generator(0)]), made.noise(8, [generator(7)])
    gap = made.critic_gradients(state, batch, noise)[2]["train/conservative_gap"]
    _, slope, metrics = made.critic_gradients(state, batch, noise)
    torch.testing.assert_close(slope, -(gap - 1e3))
    assert metrics["train/multiplier"].item() == 1.0
    made.update(state, batch, noise)
    assert state.log_multiplier.item() < 0  # the gap is far below what is tolerated
    strict = learner(threshold=-1e3, weight=1.0)
    state = strict.init([generator(0)])
    strict.update(state, batch, noise)
    assert state.log_multiplier.item() > 0


def test_the_multiplier_does_not_grow_beyond_its_bound():
    made, batch = learner(threshold=-1e3, weight=1.0), batch_of()
    state, noise = made.init([generator(0)]), made.noise(8, [generator(7)])
    state.log_multiplier.fill_(math.log(LARGEST_MULTIPLIER))
    made.update(state, batch, noise)
    assert state.log_multiplier.item() == pytest.approx(math.log(1e6))


def test_without_a_threshold_the_multiplier_stays():
    made = learner()
    state = made.init([generator(0)])
    _, metrics = made.update(state, batch_of(), made.noise(8, [generator(7)]))
    assert state.log_multiplier.item() == 0
    assert "train/multiplier" not in metrics


def out_of_data(weight):
    """Values on a bandit with rewards of 0 whose data has actions near -1 alone: (of the data, of actions near 1)."""
    made = learner(weight=weight, lr=1e-2)
    state = made.init([generator(0)])
    for k in range(50):
        batch = batch_of(rows=32, seed=k)
        action = state.sac.bounds.action(-1 + 0.1 * torch.rand(1, 32, 2, generator=generator(k), dtype=torch.float64))
        zeros = torch.zeros_like(batch.reward)
        batch = batch._replace(action=action, reward=zeros, discount=zeros)
        made.update(state, batch, made.noise(32, [generator(k, "noise")]))
    inside = torch.full((1, 32, 1, 2), -0.95, dtype=torch.float64)
    return [float(proposal_values(state.sac.critics, batch.obs, x).mean()) for x in (inside, -inside)]


def test_values_of_actions_that_the_data_lack_fall_with_the_weight():
    by_weight = [out_of_data(weight) for weight in (0.0, 1.0, 5.0)]
    differences = [outside - inside for inside, outside in by_weight]
    assert abs(differences[0]) < 0.2
    assert differences[2] < differences[1] - 1 < -2


def test_an_update_that_is_not_finite_moves_nothing():
    made, batch = learner(threshold=1.0), batch_of(runs=2)
    state = made.init([generator(0), generator(1)])
    noise = made.noise(8, [generator(7), generator(8)])
    made.update(state, batch, noise)
    kept, poisoned = map_rows(torch.clone, state), batch.reward.clone()
    poisoned[1, 0] = math.nan
    _, metrics = made.update(state, batch._replace(reward=poisoned), noise)
    assert metrics["train/critic_loss"].isfinite().tolist() == [True, False]
    assert all(torch.equal(a, b) for a, b in zip(leaves(kept), leaves(state), strict=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", ()),
        ("lr", 0.0),
        ("actor_lr", 0.0),
        ("tau", 2.0),
        ("temperature", -1.0),
        ("critics", 0),
        ("actions", 0),
        ("weight", -1.0),
        ("scale", 0.0),
        ("backup", "max"),
    ],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        CQLConfig(**{name: value})


def test_sizes_and_bounds_are_checked():
    with pytest.raises(ValueError, match="obs_dim"):
        CQLLearner(0, LOW, HIGH)
    with pytest.raises(ValueError, match="high"):
        CQLLearner(3, LOW, (1.0, math.inf))
