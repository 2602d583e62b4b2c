"""Training on a dataset: the same updates as by hand, resumed bit for bit, and what does not fit is refused."""

import contextlib
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from mbrl.data.datasets import Dataset, DatasetInfo, dataset_buffer
from mbrl.pipelines import offline_agents
from mbrl.pipelines.agents import SAC
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.offline import reward_factor, train_offline
from mbrl.pipelines.offline_agents import AWAC, BC, CQL, IQL, OFFLINE_AGENTS, TD3BC
from mbrl.pipelines.offline_config import DEFAULTS, SMALL, OfflineConfig, offline_preset
from mbrl.pipelines.offline_loop import OfflineLoop
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.rows import leaves
from tests.mbrl.memory import Memory, same
from tests.mbrl.offline_cases import pendulum_data

TINY = OfflineConfig(total_updates=60, batch_size=8, log_every=20, eval_every=30, eval_episodes=1, checkpoint_every=25)
ALL = pytest.mark.parametrize("kind", OFFLINE_AGENTS.values())


@pytest.fixture(scope="module")
def data() -> Dataset:
    return pendulum_data()


def agent(data, kind=TD3BC, **settings):
    return kind(*data.spaces(), seed=0, hidden=(8, 8), **settings)


class Rows(Memory):
    """Without the speed, too."""

    def log(self, row):
        super().log({name: value for name, value in row.items() if name != "time/updates_per_second"})


@ALL
def test_it_is_the_updates_that_one_makes_by_hand(kind, data):
    trained, own = agent(data, kind), agent(data, kind)
    train_offline(data, trained, replace(TINY, total_updates=5, discount=0.9), seed=7)
    buffer = dataset_buffer(data)
    if hasattr(own.learner, "fit_normalizer"):
        own.learner.fit_normalizer(own.state, data.transitions().obs[None])
    for n in range(5):
        batch = buffer.sample(8, generator=generator(7, "batch", 0, n), discount=0.9)
        batch = TransitionBatch(*(x[None] for x in batch))
        noise = own.learner.noise(8, [generator(7, "noise", 0, n)])
        actor_every = getattr(own.config, "actor_every", 1)
        own.learner.update(own.state, batch, noise, actor=(n + 1) % actor_every == 0)
    assert all(torch.equal(a, b) for a, b in zip(leaves(trained.state), leaves(own.state), strict=True))
    assert trained.updates == 5


@ALL
def test_stopped_anywhere_and_resumed_equals_uninterrupted(kind, data):
    def evaluate(policy, updates):
        return {"eval/mean_reward": float(policy.predict(np.ones(3), deterministic=True)[0][0])}

    whole, first = Rows(), Rows()
    train_offline(data, agent(data, kind), TINY, seed=3, recorder=whole, evaluate=evaluate)
    rounds = iter([False, True])
    train_offline(data, agent(data, kind), TINY, seed=3, recorder=first, evaluate=evaluate, stop=lambda: next(rounds))
    assert first.saved[-1][1]["counters"]["updates"] == 25
    second = Rows(start=first.saved[-1])
    train_offline(data, agent(data, kind), TINY, seed=3, recorder=second, evaluate=evaluate)
    assert first.rows + second.rows == whole.rows
    same(second.saved[-1][0], whole.saved[-1][0])
    assert [row["train/n_updates"] for row in whole.rows] == [20, 30, 40, 60, 60]
    assert {row["time/total_timesteps"] for row in whole.rows} == {0}
    assert [meta["counters"]["updates"] for _, meta in whole.saved] == [25, 50, 60]


def test_the_end_is_evaluated_wherever_it_is(data):
    for total, every, expected in ((50, 30, [30, 50]), (60, 30, [30, 60]), (20, 30, [20]), (20, 0, [])):
        seen, config = [], replace(TINY, total_updates=total, eval_every=every)
        train_offline(data, agent(data), config, evaluate=lambda _, updates, seen=seen: seen.append(updates) or {})
        assert seen == expected


