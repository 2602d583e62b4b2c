"""COMBO: a policy from logged data and a learned model, whose critics think little of what the model makes up.

    fit an ensemble to the dataset, once
    repeat:   every `rollout_every` updates: roll the policy out from states of the data into the model rows
              draw a batch, its first rows real and the others of the model; update critics (conservatively) and actor

This is MBPO's loop on a buffer that does not grow, with the critics of `mbrl.learners.combo` and no penalty. Source:
Yu et al. (2021), "COMBO: conservative offline model-based policy optimization", https://arxiv.org/abs/2102.08363,
algorithm 1. docs/mopo.md lists the deviations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mbrl.data.datasets import Dataset
from mbrl.learners.combo import COMBOLearner, COMBOLearnerConfig
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.combo_config import COMBOConfig
from mbrl.pipelines.model_training import Evaluate, ModelTraining, ModelTrainingResult, memory_of
from mbrl.pipelines.recorder import Recorder
from mbrl.pipelines.updates import memory_explained
from planners.dynamics import Dynamics, Reward, Termination


class COMBO(Agent):
    """What `train_combo` trains: a stochastic policy with conservative critics."""

    learner_type, config_type = COMBOLearner, COMBOLearnerConfig
    instead = "offline learners for discrete actions are not part of the library"


def train_combo(
    dataset: Dataset,
    agent: Agent,
    config: COMBOConfig,
    *,
    seed: int = 0,
    reward: Reward | None = None,
    termination: Termination | None = None,
    dynamics: Dynamics[Any] | None = None,
    recorder: Recorder | None = None,
    evaluate: Evaluate | None = None,
    stop: Callable[[], bool] | None = None,
) -> ModelTrainingResult:
    """Train an agent by COMBO.

    Args:
        dataset: what was logged; `dataset.info` says which task it is of.
        agent: a `COMBO`; updated in place.
        config: the settings.
        seed: of everything random but the agent's initial parameters.
        reward: `reward(obs, action, next_obs)` -> [rows], in place of what `config.reward` says.
        termination: likewise, -> bool [rows]. Given functions are verified on every row of the dataset.
        dynamics: a model that is known, in place of a learned one: the settings of the model have no effect, and
            rewards and ends are its own.
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(agent, updates)` -> metrics, called every `config.eval_every` updates.
        stop: asked after every few updates; True ends the training with a checkpoint.

    Raises:
        ValueError: the agent is another one, or not for this dataset, which may disagree with rewards or ends, too;
            the checkpoint was made with other settings or data; or the model returned nothing finite.
        NonFiniteUpdate: a loss was not finite.
        MemoryError: the device is full; the message says which buffer to make smaller.
    """
    if not isinstance(agent.learner, COMBOLearner):
        raise ValueError(f"agent: expected one of mbrl.pipelines.combo.COMBO, got {type(agent).__name__}")
    with memory_explained(memory_of(dataset, agent, config)):
        training = ModelTraining(
            dataset,
            agent,
            config,
            seed=seed,
            real_rows=agent.learner.config.real_rows(config.batch_size),
            reward=reward,
            termination=termination,
            dynamics=dynamics,
            recorder=recorder,
            evaluate=evaluate,
            stop=stop,
        )
        training.fit()
        while training.goes_on():
            training.roll()
            training.update()  # the critics' loss knows by their place which rows are real
            training.report()
    return training.result()
