"""MOBILE: a policy from logged data, trained in a learned model; targets are lowered where its members disagree on what
comes next is worth.

    fit an ensemble to the dataset, once
    repeat:   every `rollout_every` updates: roll the policy out from states of the data into the model rows
              draw a batch, few of its rows real and most of the model; from the rewards of these take
                  weight * std over elites m of the mean over samples s' ~ m(s, a) of min_j Qtarget_j(s', a' ~ policy)
              update the learner

The penalty is in units of values and asks only for what the critics care for: a coordinate that changes nothing of the
value may be as uncertain as it likes. Source: Sun et al. (2023), "Model-Bellman inconsistency for model-based offline
reinforcement learning", https://proceedings.mlr.press/v202/sun23q.html, algorithm 1. docs/mopo.md lists the deviations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from mbrl.data.datasets import Dataset
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.learned_model import LearnedModel
from mbrl.pipelines.mobile_config import MOBILEConfig
from mbrl.pipelines.model_training import Evaluate, ModelTraining, ModelTrainingResult, memory_of
from mbrl.pipelines.offline_model_config import real_rows
from mbrl.pipelines.recorder import Recorder
from mbrl.pipelines.updates import memory_explained
from mbrl.types import TransitionBatch
from planners.dynamics import Reward, Termination


def train_mobile(
    dataset: Dataset,
    agent: Agent,
    config: MOBILEConfig,
    *,
    seed: int = 0,
    reward: Reward | None = None,
    termination: Termination | None = None,
    recorder: Recorder | None = None,
    evaluate: Evaluate | None = None,
    stop: Callable[[], bool] | None = None,
) -> ModelTrainingResult:
    """Train an agent by MOBILE.

    Args:
        dataset: what was logged; `dataset.info` says which task it is of.
        agent: learner and state (SAC, as in the paper); updated in place.
        config: the settings.
        seed: of everything random but the agent's initial parameters.
        reward: `reward(obs, action, next_obs)` -> [rows], in place of what `config.reward` says.
        termination: likewise, -> bool [rows]. Given functions are verified on every row of the dataset.
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(agent, updates)` -> metrics, called every `config.eval_every` updates.
        stop: asked after every few updates; True ends the training with a checkpoint.

    Raises:
        ValueError: the dataset does not fit the agent, or disagrees with rewards or ends; the agent's critics can't be
            asked; the checkpoint was made with other settings or data; or the model returned nothing finite.
        NonFiniteUpdate: a loss was not finite.
        MemoryError: the device is full; the message says which buffer to make smaller.
    """
    if not hasattr(agent.learner, "valued_actions"):
        raise ValueError(f"agent: expected SAC, whose critics can be asked, got {type(agent).__name__}")
    real = real_rows(config.real_fraction, config.batch_size)
    with memory_explained(memory_of(dataset, agent, config)):
        training = ModelTraining(
            dataset,
            agent,
            config,
            seed=seed,
            real_rows=real,
            reward=reward,
            termination=termination,
            adjust=partial(Inconsistency, learner=agent.learner, config=config, real_rows=real),
            recorder=recorder,
            evaluate=evaluate,
            stop=stop,
        )
        training.fit()
        while training.goes_on():
            training.roll()
            training.update()  # on batches whose model rows are penalised by the critics of the moment
            training.report()
    return training.result()


class Inconsistency:
    """Lowers the rewards of model rows by how far the model's members disagree on the value of what comes next.

    Args:
        model: whose elites are asked.
        learner: has `valued_actions` and `act_noise` (SAC).
        config: weight and samples.
        real_rows: of a batch, the first: they are left alone.
    """

    def __init__(self, model: LearnedModel, *, learner: Any, config: MOBILEConfig, real_rows: int) -> None:
        self.dynamics, self.learner, self.config, self.real_rows = model.dynamics, learner, config, real_rows

    def __call__(self, batch: TransitionBatch, state: Any, *, generator: Generator) -> TransitionBatch:
        """The batch with its model rows' rewards lowered.

        Args:
            batch: transitions [rows, ...].
            state: the learner's, of one run.
            generator: of all randomness, on the batch's device.
        """
        real = self.real_rows
        penalty = self.penalty(batch.obs[real:], batch.action[real:], state, generator=generator)
        lowered = batch.reward[real:] - penalty
        return batch._replace(reward=torch.cat([batch.reward[:real], lowered]))

    @torch.no_grad()
    def penalty(self, obs: Tensor, action: Tensor, state: Any, *, generator: Generator) -> Tensor:
        """[rows]: weight times the standard deviation over elites of the value of the next state, 0 behind an end.

        Where the model says something that is not finite, so is the penalty.
        """
        ensemble, samples = self.dynamics.ensemble, self.config.samples
        mean, std = (part[ensemble.elites] for part in ensemble.predict(obs, action))  # [elites, rows, out]
        noise = torch.randn(samples, *mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        change = torch.addcmul(mean, std, noise)[..., : ensemble.obs_dim]
        next_obs = (obs + change).flatten(0, 2)  # [samples * elites * rows, obs]
        before, acted = (x.expand(samples, len(mean), *x.shape).flatten(0, 2) for x in (obs, action))
        drawn = self.learner.act_noise(len(next_obs), [generator])
        valued = self.learner.valued_actions(state, next_obs[None], drawn)
        value = (valued.value[0] - valued.entropy[0]).amin(0)  # Q without the entropy that soft values hold
        if self.dynamics.termination is not None:
            value = torch.where(self.dynamics.termination(before, acted, next_obs), 0.0, value)
        return self.config.penalty_weight * value.view(samples, len(mean), -1).mean(0).std(0)
