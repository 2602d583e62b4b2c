"""Collection against environments whose every number is known, and against Gymnasium's own."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper

from mbrl.data import Collector, RandomPolicy, ReplayBuffer, collect

MODES = list(AutoresetMode)


class Counting(gym.Env):
    """obs (episode, steps); reward 10 * episode + steps; ends in step `length`, by termination in odd episodes."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, length=3, bad_obs_at=None, bad_reward_at=None):
        self.length, self.bad_obs_at, self.bad_reward_at = length, bad_obs_at, bad_reward_at
        self.episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action):
        assert action.dtype == np.float32
        self.action = action
        self.steps += 1
        end = self.steps == self.length
        reward = np.nan if self.steps == self.bad_reward_at else 10.0 * self.episode + self.steps
        return self._obs(), reward, end and self.episode % 2 == 1, end and self.episode % 2 == 0, {}

    def _obs(self):
        return np.array([self.episode, np.inf if self.steps == self.bad_obs_at else self.steps], dtype=np.float32)


class Opaque(VectorWrapper):
    """Hides that its environments could be stepped one by one."""


def gather(env, ticks):
    """Valid rows (obs, reward, next_obs, terminated, truncated) of every environment, and the episodes."""
    collector = Collector(env, seed=0)
    rows, episodes, starts = [[] for _ in range(collector.num_envs)], [], []
    for _ in range(ticks):
        starts.append(collector.episode_start.tolist())
        collected = collector.step(np.zeros((collector.num_envs, 1)))
        b = collected.batch
        for env_index in collected.valid.nonzero()[:, 0].tolist():
            row = (b.obs, b.reward, b.next_obs, b.terminated, b.truncated)
            rows[env_index].append(tuple(x[env_index].tolist() for x in row))
        episodes += collected.episodes
    return rows, episodes, starts


def expected_rows(length, episodes):
    rows = []
    for e in range(1, episodes + 1):
        for s in range(length):
            end = s + 1 == length
            rows.append(([e, s], 10 * e + s + 1, [e, s + 1], end and e % 2 == 1, end and e % 2 == 0))
    return rows


def vector_of(mode, lengths, opaque):
    env = SyncVectorEnv([lambda n=n: Counting(n) for n in lengths], autoreset_mode=mode)
    return Opaque(env) if opaque else env


def test_one_environment_gives_exactly_its_transitions():
    rows, episodes, starts = gather(Counting(), 6)
    assert rows[0] == expected_rows(3, 2)
    assert [tuple(e) for e in episodes] == [(0, 36.0, 3, True), (0, 66.0, 3, False)]
    assert starts == [[True], [False], [False]] * 2


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_vectors_give_exactly_the_transitions_in_every_mode(mode, opaque):
    rows, episodes, starts = gather(vector_of(mode, (3, 4), opaque), 14)
    for got, length in zip(rows, (3, 4), strict=True):
        assert len(got) >= 9
        assert got == expected_rows(length, 6)[: len(got)]
    assert [e.length for e in episodes if e.env == 0] == [3] * len([e for e in episodes if e.env == 0])
    # Where the vector spends a step on the reset, an episode takes a tick more.
    period = 4 if opaque and mode is AutoresetMode.NEXT_STEP else 3
    assert [s[0] for s in starts] == [tick % period == 0 for tick in range(14)]
    assert len(rows[0]) == (11 if period == 4 else 14)


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_buffers_never_link_across_a_reset(mode, opaque):
    env = vector_of(mode, (3, 4), opaque)
    buffer = collect(env, RandomPolicy(env.single_action_space), 28)
    batch, ids = buffer.all(), buffer.episode_ids()
    for episode in ids.unique():
        mine = ids == episode
        assert (batch.obs[mine, 0] == batch.obs[mine, 0][0]).all()
        assert torch.equal(batch.next_obs[mine][:-1], batch.obs[mine][1:])


def test_a_vector_without_a_mode_is_refused():
    env = Opaque(SyncVectorEnv([Counting]))
    env.metadata = {}
    with pytest.raises(ValueError, match="autoreset_mode"):
        Collector(env, seed=0)


@pytest.mark.parametrize("kind", ["float64 array", "tensor"])
def test_what_is_stored_is_what_was_executed(kind):
    env = Counting()
    collector = Collector(env, seed=0)
    action = np.array([[0.1]])  # not a float32 number
    batch = collector.step(action if kind == "float64 array" else torch.from_numpy(action)).batch
    assert batch.action.dtype == torch.float64
    assert batch.action.item() == float(env.action[0]) == float(np.float32(0.1))
    assert batch.log_prob.isnan().all()
    assert batch.discount.tolist() == [1]


