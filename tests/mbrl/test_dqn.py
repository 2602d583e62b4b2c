"""DQN: a plain network trained by torch's own loss and optimiser learns the same; each planted error is seen."""

import math

import pytest
import torch

from mbrl.learners.dqn import DQNConfig, DQNLearner
from mbrl.learners.testing import check_learner
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.rows import leaves

OBS, ACTIONS = 3, 4


def learner(dtype=torch.float64, **settings) -> DQNLearner:
    return DQNLearner(OBS, ACTIONS, DQNConfig(**({"hidden": (16, 16), "lr": 1e-3} | settings)), dtype)


def batch_of(rows=32, runs=1, seed=0, scale=3.0, dtype=torch.float64) -> TransitionBatch:
    g = generator(seed, "batch")
    obs, next_obs = torch.randn(2, runs, rows, OBS, generator=g, dtype=dtype)
    action = torch.randint(ACTIONS, (runs, rows), generator=g)
    reward = scale * torch.randn(runs, rows, generator=g, dtype=dtype)
    ended = torch.rand(runs, rows, generator=g) < 0.2
    discount, unknown = 0.9 * (1 - ended.to(dtype)), torch.full_like(reward, math.nan)
    return TransitionBatch(obs, action, reward, next_obs, ended, torch.zeros_like(ended), discount, unknown)


def module_of(params) -> torch.nn.Sequential:
    """The network of run 0 as torch's own modules."""
    layers = []
    for weight, bias in params:
        linear = torch.nn.Linear(*weight.shape[1:], dtype=weight.dtype)
        linear.weight.data, linear.bias.data = weight[0].mT.clone(), bias[0, 0].clone()
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [{}, {"double": False, "tau": 0.1, "target_every": 1}], ids=["double", "plain"])
def test_the_learner_obeys_the_laws(dtype, settings):
    check_learner(learner(dtype, **settings), OBS, actions=ACTIONS)


@pytest.mark.parametrize("double", [True, False])
def test_it_learns_what_torchs_own_parts_learn(double):
    made = learner(double=double, target_every=3, tau=0.4, lr=3e-3)
    state = made.init([generator(0)])
    q, target = module_of(state.q), module_of(state.target)
    optimiser = torch.optim.Adam(q.parameters(), lr=3e-3)
    for n in range(20):
        batch = batch_of(seed=n)
        one = TransitionBatch(*(x[0] for x in batch))
        with torch.no_grad():
            ahead = target(one.next_obs)
            picked = q(one.next_obs) if double else ahead
            value = ahead.gather(1, picked.argmax(1, keepdim=True))[:, 0]
            goal = one.reward + 0.9 * (1 - one.terminated.double()) * value
        loss = torch.nn.functional.smooth_l1_loss(q(one.obs).gather(1, one.action[:, None])[:, 0], goal)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (n + 1) % 3 == 0:
            for slow, fast in zip(target.parameters(), q.parameters(), strict=True):
                slow.data.mul_(0.6).add_(0.4 * fast.data)
        _, metrics = made.update(state, batch)
        torch.testing.assert_close(metrics["train/loss"][0], loss.detach(), rtol=1e-9, atol=1e-9)
    for ours, theirs in ((state.q, q), (state.target, target)):
        for (weight, bias), linear in zip(ours, theirs[::2], strict=True):
            torch.testing.assert_close(weight[0].mT, linear.weight.data, rtol=1e-8, atol=1e-9)
            torch.testing.assert_close(bias[0, 0], linear.bias.data, rtol=1e-8, atol=1e-9)


def test_epsilon_falls_with_the_updates():
    made = learner(exploration_initial=0.8, exploration_final=0.2, exploration_updates=3)
    state = made.init([generator(0)])
    rates = [float(made.update(state, batch_of())[1]["rollout/exploration_rate"]) for _ in range(5)]
    assert rates == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.2])


def test_a_share_of_actions_is_random():
    made = learner(exploration_initial=0.4, exploration_final=0.4)
    state, rows = made.init([generator(0)]), 20_000
    obs = torch.randn(1, 1, OBS, generator=generator(1), dtype=torch.float64).expand(1, rows, -1)
    greedy = made.act(state, obs)
    actions = made.act(state, obs, made.act_noise(rows, [generator(2)]))
    assert bool((greedy == greedy[0, 0]).all())
    shares = torch.bincount(actions[0], minlength=ACTIONS) / rows
    expected = torch.full((ACTIONS,), 0.1)
    expected[greedy[0, 0]] = 0.7
    torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)


