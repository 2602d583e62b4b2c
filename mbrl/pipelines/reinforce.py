"""REINFORCE's loop and agents: play whole episodes, learn once from all of their steps, forget them.

repeat:   act by drawing from the policy
          where finished episodes have `batch_steps` steps: returns to go, one update, and a new batch
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple, Self

import gymnasium as gym
import torch
from torch import Tensor

from mbrl.data.collect import Episode
from mbrl.learners.reinforce import (
    DiscreteReinforceConfig,
    DiscreteReinforceLearner,
    ReinforceConfig,
    ReinforceLearner,
    baseline_value,
    returns_to_go,
)
from mbrl.pipelines.agent_checks import check_learn, with_fields
from mbrl.pipelines.agents import Agent, check_match
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.loop import Loop
from mbrl.pipelines.recorder import NullRecorder, Recorder
from mbrl.pipelines.reinforce_config import OnPolicyConfig
from mbrl.pipelines.updates import Updates
from mbrl.seeding import generator
from mbrl.types import TransitionBatch


class ReinforceResult(NamedTuple):
    """What training leaves."""

    policy: Agent
    episodes: list[Episode]
    """Finished episodes since training began, or since it was resumed."""
    steps: int
    """Real environment steps."""


class Trajectories:
    """Steps of one environment, in their order: those of finished episodes, and of the one under way.

    Attributes:
        finished: steps of finished episodes.
    """

    def __init__(self) -> None:
        self._rows: list[TransitionBatch] = []
        self.finished = 0

    def extend(self, batch: TransitionBatch, valid: Tensor | None = None) -> None:
        """Add a step; one that is not valid ends its episode, which is forgotten."""
        if valid is not None and not bool(valid.all()):
            self.end_episodes()
            return
        self._rows.append(batch)
        if bool(batch.terminated | batch.truncated):
            self.finished = len(self._rows)

    def end_episodes(self) -> None:
        """Forget the episode under way: its end won't be seen."""
        del self._rows[self.finished :]

    def take(self) -> TransitionBatch:
        """The steps of finished episodes, [rows, ...], which are forgotten."""
        taken, self._rows = self._rows[: self.finished], self._rows[self.finished :]
        self.finished = 0
        return _joined(taken)

    def state_dict(self) -> dict[str, Tensor]:
        """All steps, by field."""
        held = _joined(self._rows)._asdict() if self._rows else {}
        return {**held, "finished": torch.tensor(self.finished)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        columns = [state[name] for name in TransitionBatch._fields] if "obs" in state else []
        rows = range(len(columns[0])) if columns else range(0)
        self._rows = [TransitionBatch(*(x[i : i + 1] for x in columns)) for i in rows]
        self.finished = int(state["finished"])


def train_reinforce(
    env: gym.Env,
    agent: Agent,
    config: OnPolicyConfig,
    *,
    seed: int = 0,
    recorder: Recorder | None = None,
    evaluate: Callable[[Agent, int], dict[str, float]] | None = None,
    stop: Callable[[], bool] | None = None,
) -> ReinforceResult:
    """Train an agent on an environment.

    Args:
        env: the environment.
        agent: of REINFORCE; updated in place.
        config: the settings.
        seed: of everything random but the agent's initial parameters.
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(agent, steps)` -> metrics, called every `config.eval_every` steps.
        stop: asked after every step; True ends the training with a checkpoint.

    Raises:
        ValueError: the agent is of another algorithm; the environment does not fit it, or returned something that is
            not finite; there are fewer steps than an update needs; or the checkpoint was made with other settings.
        NonFiniteUpdate: a loss was not finite.

    Warns:
        UserWarning: no episode came to its end, so that nothing was learned.
    """
    if not agent.on_policy:
        raise ValueError(
            f"agent: expected REINFORCE or DiscreteREINFORCE, got {type(agent).__name__}: train it with "
            "mbrl.pipelines.off_policy.train_off_policy"
        )
    check_match(env, agent, config.device)
    left, learned_before = config.total_timesteps - agent.steps, agent.updates
    if 0 < left < config.batch_steps:
        raise ValueError(
            f"batch_steps: expected at most the {left} steps that there are to learn from, got {config.batch_steps}: "
            "nothing would be learned; make it smaller, or total_timesteps larger"
        )
    recorder, count = recorder or NullRecorder(), Counters(steps=agent.steps, updates=agent.updates)
    trajectories = Trajectories()

    def draw(n: int) -> TransitionBatch:
        return to_learn_from(agent, trajectories.take(), config.discount)

    updates = Updates(agent, draw, seed=seed, batch_size=config.batch_steps, recorder=recorder)
    loop = Loop(
        env,
        config,
        count,
        seed=seed,
        buffer=trajectories,
        columns={"train/n_updates": "updates"},
        parts={"agent": agent, "updates": updates},
        settings={**asdict(config), **agent.settings()},
        recorder=recorder,
        evaluate=evaluate,
        stop=stop,
    )
    agent.steps = count.steps  # a checkpoint's, from which there may be nothing left to do
    while loop.goes_on():
        draws = generator(seed, "act", 0, count.steps, device=agent.device)
        loop.step(agent.explore(loop.collector.obs, draws))
        agent.steps = count.steps
        updates.run(int(trajectories.finished >= config.batch_steps), count.steps)
        count.updates = agent.updates
        loop.log_episodes(updates.metrics)
        loop.evaluate(agent)
        loop.checkpoint()
    if agent.updates == learned_before and left > 0 and count.steps >= config.total_timesteps:
        warnings.warn(
            f"env: nothing was learned: too few of the {left} steps were in episodes that came to their end, and "
            f"REINFORCE learns from whole ones ({config.batch_steps} steps of them); give it a time limit "
            "(gymnasium.make(..., max_episode_steps=200)), or train for longer",
            stacklevel=2,
        )
    return ReinforceResult(agent, loop.episodes, count.steps)


def to_learn_from(agent: Agent, rows: TransitionBatch, discount: float) -> TransitionBatch:
    """Steps of whole episodes [rows, ...] as a batch of the learner, [1, rows, ...]: returns to go are its rewards."""
    dtype, device = agent.learner.dtype, agent.device
    behind = baseline_value(agent.state, rows.next_obs[None].to(device, dtype))[0].double().cpu()
    behind = torch.where(rows.terminated, 0.0, behind)  # one that was cut would have gone on
    to_go = returns_to_go(rows.reward, rows.terminated | rows.truncated, behind, discount)
    batch = rows._replace(reward=to_go)
    return TransitionBatch(*(x[None].to(device, dtype if x.is_floating_point() else x.dtype) for x in batch))


class _OnPolicy(Agent):
    """An agent that learns from the episodes of its policy of the moment."""

    on_policy = True

    def learn(
        self,
        total_timesteps: int,
        env: gym.Env,
        *,
        recorder: Recorder | None = None,
        evaluate: Callable[[Agent, int], dict[str, float]] | None = None,
        stop: Callable[[], bool] | None = None,
        **settings: Any,
    ) -> Self:
        """Train on `total_timesteps` more real steps; a second call goes on, with new episodes.

        Args:
            total_timesteps: how many more.
            env: the environment.
            recorder: see `train_reinforce`.
            evaluate: see `train_reinforce`.
            stop: see `train_reinforce`.
            settings: fields of `OnPolicyConfig`.

        Raises:
            ValueError: there is no such setting, or see `train_reinforce`.
        """
        check_learn(total_timesteps, env)
        given = {"device": str(self.device), **settings, "total_timesteps": self.steps + total_timesteps}
        config = with_fields(OnPolicyConfig(), given, "settings of learn")
        train_reinforce(env, self, config, seed=self._learning_seed, recorder=recorder, evaluate=evaluate, stop=stop)
        return self


class REINFORCE(_OnPolicy):
    """The policy gradient from whole episodes, for continuous actions."""

    learner_type, config_type, instead = ReinforceLearner, ReinforceConfig, "use DiscreteREINFORCE"


class DiscreteREINFORCE(_OnPolicy):
    """The policy gradient from whole episodes, for discrete actions."""

    learner_type, config_type, discrete = DiscreteReinforceLearner, DiscreteReinforceConfig, True
    instead = "use REINFORCE"


ON_POLICY_AGENTS: dict[str, type[Agent]] = {kind.__name__: kind for kind in (REINFORCE, DiscreteREINFORCE)}
"""By name, as files and run directories have it."""


def _joined(rows: list[TransitionBatch]) -> TransitionBatch:
    return TransitionBatch(*(torch.cat(column) for column in zip(*rows, strict=True)))
