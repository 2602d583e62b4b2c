"""Finite MDPs: value iteration against hand-made answers, and the laws of models."""

import gymnasium as gym
import pytest
import torch

from planners.finite import FiniteMDP, q_values, value_iteration
from planners.testing import check_dynamics


def chain() -> FiniteMDP:
    """Action 0 stays in state 0 and pays 1, action 1 goes on with probability 0.5; state 1 pays 2 and ends."""
    probability = torch.zeros(2, 2, 2, dtype=torch.float64)
    probability[0, 0, 0] = 1
    probability[0, 1] = 0.5
    probability[1, :, 1] = 1
    reward = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 2.0]]], dtype=torch.float64)
    return FiniteMDP(probability, reward, torch.tensor([[[False] * 2] * 2, [[False, True]] * 2]))


def test_value_iteration_by_hand():
    # Staying is worth 1 / (1 - 0.5) = 2, going on 0.5 * (0.5 V(0) + 0.5 * 2): staying is better.
    values = value_iteration(chain(), 0.5)
    torch.testing.assert_close(values, torch.tensor([2.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(q_values(chain(), values, 0.5)[0], torch.tensor([2.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(value_iteration(chain(), 0.5, sweeps=2)[0].item(), 1.5)
    assert value_iteration(chain(), 0.5, sweeps=0).tolist() == [0, 0]


def test_frozen_lake_by_its_known_value():
    """Without discount the goal is reached with probability 14/17 from the start of the slippery 4x4 map."""
    mdp = FiniteMDP.from_env(gym.make("FrozenLake-v1", map_name="4x4", is_slippery=True))
    assert value_iteration(mdp, 1.0, sweeps=5000)[0].item() == pytest.approx(14 / 17, abs=1e-9)


def test_the_laws_of_models():
    mdp = chain()
    start = mdp.reset(torch.tensor([[0.0], [1.0], [0.0], [0.0]], dtype=torch.float64))
    actions = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 0, 0, 1]])[..., None]
    # The kit has float actions in mind: take the numbers out of the last axis.
    model = _Unwrapped(mdp)
    check_dynamics(model, start, actions.double(), shared_noise=False)


class _Unwrapped:
    def __init__(self, mdp):
        self.mdp, self.reset, self.observe, self.assign = mdp, mdp.reset, mdp.observe, mdp.assign

    def step(self, state, action, *, generator=None):
        return self.mdp.step(state, action[:, 0].nan_to_num().long(), generator=generator)


def test_steps_follow_the_probabilities():
    mdp, rows = chain(), 20_000
    state, step = mdp.step(torch.zeros(rows, dtype=torch.long), torch.ones(rows, dtype=torch.long),
                           generator=torch.Generator().manual_seed(0))  # fmt: skip
    assert step.obs.mean().item() == pytest.approx(0.5, abs=0.015)
    assert not step.terminated.any()
    _, step = mdp.step(state, state, generator=torch.Generator().manual_seed(1))
    assert torch.equal(step.terminated, state == 1)


def test_bad_input():
    good = chain()
    with pytest.raises(ValueError, match="probability: expected shape"):
        FiniteMDP(good.probability[0], good.reward)
    with pytest.raises(ValueError, match="reward: expected shape"):
        FiniteMDP(good.probability, good.reward[:, :1])
    with pytest.raises(ValueError, match="sum to 1"):
        FiniteMDP(2 * good.probability, good.reward)
    with pytest.raises(ValueError, match="no mean transition; plan with stochastic=True"):
        good.step(torch.tensor([0]), torch.tensor([1]))
    for number in (-1.0, 1.7, 99.0):
        with pytest.raises(ValueError, match=rf"obs: expected state numbers from 0 to \d, got {number:g}"):
            good.reset(torch.tensor([[0.0], [number]]))
    with pytest.raises(ValueError, match="discount, sweeps"):
        value_iteration(good, 1.5)
    with pytest.raises(ValueError, match="use EnvCopies"):
        FiniteMDP.from_env(gym.make("CartPole-v1"))


def test_sweeps_are_in_place_from_the_last_state_to_the_first():
    """A corridor of 4 states whose last one pays 1: one sweep carries that to the first, synchronous ones take four."""
    probability = torch.zeros(4, 1, 4, dtype=torch.float64)
    reward, ends = torch.zeros_like(probability), torch.zeros_like(probability, dtype=torch.bool)
    for s in range(4):
        probability[s, 0, min(s + 1, 3)] = 1
    reward[3, 0, 3], ends[3, 0, 3] = 1, True
    corridor = FiniteMDP(probability, reward, ends)
    assert value_iteration(corridor, 0.5, sweeps=1).tolist() == [0.125, 0.25, 0.5, 1.0]
    assert q_values(corridor, torch.zeros(4), 0.5).amax(1).tolist() == [0, 0, 0, 1]
