"""MOPO: a policy from logged data, trained in a learned model whose rewards are lowered where the model does not know.

    fit an ensemble to the dataset, once
    repeat:   every `rollout_every` updates: roll the policy out from states of the data into the model rows, each with
                  reward r(s, a) - weight * penalty(s, a)
              draw a batch, few of its rows real and most of the model, update the learner

This is MBPO's loop on a buffer that does not grow. Source: Yu et al. (2020), "MOPO: model-based offline policy
optimization", https://arxiv.org/abs/2005.13239, algorithm 2. docs/mopo.md lists the deviations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mbrl.data.datasets import Dataset
from mbrl.pipelines.agent_checks import check_as_they_are, check_rows_alike
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.model_training import Evaluate, ModelTraining, ModelTrainingResult, memory_of
from mbrl.pipelines.mopo_config import MOPOConfig
from mbrl.pipelines.offline_model import penalty_of
from mbrl.pipelines.offline_model_config import real_rows
from mbrl.pipelines.recorder import Recorder
from mbrl.pipelines.updates import memory_explained
from planners.dynamics import Dynamics, Reward, Termination


def train_mopo(
    dataset: Dataset,
    agent: Agent,
    config: MOPOConfig,
    *,
    seed: int = 0,
    reward: Reward | None = None,
    termination: Termination | None = None,
    dynamics: Dynamics[Any] | None = None,
    recorder: Recorder | None = None,
    evaluate: Evaluate | None = None,
    stop: Callable[[], bool] | None = None,
) -> ModelTrainingResult:
    """Train an agent by MOPO.

    Args:
        dataset: what was logged; `dataset.info` says which task it is of.
        agent: learner and state (SAC, as in the paper); updated in place.
        config: the settings.
        seed: of everything random but the agent's initial parameters.
        reward: `reward(obs, action, next_obs)` -> [rows], in place of what `config.reward` says.
        termination: likewise, -> bool [rows]. Given functions are verified on every row of the dataset.
        dynamics: a model that is known, in place of a learned one: the settings of model and penalty have no effect,
            and rewards and ends are its own.
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(agent, updates)` -> metrics, called every `config.eval_every` updates.
        stop: asked after every few updates; True ends the training with a checkpoint.

    Raises:
        ValueError: the dataset does not fit the agent, or disagrees with rewards or ends; the agent is COMBO's, or has
            observations to standardise; the checkpoint was made with other settings or data; or the model returned
            nothing finite.
        NonFiniteUpdate: a loss was not finite.
        MemoryError: the device is full; the message says which buffer to make smaller.
    """
    check_rows_alike(agent)
    check_as_they_are(agent)
    with memory_explained(memory_of(dataset, agent, config)):
        training = ModelTraining(
            dataset,
            agent,
            config,
            seed=seed,
            real_rows=real_rows(config.real_fraction, config.batch_size),
            reward=reward,
            termination=termination,
            dynamics=dynamics,
            penalty=penalty_of(config, dataset),
            recorder=recorder,
            evaluate=evaluate,
            stop=stop,
        )
        training.fit()
        while training.goes_on():
            training.roll()  # model rows, their rewards less the penalty
            training.update()
            training.report()
    return training.result()
