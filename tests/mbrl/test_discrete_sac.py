"""Discrete SAC: an update by hand with torch's own parts; expectations over actions; each planted error is seen."""

import math

import pytest
import torch

from mbrl.learners.discrete_sac import DiscreteSACConfig, DiscreteSACLearner
from mbrl.learners.testing import check_learner
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.rows import leaves, map_rows

OBS, ACTIONS = 3, 4


def learner(dtype=torch.float64, **settings) -> DiscreteSACLearner:
    config = DiscreteSACConfig(**({"hidden": (16, 16), "lr": 3e-3, "tau": 0.1} | settings))
    return DiscreteSACLearner(OBS, ACTIONS, config, dtype)


def batch_of(rows=32, seed=0, dtype=torch.float64) -> TransitionBatch:
    g = generator(seed, "batch")
    obs, next_obs = torch.randn(2, 1, rows, OBS, generator=g, dtype=dtype)
    action = torch.randint(ACTIONS, (1, rows), generator=g)
    reward = torch.randn(1, rows, generator=g, dtype=dtype)
    ended = torch.rand(1, rows, generator=g) < 0.2
    discount, unknown = 0.9 * (1 - ended.to(dtype)), torch.full_like(reward, math.nan)
    return TransitionBatch(obs, action, reward, next_obs, ended, torch.zeros_like(ended), discount, unknown)


def module_of(layers, network) -> torch.nn.Sequential:
    """One network as torch's own modules; `network` indexes runs, or runs and members."""
    modules = []
    for weight, bias in layers:
        linear = torch.nn.Linear(*weight.shape[-2:], dtype=weight.dtype)
        linear.weight.data, linear.bias.data = weight[network].mT.clone(), bias[network][0].clone()
        modules += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


