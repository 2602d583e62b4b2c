"""Fitted Q evaluation: against the exact values of a small MDP, the coverage of its intervals, and laws."""

import numpy as np
import pytest
import torch

from mbrl.data.datasets import Dataset, DatasetInfo
from mbrl.learners.fqe import FQEConfig, FQELearner
from mbrl.pipelines.policy_evaluation import FittedQ
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from tests.mbrl.learner_cases import batch_of
from tests.mbrl.tabular_cases import ACTIONS, DISCOUNT, STATES, TARGET, Table, data_of, exact

LINEAR = FQEConfig(hidden=(), lr=0.02, tau=0.2, updates=600, batch_size=256, members=6)
"""One number for each state and action: exact up to the noise of batches."""


def fitted(dataset, policy=None, config=LINEAR, **settings):
    return FittedQ(dataset, policy or Table(), config, discount=DISCOUNT, **settings)


def test_it_finds_the_exact_values_to_sampling_error():
    """Of states, of actions, and where episodes begin, from 2,000 episodes of another policy."""
    q, v, value = exact()
    made = fitted(data_of(2_000, 0))
    states = torch.eye(STATES)
    for action in range(ACTIONS):
        found = made.q(states, torch.full((STATES,), action))
        assert found.numpy() == pytest.approx(q[:, action], abs=0.15)
    assert made.v(states).numpy() == pytest.approx(v, abs=0.12)
    assert float(made.initial.mean()) == pytest.approx(value, abs=0.1)


def test_the_spread_of_its_members_covers_the_exact_value():
    """Over 12 datasets of 150 episodes; standard errors by the bootstrap are those of the estimates themselves."""
    truth, values, errors = exact()[2], [], []
    for seed in range(12):
        made = fitted(data_of(150, seed), config=FQEConfig((), 0.02, 0.2, 250, 256, 6), seed=seed)
        values.append(float(made.initial.mean()))
        errors.append(float(made.initial.std()))
    scores = np.abs(np.array(values) - truth) / np.array(errors)
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / np.sqrt(12))
    assert 0.5 < np.mean(errors) / np.std(values) < 1.8
    assert (scores < 2.57).sum() >= 9  # 95 % of Student's t with 5 degrees of freedom: 11.4 expected


def test_cut_episodes_go_on_and_ended_ones_do_not():
    """Cut after two steps, the value is still that of whole episodes; flags of ends decide about it."""
    short = data_of(4_000, 0, limit=2)
    assert float(fitted(short).initial.mean()) == pytest.approx(exact()[2], abs=0.25)
    ended = Dataset(
        **{**vars(short), "terminated": short.terminated | short.truncated, "truncated": 0 * short.truncated > 0}
    )
    assert float(fitted(ended).initial.mean()) < exact()[2] - 0.4


class Constant:
    """A deterministic policy of continuous actions."""

    draws = False

    def act(self, obs, generator):
        return torch.full((len(obs), 1), 0.5)

    def log_prob(self, obs, action):
        raise ValueError("policy")


def continuous(rows: int = 4_000) -> Dataset:
    """Episodes of one step that end, with reward obs * action + 2, so that Q(s, a) is that."""
    rng = np.random.default_rng(0)
    obs, action = rng.uniform(-1, 1, (rows, 1)), rng.uniform(-1, 1, (rows, 1))
    seen = np.repeat(obs, 2, axis=0)
    yes, info = np.ones(rows, dtype=bool), DatasetInfo(action_low=(-1.0,), action_high=(1.0,))
    reward = obs[:, 0] * action[:, 0] + 2
    return Dataset(seen, action, reward, yes, ~yes, np.full(rows, np.nan), np.ones(rows, np.int64), info)


def test_continuous_actions_are_valued_where_the_policy_takes_them():
    made = fitted(continuous(), Constant(), FQEConfig(hidden=(32,), lr=1e-2, tau=0.2, updates=300, members=2))
    obs = torch.linspace(-0.9, 0.9, 7)[:, None]
    assert made.v(obs).numpy() == pytest.approx(0.5 * obs[:, 0].numpy() + 2, abs=0.25)
    assert made.q(obs, 0 * obs - 0.5).numpy() == pytest.approx(-0.5 * obs[:, 0].numpy() + 2, abs=0.25)


