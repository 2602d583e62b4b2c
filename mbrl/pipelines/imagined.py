"""Rows that a policy makes in a model, and batches of them and of real rows: what MBPO and its offline kin share."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from mbrl.data.buffer import ReplayBuffer
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.model_rows import ModelRows
from mbrl.pipelines.recorder import Recorder
from mbrl.pipelines.updates import Updates, UpdateSettings, stacked
from mbrl.rollout import rollout
from mbrl.seeding import generator
from mbrl.types import TransitionBatch

Adjust = Callable[..., TransitionBatch]
"""`adjust(batch, state, *, generator)`: a batch [rows, ...], real rows first, as the learner of this state is to see
it."""
MEASURED = 2_000
"""Rows of a round at most whose penalty is measured once more, for the log."""


class RolloutModel(Protocol):
    """What a policy acts in: a `LearnedModel`, or known dynamics."""

    @property
    def dynamics(self) -> Any: ...

    def act(self, obs: Tensor, generator: Generator) -> Tensor:
        """The policy's actions as in training."""


class MixConfig(UpdateSettings, Protocol):
    """The settings of rollouts and batches; what they mean stands in `MBPOConfig`."""

    @property
    def discount(self) -> float: ...
    @property
    def rollout_starts(self) -> int: ...
    @property
    def checkpoint_model_buffer(self) -> bool: ...


class Imagined:
    """The rows that a model makes, and batches of them and of real ones.

    Args:
        agent: acts in the model.
        model: what it acts in.
        real: real rows, which rollouts start from.
        config: the settings.
        seed: of rollouts and batches.
        real_rows: how many of a batch's rows are real.
        adjust: what is done to a batch, where that depends on the parameters of the moment.
    """

    def __init__(
        self,
        agent: Agent,
        model: RolloutModel,
        real: ReplayBuffer,
        config: MixConfig,
        seed: int,
        *,
        real_rows: int,
        adjust: Adjust | None = None,
    ) -> None:
        self.agent, self.model, self.real, self.config, self.seed = agent, model, real, config, seed
        self._real_rows, self._adjust = real_rows, adjust
        obs_dim, action_dim = agent.sizes

        def make(capacity: int) -> ReplayBuffer:
            return ReplayBuffer(capacity, obs_dim, action_dim, device=agent.device, dtype=agent.learner.dtype)

        self.rows = ModelRows(make, stored=config.checkpoint_model_buffer)

    def renew(self, count: Counters, number: int, length: int, kept: int, *key: int | str) -> dict[str, float]:
        """Roll the policy out from real states; the oldest model rows give way.

        Args:
            count: its model steps are counted on.
            number: of this round; with `key` it decides the random numbers.
            length: steps of each rollout.
            kept: rounds of this length whose rows find room.
            key: what else tells this round from others.

        Raises:
            ValueError: the model returned nothing finite.
        """
        config = self.config
        if self._real_rows == config.batch_size:
            return {}
        started = time.perf_counter()
        g = generator(self.seed, "rollout", 0, number, *key, device=self.agent.device)
        starts = self.real.sample(config.rollout_starts, generator=g).obs
        made = rollout(self.model.dynamics, self.model.act, starts, length, generator=g).transitions()
        count.model_steps += config.rollout_starts * length
        if not len(made.obs):
            raise ValueError(
                f"model: expected finite predictions, got none in {config.rollout_starts} rollouts after fit "
                f"{count.fits}, at {count.steps} real steps and {count.updates} updates: the ensemble, or a reward "
                "given to it, is broken; try a smaller model_lr, and look at model/train_loss and model/holdout_mse"
            )
        self.rows.extend(made, config.rollout_starts * length * kept)
        return {
            "model/rollout_length": length,
            "model/rows": len(self.rows),
            "model/reward_mean": float(made.reward.mean()),
            "model/terminated": float(made.terminated.double().mean()),
            **self._penalty(made, number),
            "time/rollout_seconds": time.perf_counter() - started,
        }

    def refill(self, count: Counters, number: int, length: int, kept: int, rounds: int) -> None:
        """After a checkpoint without model rows: as many rollouts as are kept, by the policy and the model of now."""
        if not rounds or len(self.rows) or self._real_rows == self.config.batch_size:
            return
        warnings.warn(
            "checkpoint_model_buffer: the checkpoint has no model rows, so new ones are made: training goes on, but "
            "not bit for bit as it would have without the interruption",
            stacklevel=3,
        )
        for i in range(min(rounds, kept)):
            self.renew(count, number, length, kept, "refill", i)

    def draw_block(self, first: int, count: int) -> TransitionBatch:
        """Batches of `count` updates numbered from `first`, [count, 1, batch_size, ...]: real rows by count in each,
        before those of the model."""
        config = self.config
        g = generator(self.seed, "batch", 0, first, device=self.agent.device)
        counts = [(self.real, self._real_rows), (self.rows.buffer, config.batch_size - self._real_rows)]
        parts = [
            stacked(buffer.sample(count * rows, generator=g, discount=config.discount), count)
            for buffer, rows in counts
            if buffer is not None and rows
        ]
        return TransitionBatch(*(torch.cat(columns, 2) for columns in zip(*parts, strict=True)))

    def draw(self, n: int) -> TransitionBatch:
        """The batch of update n, [1, batch_size, ...], adjusted where that is asked for."""
        batch = self.draw_block(n, 1)
        if self._adjust is None:
            return TransitionBatch(*(x[0] for x in batch))
        g = generator(self.seed, "expand", 0, n, device=self.agent.device)
        adjusted = self._adjust(TransitionBatch(*(x[0, 0] for x in batch)), self.agent.state, generator=g)
        return TransitionBatch(*(x[None] for x in adjusted))

    def updates(self, recorder: Recorder) -> Updates:
        """The agent's updates, on these batches; the recorder is given the batch of one that is not finite."""
        config, block = self.config, self.draw_block if self._adjust is None else None  # others depend on parameters
        return Updates.of(config, self.agent, self.draw, block, seed=self.seed, recorder=recorder)

    @torch.no_grad()
    def _penalty(self, made: TransitionBatch, number: int) -> dict[str, float]:
        """The mean of what the model's rewards are lowered by, there and then or in the batches."""
        dynamics, adjusted = self.model.dynamics, getattr(self._adjust, "penalty", None)
        every = -(-len(made.obs) // MEASURED)
        obs, action = made.obs[::every], made.action[::every]
        if getattr(dynamics, "penalty", None) is not None:
            penalty = dynamics.penalty(dynamics.ensemble.predict(obs, action))
        elif adjusted is not None:
            g = generator(self.seed, "measure", 0, number, device=self.agent.device)
            penalty = adjusted(obs, action, self.agent.state, generator=g)
        else:
            return {}
        return {"model/penalty_mean": float(penalty.mean())}