def test_other_data_or_settings_are_refused(data):
    saved = Rows()
    train_offline(data, agent(data), TINY, recorder=saved)
    for other, config, message in (
        (pendulum_data(seed=9), TINY, "dataset: "),
        (data, replace(TINY, discount=0.5), r"discount: 0\.99 -> 0\.5"),
    ):
        with pytest.raises(ValueError, match=f"settings: expected those of the checkpoint.*{message}"):
            train_offline(other, agent(other), config, recorder=Rows(start=saved.saved[-1]))


def test_an_agent_that_has_had_all_updates_is_told_so(data):
    trained, saved = agent(data), Rows()
    train_offline(data, trained, TINY, recorder=saved)
    with pytest.raises(ValueError, match="total_updates: expected more than the 60 updates that the agent has had"):
        train_offline(data, trained, TINY)
    assert train_offline(data, trained, replace(TINY, total_updates=61)).updates == 61
    assert train_offline(data, agent(data), TINY, recorder=Rows(start=saved.saved[-1])).updates == 60  # is done


def test_actions_outside_the_agents_bounds_are_refused_where_data_do_not_say_theirs(data):
    unsaid = replace(data, info=replace(data.info, action_low=None, action_high=None))
    observation, action = data.spaces()
    for bound, fits in ((2.0, True), (3.0, True), (1.0, False)):
        made = TD3BC(observation, Box(-bound, bound, action.shape, action.dtype.type), hidden=(8,))
        with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="dataset: expected actions in Box"):
            train_offline(unsaid, made, TINY)


def test_another_seed_is_refused_and_may_be_accepted(data):
    saved = Rows()
    train_offline(data, agent(data), TINY, seed=3, recorder=saved, stop=lambda: True)
    with pytest.raises(ValueError, match=r"settings: expected those of the checkpoint, got others \(seed: 3 -> 4\)"):
        train_offline(data, agent(data), TINY, seed=4, recorder=Rows(start=saved.saved[-1]))
    assert train_offline(data, agent(data), TINY, seed=4, recorder=Rows(saved.saved[-1], accept=True)).updates == 60


def test_a_loop_runs_to_what_is_due_next():
    class Idle:
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    count = Counters()
    config = OfflineConfig(total_updates=130, log_every=50, eval_every=0, checkpoint_every=1_000)
    loop = OfflineLoop(config, count, seed=0, columns={}, parts={"idle": Idle()}, settings={}, recorder=Memory())
    blocks, rolled = [], []
    while loop.goes_on():
        blocks.append(loop.until_due(60))
        count.updates += blocks[-1]
        if loop.crossed(60):
            rolled.append(count.updates)
        loop.checkpoint()
    assert blocks == [40, 10, 10, 20, 20, 20, 10]  # to multiples of 40, 50 and 60
    assert rolled == [60, 120]


def test_rewards_are_scaled_to_returns_that_span_a_thousand(data):
    returns = data.returns()
    assert reward_factor(data) == pytest.approx(1_000 / (returns.max() - returns.min()))
    scaled = replace(data, rewards=data.rewards * reward_factor(data))
    one, other = agent(data, IQL), agent(data, IQL)
    train_offline(data, one, replace(TINY, total_updates=5, normalize_rewards=True))
    train_offline(scaled, other, replace(TINY, total_updates=5))
    torch.testing.assert_close(leaves(one.state), leaves(other.state), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="normalize_rewards: expected a dataset whose episodes have different returns"):
        reward_factor(data.select([0]))


def test_observations_are_standardised_by_the_first_dataset_alone(data):
    for kind in (BC, TD3BC):
        made = agent(data, kind).learn(2, data, batch_size=8)
        rows = data.transitions().obs
        torch.testing.assert_close(made.state.mean[0, 0], rows.mean(0))
        torch.testing.assert_close(made.state.std[0, 0], rows.std(0, correction=0))
        kept = made.state.mean.clone()
        made.learn(2, pendulum_data(seed=5), batch_size=8)
        assert torch.equal(made.state.mean, kept)
        assert made.updates == 4


