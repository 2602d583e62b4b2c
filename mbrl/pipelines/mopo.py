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
from dataclasses import asdict
from typing import Any, NamedTuple

from mbrl.data.buffer import ReplayBuffer, buffer_bytes
from mbrl.data.datasets import Dataset, dataset_buffer
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.imagined import Imagined
from mbrl.pipelines.mopo_config import MOPOConfig
from mbrl.pipelines.offline_loop import OfflineLoop
from mbrl.pipelines.offline_model import GivenModel, check_sizes, fit_once, learned_model, penalty_of, refill, roll
from mbrl.pipelines.recorder import NullRecorder, Recorder
from mbrl.pipelines.updates import Updates, memory_explained
from planners.dynamics import Dynamics, Reward, Termination

Evaluate = Callable[[Agent, int], dict[str, float]]


class MOPOResult(NamedTuple):
    """What training leaves."""

    policy: Agent
    ensemble: GaussianEnsemble | None
    """None where dynamics were given."""
    buffer: ReplayBuffer
    """The dataset's rows."""
    model_buffer: ReplayBuffer | None
    """The newest of the model."""
    updates: int


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
) -> MOPOResult:
    """Train an agent by MOPO.

    Args:
        dataset: what was logged; `dataset.info` says which task it is of.
        agent: learner and state (SAC, as in the paper); updated in place.
        config: the settings.
        seed: of everything random but the agent's initial parameters.
        reward: `reward(obs, action, next_obs)` -> [rows], in place of what `config.reward` says.
        termination: likewise, -> bool [rows]. Given functions are verified on every row of the dataset.
        dynamics: a model that is known, in place of a learned one: the settings of model and penalty have no effect.
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(agent, updates)` -> metrics, called every `config.eval_every` updates.
        stop: asked after every few updates; True ends the training with a checkpoint.

    Raises:
        ValueError: the dataset does not fit the agent, or disagrees with rewards or ends; the checkpoint was made with
            other settings or data; or the model returned nothing finite.
        NonFiniteUpdate: a loss was not finite.
        MemoryError: the device is full; the message says which buffer to make smaller.
    """
    check_sizes(dataset, agent)
    recorder, count = recorder or NullRecorder(), Counters(updates=agent.updates)
    made_rows = config.rollout_starts * config.rollout_length * config.retain_rounds
    takes = {
        "dataset": buffer_bytes(len(dataset), *agent.sizes),
        "rollout_starts": buffer_bytes(made_rows, *agent.sizes),
    }
    with memory_explained(takes):
        real = dataset_buffer(dataset, device=agent.device, dtype=agent.learner.dtype)
        if dynamics is not None:
            model: Any = GivenModel(agent, dynamics)
        else:
            penalty = penalty_of(config, dataset)
            model = learned_model(
                dataset, agent, config, seed=seed, reward=reward, termination=termination, penalty=penalty
            )
        imagined = Imagined(agent, model, real, config, seed)
        updates = Updates(
            agent,
            imagined.draw,
            imagined.draw_block,
            seed=seed,
            batch_size=config.batch_size,
            recorder=recorder,
            mode=config.updates,
        )
        loop = OfflineLoop(
            config,
            count,
            seed=seed,
            columns={"model/steps": "model_steps", "model/gradient_steps": "model_gradient_steps"},
            parts={"agent": agent, "updates": updates, "model": model, "imagined": imagined.rows},
            settings={**asdict(config), **agent.settings(), "dataset": dataset.hash()},
            recorder=recorder,
            evaluate=evaluate,
            stop=stop,
        )
        if dynamics is None and not count.fits:
            loop.log(fit_once(model, real, dataset, config, count))
        refill(imagined, config, count)
        while loop.goes_on():
            if rows := roll(imagined, config, count):
                loop.log(rows)
            updates.run(loop.until_due(config.rollout_every), 0)
            count.updates = agent.updates
            loop.log_due(updates.metrics)
            loop.evaluate(agent)
            loop.checkpoint()
    ensemble = None if dynamics is not None else model.ensemble
    return MOPOResult(agent, ensemble, real, imagined.rows.buffer, count.updates)
