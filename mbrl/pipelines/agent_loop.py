"""The loop of an agent that acts in an environment and is updated between its steps: MBPO, Dyna, off-policy learning.

while loop.goes_on():
    loop.step_agent()                      # uniformly at first, then with exploration
    loop.update(loop.updates_due())        # `update_ratio` a step, and counted
    loop.report()                          # log, evaluate, checkpoint
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import gymnasium as gym

from mbrl.data.buffer import ReplayBuffer
from mbrl.data.collect import Collected
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.bookkeeping import Counters, Part
from mbrl.pipelines.loop import Loop, LoopConfig
from mbrl.pipelines.recorder import Recorder
from mbrl.pipelines.updates import Updates, due
from mbrl.seeding import generator

MODEL_COLUMNS = {"model/steps": "model_steps", "model/gradient_steps": "model_gradient_steps"}
"""What loops with a model count besides."""


class AgentLoopConfig(LoopConfig, Protocol):
    """The settings that every such loop has; a dataclass."""

    @property
    def initial_steps(self) -> int: ...
    @property
    def update_every(self) -> int: ...
    @property
    def update_ratio(self) -> float: ...


class AgentLoop(Loop[Counters]):
    """A `Loop` with an agent and its updates.

    Args:
        env: the environment, or a vector of `config.num_envs` of them.
        agent: acts; updated in place.
        updates: the agent's.
        config: the settings.
        count: counters: those of a checkpoint are written into it.
        seed: of environments, random actions and exploration.
        buffer: takes the real steps.
        columns: counters that stand in every row of metrics besides updates: {metric: counter}.
        parts: what a checkpoint holds besides agent, updates and buffer, by name.
        recorder: takes metrics and checkpoints, and gives the checkpoint to go on from.
        evaluate: `evaluate(agent, steps)` -> metrics.
        stop: asked after every step; True ends the training with a checkpoint.

    Raises:
        ValueError: as `Loop`.
    """

    def __init__(
        self,
        env: gym.Env | gym.vector.VectorEnv,
        agent: Agent,
        updates: Updates,
        config: Any,
        count: Counters,
        *,
        seed: int,
        buffer: ReplayBuffer,
        columns: Mapping[str, str] | None = None,
        parts: Mapping[str, Part] | None = None,
        recorder: Recorder,
        evaluate: Callable[[Agent, int], dict[str, float]] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.agent, self.updates = agent, updates
        self._schedule: AgentLoopConfig = config
        super().__init__(
            env,
            config,
            count,
            seed=seed,
            buffer=buffer,
            columns={"train/n_updates": "updates", **(columns or {})},
            parts={"agent": agent, "updates": updates, **(parts or {})},
            settings={**asdict(config), **agent.settings()},
            recorder=recorder,
            evaluate=evaluate,
            stop=stop,
        )
        agent.steps = count.steps  # a checkpoint's, from which there may be nothing left to do

    def step_agent(self) -> Collected:
        """Take a real step in every environment: uniform actions for `initial_steps`, then the agent's, sampled.

        Raises:
            ValueError: the environment returned a number that is not finite.
        """
        steps = self.count.steps
        if steps < self._schedule.initial_steps:
            action = self.random_action()
        else:
            g = generator(self.seed, "act", 0, steps, device=self.agent.device)
            action = self.agent.explore(self.collector.obs, g)
        collected = self.step(action)
        self.agent.steps = self.count.steps
        return collected

    def updates_due(self) -> int:
        """How many updates follow the last step; see `due`."""
        config = self._schedule
        return due(
            self.count.steps,
            config.num_envs,
            after=config.initial_steps,
            every=config.update_every,
            ratio=config.update_ratio,
        )

    def update(self, times: int) -> None:
        """Run the agent's next updates.

        Raises:
            NonFiniteUpdate: a loss was not finite.
        """
        self.updates.run(times, self.count.steps)
        self.count.updates = self.agent.updates

    def report(self) -> None:
        """Log finished episodes, evaluate and save, where that is due."""
        self.log_episodes(self.updates.metrics)
        self.evaluate(self.agent)
        self.checkpoint()
