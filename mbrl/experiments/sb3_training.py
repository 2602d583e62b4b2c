"""Training of stable-baselines3's and sb3-contrib's models under our protocol: metrics, evaluations, an exact end.

This module imports stable-baselines3, which is optional: `mbrl.experiments.sb3_runs` imports it where it is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from sb3_contrib import TRPO
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from mbrl.experiments.sb3_models import seeded, steps_per_round
from mbrl.experiments.sb3_presets import SB3Config
from mbrl.pipelines.recorder import Recorder


class Protocol(BaseCallback):
    """Our protocol around a model that learns: metrics, evaluations, an end after exactly so many steps.

    Args:
        config: the settings.
        recorder: takes the metrics.
        evaluate: `evaluate(steps)` -> metrics.
        stop: asked after every step.

    Attributes:
        updates: gradient steps so far: of the policy (PPO, A2C), of the critics (SAC, TD3, CrossQ, DQN), or of the
            value function and the policy (TRPO).
    """

    def __init__(
        self,
        config: SB3Config,
        recorder: Recorder,
        evaluate: Callable[[int], dict[str, float]],
        stop: Callable[[], bool] | None,
    ) -> None:
        super().__init__()
        self._config, self._recorder, self._evaluate, self._stop = config, recorder, evaluate, stop
        self._steps = self._due = 0
        self._losses: dict[str, float] = {}

    @property
    def updates(self) -> int:
        return self._steps + (self.model._n_updates if isinstance(self.model, TRPO) else 0)

    @property
    def seconds(self) -> float:
        """Wall-clock since training began."""
        return time.perf_counter() - self._started

    def _on_training_start(self) -> None:
        model: Any = self.model
        on_policy = isinstance(model, (OnPolicyAlgorithm, DQN))
        optimizer = model.policy.optimizer if on_policy else model.critic.optimizer
        optimizer.register_step_post_hook(self._count)
        self._round = self._config.num_envs * steps_per_round(model)
        self._started, self._cpu_started = time.perf_counter(), time.process_time()

    def _count(self, *_: Any) -> None:
        self._steps += 1

    def _on_rollout_start(self) -> None:
        self._after_updates()

    def _on_training_end(self) -> None:
        self._after_updates()

    def _on_step(self) -> bool:
        steps, config = self.num_timesteps, self._config
        self._recorder.advance(steps)
        for info in self.locals["infos"]:
            if (episode := info.get("episode")) is not None:
                row = {"rollout/ep_rew_mean": float(episode["r"]), "rollout/ep_len_mean": int(episode["l"])}
                self._log(steps, {**row, "time/fps": steps / max(self.seconds, 1e-9), **self._losses})
        learns_now = steps % self._round == 0
        if config.eval_every > 0 and steps % config.eval_every < config.num_envs:
            self._due = steps
            if not learns_now:
                self._evaluate_due()
        if self._stop is not None and steps < config.total_timesteps and self._stop():
            return False
        # The round that the last step completes is still learned from; a round that it cuts short is not.
        return learns_now or steps < config.total_timesteps

    def _after_updates(self) -> None:
        values = self.model.logger.name_to_value
        self._losses |= {name: float(value) for name, value in values.items() if name.startswith("train/")}
        self._losses.pop("train/n_updates", None)  # epochs, in some of them
        self._evaluate_due()

    def _evaluate_due(self) -> None:
        if self._due:
            steps, self._due = self._due, 0
            started = time.process_time()
            row = self._evaluate(steps)
            self._cpu_started += time.process_time() - started  # an evaluation costs the run nothing
            self._log(steps, row)

    def _log(self, steps: int, row: Mapping[str, float]) -> None:
        cpu = time.process_time() - self._cpu_started
        spent = {"time/wall_clock": self.seconds, "time/cpu_seconds": cpu}
        self._recorder.log({"time/total_timesteps": steps, "train/n_updates": self.updates, **spent, **row})


def learn(model: BaseAlgorithm, protocol: Protocol, config: SB3Config, seed: int) -> int:
    """Train a model under the protocol, from its beginning; returns its real steps."""
    model.set_logger(Logger(folder=None, output_formats=[]))
    with seeded(seed):
        model.learn(config.total_timesteps, callback=protocol)
    return model.num_timesteps
