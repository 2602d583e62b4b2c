"""Batches and networks that tests of learners of continuous actions share."""

import torch
from torch import Tensor

from mbrl.seeding import generator
from mbrl.types import TransitionBatch

OBS, LOW, HIGH = 3, (-2.0, -2.0), (1.0, 1.0)


def batch_of(runs=1, rows=8, seed=1, dtype=torch.float64, **fields) -> TransitionBatch:
    """Random transitions that go on at a discount of 0.9, but for what `fields` say."""
    g = generator(seed, "batch")
    obs, next_obs = torch.randn(2, runs, rows, OBS, generator=g, dtype=dtype)
    action = -2 + 3 * torch.rand(runs, rows, len(LOW), generator=g, dtype=dtype)
    reward = torch.randn(runs, rows, generator=g, dtype=dtype)
    flag = torch.zeros(runs, rows, dtype=torch.bool)
    batch = TransitionBatch(obs, action, reward, next_obs, flag, flag, torch.full_like(reward, 0.9), reward / 0)
    return batch._replace(**fields)


def set_constant(network: tuple[tuple[Tensor, ...], ...], values) -> None:
    """Make each network of a tuple of layers give the constants [runs, *members, outputs] whatever comes in."""
    for layer in network:
        for tensor in layer:
            tensor.zero_()
    network[-1][1].copy_(torch.as_tensor(values, dtype=torch.float64).unsqueeze(-2))
