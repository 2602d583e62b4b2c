"""Agents with small networks, and their short training runs, that tests of off-policy training share."""

from typing import Any

import gymnasium as gym
import pytest

from mbrl.learners.sac import DROQ, REDQ
from mbrl.pipelines.agents import DDPG, DQN, SAC, TD3, Agent, DiscreteSAC
from mbrl.pipelines.off_policy import train_off_policy
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from tests.mbrl.memory import Memory

TINY = OffPolicyConfig(
    total_timesteps=60, initial_steps=20, batch_size=8, buffer_size=50, eval_every=0, checkpoint_every=15
)
SMALL = (8, 8)

KINDS: dict[str, tuple[str, type[Agent], dict[str, Any]]] = {
    "sac": ("Pendulum-v1", SAC, {}),
    "redq": ("Pendulum-v1", SAC, {"config": REDQ, "actor_every": 3}),
    "droq": ("Pendulum-v1", SAC, {"config": DROQ, "actor_every": 3}),
    "td3": ("Pendulum-v1", TD3, {}),
    "ddpg": ("Pendulum-v1", DDPG, {}),
    "dqn": ("CartPole-v1", DQN, {"target_every": 7, "exploration_updates": 30}),
    "discrete_sac": ("CartPole-v1", DiscreteSAC, {}),
}


def agent_for(algorithm: str, env: gym.Env) -> Agent:
    _, kind, settings = KINDS[algorithm]
    return kind(env.observation_space, env.action_space, 1, hidden=SMALL, **settings)


ALL = pytest.mark.parametrize("algorithm", KINDS)


def train(algorithm: str, config: OffPolicyConfig = TINY, recorder: Memory | None = None, **extra: Any) -> Any:
    env = gym.make(KINDS[algorithm][0], max_episode_steps=13)
    return train_off_policy(env, agent_for(algorithm, env), config, seed=5, recorder=recorder, **extra)
