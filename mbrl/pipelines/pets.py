"""PETS: a probabilistic ensemble learns the dynamics, and MPC plans through it.

Data from a random policy, then rounds of fit, plan, execute, add. With one round it is plan-once model-based
reinforcement learning; with `replan_every` > 1 plans are executed open loop in between.

Source: Chua et al. (2018), https://arxiv.org/abs/1805.12114. docs/pets.md lists the deviations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from mbrl.data.buffer import ReplayBuffer
from mbrl.data.collect import Collector, Episode, RandomPolicy
from mbrl.envs.tasks import verify
from mbrl.models.diagnostics import open_loop_report
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.pets_agent import PETSAgent, single_spaces
from mbrl.pipelines.pets_config import PETSConfig
from mbrl.pipelines.recorder import NullRecorder, Recorder
from mbrl.seeding import derive, generator
from mbrl.types import TransitionBatch
from planners import MPC, MPCState
from planners.dynamics import Reward, Termination
from planners.rows import leaves, with_leaves

Evaluate = Callable[[MPC, int], dict[str, float]]


class PETSResult(NamedTuple):
    """What training leaves."""

    policy: MPC
    ensemble: GaussianEnsemble
    buffer: ReplayBuffer
    episodes: list[Episode]
    """Finished episodes since training began, or since it was resumed."""
    steps: int
    """Real environment steps."""
    random_rows: int
    """How many of the buffer's rows, the oldest, come from random actions."""


@dataclass
class Counters:
    """How far training has come. Part of every checkpoint."""

    steps: int = 0
    fits: int = 0
    gradient_steps: int = 0
    model_steps: int = 0
    fitted_rows: int = 0
    random_rows: int = 0
    seconds: float = 0.0


def train_pets(
    env: gym.Env | gym.vector.VectorEnv,
    config: PETSConfig,
    *,
    seed: int = 0,
    reward: Reward | None = None,
    termination: Termination | None = None,
    recorder: Recorder | None = None,
    evaluate: Evaluate | None = None,
    stop: Callable[[Episode, ReplayBuffer], bool] | None = None,
) -> PETSResult:
    """Train by PETS.

    Args:
        env: the environment, or a vector of `config.num_envs` of them.
        config: the settings.
        seed: of everything random.
        reward: see `PETSAgent`.
        termination: see `PETSAgent`.
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(policy, steps)` -> metrics, called every `config.eval_every` steps.
        stop: asked after every finished episode; True ends the training.

    Raises:
        ValueError: the environment is not supported, it returned something that is not finite, or the task's reward or
            termination function disagrees with it.
    """
    recorder = recorder or NullRecorder()
    agent = PETSAgent(env, config, seed, reward, termination)
    loop = _Loop(agent, recorder)
    count, collector, buffer = loop.count, loop.collector, loop.buffer
    explore = RandomPolicy(single_spaces(env)[1], seed=derive(seed, "explore"))
    finished: list[Episode] = []
    done = False
    while count.steps < config.total_timesteps and not done:
        random = count.steps < config.initial_steps
        if not random and loop.fit_is_due():
            loop.fit()
        if random:
            action, loop.explore_state = explore.predict(collector.obs, loop.explore_state, collector.episode_start)
        else:
            action = loop.plan()

        collected = collector.step(action)
        if agent.task is not None:
            verify(agent.task, _rows(collected.batch, collected.valid))
        buffer.extend(collected.batch, collected.valid)
        count.steps += collector.num_envs
        recorder.advance(count.steps)

        for episode in collected.episodes:
            finished.append(episode)
            loop.log_episode(episode, random)
            done = done or (stop is not None and stop(episode, buffer))
        if evaluate is not None and loop.crossed(config.eval_every) and count.fits > 0:
            recorder.log({**loop.x(), **evaluate(agent.evaluation_policy(count.steps), count.steps)})
        if loop.crossed(config.checkpoint_every) or done or count.steps >= config.total_timesteps:
            loop.save()
    return PETSResult(agent.policy, agent.ensemble, buffer, finished, count.steps, count.random_rows)