def test_a_policy_that_draws_is_valued_by_its_mean_action():
    class Noisy(Constant):
        draws = True

        def act(self, obs, generator):
            return torch.rand(len(obs), 1, generator=generator) * 2 - 1

    config = FQEConfig(hidden=(32,), lr=1e-2, tau=0.2, updates=200, members=2, samples=64)
    made = fitted(continuous(), Noisy(), config)
    assert made.v(torch.tensor([[0.9], [-0.9]])).numpy() == pytest.approx([2, 2], abs=0.35)


def test_a_run_alone_is_the_run_among_others():
    learner, batch = FQELearner(3, None, (-2.0, -2.0), (1.0, 1.0), FQEConfig((8,)), torch.float64), batch_of(runs=2)
    both = learner.init([generator(0), generator(1)])
    alone = learner.init([generator(1)])
    choice = batch_of(runs=2, seed=5).action
    for _ in range(3):
        learner.update(both, batch, choice)
        learner.update(alone, TransitionBatch(*(x[1:] for x in batch)), choice[1:])
    own = learner.q(alone, batch.obs[1:], batch.action[1:])
    torch.testing.assert_close(learner.q(both, batch.obs, batch.action)[1:], own)


def test_targets_stay_within_what_rewards_add_up_to():
    """Critics that promise far too much pass on no more than the best reward for ever."""
    learner = FQELearner(2, 2, config=FQEConfig((), lr=0.5), dtype=torch.float64)
    state = learner.init([generator(0)])
    obs, no = torch.eye(2, dtype=torch.float64)[None], torch.zeros(1, 2, dtype=torch.bool)
    reward, discount = torch.tensor([[-1.0, 2.0]], dtype=torch.float64), torch.full((1, 2), 0.9, dtype=torch.float64)
    batch = TransitionBatch(obs, no.long(), reward, obs, no, no, discount, reward)
    learner.fit_scales(state, TransitionBatch(*(x[0] for x in batch)), 0.9)
    assert (state.least.item(), state.most.item()) == (pytest.approx(-10), pytest.approx(20))
    state.targets[-1][1].fill_(1e6)
    before = [x.clone() for x in state.q[0]]
    _, metrics = learner.update(state, batch, torch.full((1, 2, 2), 0.5, dtype=torch.float64))
    seen = (obs - state.mean) / state.std
    own = (seen @ before[0] + before[1])[..., 0] * state.scale
    assert metrics["train/loss"].item() == pytest.approx((0.5 * ((own - 20) / state.scale).square()).mean().item())


def test_the_same_seed_gives_the_same_values():
    dataset = data_of(30, 0)
    config = FQEConfig((), updates=20, members=2)
    one, other, third = (fitted(dataset, config=config, seed=seed).initial for seed in (0, 0, 1))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updates": 0}, "updates: expected at least 1"),
        ({"members": 1}, "members: expected at least 2"),
        ({"hidden": (0,)}, "hidden: expected positive widths"),
        ({"tau": 0.0}, "lr, tau"),
        ({"lr": -1.0}, "lr, tau"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        FQEConfig(**settings)


def test_what_can_not_be_valued_is_told():
    with pytest.raises(ValueError, match="discount: expected a number in"):
        FittedQ(data_of(5, 0), Table(), LINEAR, discount=1.0)
    with pytest.raises(ValueError, match="dataset: expected 2 episodes"):
        fitted(data_of(1, 0))
    with pytest.raises(ValueError, match="obs_dim, actions: expected positive sizes"):
        FQELearner(0, 2)
    with pytest.raises(ValueError, match="actions, low: expected a number"):
        FQELearner(3)


def test_the_target_policy_differs_from_the_one_that_collected():
    """Or the tests above would show nothing."""
    assert abs(exact()[2] - exact(np.array([[0.5, 0.5], [0.6, 0.4], [0.3, 0.7]]))[2]) > 0.05
    assert TARGET.sum(1) == pytest.approx(1)
