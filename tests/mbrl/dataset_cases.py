"""Datasets for tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mbrl.data.datasets import Dataset, DatasetInfo

INFO = DatasetInfo(
    env_id="Hopper-v5",
    env_kwargs={"reset_noise_scale": 0.01},
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    versions={"numpy": "2"},
    description="made up",
    origin={"kind": "random", "seed": 3},
)


def a_dataset(lengths: Sequence[int] = (4, 3, 5), *, terminated: Sequence[int] = (1,), **fields: Any) -> Dataset:
    """Episodes of a random walk whose observations and actions differ in every row; those named terminated."""
    stream = np.random.default_rng(0)
    rows, episodes = sum(lengths), len(lengths)
    ends = np.cumsum(lengths) - 1
    over = np.isin(np.arange(rows), ends[list(terminated)])
    arrays = {
        "observations": stream.normal(size=(rows + episodes, 3)).astype(np.float32),
        "actions": stream.uniform(-1, 1, size=(rows, 2)).astype(np.float32),
        "rewards": stream.normal(size=rows),
        "terminated": over,
        "truncated": np.isin(np.arange(rows), ends) & ~over,
        "log_probs": np.where(np.arange(rows) % 3 == 0, np.nan, np.log(stream.random(rows))),
        "lengths": np.array(lengths, dtype=np.int64),
        "info": INFO,
    }
    return Dataset(**{**arrays, **fields})
