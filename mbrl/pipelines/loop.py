"""What every training loop on real steps does: step, store, count, log, evaluate, save, and go on from what was saved.

A pipeline makes a `Loop` of an environment, its buffer and whatever else a checkpoint has to hold, and reads

    while loop.goes_on():
        loop.step(action)            # a real step: into the buffer, and counted
        ...                          # what the algorithm does
        loop.log_episodes(...)
        loop.evaluate(policy)
        loop.checkpoint()

Random numbers come from generators seeded with counters (`mbrl.seeding`), so a checkpoint holds no random state but the
environments', and a run that goes on from one repeats what it would have done, bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol

import gymnasium as gym
import numpy as np
from torch import Tensor

from mbrl.data.collect import Collected, Collector, Episode, RandomPolicy
from mbrl.pipelines.bookkeeping import Bookkeeping, Checkpoint, Count, Part, part
from mbrl.pipelines.recorder import Recorder
from mbrl.seeding import derive
from mbrl.types import TransitionBatch


class LoopConfig(Protocol):
    """The settings that every loop has."""

    @property
    def total_timesteps(self) -> int: ...
    @property
    def num_envs(self) -> int: ...
    @property
    def eval_every(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...


class Experience(Part, Protocol):
    """What takes the real steps: a replay buffer, say."""

    def extend(self, batch: TransitionBatch, valid: Tensor | None = None, /) -> None: ...
    def end_episodes(self) -> None: ...


class Loop(Generic[Count]):
    """The state of a training loop; where the recorder has a checkpoint, it goes on from there.

    Args:
        env: the environment, or a vector of `config.num_envs` of them.
        config: the settings.
        count: counters, a dataclass: those of a checkpoint are written into it.
        seed: of the environments and of random actions.
        buffer: takes the real steps.
        columns: counters that stand in every row of metrics: {metric: counter}.
        parts: what else a checkpoint holds, by name: agent, model, more buffers.
        settings: all that decides the outcome, flat; compared with those of the checkpoint.
        recorder: takes metrics and checkpoints, and gives the checkpoint to go on from.
        evaluate: `evaluate(policy, steps)` -> metrics.
        stop: asked after every step; True ends the training with a checkpoint.

    Attributes:
        collector: has what the next action is for, `collector.obs` [envs, obs].
        finished: the episodes that the last step ended.
        episodes: all that ended since training began, or since it was resumed.

    Raises:
        ValueError: the environment is not supported, has another number than `num_envs` or spends steps on resets; the
            checkpoint's settings are others and the recorder does not accept that, or they do not fit it; or there is
            none, and the agent has had as many steps as are asked for already.
    """

    def __init__(
        self,
        env: gym.Env | gym.vector.VectorEnv,
        config: LoopConfig,
        count: Count,
        *,
        seed: int,
        buffer: Experience,
        columns: Mapping[str, str],
        parts: Mapping[str, Part],
        settings: Mapping[str, Any],
        recorder: Recorder,
        evaluate: Callable[[Any, int], dict[str, float]] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.config, self.count, self.seed, self.recorder, self._buffer = config, count, seed, recorder, buffer
        self._evaluate, self._stop = evaluate, stop
        self._random = RandomPolicy(getattr(env, "single_action_space", env.action_space), seed=derive(seed, "explore"))
        self.finished: list[Episode] = []
        self.episodes: list[Episode] = []
        self._stopped = False
        self._books = Bookkeeping(
            count, seed=seed, columns=columns, parts={"buffer": buffer, **parts}, settings=settings, recorder=recorder
        )
        checkpoint = self._books.restore()
        self._earlier = 0 if checkpoint is not None else count.steps  # whose seconds are not this run's
        if checkpoint is None and count.steps >= config.total_timesteps:
            raise ValueError(
                f"total_timesteps: expected more than the {count.steps} steps that the agent has had, which count, got "
                f"{config.total_timesteps}"
            )
        # Whoever goes on without the environments' state must not play the first episodes again.
        key = (count.steps,) if count.steps else ()
        self.collector = Collector(env, seed=derive(seed, "environment", *key) % 2**31)
        if self.collector.num_envs != config.num_envs:
            raise ValueError(f"num_envs: expected {self.collector.num_envs}, as env has, got {config.num_envs}")
        if not self.collector.continues and env.metadata.get("autoreset_mode") is gym.vector.AutoresetMode.NEXT_STEP:
            raise ValueError(
                "env: expected a vector that spends no steps on resets, which would count as real ones, got one with "
                "AutoresetMode.NEXT_STEP; make it with autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED, as "
                "mbrl.envs.make_vector_env does"
            )
        if checkpoint is not None:
            self._restore_environments(checkpoint)
        elif count.steps:
            buffer.end_episodes()
        self._books.begin()

    def goes_on(self) -> bool:
        """Whether there is another step to take."""
        return self.count.steps < self.config.total_timesteps and not self._stopped

    def random_action(self) -> np.ndarray:
        """Uniform actions, one an environment; which ones follows from the seed and the steps so far."""
        tick = self.count.steps // self.collector.num_envs
        return self._random.predict(self.collector.obs, tick)[0]

    def step(self, action: np.ndarray | Tensor) -> Collected:
        """Take a real step in every environment, with actions [envs, act] or [envs], and store it.

        Raises:
            ValueError: the action does not fit, or the environment returned a number that is not finite.
        """
        collected = self.collector.step(action)
        self._buffer.extend(collected.batch, collected.valid)
        self.count.steps += self.collector.num_envs
        self.finished = collected.episodes
        self.episodes += collected.episodes
        self.recorder.advance(self.count.steps)
        return collected

    def x(self) -> dict[str, float]:
        """What stands in every row of metrics: real steps, and what they have cost so far."""
        return self._books.x()

    def seconds(self) -> float:
        """Wall-clock of the whole run so far, that before a resume included."""
        return self._books.seconds()

    def crossed(self, every: int) -> bool:
        """Whether the last step reached or passed a multiple of `every` real steps; 0: never."""
        return every > 0 and self.count.steps % every < self.collector.num_envs

    def log(self, row: Mapping[str, float]) -> None:
        """Log metrics with the x axis."""
        self._books.log(row)

    def log_episodes(self, extra: Callable[[], Mapping[str, float]]) -> None:
        """Log each episode that the last step ended, with what `extra()` gives."""
        for episode in self.finished:
            row = {
                "rollout/ep_rew_mean": episode.ret,
                "rollout/ep_len_mean": episode.length,
                "rollout/diverged": self.collector.diverged,
                "time/fps": (self.count.steps - self._earlier) / max(self.seconds(), 1e-9),
            }
            self.log({**row, **extra()})

    def evaluate(self, policy: Any) -> None:
        """Evaluate the policy where that is due."""
        if self._evaluate is not None and self.crossed(self.config.eval_every):
            with self._books.uncounted():
                row = self._evaluate(policy, self.count.steps)
            self.log(row)

    def checkpoint(self) -> None:
        """Save where that is due: every so many steps, at the end, and where `stop` says that it is one."""
        self._stopped = self._stop is not None and self._stop()
        if self.crossed(self.config.checkpoint_every) or not self.goes_on():
            self.save()

    def save(self) -> None:
        """Save everything that training goes on from."""
        if not self.collector.continues:
            self._books.save(self.count.steps)
            return
        environments, meta = self.collector.snapshot()
        tensors = {f"collector/{key}": value for key, value in environments.items()}
        self._books.save(self.count.steps, tensors, collector=meta)

    def _restore_environments(self, checkpoint: Checkpoint) -> None:
        tensors, meta = checkpoint
        if self.collector.continues and "collector" in meta:
            self.collector.restore(part(tensors, "collector"), meta["collector"])
            return
        self._buffer.end_episodes()
        warnings.warn(
            "the environments run in other processes, so their episodes can't be taken up again: training goes on "
            "from the checkpoint with new episodes, which is not what it would have done without the interruption",
            stacklevel=4,
        )


def valid_rows(collected: Collected) -> TransitionBatch:
    """The rows of a step that are transitions."""
    batch, valid = collected.batch, collected.valid
    return batch if bool(valid.all()) else TransitionBatch(*(x[valid] for x in batch))