def test_one_environment_equals_a_loop_over_it():
    env, policy = gym.make("InvertedPendulum-v5", max_episode_steps=4), RandomPolicy(gym.spaces.Box(-0.1, 0.1, (1,)))
    buffer = collect(env, policy, 10, seed=7, buffer=ReplayBuffer(10, 4, 1, dtype=torch.float64))
    obs, _ = env.reset(seed=7)
    rows, state = buffer.all(), None
    for i in range(10):
        action, state = policy.predict(obs, state)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        assert rows.obs[i].tolist() == obs.tolist()
        assert rows.next_obs[i].tolist() == next_obs.tolist()
        assert rows.reward[i] == reward
        assert bool(rows.terminated[i]) == terminated
        assert bool(rows.truncated[i]) == truncated == ((i + 1) % 4 == 0)
        assert rows.discount[i] == 1 - terminated
        obs = env.reset()[0] if terminated or truncated else next_obs


def test_only_a_termination_stops_the_bootstrap():
    collector = Collector(Counting(length=1), seed=0)
    collected = [collector.step(np.zeros((1, 1))).batch for _ in range(2)]  # terminated, then truncated
    assert [batch.discount.item() for batch in collected] == [0, 1]
    assert [batch.truncated.item() for batch in collected] == [False, True]


def test_a_terminated_pendulum_stops_the_bootstrap():
    env = gym.make("InvertedPendulum-v5")
    collector = Collector(env, seed=0)
    while True:
        collected = collector.step(np.array([[3.0]]))
        if collected.episodes:
            break
    (episode,) = collected.episodes
    assert episode.terminated
    assert collected.batch.terminated.tolist() == [True]
    assert collected.batch.discount.tolist() == [0]
    assert abs(collected.batch.next_obs[0, 1]) > 0.2  # what ended it, not the next episode's first observation
    assert abs(collector.obs[0, 1]) < 0.011


