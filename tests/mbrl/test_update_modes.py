"""The three ways to run updates inside a training loop."""

from dataclasses import replace

import gymnasium as gym
import pytest
import torch

import mbrl.pipelines.updates as module
from mbrl.learners.fast import GraphedUpdates, ParityError
from mbrl.pipelines.agents import SAC
from mbrl.pipelines.off_policy import train_off_policy
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from mbrl.pipelines.recorder import NullRecorder
from mbrl.pipelines.updates import Updates
from planners.rows import leaves

TINY = OffPolicyConfig(total_timesteps=60, initial_steps=20, batch_size=8, buffer_size=50, update_every=5, eval_every=0)


def recorded(captures):
    """In place of a CUDA graph: what runs the body anew."""

    def capture(body, warm_up, generators):
        captures.append(generators)
        warm_up()
        return body

    return capture


def batch_of(n):
    raise AssertionError("no batch is drawn")


def train(mode, config=TINY):
    env = gym.make("Pendulum-v1", max_episode_steps=13)
    agent = SAC(env.observation_space, env.action_space, 1, hidden=(8, 8), actor_every=2)
    return train_off_policy(env, agent, replace(config, updates=mode), seed=5).policy


@pytest.fixture
def traced(monkeypatch):
    """Traces run as they are: the compiler takes seconds."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.fixture
def captures(monkeypatch):
    """In place of CUDA graphs: what runs the updates anew."""
    made = []
    monkeypatch.setattr(module, "GraphedUpdates", lambda *a, **k: GraphedUpdates(*a, **k, capture=recorded(made)))
    return made


def test_compiled_training_is_eager_training(traced):
    eager, compiled = train("eager"), train("compile")
    assert eager.updates == compiled.updates == 40
    for one, other in zip(leaves(eager.state), leaves(compiled.state), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_compiler_that_is_wrong_is_refused_before_the_first_update(monkeypatch):
    def wrong(function, **_):
        return lambda *tensors: [[-grad for grad in function(*tensors)[0]], *function(*tensors)[1:]]

    monkeypatch.setattr(torch, "compile", wrong)
    with pytest.raises(ParityError, match="take updates='eager'"):
        train("compile")


def test_graphs_run_the_updates_that_are_due(captures):
    """Five at a time, of which the actor's alternate: two kinds of block, and the same training for the same seed."""
    one, other = train("graph"), train("graph")
    assert one.updates == 40
    assert len(captures) == 6  # of each training two, and one to be checked
    assert all(torch.equal(a, b) for a, b in zip(leaves(one.state), leaves(other.state), strict=True))
    assert not torch.equal(leaves(one.state)[0], leaves(train("eager").state)[0])  # which draws other batches


def test_a_long_round_keeps_no_more_batches_than_a_block_has(captures, monkeypatch):
    take, kept = Updates._take, []

    def watch(self, metrics, first):
        kept.append((len(metrics), len(self._drawn)))
        take(self, metrics, first)

    monkeypatch.setattr(Updates, "_take", watch)
    config = replace(TINY, total_timesteps=70, initial_steps=25, update_every=70, update_ratio=2)
    assert train("graph", config).updates == 90
    assert kept == [(40, 40), (40, 40), (10, 10)]


def test_graphs_are_refused_where_they_can_not_be(captures):
    agent = train("eager")
    with pytest.raises(ValueError, match="batches here depend on the parameters"):
        Updates(agent, batch_of, seed=0, batch_size=8, recorder=NullRecorder(), mode="graph")


def test_graphs_need_a_cuda_device():
    with pytest.raises(ValueError, match="updates: expected 'eager' or 'compile' on cpu, got 'graph'"):
        train("graph")
