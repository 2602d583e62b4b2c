"""Discrete actions all the way: collected, stored, learned from, and planned with."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from torch import Tensor

from mbrl.data import RandomPolicy, ReplayBuffer, collect
from mbrl.data.collect import Collector
from mbrl.envs import check_spaces, make_env, task, verify
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.pets import train_pets
from mbrl.pipelines.pets_config import PETSConfig
from planners.testing import check_dynamics


def cartpole() -> gym.Env:
    return gym.make("CartPole-v1")


def learned(data: Any, **options: Any) -> GaussianEnsemble:
    ensemble = GaussianEnsemble(4, 2, members=3, hidden=(32, 32), discrete_actions=True, **options)
    fit(ensemble, data, seed=0, steps=300)
    return ensemble


def test_collected_actions_are_whole_numbers() -> None:
    env = cartpole()
    buffer = collect(env, RandomPolicy(env.action_space, seed=1), 200, seed=2)
    batch = buffer.all()
    assert batch.action.dtype == torch.int64
    assert batch.action.shape == (200,)
    assert batch.action.unique().tolist() == [0, 1]
    assert abs(batch.action.double().mean() - 0.5) < 5 * 0.5 / 200**0.5
    verify(task(env), batch, tolerance=1e-3)
    # A push to the right (1) makes the cart go faster to the right.
    push = torch.where(batch.action == 1, 1.0, -1.0)
    assert (push * (batch.next_obs - batch.obs)[:, 1] > 0).all()
    sample = buffer.sample(64, generator=torch.Generator().manual_seed(0), n_step=3)
    assert sample.action.dtype == torch.int64
    sequences, _ = buffer.sample_sequences(8, 5, generator=torch.Generator().manual_seed(0))
    assert sequences.action.shape == (5, 8)


def test_a_vector_of_environments() -> None:
    env = SyncVectorEnv([cartpole] * 3)
    buffer = collect(env, RandomPolicy(env.single_action_space), 60)
    verify(task(env), buffer.all(), tolerance=1e-3)


def test_buffers_give_back_what_they_got() -> None:
    buffer, other = (ReplayBuffer(10, 4, None) for _ in range(2))
    collector = Collector(cartpole(), seed=0)
    taken = [1, 0, 0, 1, 1]
    for action in taken:
        buffer.extend(collector.step(np.array([action])).batch)
    assert buffer.all().action.tolist() == taken
    other.load_state_dict(buffer.state_dict())
    assert other.all().action.tolist() == taken
    with pytest.raises(ValueError, match=r"batch.action: expected shape \[1, 1\], got \[1\]"):
        ReplayBuffer(10, 4, 1).extend(collector.step(np.array([0])).batch)


def test_an_interrupted_collection_goes_on() -> None:
    collector, other = (Collector(cartpole(), seed=3) for _ in range(2))
    policy, state = RandomPolicy(cartpole().action_space), None
    for _ in range(7):
        action, state = policy.predict(collector.obs, state)
        collector.step(action)
    other.restore(*collector.snapshot())
    for _ in range(30):
        action, state = policy.predict(collector.obs, state)
        one, two = collector.step(action), other.step(action)
        assert torch.equal(one.batch.next_obs, two.batch.next_obs)


def test_actions_that_there_are_not() -> None:
    collector = Collector(cartpole(), seed=0)
    for action in (np.array([2]), np.array([-1]), np.array([0.5])):
        with pytest.raises(ValueError, match=r"action: expected whole numbers below 2, got"):
            collector.step(action)
    with pytest.raises(ValueError, match=r"action: expected shape \[1\].* got \[1, 1\]"):
        collector.step(np.zeros((1, 1)))
    assert collector.step(np.array([1.0])).batch.action.tolist() == [1]


def test_random_actions_are_uniform_and_repeatable() -> None:
    policy = RandomPolicy(gym.spaces.Discrete(3, start=5), seed=1)
    drawn = np.concatenate([policy.predict(np.zeros((4, 2)), t)[0] for t in range(200)])
    assert np.bincount(drawn).tolist()[:5] == [0] * 5
    assert (abs(np.bincount(drawn)[5:] / 800 - 1 / 3) < 5 * np.sqrt(2 / 9 / 800)).all()
    again = RandomPolicy(gym.spaces.Discrete(3, start=5), seed=1)
    assert np.array_equal(again.predict(np.zeros((4, 2)), 100)[0], policy.predict(np.zeros((4, 2)), 100)[0])
    assert np.ndim(policy.predict(np.zeros(2))[0]) == 0


def test_the_ensemble_tells_actions_apart() -> None:
    """s' = s + (0, 0.3, -1)[a]: nothing linear in the number of the action would do."""
    stream = torch.Generator().manual_seed(0)
    obs, action = torch.randn(600, 1, generator=stream), torch.randint(3, (600,), generator=stream)
    change = torch.tensor([0.0, 0.3, -1.0])[action]
    batch = collect(cartpole(), RandomPolicy(cartpole().action_space), 600).all()
    batch = batch._replace(obs=obs, action=action, next_obs=obs + change[:, None], reward=change)
    ensemble = GaussianEnsemble(1, 3, members=2, hidden=(32,), discrete_actions=True, learned_reward=True)
    fit(ensemble, batch, seed=0, steps=400, lr=3e-3)
    dynamics = EnsembleDynamics(ensemble, propagation="expectation")
    rows = dynamics.reset(torch.tensor([[0.0], [0.5], [-0.5]]))
    after, step = dynamics.step(rows, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(after.obs[:, 0], torch.tensor([0.0, 0.8, -1.5]), atol=0.05, rtol=0)
    torch.testing.assert_close(step.reward, torch.tensor([0.0, 0.3, -1.0]), atol=0.05, rtol=0)


def test_the_fast_step_agrees_with_the_plain_prediction() -> None:
    env = cartpole()
    ensemble = learned(collect(env, RandomPolicy(env.action_space), 300))
    dynamics = EnsembleDynamics(ensemble, reward=lambda o, a, n: torch.ones_like(n[:, 0]))
    stream = torch.Generator().manual_seed(0)
    obs, action = 0.1 * torch.randn(20, 4, generator=stream), torch.randint(2, (20,), generator=stream)
    expected = obs + ensemble.predict(obs, action).mean.mean(0)
    torch.testing.assert_close(dynamics.step(dynamics.reset(obs), action)[1].obs, expected, atol=1e-5, rtol=1e-4)
    assert dynamics.uncertainty(dynamics.reset(obs), action).shape == (20,)


@pytest.mark.parametrize("propagation", ["ts_inf", "ts1", "expectation"])
def test_the_laws_of_dynamics(propagation: Any) -> None:
    env = cartpole()
    known, ensemble = task(env), learned(collect(env, RandomPolicy(env.action_space), 200))

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        assert action.dtype == torch.int64
        return known.reward(obs, action, next_obs)

    dynamics = EnsembleDynamics(ensemble, propagation=propagation, reward=reward, termination=known.termination)
    stream = torch.Generator().manual_seed(0)
    start = dynamics.reset(0.1 * torch.randn(6, 4, generator=stream))
    check_dynamics(dynamics, start, torch.randint(2, (2, 6), generator=stream), particles=3)


def test_what_discrete_models_refuse() -> None:
    data = collect(cartpole(), RandomPolicy(cartpole().action_space), 50).all()
    ensemble = GaussianEnsemble(4, 2, hidden=(8,), discrete_actions=True, learned_reward=True)
    with pytest.raises(ValueError, match=r"action: expected int64, one number a row, got torch.float32"):
        ensemble.predict(torch.zeros(1, 4), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"data: expected action of shape \[rows\], int64, got \[50, 2\]"):
        fit(ensemble, data._replace(action=torch.zeros(50, 2)), seed=0)
    with pytest.raises(ValueError, match=r"data: expected action of shape \[rows, 2\], got \[50\]"):
        fit(GaussianEnsemble(4, 2), data, seed=0)
    with pytest.raises(ValueError, match=r"action: expected numbers from 0 to 1, got 7"):
        fit(ensemble, data._replace(action=torch.full((50,), 7)), seed=0)
    dynamics = EnsembleDynamics(ensemble)
    state = dynamics.reset(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"action: expected numbers from 0 to 1, got 2"):
        dynamics.step(state, torch.tensor([2]))
    with pytest.raises(ValueError, match=r"use tree search"):
        dynamics.expand(state, torch.tensor([1]))


def test_callers_say_whether_they_can_use_discrete_actions() -> None:
    assert make_env("CartPole-v1", discrete=True).action_space.n == 2
    with pytest.raises(ValueError, match=r"CartPole-v1 has actions in Discrete\(2\).*tree search: planners.mcts"):
        make_env("CartPole-v1")
    with pytest.raises(ValueError, match=r"tree search: planners.mcts"):
        train_pets(cartpole(), PETSConfig(), seed=0)
    shifted = gym.wrappers.TransformAction(cartpole(), lambda a: a - 1, gym.spaces.Discrete(2, start=1))
    with pytest.raises(ValueError, match=r"expected discrete actions from 0"):
        check_spaces(shifted, discrete=True)
    with pytest.raises(ValueError, match=r"has observations in Discrete\(16\)"):
        check_spaces(gym.make("FrozenLake-v1"), discrete=True)
