"""Learners from logged data with the interface of stable-baselines3: `learn`, `predict`, `save`, `load`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

from mbrl.data.datasets import Dataset
from mbrl.learners.awac import AWACConfig, AWACLearner
from mbrl.learners.behavior_cloning import BehaviorCloningConfig, BehaviorCloningLearner
from mbrl.learners.cql import CQLConfig, CQLLearner
from mbrl.learners.iql import IQLConfig, IQLLearner
from mbrl.learners.td3_bc import TD3BCConfig, TD3BCLearner
from mbrl.pipelines.agent_checks import with_fields
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.offline import train_offline
from mbrl.pipelines.offline_config import DEFAULTS
from mbrl.pipelines.recorder import Recorder


class OfflineAgent(Agent):
    """An agent that learns from a dataset; use one of the classes below, with the spaces of `dataset.spaces()`."""

    algorithm: ClassVar[str]
    """As the command line has it: `learn` starts from the settings of `offline_config.DEFAULTS` for it."""
    instead = "offline learners for discrete actions are not part of the library"

    def learn(
        self,
        total_updates: int,
        dataset: Dataset,
        *,
        recorder: Recorder | None = None,
        evaluate: Callable[[Agent, int], dict[str, float]] | None = None,
        stop: Callable[[], bool] | None = None,
        **settings: Any,
    ) -> Self:
        """Train with `total_updates` more updates on a dataset; a second call goes on.

        Settings that are not given are those of `mbrl train` where the environment has none of its own
        (`offline_config.DEFAULTS`): IQL and AWAC normalise rewards.

        Args:
            total_updates: how many more.
            dataset: logged episodes.
            recorder: see `train_offline`.
            evaluate: see `train_offline`.
            stop: see `train_offline`.
            settings: fields of `OfflineConfig`.

        Raises:
            ValueError: there is no such setting, or see `train_offline`.
        """
        given = {"device": str(self.device), **settings, "total_updates": self.updates + total_updates}
        config = with_fields(DEFAULTS[self.algorithm].config, given, "settings of learn")
        train_offline(dataset, self, config, seed=self._learning_seed, recorder=recorder, evaluate=evaluate, stop=stop)
        return self


class BC(OfflineAgent):
    """Behaviour cloning."""

    algorithm = "bc"
    learner_type, config_type, samples = BehaviorCloningLearner, BehaviorCloningConfig, False


class TD3BC(OfflineAgent):
    """TD3+BC: TD3 whose actor also imitates the data."""

    algorithm = "td3bc"
    learner_type, config_type, samples = TD3BCLearner, TD3BCConfig, False


class CQL(OfflineAgent):
    """Conservative Q-learning."""

    algorithm = "cql"
    learner_type, config_type = CQLLearner, CQLConfig


class IQL(OfflineAgent):
    """Implicit Q-learning."""

    algorithm = "iql"
    learner_type, config_type = IQLLearner, IQLConfig


class AWAC(OfflineAgent):
    """Advantage-weighted actor-critic."""

    algorithm = "awac"
    learner_type, config_type = AWACLearner, AWACConfig


OFFLINE_AGENTS: dict[str, type[Agent]] = {kind.__name__: kind for kind in (BC, TD3BC, CQL, IQL, AWAC)}
"""By name, as files and run directories have it."""