@ALL
def test_learning_in_two_calls_is_learning_in_one(kind, data):
    once = agent(data, kind).learn(6, data, batch_size=8)
    twice = agent(data, kind).learn(4, data, batch_size=8).learn(2, data, batch_size=8)
    assert all(torch.equal(a, b) for a, b in zip(leaves(once.state), leaves(twice.state), strict=True))


@ALL
def test_saved_and_loaded_it_acts_the_same(kind, data, tmp_path):
    made = agent(data, kind).learn(3, data, batch_size=8)
    again = kind.load(made.save(tmp_path / "agent"))
    obs = data.observations[:5]
    np.testing.assert_array_equal(made.predict(obs, deterministic=True)[0], again.predict(obs, deterministic=True)[0])
    action = again.learn(2, data, batch_size=8).predict(obs)[0]
    assert action.shape == (5, 1)
    assert again.updates == 5


@ALL
def test_learning_starts_from_the_settings_of_the_command_line(kind, data, monkeypatch):
    seen = []
    monkeypatch.setattr(offline_agents, "train_offline", lambda _data, _agent, config, **_: seen.append(config))
    agent(data, kind).learn(7, data, batch_size=8)
    (config,) = seen
    assert config == replace(offline_preset(kind.__name__.lower(), None).config, total_updates=7, batch_size=8)
    assert config.normalize_rewards == (kind in (IQL, AWAC))


def test_an_unknown_setting_is_named(data):
    with pytest.raises(ValueError, match="initial_steps: expected settings of learn"):
        agent(data).learn(1, data, initial_steps=3)


def test_discrete_actions_are_refused(data):
    with pytest.raises(ValueError, match="CQL is for continuous actions, got Discrete"):
        CQL(data.spaces()[0], gym.spaces.Discrete(3))
    discrete = replace(data, actions=np.zeros(len(data), np.int64), info=DatasetInfo(actions=2))
    with pytest.raises(ValueError, match="AWAC is for continuous actions, got Discrete"):
        train_offline(discrete, agent(data, AWAC), TINY)


def test_data_of_other_sizes_bounds_or_devices_are_refused(data):
    narrow = replace(data, observations=data.observations[:, :2])
    with pytest.raises(ValueError, match=r"dataset: expected observations and actions of 3 and 1 numbers.*got 2 and 1"):
        train_offline(narrow, agent(data), TINY)
    wide = replace(data, info=replace(data.info, action_low=(-3.0,), action_high=(3.0,)))
    with pytest.raises(ValueError, match=r"dataset: expected actions in Box.*got Box"):
        train_offline(wide, agent(data), TINY)
    with pytest.raises(ValueError, match="device: expected cpu"):
        train_offline(data, agent(data), replace(TINY, device="meta"))


def test_any_learner_of_continuous_actions_can_be_trained(data):
    """SAC on data: what the naive baseline is."""
    naive = SAC(*data.spaces(), hidden=(8, 8))
    assert train_offline(data, naive, replace(TINY, total_updates=3)).updates == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("total_updates", 0), ("batch_size", 0), ("log_every", 0), ("eval_every", -1), ("discount", 1.1)],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        OfflineConfig(**{name: value})


def test_presets_go_by_the_environment():
    for algorithm in DEFAULTS:
        assert offline_preset(algorithm, "Pendulum-v1") == SMALL[algorithm]
        assert offline_preset(algorithm, "Hopper-v5") == offline_preset(algorithm, None) == DEFAULTS[algorithm]
        assert SMALL[algorithm].learner.hidden == (64, 64)
    with pytest.raises(ValueError, match="preset: expected none"):
        offline_preset("cql", "Hopper-v5", "paper")


def test_updates_may_be_in_bfloat16(data):
    full, rough = agent(data), agent(data)
    for one, precision in ((full, "full"), (rough, "bfloat16")):
        train_offline(data, one, replace(TINY, total_updates=5, precision=precision), seed=7)
    assert not torch.equal(rough.state.td3.actor[1][0], full.state.td3.actor[1][0])
