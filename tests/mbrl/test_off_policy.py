"""Off-policy training on real environments with tiny budgets: going on exactly, several environments, bad input."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl.pipelines.agents import SAC
from mbrl.pipelines.bookkeeping import differences
from mbrl.pipelines.off_policy import train_off_policy
from planners.rows import leaves
from tests.mbrl.memory import Memory, same
from tests.mbrl.off_policy_cases import ALL, KINDS, SMALL, TINY, agent_for, train


@ALL
def test_a_run_that_was_interrupted_is_the_run_that_was_not(algorithm: str) -> None:
    whole, broken = Memory(), Memory()
    config = replace(TINY, n_step=3, update_ratio=1.5)
    train(algorithm, config, whole)
    left = iter(range(37))
    train(algorithm, config, broken, stop=lambda: next(left, None) is None)
    assert broken.saved[-1][1]["counters"]["steps"] == 38  # no multiple of anything
    rest = Memory(broken.saved[-1])
    train(algorithm, config, rest)
    same(rest.saved[-1][0], whole.saved[-1][0])
    assert [*broken.rows, *rest.rows] == whole.rows
    assert any("train/q_mean" in row for row in rest.rows)


@ALL
def test_the_seed_decides_everything_and_updates_are_counted(algorithm: str) -> None:
    one, other = train(algorithm), train(algorithm)
    for a, b in zip(leaves(one.policy.state), leaves(other.policy.state), strict=True):
        assert torch.equal(a, b)
    assert one.policy.updates == one.steps - TINY.initial_steps == 40
    assert len(one.buffer) == TINY.buffer_size


def test_an_agent_that_has_had_all_steps_is_told_so_and_may_begin_again_after_a_mistake() -> None:
    env = gym.make("Pendulum-v1")
    agent = SAC(env.observation_space, env.action_space, seed=0, hidden=(8,))
    with pytest.raises(ValueError, match="num_envs: expected 1, as env has, got 4"):
        train_off_policy(env, agent, replace(TINY, num_envs=4))
    train_off_policy(env, agent, TINY)  # with a buffer for one environment
    with pytest.raises(ValueError, match="total_timesteps: expected more than the 60 steps that the agent has had"):
        train_off_policy(env, agent, TINY)
    assert train_off_policy(env, agent, replace(TINY, total_timesteps=61)).steps == 61


@ALL
def test_several_environments_learn_as_much_a_step(algorithm: str) -> None:
    env_id = KINDS[algorithm][0]
    env = gym.make_vec(env_id, num_envs=4, vectorization_mode="sync")
    agent = agent_for(algorithm, gym.make(env_id))
    result = train_off_policy(env, agent, replace(TINY, num_envs=4, update_ratio=0.5, update_every=8), seed=0)
    assert (result.steps, agent.updates) == (60, 18)  # half of the 36 from step 21 to 56


def test_the_agent_acts_once_the_random_steps_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    env = gym.make("Pendulum-v1")
    agent = agent_for("sac", env)
    monkeypatch.setattr(agent, "explore", lambda obs, generator: np.full((len(obs), 1), 0.5, np.float32))
    result = train_off_policy(env, agent, replace(TINY, buffer_size=60), seed=0)
    its_own = (result.buffer.all().action[:, 0] == 0.5).tolist()
    assert its_own == 20 * [False] + 40 * [True]


def test_other_settings_are_refused_unless_they_are_accepted() -> None:
    first = Memory()
    train("sac", recorder=first)
    changed = replace(TINY, total_timesteps=80, discount=0.9)
    message = r"discount: 0\.99 -> 0\.9.*accept"
    with pytest.raises(ValueError, match=message):
        train("sac", changed, Memory(first.saved[-1]))
    going_on = Memory(first.saved[-1], accept=True)
    assert train("sac", changed, going_on).steps == 80
    assert going_on.saved[-1][1]["settings"]["discount"] == 0.9


def test_settings_that_only_one_side_knows_are_no_difference() -> None:
    assert differences({"a": 1, "old": 2, "t": [1]}, {"a": 3, "new": 4, "t": (1,)}) == {"a": (1, 3)}


def make_async() -> gym.vector.VectorEnv:
    from mbrl.envs.vector import make_vector_env

    return make_vector_env("Pendulum-v1", 2, kind="async")


def test_workers_go_on_with_new_episodes_and_say_so() -> None:
    env, config, first = make_async(), replace(TINY, num_envs=2, buffer_size=100), Memory()
    try:
        agent = SAC(env.single_observation_space, env.single_action_space, hidden=SMALL)
        train_off_policy(env, agent, replace(config, total_timesteps=40), recorder=first)
        again = SAC(env.single_observation_space, env.single_action_space, hidden=SMALL)
        rest = Memory(first.saved[-1], accept=True)
        with pytest.warns(UserWarning, match="new episodes") as caught:
            result = train_off_policy(env, again, config, recorder=rest)
        assert len(caught) == 1
        assert result.steps == 60
        starts = result.buffer.all().obs[[0, -20]]  # of the first run's episode, and of the second's
        assert not torch.equal(starts[0], starts[1])
    finally:
        env.close()


def test_vectors_that_spend_steps_on_resets_are_refused() -> None:
    makes = [lambda: gym.make("Pendulum-v1")] * 2
    for wrap, mode in ((False, "DISABLED"), (True, "DISABLED"), (False, "NEXT_STEP")):
        env: Any = gym.vector.SyncVectorEnv(makes, autoreset_mode=gym.vector.AutoresetMode[mode])
        env = gym.wrappers.vector.RecordEpisodeStatistics(env) if wrap else env
        agent = SAC(env.single_observation_space, env.single_action_space, hidden=SMALL)
        assert agent.learn(40, env, initial_steps=38).steps == 40  # steps of a SyncVectorEnv are taken one by one
    env = gym.wrappers.vector.RecordEpisodeStatistics(gym.make_vec("Pendulum-v1", num_envs=2))
    with pytest.raises(ValueError, match=r"spends no steps on resets.*AutoresetMode\.NEXT_STEP; make it with"):
        SAC(env.single_observation_space, env.single_action_space, hidden=SMALL).learn(40, env, initial_steps=38)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total_timesteps": 0}, "total_timesteps: expected at least 1"),
        ({"batch_size": 51}, r"batch_size: expected at most buffer_size \(50\), got 51"),
        ({"initial_steps": 60}, r"initial_steps: expected fewer than total_timesteps \(60\)"),
        ({"initial_steps": -1}, "initial_steps: expected 0"),
        ({"update_ratio": 0.0}, "update_ratio: expected a positive"),
        ({"discount": 1.1}, r"discount: expected a number in \[0, 1\]"),
        ({"vector": "threads"}, "vector: expected one of sync, async, got 'threads'"),
        ({"updates": "quick"}, "updates: expected"),
        ({"device": "nowhere"}, "device: expected one that is here"),
        ({"num_envs": 2}, "num_envs: expected 1, as env has, got 2"),
    ],
    ids=str,
)
def test_a_setting_that_can_not_be_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train("sac", replace(TINY, **change))
