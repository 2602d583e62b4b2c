"""PETS: a probabilistic ensemble learns the dynamics, and MPC plans through it.

Data from a random policy, then rounds of fit, plan, execute, add. With one round it is plan-once model-based
reinforcement learning; with `replan_every` > 1 plans are executed open loop in between.

Source: Chua et al. (2018), https://arxiv.org/abs/1805.12114. docs/pets.md lists the deviations.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from mbrl.data.buffer import ReplayBuffer
from mbrl.data.collect import Episode
from mbrl.envs.tasks import verify
from mbrl.models.diagnostics import open_loop_report
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.learned_model import transitions_of
from mbrl.pipelines.loop import Loop, valid_rows
from mbrl.pipelines.pets_agent import PETSAgent, single_spaces
from mbrl.pipelines.pets_config import PETSConfig
from mbrl.pipelines.recorder import NullRecorder, Recorder
from mbrl.seeding import derive, generator
from mbrl.types import TransitionBatch
from planners import MPC, MPCState
from planners.dynamics import Reward, Termination
from planners.rows import leaves, with_leaves

Evaluate = Callable[[MPC, int], dict[str, float]]
StopPETS = Callable[[Episode, ReplayBuffer], bool]


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
    cpu_seconds: float = 0.0


def train_pets(
    env: gym.Env | gym.vector.VectorEnv,
    config: PETSConfig,
    *,
    seed: int = 0,
    reward: Reward | None = None,
    termination: Termination | None = None,
    recorder: Recorder | None = None,
    evaluate: Evaluate | None = None,
    stop: StopPETS | None = None,
    stop_now: Callable[[], bool] | None = None,
) -> PETSResult:
    """Train by PETS.

    Args:
        env: the environment, or a vector of `config.num_envs` of them.
        config: the settings.
        seed: of everything random.
        reward: see `PETSAgent`.
        termination: see `PETSAgent`. Given functions are verified on every real step, in place of the task's.
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(policy, steps)` -> metrics, called every `config.eval_every` steps.
        stop: asked after every finished episode; True ends the training.
        stop_now: asked after every step, likewise.

    Raises:
        ValueError: the environment is not supported, it returned something that is not finite, or the reward or the
            termination, given or the task's, disagrees with it.
    """
    recorder = recorder or NullRecorder()
    agent = PETSAgent(env, config, seed, reward, termination)
    pets = _PETS(agent, recorder, evaluate, lambda: pets.is_over(stop, stop_now))
    loop, count = pets.loop, pets.loop.count
    while loop.goes_on():
        random = count.steps < config.initial_steps
        if not random and pets.fit_is_due():
            pets.fit()
        collected = loop.step(loop.random_action() if random else pets.plan())
        verify(agent.stated, valid_rows(collected))
        loop.log_episodes(lambda random=random: pets.episode_metrics(random))  # type: ignore[misc]
        if count.fits > 0 and loop.crossed(config.eval_every):
            loop.evaluate(agent.evaluation_policy(count.steps))
        loop.checkpoint()
    return PETSResult(agent.policy, agent.ensemble, pets.buffer, loop.episodes, count.steps, count.random_rows)


class _Memory:
    """The planner's warm start as a part of checkpoints."""

    def __init__(self) -> None:
        self.state: MPCState | None = None
        self._stored: list[Tensor] = []

    def restored(self, blank: Callable[[], MPCState]) -> MPCState | None:
        """The state; after a restore it gets the structure of a blank one, and goes where that is."""
        if self._stored:
            made = blank()
            if [x.shape for x in self._stored] != [x.shape for x in leaves(made)]:
                warnings.warn(
                    "policy: planning starts afresh, for the checkpoint's plans are of other settings", stacklevel=4
                )
                self._stored = []
                return None
            stored = (tensor.to(like.device) for tensor, like in zip(self._stored, leaves(made), strict=True))
            self.state, self._stored = with_leaves(made, stored), []
        return self.state

    def state_dict(self) -> dict[str, Tensor]:
        stored = self._stored if self.state is None else leaves(self.state)
        return {str(i): leaf for i, leaf in enumerate(stored)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._stored = [state[str(i)] for i in range(len(state))]


class _PETS:
    """The parts of `train_pets` that are its own."""

    def __init__(
        self, agent: PETSAgent, recorder: Recorder, evaluate: Evaluate | None, stop: Callable[[], bool]
    ) -> None:
        config = agent.config
        self.agent, self.config, self.memory = agent, config, _Memory()
        observation_space, action_space = single_spaces(agent.env)
        capacity = config.total_timesteps + config.num_envs
        sizes = observation_space.shape[0], action_space.shape[0]
        self.buffer = ReplayBuffer(capacity, *sizes, num_envs=config.num_envs, device=agent.ensemble.device)
        self.loop = Loop(
            agent.env,
            config,
            Counters(),
            seed=agent.seed,
            buffer=self.buffer,
            columns={"train/gradient_steps": "gradient_steps", "plan/model_steps": "model_steps"},
            parts={"ensemble": agent.ensemble, "policy": self.memory},
            settings=asdict(config),
            recorder=recorder,
            evaluate=evaluate,
            stop=stop,
        )
        self.count = self.loop.count

    def is_over(self, stop: StopPETS | None, stop_now: Callable[[], bool] | None) -> bool:
        finished = stop is not None and any(stop(episode, self.buffer) for episode in self.loop.finished)
        return finished or (stop_now is not None and stop_now())

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
        self.loop.log(row)

    def plan(self) -> np.ndarray:
        collector, policy = self.loop.collector, self.agent.policy
        memory = self.memory.restored(lambda: policy.predict(collector.obs)[1])
        action, state = policy.predict(collector.obs, memory, collector.episode_start)
        sequences = int((state.plan.info.sequences * (state.age == 1)).sum())  # of the plans made now
        self.count.model_steps += sequences * self.config.horizon * self.config.particles
        self.memory.state = state
        return action

    def episode_metrics(self, random: bool) -> dict[str, float]:
        latency, row = self.agent.policy.latency, {"rollout/random": float(random)}
        if latency.summary().plans:
            row |= latency.summary().metrics()
            latency.reset()
        return row

    def _diagnose(self) -> dict[str, float]:
        """Open-loop error on the real steps since the last fit, which the model has not been trained on, in standard
        deviations of the observations of all steps."""
        if not self.config.diagnostic_horizons:
            return {}
        batch, episodes = self.buffer.all(), self.buffer.episode_ids()
        unseen = slice(self.count.fitted_rows, None)
        report = open_loop_report(
            transitions_of(self.agent.ensemble),
            TransitionBatch(*(x[unseen] for x in batch)),
            episodes[unseen],
            horizons=self.config.diagnostic_horizons,
            particles=self.config.members * -(-20 // self.config.members),  # every member as often
            generator=generator(self.agent.seed, "diagnose", self.count.fits, device=self.buffer.device),
            scale=batch.obs.std(0, correction=0),  # that of the newest steps shrinks as the policy gets good
        )
        row = {}
        for horizon, rmse, coverage in zip(report.horizons, report.rmse, report.coverage90, strict=True):
            if torch.isfinite(rmse):
                row[f"model/rmse_{horizon}"] = float(rmse)
                row[f"model/coverage90_{horizon}"] = float(coverage)
        return row
