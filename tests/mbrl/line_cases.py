"""A point on a line: its data and its model, for tests of offline learning in no time."""

import numpy as np
import torch
from torch import Tensor

from mbrl.data.datasets import Dataset, DatasetInfo
from planners.dynamics import FunctionDynamics


def line_step(obs: Tensor, action: Tensor) -> Tensor:
    """A point on a line, pushed by up to 0.5 a step."""
    return obs + 0.5 * action


def line_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The nearer to 0.5 the better, from 0 to 1 around it."""
    return 1 - (next_obs[:, 0] - 0.5).abs().clamp(max=2)


LINE = FunctionDynamics(line_step, line_reward)
"""The line as a model."""


def line_dataset(rows: int = 600, *, low: float = -1.0, high: float = 1.0, seed: int = 0, length: int = 10) -> Dataset:
    """Episodes of `length` steps on the line, with actions uniform from `low` to `high` of the possible [-1, 1]."""
    rng = np.random.default_rng(seed)
    episodes = rows // length
    obs = rng.uniform(-1, 1, (episodes, 1)).astype(np.float32)
    action = rng.uniform(low, high, (length, episodes, 1)).astype(np.float32)
    steps = [obs]
    for a in action:
        steps.append(line_step(torch.from_numpy(steps[-1]), torch.from_numpy(a)).numpy())
    reward = [
        line_reward(*(torch.from_numpy(x) for x in (now, a, after))).numpy()
        for now, a, after in zip(steps, action, steps[1:], strict=False)
    ]
    last = np.zeros((episodes, length), dtype=bool)
    last[:, -1] = True
    return Dataset(
        np.stack(steps, 1).reshape(-1, 1),
        action.transpose(1, 0, 2).reshape(-1, 1),
        np.stack(reward, 1).reshape(-1),
        np.zeros(rows, dtype=bool),
        last.reshape(-1),
        np.full(rows, np.nan, dtype=np.float32),
        np.full(episodes, length, dtype=np.int64),
        DatasetInfo(action_low=(-1.0,), action_high=(1.0,)),
    )
