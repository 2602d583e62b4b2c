"""Agents: saved and loaded, trained again, asked for actions, and told what they can not use."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import TimeLimit

from mbrl.learners.sac import DROQ, REDQ
from mbrl.learners.td3 import TD3Config
from mbrl.learners.td3_bc import TD3BCConfig
from mbrl.pipelines.agents import DDPG, DQN, SAC, TD3, Agent, DiscreteSAC
from mbrl.pipelines.off_policy import train_off_policy
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from mbrl.pipelines.reinforce import REINFORCE, train_reinforce
from mbrl.pipelines.reinforce_config import OnPolicyConfig
from tests.mbrl.memory import Memory, same
from tests.mbrl.off_policy_cases import ALL, KINDS, SMALL, TINY, agent_for, train

OBS, ACT = Box(-1, 1, (3,)), Box(-2, 2, (1,))


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


def test_the_speed_of_a_second_call_is_its_own() -> None:
    """In steps over seconds, both since that call began."""

    class Rows(Memory):
        def log(self, row: Mapping[str, float]) -> None:
            self.rows.append(dict(row))

    env = TimeLimit(gym.make("Pendulum-v1"), 10)
    agent, rows = SAC(env.observation_space, env.action_space, hidden=SMALL), Rows()
    config = OffPolicyConfig(total_timesteps=400, initial_steps=390, batch_size=8, eval_every=0)
    train_off_policy(env, agent, config, seed=0)
    train_off_policy(env, agent, replace(config, total_timesteps=420), seed=0, recorder=rows)
    names = "time/total_timesteps", "time/fps", "time/wall_clock"
    speeds = [[row[name] for name in names] for row in rows.rows if "time/fps" in row]
    assert [steps for steps, *_ in speeds] == [410, 420]
    for steps, fps, seconds in speeds:
        assert fps * seconds == pytest.approx(steps - 400, rel=0.5)


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
    with_draws, without = watched.saved[-1][0], alone.saved[-1][0]
    assert with_draws.pop("agent/predictions") == 6
    assert without.pop("agent/predictions") == 0
    same(with_draws, without)
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


@pytest.mark.parametrize("algorithm", ["sac", "reinforce"])
def test_a_run_that_was_finished_is_taken_up_with_its_steps(algorithm: str) -> None:
    """So that `learn` plays new episodes and not the first again."""
    env, memory = gym.make("Pendulum-v1", max_episode_steps=10), Memory()
    kind, settings = {
        "sac": (SAC, {"initial_steps": 20, "batch_size": 8, "buffer_size": 100}),
        "reinforce": (REINFORCE, {"batch_steps": 20}),
    }[algorithm]
    first, again = (kind(env.observation_space, env.action_space, hidden=SMALL) for _ in range(2))
    first.learn(40, env, recorder=memory, **settings)
    again.learn(40, env, recorder=Memory(memory.saved[-1]), **settings)
    assert (again.steps, again.updates) == (first.steps, first.updates) == (40, first.updates)
    first.learn(20, env, **settings)
    again.learn(20, env, **settings)
    assert again.steps == 60
    same(first.state_dict(), again.state_dict())


def test_numbers_of_numpy_are_those_of_python(tmp_path: Path) -> None:
    """Seeds give the same streams, and settings can be saved."""
    env = gym.make("Pendulum-v1")
    spaces, settings = (env.observation_space, env.action_space), {"initial_steps": 20, "buffer_size": 100}
    entropy = -np.prod(env.action_space.shape)  # as is usual
    plain = SAC(*spaces, seed=3, hidden=SMALL, target_entropy=-1.0).learn(30, env, batch_size=8, **settings)
    numpy = SAC(*spaces, seed=np.int64(3), hidden=SMALL, target_entropy=entropy)
    numpy.learn(np.int64(30), env, batch_size=np.int64(8), recorder=Memory(), **settings)
    same(plain.state_dict(), numpy.state_dict())
    assert SAC.load(numpy.save(tmp_path / "agent")).seed == 3


def test_sampled_predictions_go_on_after_a_resume() -> None:
    """They do not begin again with the first, as evaluations that sample would otherwise."""
    env = gym.make("Pendulum-v1")
    agent, again = (SAC(env.observation_space, env.action_space, hidden=SMALL) for _ in range(2))
    obs = np.zeros(3)
    for _ in range(3):
        agent.predict(obs)
    again.load_state_dict(agent.state_dict())
    assert again.predict(obs)[0] == agent.predict(obs)[0]
    older = {name: x for name, x in agent.state_dict().items() if name != "predictions"}
    again.load_state_dict(older)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda env: SAC(OBS, ACT, config=TD3Config()), "config: expected a SACConfig, got TD3Config"),
        (lambda env: TD3(OBS, ACT, config=TD3BCConfig()), "config: expected a TD3Config, got TD3BCConfig"),
        (lambda env: SAC(OBS, ACT, config={"lr": 1e-3}), "config: expected a SACConfig, got {"),
        (lambda env: SAC(OBS, ACT, seed=None), "seed: expected a whole number, such as 0, got None"),
        (lambda env: SAC(OBS, ACT, target_entropy="auto"), "target_entropy: expected a number, or None, got 'auto'"),
        (lambda env: SAC(OBS, ACT, actor_every=2.5), "actor_every: expected a whole number, got 2.5"),
        (lambda env: SAC(OBS, ACT, hidden=64), "hidden: expected a tuple of whole numbers, got 64"),
        (lambda env: SAC(OBS, ACT, hidden=(64.0,)), "hidden: expected a tuple of whole numbers"),
        (lambda env: SAC(OBS, ACT).learn(200, env, buffer_size=1e4), "buffer_size: expected a whole number, got 1"),
        (lambda env: SAC(OBS, ACT).learn(200, env, update_ratio=math.inf), "update_ratio: expected a positive number"),
        (lambda env: SAC(OBS, ACT).learn(env, 200), "total_timesteps: expected a number of steps from 1, got <"),
        (lambda env: SAC(OBS, ACT).learn(200, "Pendulum-v1"), "env: expected an environment, such as gymnasium.make"),
        (lambda env: REINFORCE(OBS, ACT).learn(env, 200), "total_timesteps: expected a number of steps from 1, got <"),
        (
            lambda env: train_off_policy(env, REINFORCE(OBS, ACT), TINY),
            "agent: expected one that learns from rows of any policy, such as SAC or DQN, got REINFORCE",
        ),
        (
            lambda env: train_reinforce(env, SAC(OBS, ACT), OnPolicyConfig()),
            "agent: expected REINFORCE or DiscreteREINFORCE, got SAC",
        ),
    ],
)
def test_what_would_train_something_else_is_refused(make: Callable[[gym.Env], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make(gym.make("Pendulum-v1"))


def test_a_temperature_is_within_its_bound_from_the_start() -> None:
    assert SAC(OBS, ACT, max_temperature=0.1).state.log_temperature.exp().item() == pytest.approx(0.1)
    assert SAC(OBS, ACT, max_temperature=5.0).state.log_temperature.exp().item() == 1.0