def agrees(layers, network, module):
    for (weight, bias), linear in zip(layers, module[::2], strict=True):
        torch.testing.assert_close(weight[network].mT, linear.weight.data, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(bias[network][0], linear.bias.data, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [{}, {"critics": 3}, {"temperature": 0.2}], ids=["learned", "three", "fixed"])
def test_the_learner_obeys_the_laws(dtype, settings):
    check_learner(learner(dtype, **settings), OBS, actions=ACTIONS)


def test_it_learns_what_torchs_own_parts_learn():
    """Ten updates: the loss of each part written out with torch.distributions, and torch's Adam."""
    made = learner(target_entropy=0.5)
    state = made.init([generator(0)])
    actor = module_of(state.actor, (0,))
    critics, targets = ([module_of(part, (0, i)) for i in range(2)] for part in (state.critics, state.targets))
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    parts = (actor.parameters(), [p for c in critics for p in c.parameters()], [log_temperature])
    actor_adam, critic_adam, temperature_adam = (torch.optim.Adam(list(p), lr=3e-3) for p in parts)

    def take(optimiser, loss):
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    for n in range(10):
        batch = batch_of(seed=n)
        one = TransitionBatch(*(x[0] for x in batch))
        alpha = log_temperature.detach().exp()
        with torch.no_grad():
            policy = torch.distributions.Categorical(logits=actor(one.next_obs))
            least = torch.minimum(*(t(one.next_obs) for t in targets))
            value = (policy.probs * least).sum(1) + alpha * policy.entropy()
            goal = one.reward + 0.9 * (1 - one.terminated.double()) * value
        rows = torch.arange(len(goal))
        critic_loss = sum(0.5 * (c(one.obs)[rows, one.action] - goal).square().mean() for c in critics)
        take(critic_adam, critic_loss)
        policy = torch.distributions.Categorical(logits=actor(one.obs))
        least = torch.minimum(*(c(one.obs) for c in critics)).detach()
        actor_loss = -((policy.probs * least).sum(1) + alpha * policy.entropy()).mean()
        gap = (policy.entropy().detach() - 0.5).mean()
        take(actor_adam, actor_loss)
        take(temperature_adam, log_temperature * gap)
        for slow, fast in zip(targets, critics, strict=True):
            for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
                old.data.mul_(0.9).add_(0.1 * new.data)
        _, metrics = made.update(state, batch)
        for name, loss in (("train/critic_loss", critic_loss), ("train/actor_loss", actor_loss)):
            torch.testing.assert_close(metrics[name][0], loss.detach(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(metrics["train/ent_coef"][0], alpha)
    agrees(state.actor, (0,), actor)
    for i in range(2):
        agrees(state.critics, (0, i), critics[i])
        agrees(state.targets, (0, i), targets[i])
    torch.testing.assert_close(state.log_temperature[0], log_temperature.detach())


def test_actions_are_drawn_from_the_policy():
    made, rows = learner(), 20_000
    state = made.init([generator(0)])
    state.actor[-1][1][0, 0] = torch.tensor([0.0, 1.0, 2.0, -1.0])
    obs = torch.zeros(1, rows, OBS, dtype=torch.float64)
    state.actor[0][1].zero_()
    state.actor[1][1].zero_()
    actions = made.act(state, obs, made.act_noise(rows, [generator(1)]))
    shares = torch.bincount(actions[0], minlength=ACTIONS).double() / rows
    torch.testing.assert_close(shares, torch.softmax(state.actor[-1][1][0, 0], 0), atol=0.015, rtol=0)
    assert bool((made.act(state, obs) == 2).all())
    edge = torch.full((1, rows), 1 - 2**-53, dtype=torch.float64)
    assert int(made.act(state, obs, edge).max()) == ACTIONS - 1


def test_the_temperature_steers_the_entropy():
    """Towards its target from both sides, where rewards don't matter."""
    for target, falls in ((0.2, True), (1.38, False)):
        made = learner(target_entropy=target)
        state = made.init([generator(0)])
        state.actor[-1][1][0, 0, 0] = 3.0 if not falls else 0.0  # too little entropy, or all of it
        made.update(state, batch_of())
        assert (float(state.log_temperature) < 0) == falls


def test_the_papers_target_entropy():
    assert learner().target_entropy == pytest.approx(0.98 * math.log(4))


def test_without_actor_only_the_critics_move():
    made = learner()
    state = made.init([generator(0)])
    before = [x.clone() for x in leaves((state.actor, state.log_temperature))]
    _, metrics = made.update(state, batch_of(), actor=False)
    assert all(torch.equal(a, b) for a, b in zip(leaves((state.actor, state.log_temperature)), before, strict=True))
    assert "train/actor_loss" not in metrics


def test_an_update_that_is_not_finite_moves_nothing():
    made = learner()
    state = made.init([generator(0)])
    made.update(state, batch_of())
    batch = batch_of(seed=1)
    batch.reward[0, 3] = math.nan
    before = map_rows(torch.clone, state)
    _, metrics = made.update(state, batch)
    assert metrics["train/critic_loss"].isnan().all()
    assert same(before, state)


def test_a_bad_loss_of_the_actor_stops_what_comes_after_the_critics():
    """Logits overflow at `obs`, and are 0 at `next_obs`, which is 0."""
    made, batch = learner(), batch_of()
    state = made.init([generator(0)])
    made.update(state, batch)
    for weight, bias in state.actor:
        weight.mul_(1e200), bias.zero_()
    before = [map_rows(torch.clone, part) for part in state]
    _, metrics = made.update(state, batch._replace(next_obs=0 * batch.next_obs))
    assert metrics["train/critic_loss"].isfinite().all()
    assert metrics["train/actor_loss"].isnan().all()
    assert [same(old, part) for old, part in zip(before, state, strict=True)] == [
        part not in ("critics", "critic_adam") for part in state._fields
    ]


def test_gradients_whose_squares_overflow_move_nothing():
    """Observations of 1e15 give a finite loss and gradients of 1e25 and more, whose squares Adam can't keep."""
    made, batch = learner(torch.float32), batch_of(dtype=torch.float32)
    state = made.init([generator(0)])
    before = map_rows(torch.clone, state)
    _, metrics = made.update(state, batch._replace(obs=1e15 * batch.obs))
    assert metrics["train/critic_loss"].isnan().all()
    assert same(before, state)


def test_it_finds_the_best_action_of_a_bandit():
    made = learner(lr=1e-2, temperature=0.05)
    state = made.init([generator(0)])
    for n in range(200):
        batch = batch_of(rows=64, seed=n)
        best = (batch.obs[..., 0] > 0).long()
        reward = (batch.action == best).double()
        made.update(state, batch._replace(reward=reward, discount=torch.zeros_like(reward)))
    assert (made.act(state, batch.obs) == best).double().mean() > 0.9


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden", ()), ("lr", 0.0), ("tau", 0.0), ("temperature", -1.0), ("critics", 0), ("actor_every", 0)],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        DiscreteSACConfig(**{name: value})


def test_sizes_and_the_target_entropy_are_checked():
    with pytest.raises(ValueError, match="obs_dim, actions: expected positive sizes"):
        DiscreteSACLearner(0, 2)
    with pytest.raises(ValueError, match=r"target_entropy: expected nats from 0 to log\(2\) = 0.693"):
        DiscreteSACLearner(3, 2, DiscreteSACConfig(target_entropy=1.0))
