"""A collector that is restored goes on bit for bit as the one that was never stopped."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper

from mbrl.data import Collector, RandomPolicy


def single(env_id):
    return gym.make(env_id, max_episode_steps=15)


def vector(env_id, mode=AutoresetMode.DISABLED):
    return SyncVectorEnv([lambda: single(env_id)] * 2, autoreset_mode=mode)


def steps(collector, policy, state, count):
    """The rows of `count` steps as bytes, the episodes, and the policy's state."""
    rows, episodes = [], []
    for _ in range(count):
        action, state = policy.predict(collector.obs, state, collector.episode_start)
        collected = collector.step(action)
        rows += [x.numpy().tobytes() for x in collected.batch]
        episodes += collected.episodes
    return rows, episodes, state


def through_json(meta):
    return json.loads(json.dumps(meta))


@pytest.mark.parametrize("before", [0, 7, 15, 22])  # at once; mid-episode; after a reset; in a later episode
@pytest.mark.parametrize("make", [single, vector])
@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Ant-v5", "InvertedPendulum-v5"])
def test_restored_goes_on_as_uninterrupted(env_id, make, before):
    env = make(env_id)
    space = env.single_action_space if make is vector else env.action_space
    policy = RandomPolicy(space, seed=1)
    original = Collector(env, seed=3)
    _, _, state = steps(original, policy, None, before)
    tensors, meta = original.snapshot()
    meta = through_json(meta)
    tensors = {name: x.clone() for name, x in tensors.items()}
    expected = steps(original, policy, state, 35)  # through two time limits and the resets behind them
    assert expected[1]

    restored = Collector(make(env_id), seed=99)
    steps(restored, policy, None, 3)  # whatever it did before does not matter
    restored.restore(tensors, meta)
    assert steps(restored, policy, state, 35) == expected


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_mode_of_a_sync_vector_does_not_matter(mode):
    policy = RandomPolicy(gym.spaces.Box(-3, 3, (1,)))
    original, restored = (Collector(vector("InvertedPendulum-v5", mode), seed=s) for s in (0, 1))
    _, _, state = steps(original, policy, None, 20)
    tensors, meta = original.snapshot()
    restored.restore(tensors, through_json(meta))
    assert steps(restored, policy, state, 20) == steps(original, policy, state, 20)


def test_a_snapshot_of_a_restored_collector_is_the_same():
    policy = RandomPolicy(gym.spaces.Box(-1, 1, (6,)))
    original, restored = (Collector(single("HalfCheetah-v5"), seed=s) for s in (0, 1))
    steps(original, policy, None, 18)
    tensors, meta = original.snapshot()
    restored.restore(tensors, meta)
    again, meta_again = restored.snapshot()
    assert meta_again == meta
    assert restored.episode_start.tolist() == original.episode_start.tolist()
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], x) for name, x in tensors.items())


def test_a_diverged_simulation_is_behind_a_restored_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log into the working directory
    env = single("HalfCheetah-v5")
    original, policy = Collector(env, seed=0), RandomPolicy(env.action_space)
    env.unwrapped.data.qvel[:] = 1e12
    _, _, state = steps(original, policy, None, 4)
    tensors, meta = original.snapshot()
    restored = Collector(single("HalfCheetah-v5"), seed=1)
    restored.restore(tensors, through_json(meta))
    assert restored.diverged == original.diverged == 1
    assert steps(restored, policy, state, 20) == steps(original, policy, state, 20)


def test_a_restored_collector_watches_time_from_where_it_was():
    original, env = Collector(single("HalfCheetah-v5"), seed=0), single("HalfCheetah-v5")
    steps(original, RandomPolicy(env.action_space), None, 5)
    restored = Collector(env, seed=1)
    restored.restore(*original.snapshot())
    env.unwrapped.data.time = 0.01
    assert not restored.step(np.zeros((1, 6))).valid.any()


class Walk(gym.Env):
    """A random walk whose steps draw from np_random, or from a source of its own."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, own_source=False, hidden_draws=False):
        self.own = np.random.default_rng() if own_source else None
        self.hidden = np.random.default_rng() if hidden_draws else None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.random(1)
        return self.x, {}

    def step(self, action):
        if self.hidden is not None:
            self.np_random.random(self.hidden.integers(1, 1000))  # shows in the random state alone
            return self.x, 0.0, False, False, {}
        self.x = self.x + (self.own or self.np_random).random(1)
        return self.x, 1.0, False, False, {}


def test_an_environment_that_draws_in_its_steps_is_restored():
    policy = RandomPolicy(Walk.action_space)
    original, restored = (Collector(Walk(), seed=s) for s in (0, 1))
    _, _, state = steps(original, policy, None, 6)
    tensors, meta = original.snapshot()
    restored.restore(tensors, through_json(meta))
    assert steps(restored, policy, state, 5) == steps(original, policy, state, 5)


@pytest.mark.parametrize(
    ("flaw", "shown"), [("own_source", r"obs\[0\] is .*, not "), ("hidden_draws", "its random state is another one")]
)
def test_other_sources_of_randomness_are_noticed(flaw, shown):
    collector = Collector(Walk(**{flaw: True}), seed=0)
    steps(collector, RandomPolicy(Walk.action_space), None, 6)
    tensors, meta = collector.snapshot()
    with pytest.raises(ValueError, match=rf"{shown}.*can't be resumed exactly"):
        Collector(Walk(**{flaw: True}), seed=0).restore(tensors, meta)


def test_another_environment_is_noticed():
    collector = Collector(single("HalfCheetah-v5"), seed=0)
    steps(collector, RandomPolicy(gym.spaces.Box(-1, 1, (6,))), None, 5)
    tensors, meta = collector.snapshot()
    other = gym.make("HalfCheetah-v5", frame_skip=4, max_episode_steps=15)
    with pytest.raises(ValueError, match="can't be resumed exactly"):
        Collector(other, seed=0).restore(tensors, meta)
    with pytest.raises(ValueError, match="expected 1 environments, as were stored, got 2"):
        Collector(vector("HalfCheetah-v5"), seed=0).restore(tensors, meta)


def test_unsupported_environments_raise():
    wrapped = VectorWrapper(SyncVectorEnv([Walk, Walk], autoreset_mode=AutoresetMode.DISABLED))
    with pytest.raises(ValueError, match=r"supported: a gymnasium\.Env or an unwrapped"):
        Collector(wrapped, seed=0).snapshot()
    processes = AsyncVectorEnv([Walk], autoreset_mode=AutoresetMode.DISABLED)
    try:
        with pytest.raises(ValueError, match="supported: "):
            Collector(processes, seed=0).snapshot()
    finally:
        processes.close()


def test_a_random_state_that_json_cannot_hold_raises():
    env = Walk()
    env.reset(seed=0)
    collector = Collector(env, seed=0)
    env.np_random = np.random.Generator(np.random.MT19937(0))
    with pytest.raises(ValueError, match="expected a random state that JSON can hold"):
        collector.snapshot()
