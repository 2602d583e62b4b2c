"""Deep Dyna on real environments with tiny budgets: which updates are planned, from what, and going on exactly."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch

from mbrl.pipelines.agents import DQN, SAC
from mbrl.pipelines.dyna import DynaResult, train_dyna
from mbrl.pipelines.dyna_config import DynaConfig, dyna_preset
from mbrl.pipelines.off_policy_presets import off_policy_preset
from mbrl.types import TransitionBatch
from planners.rows import leaves
from tests.mbrl.memory import Memory, same

TINY = DynaConfig(
    total_timesteps=70,
    initial_steps=30,
    planning_updates=2,
    batch_size=8,
    buffer_size=100,
    model_every=20,
    members=3,
    elites=2,
    model_hidden=(8,),
    model_batch_size=16,
    model_max_steps=10,
    diagnostic_horizons=(1, 3),
    eval_every=0,
    checkpoint_every=25,
)
CONTINUOUS = "InvertedPendulum-v5"


def train(config: DynaConfig = TINY, recorder: Memory | None = None, agent: Any = None, **extra: Any) -> DynaResult:
    env = gym.make(CONTINUOUS)
    agent = agent or SAC(env.observation_space, env.action_space, 1, hidden=(8, 8))
    return train_dyna(env, agent, config, seed=5, recorder=recorder, **extra)


@pytest.mark.parametrize("changed", [{}, {"planning_steps": 3, "n_step": 2, "termination": "learned"}])
def test_a_run_that_was_interrupted_is_the_run_that_was_not(changed: dict[str, Any]) -> None:
    config = replace(TINY, **changed)
    whole, broken = Memory(), Memory()
    train(config, whole)
    left = iter(range(46))
    train(config, broken, stop=lambda: next(left, None) is None)
    assert broken.saved[-1][1]["counters"]["steps"] == 47
    rest = Memory(broken.saved[-1])
    train(config, rest)
    same(rest.saved[-1][0], whole.saved[-1][0])
    assert [*broken.rows, *rest.rows] == whole.rows


class Watching:
    """A learner that keeps the batches it is given."""

    def __init__(self, agent: SAC) -> None:
        self._inner, self.batches = agent.learner, []
        agent.learner = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def update(self, state: Any, batch: TransitionBatch, noise: Any, *, actor: bool = True) -> Any:
        self.batches.append(batch)
        return self._inner.update(state, batch, noise, actor=actor)


def test_each_real_update_is_followed_by_planned_ones() -> None:
    env = gym.make(CONTINUOUS)
    agent = SAC(env.observation_space, env.action_space, 1, hidden=(8, 8))
    watching = Watching(agent)
    result = train(replace(TINY, planning_steps=2), agent=agent)
    assert agent.updates == len(watching.batches) == 3 * 40
    rows = result.buffer.all()
    seen = {tuple(row) for row in torch.cat([rows.obs, rows.action], 1).tolist()}
    for n, batch in enumerate(watching.batches):
        pairs = {tuple(row) for row in torch.cat([batch.obs, batch.action], 2)[0].tolist()}
        assert (pairs <= seen) == (n % 3 == 0)  # the others have the policy's actions
        assert {tuple(row) for row in batch.obs[0].tolist()} <= {tuple(row) for row in rows.obs.tolist()}
        allowed = torch.tensor([0.0, 0.99] if n % 3 == 0 else [0.0, 0.99**2])
        assert torch.isclose(batch.discount[0][:, None], allowed).any(1).all()
    assert result.steps == 70


@pytest.mark.parametrize(("actor_every", "planning"), [(20, 4), (2, 5), (3, 2)])
def test_an_actor_that_would_learn_from_the_model_alone_is_refused(actor_every: int, planning: int) -> None:
    env = gym.make(CONTINUOUS)
    agent = SAC(env.observation_space, env.action_space, 1, hidden=(8, 8), actor_every=actor_every)
    with pytest.raises(
        ValueError, match=rf"planning_updates: expected .* actor_every \({actor_every}\), got {planning}"
    ):
        train(replace(TINY, planning_updates=planning), agent=agent)


@pytest.mark.parametrize(("actor_every", "planning"), [(2, 4), (20, 2), (5, 0)])
def test_else_the_actor_learns_from_real_transitions_too(actor_every: int, planning: int) -> None:
    updates = range(actor_every * (1 + planning))
    turns = [n for n in updates if (n + 1) % actor_every == 0 and n % (1 + planning) == 0]
    assert len(turns) == 1  # in as many updates as it takes for the pattern to begin again
    env = gym.make(CONTINUOUS)
    agent = SAC(env.observation_space, env.action_space, 1, hidden=(8, 8), actor_every=actor_every)
    assert train(replace(TINY, planning_updates=planning, total_timesteps=32), agent=agent).steps == 32


def test_cartpole_has_the_settings_of_dqn_without_a_model() -> None:
    config, learner, _ = dyna_preset("CartPole-v1")
    alone, dqn, _ = off_policy_preset("dqn", "CartPole-v1")
    assert learner.exploration_updates / (1 + config.planning_updates) == dqn.exploration_updates
    assert replace(learner, exploration_updates=dqn.exploration_updates) == dqn
    assert (config.update_ratio, config.update_every, config.n_step) == (alone.update_ratio, alone.update_every, 5)


def test_counts_and_metrics() -> None:
    memory = Memory()
    train(recorder=memory)
    fits = [row for row in memory.rows if "model/holdout_mse" in row]
    assert [row["time/total_timesteps"] for row in fits] == [30, 50, 70]
    assert {"model/rmse_1", "model/disagreement"} <= set(fits[1])
    episodes = [row for row in memory.rows if "rollout/ep_rew_mean" in row]
    after = episodes[-1]["time/total_timesteps"] - 30
    assert episodes[-1]["train/n_updates"] == 3 * after
    assert episodes[-1]["model/steps"] == 2 * 8 * (after - 1) + 16


def test_without_planning_it_is_the_learner_alone() -> None:
    from mbrl.pipelines.off_policy import train_off_policy
    from mbrl.pipelines.off_policy_config import OffPolicyConfig

    env = gym.make(CONTINUOUS)
    alone = SAC(env.observation_space, env.action_space, 1, hidden=(8, 8))
    settings = OffPolicyConfig(
        total_timesteps=70, initial_steps=30, batch_size=8, buffer_size=100, eval_every=0, checkpoint_every=25
    )
    train_off_policy(env, alone, settings, seed=5)
    result = train(replace(TINY, planning_updates=0))
    for a, b in zip(leaves(result.policy.state), leaves(alone.state), strict=True):
        assert torch.equal(a, b)


def test_dqn_plans_with_learned_rewards_and_ends() -> None:
    env = gym.make("CartPole-v1")
    agent = DQN(env.observation_space, env.action_space, 1, hidden=(8, 8))
    result = train_dyna(env, agent, replace(TINY, termination="learned"), seed=5)
    assert (result.steps, agent.updates) == (70, 120)
    assert result.ensemble.discrete_actions
    assert result.ensemble.learned_reward


def test_given_rewards_are_verified() -> None:
    with pytest.raises(ValueError, match="the task's reward disagrees"):
        train(reward=lambda obs, action, next_obs: 2 + 0 * obs[:, 0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"planning_updates": -1}, r"planning_updates: expected 0 \(none\) or more, got -1"),
        ({"planning_steps": 0}, "planning_steps: expected at least 1, got 0"),
        ({"initial_steps": 0}, "initial_steps: expected at least 1"),
        ({"elites": 7}, "elites: expected 1 to 3"),
        ({"discount": 2.0}, "discount: expected"),
    ],
)
def test_bad_settings(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changed)


def test_updates_may_be_in_bfloat16() -> None:
    full, rough = (train(replace(TINY, precision=precision)).policy for precision in ("full", "bfloat16"))
    assert rough.updates == full.updates
    assert not torch.equal(rough.state.critics[1][0], full.state.critics[1][0])