def push_over_the_edge(env):
    env.unwrapped.data.qvel[:] = 1e12


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "InvertedPendulum-v5", "Hopper-v5"])
def test_a_diverged_simulation_is_cut_out(env_id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log into the working directory
    env = gym.make(env_id)
    collector, zero = Collector(env, seed=0), np.zeros((1, *env.action_space.shape))
    buffer = ReplayBuffer(10, collector.obs.shape[1], zero.shape[1])
    for step in range(6):
        if step == 3:
            push_over_the_edge(env)
        collected = collector.step(zero)
        buffer.extend(collected.batch, collected.valid)
        assert collected.valid.tolist() == [step != 3]
        assert collected.episodes == []
        assert collector.episode_start.tolist() == [step == 3]
        assert collector.diverged == (step >= 3)
    assert len(buffer) == 5
    assert buffer.episode_ids().unique(return_counts=True)[1].tolist() == [3, 2]


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_one_diverged_simulation_leaves_the_others_alone(mode, opaque, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sync = SyncVectorEnv([lambda: gym.make("HalfCheetah-v5", max_episode_steps=5)] * 2, autoreset_mode=mode)
    if opaque and mode is AutoresetMode.SAME_STEP:
        with pytest.raises(ValueError, match="hides simulations that diverged"):
            Collector(Opaque(sync), seed=0)
        return
    collector = Collector(Opaque(sync) if opaque else sync, seed=0)
    zero, lengths = np.zeros((2, 6)), [0, 0]
    for tick in range(4):
        if tick == 1:
            push_over_the_edge(sync.envs[1])
        collected = collector.step(zero)
        assert collected.valid.tolist() == [True, tick != 1]
    assert collector.diverged == 1
    for _ in range(6):
        for episode in collector.step(zero).episodes:
            lengths[episode.env] = lengths[episode.env] or episode.length
    assert lengths == [5, 5]
    assert collector.diverged == 1


def test_divergence_in_the_last_step_of_an_episode_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sync = SyncVectorEnv(
        [lambda: gym.make("HalfCheetah-v5", max_episode_steps=1)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    collector = Collector(sync, seed=0)
    push_over_the_edge(sync.envs[0])
    collected = collector.step(np.zeros((1, 6)))
    assert collected.valid.tolist() == [False]
    assert collected.episodes == []


def test_time_that_stands_still_is_a_divergence():
    env = gym.make("HalfCheetah-v5")
    collector = Collector(env, seed=0)
    for _ in range(3):
        assert collector.step(np.zeros((1, 6))).valid.all()
    env.unwrapped.data.time = 0  # as after a reset that left no warning behind
    assert not collector.step(np.zeros((1, 6))).valid.any()


@pytest.mark.parametrize("what", ["obs", "reward"])
def test_numbers_that_are_not_finite_stop_collection(what):
    bad = {f"bad_{what}_at": 2}
    env = SyncVectorEnv([Counting, lambda: Counting(**bad)])
    collector = Collector(env, seed=0)
    collector.step(np.zeros((2, 1)))
    name = {"obs": "observation", "reward": "reward"}[what]
    shown = {"obs": r"\[1.0, inf\]", "reward": "nan"}[what]
    with pytest.raises(ValueError, match=rf"^{name}: .* got {shown} in row 1 after action \[0.5\]"):
        collector.step(np.array([[0.0], [0.5]]))


@pytest.mark.parametrize(("position", "name"), [(1, "reward"), (2, "terminated")])
def test_arrays_for_rewards_and_ends_are_named(position, name):
    """As environments return whose observations are batches of one."""

    class Batched(Counting):
        def step(self, action):
            made = list(super().step(action))
            made[position] = np.array([made[position]])
            return tuple(made)

    collector = Collector(Batched(), seed=0)
    with pytest.raises(ValueError, match=rf"^env: expected one {name} a step, .* got shape \[1\]: return {name}.item"):
        collector.step(np.zeros((1, 1)))


def test_a_reset_that_is_not_finite_stops_collection():
    with pytest.raises(ValueError, match="observation of reset"):
        Collector(Counting(bad_obs_at=0), seed=0)


def test_bad_actions_are_named():
    collector = Collector(Counting(), seed=0)
    with pytest.raises(ValueError, match=r"action: expected shape \[1, 1\].* got \[1\]"):
        collector.step(np.zeros(1))
    with pytest.raises(ValueError, match=r"action: expected finite numbers from a policy, got \[nan\] in row 0"):
        collector.step(np.array([[np.nan]]))


def test_unsupported_environments_are_named():
    env = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match=r"env.action_space: expected a flat Box .* or a Discrete from 0"):
        Collector(gym.wrappers.TransformAction(env, lambda a: a - 1, gym.spaces.Discrete(2, start=1)), seed=0)
    with pytest.raises(ValueError, match=r"env.observation_space: expected a flat Box .* got Discrete"):
        Collector(gym.make("FrozenLake-v1"), seed=0)
    with pytest.raises(ValueError, match="env"):
        Collector("HalfCheetah-v5", seed=0)
    env = SyncVectorEnv([Counting] * 2)
    with pytest.raises(ValueError, match=r"steps: expected a positive multiple of the 2 environments, got 3"):
        collect(env, RandomPolicy(env.single_action_space), 3)


def test_collect_appends_to_a_buffer_without_linking():
    env = Counting(length=10)
    buffer = ReplayBuffer(20, 2, 1)
    for _ in range(2):
        assert collect(env, RandomPolicy(env.action_space), 4, buffer=buffer) is buffer
    collected = Collector(env, seed=0).step(np.zeros((1, 1)))
    for _ in range(2):
        buffer.extend(collected.batch, collected.valid)
    collect(env, RandomPolicy(env.action_space), 3, buffer=buffer)
    assert buffer.episode_ids().unique(return_counts=True)[1].tolist() == [4, 4, 2, 3]


def test_random_actions_depend_on_seed_and_tick_alone():
    space = gym.spaces.Box(np.array([-1, 0], np.float32), np.array([1, 5], np.float32))
    obs = np.zeros((3, 7))
    policy, other = RandomPolicy(space, seed=4), RandomPolicy(space, seed=4)
    actions, state = [], None
    for _ in range(150):
        action, state = policy.predict(obs, state)
        actions.append(action)
    assert state == 150
    assert np.array_equal(other.predict(obs, 70)[0], actions[70])  # out of turn, from a fresh policy
    assert not np.array_equal(RandomPolicy(space, seed=5).predict(obs)[0], actions[0])
    drawn = np.concatenate(actions)
    assert drawn.dtype == np.float32
    assert space.low.tolist() < drawn.min(0).tolist()
    # Five standard errors of the mean of 450 uniform numbers.
    assert (np.abs(drawn.mean(0) - [0, 2.5]) < 5 * np.array([2, 5]) / np.sqrt(12 * 450)).all()
    assert policy.predict(np.zeros(7))[0].shape == (2,)


def test_random_actions_need_finite_bounds():
    with pytest.raises(ValueError, match="finite bounds"):
        RandomPolicy(gym.spaces.Box(-np.inf, np.inf, (1,)))
    with pytest.raises(ValueError, match="flat Box or a Discrete"):
        RandomPolicy(gym.spaces.MultiBinary(2))
