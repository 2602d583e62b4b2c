"""What MOPO, COMBO and MOBILE share: MBPO's loop on a dataset, which does not grow, with a model that is fitted once.

training.fit()
while training.goes_on():
    training.roll()      # every `rollout_every` updates: the policy in the model, from states of the data
    training.update()    # on batches of real and model rows, until something is due
    training.report()    # log, evaluate, checkpoint
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from torch import Generator, Tensor

from mbrl.data.buffer import ReplayBuffer, buffer_bytes
from mbrl.data.datasets import Dataset, dataset_buffer
from mbrl.models.ensemble_dynamics import Penalty
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.agent_checks import check_data_match
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.imagined import Adjust, Imagined
from mbrl.pipelines.learned_model import LearnedModel, sampled_actions
from mbrl.pipelines.offline_loop import OfflineLoop
from mbrl.pipelines.offline_model import fit_once, learned_model
from mbrl.pipelines.offline_model_config import OfflineModelConfig
from mbrl.pipelines.recorder import NullRecorder, Recorder
from planners.dynamics import Dynamics, Reward, Termination

Evaluate = Callable[[Agent, int], dict[str, float]]


class ModelTrainingResult(NamedTuple):
    """What training leaves."""

    policy: Agent
    ensemble: GaussianEnsemble | None
    """None where dynamics were given."""
    buffer: ReplayBuffer
    """The dataset's rows."""
    model_buffer: ReplayBuffer | None
    """The newest of the model."""
    updates: int
    model_state: dict[str, Tensor]
    """Of the learned model, ends included: what `train_online` goes on from. Empty where dynamics were given."""


class GivenModel:
    """Dynamics that are known, in place of a learned model: nothing is fitted, and nothing is penalised.

    Args:
        agent: acts in it.
        dynamics: the model; its states must be determined by observations.
    """

    def __init__(self, agent: Agent, dynamics: Dynamics[Any]) -> None:
        self.agent, self.dynamics = agent, dynamics

    def act(self, obs: Tensor, generator: Generator) -> Tensor:
        """The agent's actions as in training, for `rollout`."""
        return sampled_actions(self.agent, obs, generator)

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing: whoever gave the dynamics has them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""


