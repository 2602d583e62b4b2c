"""Branched rollouts: a policy acts in a model, from real states, for a few steps.

    s_0 = start,   a_t ~ policy(s_t),   (s_{t+1}, r_t, end_t) ~ model(s_t, a_t),   t < length, while no end has come.

Source: Janner et al. (2019), "When to trust your model", https://arxiv.org/abs/1906.08253, algorithm 2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from mbrl.types import TransitionBatch
from planners.dynamics import Dynamics

Act = Callable[[Tensor, Generator], Tensor]
"""`act(obs, generator)` -> actions [rows, act] (int64 [rows] where they are discrete) for observations [rows, obs]. The
number of draws depends on the number of rows alone."""
CHUNK = 1400
"""Rows that go through policy and model together on a CPU: what lies between the layers stays in its cache."""


class Rollout(NamedTuple):
    """Steps of a policy in a model, time leading; rows whose episode is over go on, and are masked."""

    batch: TransitionBatch
    """Tensors are [length, rows, ...]. `discount` is 1 - terminated, `truncated` False, `log_prob` NaN."""
    alive: Bool[Tensor, "length rows"]
    """Which are transitions: the episode had not ended before, and the model returned finite numbers."""

    def transitions(self) -> TransitionBatch:
        """The transitions alone, [n, ...], in order of time: for `ReplayBuffer.extend_rows`. Asks a GPU once."""
        kept = self.alive.flatten().nonzero()[:, 0]
        return TransitionBatch(*(x.flatten(0, 1).index_select(0, kept) for x in self.batch))

    def merged(self, discount: float) -> tuple[TransitionBatch, Bool[Tensor, "rows"]]:
        """Each row's steps as one transition, [rows, ...], and which rows have one.

        The reward is sum_i discount^i r_i over the row's k transitions, `next_obs` and the flags are those of the last,
        and `discount` is discount^k (1 - terminated): as `ReplayBuffer.sample(n_step=)` makes them of real steps.
        """
        steps = self.alive.sum(0)
        powers = discount ** torch.arange(len(self.alive) + 1, device=steps.device, dtype=self.batch.reward.dtype)
        reward = torch.where(self.alive, powers[:-1, None] * self.batch.reward, 0.0).sum(0)
        row, last = torch.arange(len(steps), device=steps.device), (steps - 1).clamp(min=0)
        first, end = (TransitionBatch(*(x[t] for x in self.batch)) for t in (0, (last, row)))
        merged = TransitionBatch(first.obs, first.action, reward, *end[3:6], powers[steps] * end.discount, end.log_prob)
        return merged, self.alive[0]


@torch.no_grad()
def rollout(
    dynamics: Dynamics[Any],
    act: Act,
    start_obs: Float[Tensor, "rows obs"],
    length: int,
    *,
    generator: Generator,
    chunk: int | None = None,
) -> Rollout:
    """Let a policy act in a model.

    All rows take all steps, whether their episode is over or not: so the noise of a row does not depend on how others
    fare, shapes are fixed, and a GPU is asked nothing before the end. A row in which the model returns something that
    is not finite is left out from that step on.

    Args:
        dynamics: the model; its states must be determined by observations.
        act: the policy, with noise of its own.
        start_obs: one row a rollout, on the model's device.
        length: steps.
        generator: of all randomness, on the model's device.
        chunk: rows that are computed together; None: as many as fit a CPU's cache, on a GPU all. Another number makes
            other draws.

    Raises:
        ValueError: `length` or `chunk` is below 1, or there are no rows.
    """
    for name, value in (("length", length), ("chunk", chunk), ("start_obs", len(start_obs))):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    rows = chunk or (CHUNK if start_obs.device.type == "cpu" else len(start_obs))
    parts = [_rollout(dynamics, act, part, length, generator) for part in start_obs.split(rows)]
    if len(parts) == 1:
        return parts[0]
    batch = TransitionBatch(*(torch.cat(column, 1) for column in zip(*(p.batch for p in parts), strict=True)))
    return Rollout(batch, torch.cat([p.alive for p in parts], 1))


def _rollout(dynamics: Dynamics[Any], act: Act, start_obs: Tensor, length: int, generator: Generator) -> Rollout:
    state = dynamics.reset(start_obs)
    obs = dynamics.observe(state)
    going = torch.ones(len(obs), dtype=torch.bool, device=obs.device)
    steps, alive = [], []
    for _ in range(length):
        action = act(obs, generator)
        state, step = dynamics.step(state, action, generator=generator)
        # 0 times what is not finite is NaN.
        finite = (step.reward + (0 * step.obs).sum(-1)).isfinite()
        alive.append(going & finite)
        steps.append((obs, action, step.reward, step.obs, step.terminated))
        going = alive[-1] & ~step.terminated
        obs = step.obs
    obs, action, reward, next_obs, terminated = (torch.stack(column) for column in zip(*steps, strict=True))
    no, unknown = torch.zeros_like(terminated), torch.full_like(reward, torch.nan)
    batch = TransitionBatch(obs, action, reward, next_obs, terminated, no, (~terminated).to(reward), unknown)
    return Rollout(batch, torch.stack(alive))