def test_the_target_network_waits():
    made = learner(target_every=4)
    state = made.init([generator(0)])
    before = [x.clone() for x in leaves(state.target)]
    for n in range(4):
        assert all(torch.equal(a, b) for a, b in zip(leaves(state.target), before, strict=True))
        made.update(state, batch_of(seed=n))
    assert all(torch.equal(a, b) for a, b in zip(leaves(state.target), leaves(state.q), strict=True))


def test_an_update_that_is_not_finite_moves_nothing():
    made = learner(target_every=1)
    state = made.init([generator(0)])
    made.update(state, batch_of())
    before = [x.clone() for x in leaves(state)]
    batch = batch_of(seed=1)
    batch.reward[0, 3] = math.inf
    _, metrics = made.update(state, batch)
    assert not metrics["train/loss"].isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(leaves(state), before, strict=True))


def test_gradients_whose_squares_overflow_move_nothing():
    """Observations of 1e15 give a finite loss and gradients of 1e25 and more, whose squares Adam can't keep."""
    made, batch = learner(torch.float32, target_every=1, huber_delta=1e30), batch_of(dtype=torch.float32)
    state = made.init([generator(0)])
    before = [x.clone() for x in leaves(state)]
    _, metrics = made.update(state, batch._replace(obs=1e15 * batch.obs))
    assert metrics["train/loss"].isnan().all()
    assert all(torch.equal(a, b) for a, b in zip(leaves(state), before, strict=True))


def test_the_count_of_updates_has_no_end():
    """A float32 would stay at 2^24, about a day of training: epsilon and the target network would stand still."""
    made = learner(target_every=2)
    state = made.init([generator(0)])
    state.updates.fill_(2**24)
    before = [x.clone() for x in leaves(state.target)]
    made.update(state, batch_of())
    assert state.updates.item() == 2**24 + 1
    assert all(torch.equal(a, b) for a, b in zip(leaves(state.target), before, strict=True))


def test_it_finds_the_best_action_of_a_bandit():
    made = learner(lr=1e-2)
    state = made.init([generator(0)])
    for n in range(150):
        batch = batch_of(rows=64, seed=n)
        best = (batch.obs[..., 0] > 0).long()
        reward = (batch.action == best).double()
        made.update(state, batch._replace(reward=reward, discount=torch.zeros_like(reward)))
    assert (made.act(state, batch.obs) == best).double().mean() > 0.9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", ()),
        ("lr", 0.0),
        ("lr", math.nan),
        ("huber_delta", 0.0),
        ("tau", 0.0),
        ("tau", 1.5),
        ("target_every", 0),
        ("exploration_updates", 0),
        ("exploration_initial", 1.5),
        ("exploration_final", -0.1),
    ],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        DQNConfig(**{name: value})


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="obs_dim, actions: expected positive sizes, got 3 and 0"):
        DQNLearner(3, 0)


class Planted(DQNLearner):
    """The learner with bugs in how it acts."""

    bug = ""

    def act(self, state, obs, noise=None):
        action = super().act(state, obs, noise)
        if self.bug == "floats":
            return action.to(obs.dtype)
        if self.bug == "one too many" and noise is not None:
            return action + 1
        if self.bug == "axis":
            return action[..., None]
        if self.bug == "neighbours":
            return super().act(state, obs - obs.mean(1, keepdim=True))
        return action


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("floats", "discrete actions are int64 of shape"),
        ("one too many", "discrete actions are from 0 to 3"),
        ("axis", "discrete actions are int64 of shape"),
        ("neighbours", "does not depend on the rows beside it"),
    ],
)
def test_the_kit_fails_on_a_planted_bug_of_discrete_actions(bug, message):
    planted = type("Buggy", (Planted,), {"bug": bug})(OBS, ACTIONS, DQNConfig(hidden=(8,)), torch.float64)
    with pytest.raises(AssertionError, match=message):
        check_learner(planted, OBS, actions=ACTIONS, batch_size=64)


def test_the_kit_wants_one_kind_of_actions():
    for arguments in ({}, {"action_dim": 2, "actions": 2}):
        with pytest.raises(ValueError, match="action_dim, actions: expected one of the two"):
            check_learner(learner(), OBS, **arguments)