class ModelTraining:
    """A dataset, a model of it, a learner, and how far training has come.

    Args:
        dataset: what was logged; `dataset.info` says which task it is of.
        agent: learner and state; updated in place.
        config: the settings.
        seed: of everything random but the agent's initial parameters.
        real_rows: how many of a batch's rows are real.
        reward: `reward(obs, action, next_obs)` -> [rows], in place of what `config.reward` says.
        termination: likewise, -> bool [rows]. Given functions are verified on every row of the dataset.
        dynamics: a model that is known, in place of a learned one, with rewards and ends of its own.
        penalty: makes what the model's rewards are lowered by.
        adjust: makes, of the model, what batches are adjusted by.
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(agent, updates)` -> metrics.
        stop: asked after every few updates; True ends the training with a checkpoint.

    Raises:
        ValueError: the dataset does not fit the agent, or disagrees with rewards or ends; these are given beside
            dynamics; or the checkpoint was made with other settings or data.
    """

    def __init__(
        self,
        dataset: Dataset,
        agent: Agent,
        config: OfflineModelConfig,
        *,
        seed: int,
        real_rows: int,
        reward: Reward | None = None,
        termination: Termination | None = None,
        dynamics: Dynamics[Any] | None = None,
        penalty: Callable[[GaussianEnsemble], Penalty | None] | None = None,
        adjust: Callable[[LearnedModel], Adjust] | None = None,
        recorder: Recorder | None = None,
        evaluate: Evaluate | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        check_data_match(dataset, agent, config.device)
        for name, what in (("reward", reward), ("termination", termination)):
            if dynamics is not None and what is not None:
                raise ValueError(
                    f"{name}: expected None beside dynamics, which have their own, got {what}; give it to the dynamics"
                )
        recorder = recorder or NullRecorder()
        self.dataset, self.agent, self.config = dataset, agent, config
        self.count = Counters(updates=agent.updates)
        self.real = dataset_buffer(dataset, device=agent.device, dtype=agent.learner.dtype)
        self.model: LearnedModel | GivenModel
        if dynamics is not None:
            self.model = GivenModel(agent, dynamics)
        else:
            self.model = learned_model(
                dataset, agent, config, seed=seed, reward=reward, termination=termination, penalty=penalty
            )
        adjusting = adjust(self.model) if adjust is not None and isinstance(self.model, LearnedModel) else None
        self.imagined = Imagined(agent, self.model, self.real, config, seed, real_rows=real_rows, adjust=adjusting)
        self.updates = self.imagined.updates(recorder)
        settings = {k: v for k, v in asdict(config).items() if k != "model_cache"} | {"dynamics": "learned"}
        given = {"reward": reward, "termination": termination, "dynamics": dynamics}
        settings |= {name: "given" for name, what in given.items() if what is not None}
        self.loop = OfflineLoop(
            config,
            self.count,
            seed=seed,
            columns={"model/steps": "model_steps", "model/gradient_steps": "model_gradient_steps"},
            parts={"agent": agent, "updates": self.updates, "model": self.model, "imagined": self.imagined.rows},
            settings={**settings, **agent.settings(), "dataset": dataset.hash()},
            recorder=recorder,
            evaluate=evaluate,
            stop=stop,
        )

    def fit(self) -> None:
        """Fit the model or take it from the cache, where a checkpoint has not brought it; make what one left out.

        Raises:
            ValueError: the data are not finite, or the fit diverged.
        """
        config, count = self.config, self.count
        if isinstance(self.model, LearnedModel) and not count.fits:
            self.loop.log(fit_once(self.model, self.real, self.dataset, config, count))
        if count.model_steps and self.loop.goes_on():  # rows may be missing
            rounds = -(-count.updates // config.rollout_every)  # were rolled out; the next one is due
            self.imagined.refill(count, rounds, config.rollout_length, config.retain_rounds, rounds)

    def goes_on(self) -> bool:
        """Whether there is another update to run."""
        return self.loop.goes_on()

    def roll(self) -> None:
        """Roll the policy out in the model from states of the data, where that is due; the oldest rows give way.

        Raises:
            ValueError: the model returned nothing finite.
        """
        config, count = self.config, self.count
        if count.updates % config.rollout_every == 0 or not len(self.imagined.rows):
            number = count.updates // config.rollout_every
            self.loop.log(self.imagined.renew(count, number, config.rollout_length, config.retain_rounds))

    def update(self) -> None:
        """Run updates of the learner up to the next that something is due after.

        Raises:
            NonFiniteUpdate: a loss was not finite.
        """
        self.updates.run(self.loop.until_due(self.config.rollout_every), 0)
        self.count.updates = self.agent.updates

    def report(self) -> None:
        """Log, evaluate and save, where that is due."""
        self.loop.log_due(self.updates.metrics)
        self.loop.evaluate(self.agent)
        self.loop.checkpoint()

    def result(self) -> ModelTrainingResult:
        """What training leaves."""
        ensemble = self.model.ensemble if isinstance(self.model, LearnedModel) else None
        rows = self.imagined.rows.buffer
        return ModelTrainingResult(self.agent, ensemble, self.real, rows, self.count.updates, self.model.state_dict())


def memory_of(dataset: Dataset, agent: Agent, config: OfflineModelConfig) -> dict[str, int]:
    """Bytes of the buffers by the setting that decides them, for `memory_explained`."""
    rows = config.rollout_starts * config.rollout_length * config.retain_rounds
    held = {"dataset": len(dataset), "rollout_starts": rows}
    return {name: buffer_bytes(count, *agent.sizes, dtype=agent.learner.dtype) for name, count in held.items()}
