"""Agents: saved and loaded, trained again, asked for actions, and told what they can not use."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from mbrl.learners.sac import DROQ, REDQ
from mbrl.pipelines.agents import DDPG, DQN, SAC, TD3, Agent, DiscreteSAC
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from tests.mbrl.memory import Memory, same
from tests.mbrl.off_policy_cases import ALL, KINDS, SMALL, TINY, agent_for, train

OBS = Box(-1, 1, (3,))


@ALL
def test_an_agent_is_saved_and_loaded(algorithm: str, tmp_path: Path) -> None:
    agent = train(algorithm).policy
    path = agent.save(tmp_path / "agent")
    loaded = type(agent).load(path)
    obs = np.random.default_rng(0).normal(size=(5, agent.sizes[0])).astype(np.float32)
    expected, _ = agent.predict(obs, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], expected)
    assert loaded.updates == agent.updates
    assert loaded.config == agent.config
    env = gym.make(KINDS[algorithm][0])
    loaded.learn(30, env, initial_steps=10, batch_size=8, update_ratio=1, buffer_size=50)
    assert loaded.updates == agent.updates + 20


@ALL
def test_stable_baselines3_evaluates_an_agent(algorithm: str) -> None:
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    env = gym.wrappers.RecordEpisodeStatistics(gym.make(KINDS[algorithm][0], max_episode_steps=7))
    returns, lengths = evaluation.evaluate_policy(
        agent_for(algorithm, env), env, n_eval_episodes=2, deterministic=False, return_episode_rewards=True, warn=False
    )
    assert max(lengths) <= 7
    assert np.isfinite(returns).all()


def test_learning_twice_goes_on() -> None:
    env = gym.make("Pendulum-v1")
    agent = SAC(env.observation_space, env.action_space, hidden=SMALL)
    settings: dict[str, Any] = {"initial_steps": 20, "batch_size": 8, "buffer_size": 100}
    agent.learn(30, env, **settings).learn(30, env, **settings)
    assert (agent.steps, agent.updates, len(agent.buffer or ())) == (60, 40, 60)
    assert agent.buffer is not None
    assert len(agent.buffer.episode_ids().unique()) == 2
    with pytest.raises(ValueError, match="buffer_size, num_envs: expected 100 and 1, as the agent"):
        agent.learn(10, env, initial_steps=20, buffer_size=200, batch_size=8)


def test_what_was_loaded_does_not_repeat_its_first_training(tmp_path: Path) -> None:
    env, settings = gym.make("Pendulum-v1"), {"initial_steps": 20, "batch_size": 8, "buffer_size": 100}
    agent = SAC(env.observation_space, env.action_space, hidden=SMALL)
    agent.save(tmp_path / "fresh")
    agent.learn(30, env, **settings)
    agent.save(tmp_path / "trained")
    rows = []
    for name in ("fresh", "trained"):
        buffer = SAC.load(tmp_path / name).learn(30, env, **settings).buffer
        assert buffer is not None
        rows.append(buffer.all())
    assert agent.buffer is not None
    first = agent.buffer.all()
    assert torch.equal(rows[0].obs, first.obs)  # nothing had been drawn yet
    assert torch.equal(rows[0].action, first.action)
    assert not set(rows[1].obs[:, 0].tolist()) & set(first.obs[:, 0].tolist())
    assert not set(rows[1].action[:, 0].tolist()) & set(first.action[:, 0].tolist())


@pytest.mark.parametrize(
    ("kind", "chosen", "expected"),
    [
        (SAC, {}, (100, 256, 1.0)),
        (SAC, {"lr": 1e-3, "hidden": SMALL, "actor_every": 2}, (100, 256, 1.0)),
        (SAC, {"config": REDQ, "hidden": SMALL, "lr": 1e-3}, (5_000, 256, 20.0)),
        (SAC, {"config": DROQ, "dropout": 0.1}, (5_000, 256, 20.0)),
        (TD3, {}, (100, 256, 1.0)),
        (DQN, {"hidden": SMALL}, (1_000, 64, 1.0)),
        (DiscreteSAC, {}, (1_000, 64, 1.0)),
    ],
)
def test_learning_starts_from_the_settings_of_the_algorithm(
    kind: type[Agent], chosen: dict[str, Any], expected: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[OffPolicyConfig] = []
    monkeypatch.setattr(
        "mbrl.pipelines.off_policy.train_off_policy", lambda env, agent, config, **_: seen.append(config)
    )
    agent = kind(OBS, Discrete(2) if kind.discrete else Box(-1, 1, (1,)), **chosen)
    env = gym.make("Pendulum-v1")
    agent.learn(7_000, env).learn(6_000, env, update_ratio=3, device="cpu")
    assert (seen[0].initial_steps, seen[0].batch_size, seen[0].update_ratio) == expected
    assert (seen[1].initial_steps, seen[1].batch_size, seen[1].update_ratio) == (*expected[:2], 3)
    assert seen[0].total_timesteps == 7_000


def test_names_that_are_no_settings_are_told() -> None:
    box = Box(-1, 1, (1,))
    with pytest.raises(ValueError, match=r"learning_rate: expected hyperparameters of SAC, which are hidden, lr, tau,"):
        SAC(OBS, box, learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"learning_starts, gamma: expected settings of learn, which are total_time"):
        SAC(OBS, box, hidden=SMALL).learn(200, gym.make("Pendulum-v1"), learning_starts=10, gamma=0.9)


@pytest.mark.parametrize("kind", [SAC, TD3, DDPG, DQN, DiscreteSAC])
def test_only_policies_that_are_stochastic_are_sampled_by_predict(kind: type[Agent]) -> None:
    """DQN draws its epsilon here, as stable-baselines3 does; TD3 and DDPG have noise in training only."""
    agent = kind(OBS, Discrete(5) if kind.discrete else Box(-1, 1, (1,)), hidden=SMALL)
    obs = np.zeros((200, 3), dtype=np.float32)
    assert len(np.unique(agent.predict(obs, deterministic=True)[0])) == 1
    assert (len(np.unique(agent.predict(obs)[0])) > 1) is agent.samples
    assert len(np.unique(agent.explore(obs, torch.Generator().manual_seed(0)))) > 1
    assert agent.samples is (kind not in (TD3, DDPG))


def test_predicting_does_not_disturb_training() -> None:
    def evaluate(agent: Agent, steps: int) -> dict[str, float]:
        sampled, best = (agent.predict(np.zeros(3, dtype=np.float32), deterministic=d)[0] for d in (False, True))
        return {"eval/mean_reward": float(sampled[0] + best[0])}

    watched, alone = Memory(), Memory()
    train("sac", replace(TINY, eval_every=10), watched, evaluate=evaluate)
    train("sac", replace(TINY, eval_every=10), alone)
    same(watched.saved[-1][0], alone.saved[-1][0])
    assert [row["time/total_timesteps"] for row in watched.rows if "eval/mean_reward" in row] == [
        10,
        20,
        30,
        40,
        50,
        60,
    ]


def test_predictions_have_the_shape_of_what_was_asked() -> None:
    env = gym.make("Pendulum-v1")
    agent = SAC(env.observation_space, env.action_space, hidden=SMALL)
    one, several = np.zeros(3, dtype=np.float32), np.zeros((4, 3), dtype=np.float32)
    assert agent.predict(one)[0].shape == (1,)
    assert agent.predict(several, state="kept")[1] == "kept"
    assert agent.predict(several)[0].dtype == np.float32
    assert len(np.unique(agent.predict(several)[0])) == 4
    assert len(np.unique(agent.predict(several, deterministic=True)[0])) == 1
    discrete = DQN(env.observation_space, Discrete(2), hidden=SMALL)
    assert discrete.predict(one)[0].shape == ()
    assert discrete.predict(several)[0].shape == (4,)


class Spaces(NamedTuple):
    kind: type[Agent]
    observation_space: gym.Space
    action_space: gym.Space


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        (Spaces(SAC, OBS, Discrete(3)), r"SAC is for continuous actions, got Discrete\(3\): use DQN or DiscreteSAC"),
        (Spaces(TD3, OBS, Discrete(3)), "TD3 is for continuous actions"),
        (Spaces(DDPG, OBS, Discrete(3)), "DDPG is for continuous actions"),
        (Spaces(DQN, OBS, Box(-1, 1, (1,))), r"DQN is for discrete actions, got Box.*: use SAC, TD3 or DDPG"),
        (Spaces(DiscreteSAC, OBS, Box(-1, 1, (1,))), "DiscreteSAC is for discrete actions"),
        (Spaces(DQN, OBS, Discrete(3, start=1)), "discrete actions from 0"),
        (Spaces(SAC, Discrete(3), Box(-1, 1, (1,))), "observations in Discrete"),
        (Spaces(SAC, OBS, Box(-np.inf, 1, (1,))), "finite action bounds"),
    ],
    ids=str,
)
def test_spaces_that_an_agent_can_not_use(spaces: Spaces, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spaces.kind(spaces.observation_space, spaces.action_space)


def test_an_environment_must_fit_the_agent() -> None:
    agent = SAC(OBS, Box(-1, 1, (2,)), hidden=SMALL)
    with pytest.raises(ValueError, match="env: expected action_space"):
        agent.learn(200, gym.make("Pendulum-v1"))
    narrow = SAC(gym.make("Pendulum-v1").observation_space, Box(-1, 1, (1,)), hidden=SMALL)
    with pytest.raises(ValueError, match=r"env: expected action_space Box\(-1.*got Box\(-2"):
        narrow.learn(200, gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match=r"SAC is for continuous actions, got Discrete\(2\): use DQN"):
        narrow.learn(200, gym.make("CartPole-v1"))


@pytest.mark.parametrize("obs", [np.zeros(4), np.array([0.0, np.nan, 0.0])], ids=["size", "nan"])
def test_observations_are_checked(obs: np.ndarray) -> None:
    with pytest.raises(ValueError, match="observation: expected"):
        SAC(OBS, Box(-1, 1, (2,)), hidden=SMALL).predict(obs)
