"""Log-probabilities of policies: against torch.distributions, against frequencies, and of agents."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from mbrl.learners.distributions import gaussian_head, squashed_gaussian, squashed_gaussian_log_prob
from mbrl.learners.dqn import DQNConfig, DQNLearner
from mbrl.learners.networks import mlp
from mbrl.learners.sac import SACConfig, SACLearner
from mbrl.pipelines.agents import DQN, SAC, TD3, DiscreteSAC
from mbrl.pipelines.offline_agents import AWAC, IQL
from mbrl.seeding import generator
from tests.mbrl.learner_cases import HIGH, LOW, OBS, batch_of

BOX = gym.spaces.Box(-1, 1, (3,))


def test_a_squashed_gaussian_has_the_density_of_torch_distributions():
    """In the environment's units, here with half ranges of 1.5 around -0.5, for samples and for other actions."""
    made, batch = SACLearner(OBS, LOW, HIGH, SACConfig(hidden=(16,)), torch.float64), batch_of(runs=2)
    state = made.init([generator(0), generator(1)])
    mean, log_std = gaussian_head(mlp(state.actor, batch.obs))
    transforms = [TanhTransform(), AffineTransform(torch.tensor(-0.5), torch.tensor(1.5))]
    policy = TransformedDistribution(Normal(mean, log_std.exp()), transforms)
    sampled = made.act(state, batch.obs, made.act_noise(8, [generator(2), generator(3)]))
    for action in (sampled, batch.action):
        expected = policy.log_prob(action).sum(-1)
        torch.testing.assert_close(made.log_prob(state, batch.obs, action), expected, rtol=1e-6, atol=1e-6)


def test_a_density_of_an_action_is_the_one_it_was_sampled_with():
    mean, log_std, noise = torch.randn(3, 100, 2, generator=generator(0), dtype=torch.float64)
    log_std = 0.3 * log_std  # far from the bounds, where digits are lost
    action, log_prob = squashed_gaussian(mean, log_std, noise)
    torch.testing.assert_close(squashed_gaussian_log_prob(mean, log_std, action), log_prob, rtol=1e-6, atol=1e-6)


def test_a_density_is_finite_at_and_beyond_the_bounds():
    mean, log_std = torch.zeros(4, 1), torch.zeros(4, 1)
    action = torch.tensor([[1.0], [-1.0], [1 + 1e-6], [-1 - 1e-6]])
    density = squashed_gaussian_log_prob(mean, log_std, action)
    assert density.isfinite().all()
    assert torch.equal(density, density[:1].expand(4))


def test_a_density_integrates_to_one():
    made = SACLearner(OBS, (-3.0,), (1.0,), SACConfig(hidden=(8,)), torch.float64)
    state, points = made.init([generator(0)]), 20_000
    action = -3 + 4 * (torch.arange(points, dtype=torch.float64) + 0.5) / points
    density = made.log_prob(state, torch.ones(1, points, OBS, dtype=torch.float64), action[None, :, None]).exp()
    assert float(density.mean() * 4) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", [DQN, DiscreteSAC])
def test_probabilities_of_discrete_actions_are_the_frequencies_of_samples(kind):
    agent = kind(BOX, gym.spaces.Discrete(3), seed=0, hidden=(8,))
    obs = np.ones((4_000, 3), np.float32)
    drawn = np.bincount(agent.explore(obs, generator(1)), minlength=3) / len(obs)
    own = np.exp(agent.log_prob(obs[:3], np.arange(3)))
    assert own.sum() == pytest.approx(1)
    assert drawn == pytest.approx(own, abs=0.03)  # standard deviation: 0.008 at most


def test_what_epsilon_greedy_never_does_has_no_probability():
    made = DQNLearner(3, 2, DQNConfig(hidden=(4,), exploration_initial=0.0, exploration_final=0.0), torch.float64)
    state, obs = made.init([generator(0)]), torch.ones(1, 2, 3, dtype=torch.float64)
    logs = made.log_prob(state, obs, torch.tensor([[0, 1]]))
    assert sorted(logs[0].tolist()) == [-np.inf, 0.0]


def test_an_agent_says_how_likely_its_actions_are():
    """Actions that were rounded to float32 on the way, also those next to a bound."""
    agent = SAC(BOX, gym.spaces.Box(-2, 2, (2,)), seed=0, hidden=(8,))
    obs = np.random.default_rng(0).normal(size=(50, 3))
    noise = agent.learner.act_noise(50, [generator(0)])
    action = agent.explore(obs, generator(0))
    rows = torch.as_tensor(obs, dtype=torch.float32)
    expected = squashed_gaussian(*gaussian_head(mlp(agent.state.actor, rows[None])), noise)[1][0] - 2 * np.log(2)
    assert agent.log_prob(obs, action) == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (TD3, "TD3, whose policy is deterministic"),
        (IQL, "IQL, whose policy cuts its draws off at the bounds"),
        (AWAC, "AWAC, whose policy cuts its draws off at the bounds"),
    ],
)
def test_a_policy_without_density_says_why(kind, why):
    agent = kind(BOX, BOX, seed=0, hidden=(8,))
    with pytest.raises(ValueError, match=rf"policy: expected one that draws its actions .* got {why}"):
        agent.log_prob(np.zeros((1, 3)), np.zeros((1, 3)))