class _Loop:
    """The state of `train_pets`, and what it does with it."""

    def __init__(self, agent: PETSAgent, recorder: Recorder) -> None:
        config = agent.config
        self.agent, self.config, self.recorder = agent, config, recorder
        observation_space, action_space = single_spaces(agent.env)
        self.collector = Collector(agent.env, seed=derive(agent.seed, "environment") % 2**31)
        if self.collector.num_envs != config.num_envs:
            raise ValueError(f"num_envs: expected {self.collector.num_envs}, as env has, got {config.num_envs}")
        self.buffer = ReplayBuffer(
            config.total_timesteps + config.num_envs,
            observation_space.shape[0],
            action_space.shape[0],
            num_envs=config.num_envs,
        )
        self.count = Counters()
        self.policy_state: MPCState | None = None
        self.explore_state: Any = None
        self.started = time.perf_counter()
        checkpoint = recorder.load()
        if checkpoint is not None:
            self._restore(*checkpoint)

    def x(self) -> dict[str, float]:
        """What stands in every row: real steps and what they have cost so far."""
        return {
            "time/total_timesteps": self.count.steps,
            "train/gradient_steps": self.count.gradient_steps,
            "plan/model_steps": self.count.model_steps,
            "time/wall_clock": self._seconds(),
        }

    def crossed(self, every: int) -> bool:
        """Whether the last step reached or passed a multiple of `every`."""
        return every > 0 and self.count.steps % every < self.collector.num_envs

    def fit_is_due(self) -> bool:
        rounds = 1 + (self.count.steps - self.config.initial_steps) // self.config.fit_every
        return self.count.fits < rounds

    def fit(self) -> None:
        """Score the model on what it has not seen yet, then fit it to everything."""
        config, count, agent = self.config, self.count, self.agent
        row = self._diagnose() if count.fits else {}
        if count.fits == 0:
            count.random_rows = len(self.buffer)
        started = time.perf_counter()
        report = fit(
            agent.ensemble,
            self.buffer,
            seed=derive(agent.seed, "fit", count.fits),
            lr=config.learning_rate,
            batch_size=config.batch_size,
            steps=config.fit_steps,
            epochs=None if config.fit_steps else config.max_epochs,
            holdout=0.0 if config.fit_steps else config.holdout,
            patience=config.patience,
        )
        count.fits += 1
        count.gradient_steps += report.steps
        count.fitted_rows = len(self.buffer)
        row |= {"model/train_loss": float(report.train_loss.mean()), "time/fit_seconds": time.perf_counter() - started}
        if report.holdout_mse.isfinite().all():
            row["model/holdout_mse"] = float(report.holdout_mse.mean())
        self.recorder.log({**self.x(), **row})

    def plan(self) -> np.ndarray:
        collector, policy = self.collector, self.agent.policy
        action, self.policy_state = policy.predict(collector.obs, self.policy_state, collector.episode_start)
        replanned = self.policy_state.age == 1
        sequences = int((self.policy_state.plan.info.sequences * replanned).sum())
        self.count.model_steps += sequences * self.config.horizon * self.config.particles
        return action

    def log_episode(self, episode: Episode, random: bool) -> None:
        row = {
            "rollout/ep_rew_mean": episode.ret,
            "rollout/ep_len_mean": episode.length,
            "rollout/random": float(random),
            "rollout/diverged": self.collector.diverged,
        }
        latency = self.agent.policy.latency
        if latency.summary().plans:
            row |= latency.summary().metrics()
            latency.reset()
        row["time/fps"] = self.count.steps / max(self._seconds(), 1e-9)
        self.recorder.log({**self.x(), **row})

    def save(self) -> None:
        tensors, meta = self.collector.snapshot()
        tensors = {f"collector/{k}": v for k, v in tensors.items()}
        tensors |= {f"buffer/{k}": v for k, v in self.buffer.state_dict().items()}
        tensors |= {f"ensemble/{k}": v for k, v in self.agent.ensemble.state_dict().items()}
        if self.policy_state is not None:
            tensors |= {f"policy/{i}": leaf for i, leaf in enumerate(leaves(self.policy_state))}
        counters = asdict(self.count) | {"seconds": self._seconds()}
        self.recorder.save(
            self.count.steps,
            tensors,
            {"counters": counters, "collector": meta, "explore": self.explore_state, "seed": self.agent.seed},
        )

    def _restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.count = Counters(**meta["counters"])
        self.explore_state = meta["explore"]
        self.collector.restore(part(tensors, "collector"), meta["collector"])
        self.buffer.load_state_dict(part(tensors, "buffer"))
        self.agent.ensemble.load_state_dict(part(tensors, "ensemble"))
        stored = part(tensors, "policy")
        if stored:
            # A plan made now has the structure of the stored one; only its structure is used.
            _, blank = self.agent.policy.predict(self.collector.obs)
            self.policy_state = with_leaves(blank, [stored[str(i)] for i in range(len(stored))])

    def _diagnose(self) -> dict[str, float]:
        """Open-loop error on the real steps since the last fit, which the model has not been trained on."""
        batch, episodes = self.buffer.all(), self.buffer.episode_ids()
        unseen = slice(self.count.fitted_rows, None)
        report = open_loop_report(
            self.agent.dynamics,
            TransitionBatch(*(x[unseen] for x in batch)),
            episodes[unseen],
            horizons=self.config.diagnostic_horizons,
            particles=self.config.members * -(-20 // self.config.members),  # every member as often
            generator=generator(self.agent.seed, "diagnose", self.count.fits),
        )
        row = {}
        for horizon, rmse, coverage in zip(report.horizons, report.rmse, report.coverage90, strict=True):
            if torch.isfinite(rmse):
                row[f"model/rmse_{horizon}"] = float(rmse)
                row[f"model/coverage90_{horizon}"] = float(coverage)
        return row

    def _seconds(self) -> float:
        return self.count.seconds + time.perf_counter() - self.started


def part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors stored under `name/`, without the prefix."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def _rows(batch: TransitionBatch, valid: Tensor) -> TransitionBatch:
    return batch if bool(valid.all()) else TransitionBatch(*(x[valid] for x in batch))
