"""A model that is learned while an agent acts: ensemble, its rewards and ends, fits, scores and rollouts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from mbrl.data.buffer import ReplayBuffer
from mbrl.envs.tasks import Task, stated, verify
from mbrl.models.diagnostics import open_loop_report
from mbrl.models.ensemble_dynamics import EnsembleDynamics, Penalty
from mbrl.models.fit import FitReport, fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.models.termination import LearnedTermination
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.bookkeeping import Counters, part
from mbrl.pipelines.config_checks import check_at_least_1, check_options
from mbrl.seeding import derive, generator
from mbrl.types import TransitionBatch
from planners.dynamics import Reward, Termination

ENDS_STEPS = 200
"""Gradient steps of a classifier of ends after each fit of many, from where the last left off."""


class ModelSettings(Protocol):
    """The settings of a learned model; what they mean stands in `MBPOConfig`."""

    @property
    def members(self) -> int: ...
    @property
    def elites(self) -> int: ...
    @property
    def model_hidden(self) -> tuple[int, ...]: ...
    @property
    def model_lr(self) -> float: ...
    @property
    def model_batch_size(self) -> int: ...
    @property
    def model_max_steps(self) -> int | None: ...
    @property
    def holdout(self) -> float: ...
    @property
    def max_holdout(self) -> int: ...
    @property
    def patience(self) -> int: ...
    @property
    def elite_sampling(self) -> Literal["ts1", "ts1_independent"]: ...
    @property
    def reward(self) -> Literal["learned", "task"]: ...
    @property
    def termination(self) -> Literal["task", "learned", "never"]: ...


def check_model(config: ModelSettings, *counts: str) -> None:
    """Check the settings of a learned model, and `counts`, names of others that have to be 1 or more.

    Raises:
        ValueError: a number is out of range, or an option is unknown.
    """
    check_at_least_1(config, "members", "model_batch_size", "max_holdout", "patience", *counts)
    if not 1 <= config.elites <= config.members:
        raise ValueError(f"elites: expected 1 to {config.members}, as there are members, got {config.elites}")
    if config.model_max_steps is not None and config.model_max_steps < 1:
        raise ValueError(f"model_max_steps: expected at least 1, or None, got {config.model_max_steps}")
    if not 0 < config.holdout < 1:
        raise ValueError(f"holdout: expected a share in (0, 1), which decides when to stop, got {config.holdout}")
    if not config.model_lr > 0:
        raise ValueError(f"model_lr: expected a positive step size, got {config.model_lr}")
    check_options(config)


class LearnedModel:
    """An ensemble for an agent's environment, on the agent's device.

    Args:
        known: what the library knows of the environment (`mbrl.envs.tasks.task`); None: nothing.
        agent: whose observations and actions it predicts.
        config: the settings.
        seed: of initial weights, fits and scores.
        reward: `reward(obs, action, next_obs)`, in place of what `config.reward` says.
        termination: likewise.
        penalty: makes what the rewards of rollouts are lowered by (`mbrl.models.penalties`).

    Attributes:
        ensemble: what predicts.
        dynamics: the ensemble with rewards and ends, for rollouts.
        stated: the task with the given rewards and ends, which real rows are compared with.

    Raises:
        ValueError: the library does not know the rewards or the ends that the settings ask of the task.
    """

    def __init__(
        self,
        known: Task | None,
        agent: Agent,
        config: ModelSettings,
        *,
        seed: int,
        reward: Reward | None = None,
        termination: Termination | None = None,
        penalty: Callable[[GaussianEnsemble], Penalty | None] | None = None,
    ) -> None:
        self.config, self.agent, self.seed = config, agent, seed
        obs_dim, action_dim = agent.sizes
        actions = int(agent.action_space.n) if action_dim is None else action_dim  # type: ignore[attr-defined]
        reward = reward or _task_reward(known, config)
        self._learned_ends: LearnedTermination | None = None
        given = termination or _task_termination(known, config)
        if termination is None and config.termination == "learned":
            seed_of_ends = derive(seed, "termination")
            self._learned_ends = LearnedTermination(obs_dim, actions, seed=seed_of_ends, device=agent.device)
        said = termination is not None or config.termination == "task"
        self.stated = stated(known, reward, given, any_end=not said)
        self.ensemble = GaussianEnsemble(
            obs_dim,
            actions,
            members=config.members,
            hidden=config.model_hidden,
            learned_reward=reward is None,
            ignored_inputs=known.ignored_inputs if known else (),
            discrete_actions=action_dim is None,
            seed=derive(seed, "ensemble"),
            device=agent.device,
            dtype=agent.learner.dtype,
        )
        self.dynamics = EnsembleDynamics(
            self.ensemble,
            propagation=config.elite_sampling,
            reward=reward,
            termination=self._learned_ends or given,
            penalty=penalty(self.ensemble) if penalty is not None else None,
        )

    def verify(self, rows: TransitionBatch) -> None:
        """Compare given rewards and ends with what the environment returned, in float64 rows as they are collected.

        Raises:
            ValueError: they disagree; the message shows the first transition where they do.
        """
        verify(self.stated, rows)

    @staticmethod
    def is_due(count: Counters, *, every: int, after: int, num_envs: int) -> bool:
        """Whether a fit follows the last real step: every so many `after` the first, or at once where there was none
        yet."""
        since = count.steps - after
        return since >= 0 and (count.fits == 0 or since // every > (since - num_envs) // every)

    def renew(
        self,
        buffer: ReplayBuffer,
        count: Counters,
        *,
        unseen: int = 0,
        horizons: tuple[int, ...] = (),
        ends_steps: int = ENDS_STEPS,
    ) -> dict[str, float]:
        """Score the model on the newest `unseen` rows, fit it to everything, and count that; what to log."""
        started = time.perf_counter()
        row = self.diagnose(buffer, min(unseen, len(buffer)), count.fits, horizons) if count.fits else {}
        report, fitted = self.fit(buffer, count.fits, ends_steps)
        count.fits += 1
        count.model_gradient_steps += report.steps
        return {**row, **fitted, "time/fit_seconds": time.perf_counter() - started}

    def fit(self, buffer: ReplayBuffer, number: int, ends_steps: int) -> tuple[FitReport, dict[str, float]]:
        """Fit number `number`, to all real rows, from the present weights; and what to log of it.

        Args:
            buffer: the rows.
            number: of the fit.
            ends_steps: gradient steps of the classifier of ends, where there is one.

        Raises:
            ValueError: training diverged.
        """
        config, rows = self.config, buffer.all()
        report = fit(
            self.ensemble,
            rows,
            seed=derive(self.seed, "fit", number),
            lr=config.model_lr,
            batch_size=config.model_batch_size,
            max_steps=config.model_max_steps,
            holdout=config.holdout,
            max_holdout=config.max_holdout,
            patience=config.patience,
            elites=config.elites,
        )
        row = {
            "model/train_loss": float(report.train_loss.mean()),
            "model/holdout_mse": float(report.holdout_mse[report.elites].mean()),
            "model/fit_steps": float(report.steps),
            "model/members_kept": float(report.kept.sum()),
        }
        if self._learned_ends is not None:
            row |= self._learned_ends.fit(rows, seed=derive(self.seed, "fit ends", number), steps=ends_steps)
        return report, row

    def diagnose(self, buffer: ReplayBuffer, unseen: int, number: int, horizons: tuple[int, ...]) -> dict[str, float]:
        """Errors by horizon, coverage and disagreement on the newest `unseen` rows, which the model has not seen.

        Errors are in standard deviations of the observations of all rows: a policy that has become good stays where
        little changes, and the error of an equally good model would grow in those of the newest rows alone.
        """
        if unseen < 1 or not horizons:
            return {}
        rows, episodes = buffer.all(), buffer.episode_ids()
        scale = rows.obs.std(0, correction=0)
        rows, episodes = TransitionBatch(*(x[-unseen:] for x in rows)), episodes[-unseen:]
        elites = len(self.ensemble.elites)
        g = generator(self.seed, "diagnose", number, device=self.agent.device)
        report = open_loop_report(
            transitions_of(self.ensemble),
            rows,
            episodes,
            horizons=horizons,
            starts=50,
            particles=elites * -(-20 // elites),  # every elite as often
            generator=g,
            scale=scale,
        )
        row = {
            "model/disagreement": float(self.dynamics.uncertainty(self.dynamics.reset(rows.obs), rows.action).mean())
        }
        for horizon, rmse, coverage in zip(report.horizons, report.rmse, report.coverage90, strict=True):
            if torch.isfinite(rmse):
                row |= {f"model/rmse_{horizon}": float(rmse), f"model/coverage90_{horizon}": float(coverage)}
        return row

    def act(self, obs: Tensor, generator: Generator) -> Tensor:
        """The agent's actions as in training, for `rollout`."""
        return sampled_actions(self.agent, obs, generator)

    @property
    def learns_ends(self) -> bool:
        """Whether a classifier tells where episodes end."""
        return self._learned_ends is not None

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all that predictions depend on."""
        ends = {} if self._learned_ends is None else self._learned_ends.state_dict()
        parts = {"ensemble": self.ensemble.state_dict(), "ends": ends}
        return {f"{name}/{key}": value for name, held in parts.items() for key, value in held.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: it belongs to another model.
        """
        self.ensemble.load_state_dict(part(state, "ensemble"))
        if self._learned_ends is not None:
            self._learned_ends.load_state_dict(part(state, "ends"))


