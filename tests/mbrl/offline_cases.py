"""Small datasets that tests of offline training share."""

import gymnasium as gym
import numpy as np

from mbrl.data.datasets import Dataset, DatasetInfo
from mbrl.seeding import derive

ENV_ID = "Pendulum-v1"


def pendulum_data(episodes: int = 3, steps: int = 40, seed: int = 0) -> Dataset:
    """Episodes of random torques, each cut after some steps."""
    env = gym.make(ENV_ID)
    draws = np.random.default_rng(derive(seed, "actions"))
    observations, actions, rewards = [], [], []
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        observations.append(obs)
        for _ in range(steps):
            action = draws.uniform(-2, 2, 1).astype(np.float32)
            obs, reward, *_ = env.step(action)
            observations.append(obs)
            actions.append(action)
            rewards.append(float(reward))
    truncated = np.tile(np.arange(steps) == steps - 1, episodes)
    unknown, lengths = np.full(len(rewards), np.nan), np.full(episodes, steps, np.int64)
    info = DatasetInfo.of(env)
    env.close()
    return Dataset(
        np.array(observations),
        np.array(actions),
        np.array(rewards),
        np.zeros_like(truncated),
        truncated,
        unknown,
        lengths,
        info,
    )