def transitions_of(ensemble: GaussianEnsemble) -> EnsembleDynamics:
    """The ensemble's transitions alone, sampled in full precision, which diagnostics are about."""
    return EnsembleDynamics(ensemble, reward=_nothing)


def sampled_actions(agent: Agent, obs: Tensor, generator: Generator) -> Tensor:
    """An agent's actions as in training, [rows, act] or [rows], for observations on its device."""
    return agent.learner.act(agent.state, obs[None], agent.learner.act_noise(len(obs), [generator]))[0]


def _task_reward(known: Task | None, config: ModelSettings) -> Reward | None:
    if config.reward == "learned":
        return None
    if known is None or known.reward is None:
        why = "the library does not know this environment"
        if known is not None:
            why = "the observations of this environment do not tell the task's reward"
        raise ValueError(f"reward: expected 'learned', for {why}, got 'task'; or pass reward(obs, action, next_obs)")
    return known.reward


def _task_termination(known: Task | None, config: ModelSettings) -> Termination | None:
    if config.termination == "task" and known is None:
        raise ValueError(
            "termination: expected 'learned' or 'never', for the library does not know this environment, got 'task'; "
            "or pass termination(obs, action, next_obs)"
        )
    return known.termination if known is not None and config.termination == "task" else None


def _nothing(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.zeros_like(obs[:, 0])
