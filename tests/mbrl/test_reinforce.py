"""REINFORCE: returns and gradients against tables and differences, what a baseline may change, whole episodes only."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from mbrl.cli import main
from mbrl.data.collect import Collector
from mbrl.experiments.run import Run
from mbrl.learners.reinforce import (
    DiscreteReinforceConfig,
    DiscreteReinforceLearner,
    ReinforceConfig,
    ReinforceLearner,
    ReinforceState,
    baseline_value,
    returns_to_go,
)
from mbrl.learners.testing import check_learner
from mbrl.pipelines.reinforce import REINFORCE, DiscreteREINFORCE, Trajectories, to_learn_from, train_reinforce
from mbrl.pipelines.reinforce_config import OnPolicyConfig
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.rows import leaves

F64 = torch.float64
SMALL = {"hidden": (8,), "baseline_updates": 2}


def discrete(**settings) -> DiscreteReinforceLearner:
    return DiscreteReinforceLearner(3, 2, DiscreteReinforceConfig(**(SMALL | settings)), F64)


def continuous(**settings) -> ReinforceLearner:
    return ReinforceLearner(3, (-2.0, -1.0), (1.0, 1.0), ReinforceConfig(**(SMALL | settings)), F64)


def batch(obs: Tensor, action: Tensor, to_go: Tensor) -> TransitionBatch:
    flag = torch.zeros(to_go.shape, dtype=torch.bool)
    return TransitionBatch(obs, action, to_go, obs, flag, flag, torch.zeros_like(to_go), to_go * math.nan)


def set_logits(state: ReinforceState, *logits: float) -> None:
    """Let the policy give these logits whatever it sees."""
    for tensor in leaves(state.policy):
        tensor.zero_()
    state.policy[-1][1].copy_(torch.tensor(logits, dtype=F64))


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_learners_obey_the_laws(dtype, baseline):
    given = {**SMALL, "baseline": baseline}
    if baseline:  # without one, an update that leaves the policy alone is none
        check_learner(DiscreteReinforceLearner(3, 4, DiscreteReinforceConfig(**given), dtype), 3, actions=4)
    check_learner(ReinforceLearner(3, (-1.0,) * 2, (1.0,) * 2, ReinforceConfig(**given), dtype), 3, 2, updates=1)


def test_returns_to_go_by_hand():
    """Two episodes: one that terminates, and one that is cut where 8 was still to come."""
    reward = torch.tensor([1.0, 2.0, 4.0, 3.0, 5.0], dtype=F64)
    ended = torch.tensor([False, False, True, False, True])
    behind = torch.tensor([9.0, 9.0, 0.0, 9.0, 8.0], dtype=F64)
    expected = [1 + 0.5 * 4, 2 + 0.5 * 4, 4, 3 + 0.5 * 9, 5 + 0.5 * 8]
    assert returns_to_go(reward, ended, behind, 0.5).tolist() == expected


def test_the_gradient_by_hand():
    """With logits (0, log 3), pi = (1/4, 3/4), and d log pi(a) / d logit_k = [a = k] - pi_k."""
    learner = discrete(baseline=False)
    state = learner.init([generator(0)])
    set_logits(state, 0.0, math.log(3.0))
    obs, action = torch.zeros(1, 2, 3, dtype=F64), torch.tensor([[0, 1]])
    grads, metrics = learner.policy_gradients(state, batch(obs, action, torch.tensor([[8.0, 4.0]], dtype=F64)))
    # -(1/2) (8 (3/4, -3/4) + 4 (-1/4, 1/4))
    torch.testing.assert_close(grads[-1].flatten(), torch.tensor([-2.5, 2.5], dtype=F64))
    expected = -(8 * math.log(1 / 4) + 4 * math.log(3 / 4)) / 2
    assert metrics["train/policy_loss"].item() == pytest.approx(expected)
    assert metrics["train/entropy_loss"].item() == pytest.approx((math.log(1 / 4) + math.log(3 / 4)) / 2)


@pytest.mark.parametrize("kind", [discrete, continuous])
@pytest.mark.parametrize("baseline", [True, False])
def test_the_gradient_is_that_of_finite_differences(kind, baseline):
    learner = kind(baseline=baseline)
    state = learner.init([generator(0)])
    g = generator(1)
    obs = torch.randn(1, 6, 3, generator=g, dtype=F64)
    action = learner.act(state, obs, learner.act_noise(6, [g]))
    to_go = torch.randn(1, 6, generator=g, dtype=F64)
    grads, _ = learner.policy_gradients(state, batch(obs, action, to_go))
    advantage = to_go - baseline_value(state, obs)
    for tensor, grad in zip(leaves(state.policy), grads, strict=True):
        for i in range(0, tensor.numel(), 5):
            values = []
            for step in (1e-6, -1e-6):
                tensor.view(-1)[i] += step
                values.append(-(learner.log_prob(state, obs, action) * advantage).mean().item())
                tensor.view(-1)[i] -= step
            assert grad.reshape(-1)[i].item() == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-7)


def test_a_baseline_leaves_the_expected_gradient_and_lowers_its_variance():
    """A bandit with returns 10 and 12: the expectation is a sum over both actions, with no sampling in it."""
    obs, logits = torch.zeros(1, 1, 3, dtype=F64), (0.0, math.log(3.0))
    moments = []
    for baseline in (False, True):
        learner = discrete(baseline=baseline)
        state = learner.init([generator(0)])
        set_logits(state, *logits)
        if baseline:
            for tensor in leaves(state.baseline):
                tensor.zero_()
            state.baseline[-1][1].fill_(11.5)  # what the policy earns
        mean, square = 0.0, 0.0
        for action, (share, to_go) in enumerate(zip((1 / 4, 3 / 4), (10.0, 12.0), strict=True)):
            one = batch(obs, torch.tensor([[action]]), torch.tensor([[to_go]], dtype=F64))
            slope = learner.policy_gradients(state, one)[0][-1].flatten()[0].item()
            mean, square = mean + share * slope, square + share * slope**2
        moments.append((mean, square - mean**2))
    (plain, plain_variance), (based, based_variance) = moments
    # -d/d logit_0 of 10 pi_0 + 12 pi_1 = -pi_0 pi_1 (10 - 12)
    assert plain == pytest.approx(based) == pytest.approx(0.375)
    # slopes of the two actions: -10 (1 - 1/4) and 12 / 4, with the baseline 1.5 * 3/4 and 0.5 / 4
    assert plain_variance == pytest.approx(1 / 4 * 7.5**2 + 3 / 4 * 3**2 - 0.375**2)
    assert based_variance == pytest.approx(1 / 4 * 1.125**2 + 3 / 4 * 0.125**2 - 0.375**2)
    assert based_variance < plain_variance / 40


def test_the_baseline_learns_the_returns_and_the_policy_moves_under_the_one_before():
    learner = discrete(baseline_updates=300, lr=1e-2)
    state, twin = (learner.init([generator(0)]) for _ in range(2))
    g = generator(1)
    obs = torch.randn(1, 20, 3, generator=g, dtype=F64)
    one = batch(obs, torch.randint(2, (1, 20), generator=g), 3 + obs[..., 0])
    grads, _ = learner.policy_gradients(twin, one)
    before = [tensor.clone() for tensor in leaves(state.policy)]
    _, metrics = learner.update(state, one)
    assert metrics["train/value_loss"].item() < 0.01
    torch.testing.assert_close(baseline_value(state, obs), one.reward, atol=0.5, rtol=0)
    for tensor, old, grad in zip(leaves(state.policy), before, grads, strict=True):  # Adam's first step is its sign
        torch.testing.assert_close(tensor, old - 1e-2 * grad / (grad.abs() + 1e-8))
    kept = [tensor.clone() for tensor in leaves(state.policy)]
    learner.update(state, one, actor=False)
    assert all(torch.equal(a, b) for a, b in zip(leaves(state.policy), kept, strict=True))


def test_what_is_not_finite_moves_nothing():
    learner = discrete()
    state = learner.init([generator(0)])
    before = [tensor.clone() for tensor in leaves(state)]
    obs = torch.zeros(1, 2, 3, dtype=F64)
    _, metrics = learner.update(state, batch(obs, torch.tensor([[0, 1]]), torch.tensor([[math.inf, 1.0]], dtype=F64)))
    assert not metrics["train/policy_loss"].isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(leaves(state), before, strict=True))


class Cut(gym.Wrapper):
    """Episodes of three steps that are cut, then of two that terminate, in turn; every step pays its number."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self.episode = self.taken = 0

    def reset(self, **kwargs):
        self.episode, self.taken = self.episode + 1, 0
        return self.env.reset(**kwargs)

    def step(self, action):
        obs, _, _, _, info = self.env.step(action)
        self.taken += 1
        cut = self.episode % 2 == 1
        return obs, float(self.taken), not cut and self.taken == 2, cut and self.taken == 3, info


def test_a_batch_is_whole_episodes_and_a_cut_one_goes_on_in_the_baseline():
    agent = DiscreteREINFORCE(*(getattr(Cut(), f"{kind}_space") for kind in ("observation", "action")), seed=0)
    trajectories, collector = Trajectories(), Collector(Cut(), seed=0)
    for _ in range(7):  # 3 cut, 2 terminated, 2 of the next
        collected = collector.step(np.array([0]))
        trajectories.extend(collected.batch, collected.valid)
    assert trajectories.finished == 5
    stored = trajectories.state_dict()
    again = Trajectories()
    again.load_state_dict(stored)
    rows = again.take()
    assert (again.finished, len(rows.reward)) == (0, 5)
    assert len(again.state_dict()["reward"]) == 2
    value = baseline_value(agent.state, rows.next_obs[None].float())[0, 2].item()
    made = to_learn_from(agent, rows, 0.5)
    expected = [1 + 0.5 * (2 + 0.5 * (3 + 0.5 * value)), 2 + 0.5 * (3 + 0.5 * value), 3 + 0.5 * value, 1 + 0.5 * 2, 2]
    torch.testing.assert_close(made.reward[0], torch.tensor(expected))
    assert made.action.dtype == torch.int64
    trajectories.extend(collected.batch, torch.tensor([False]))  # the simulation diverged
    assert len(trajectories.state_dict()["reward"]) == 5


def test_updates_come_where_finished_episodes_have_enough_steps():
    env = Cut()
    agent = DiscreteREINFORCE(env.observation_space, env.action_space, seed=0, **SMALL)
    result = train_reinforce(env, agent, OnPolicyConfig(total_timesteps=20, batch_steps=5, eval_every=0))
    assert [episode.length for episode in result.episodes] == [3, 2] * 4
    assert agent.updates == 4
    agent.learn(10, env, batch_steps=5, eval_every=0)
    assert (agent.steps, agent.updates) == (30, 6)


def test_steps_that_make_no_update_are_refused():
    env = Cut()
    agent = DiscreteREINFORCE(env.observation_space, env.action_space, seed=0, **SMALL)
    with pytest.raises(ValueError, match=r"batch_steps: expected at most the 4 steps that there are .* got 5"):
        train_reinforce(env, agent, OnPolicyConfig(total_timesteps=4, batch_steps=5, eval_every=0))
    agent.learn(5, env, batch_steps=5, eval_every=0)
    with pytest.raises(ValueError, match=r"batch_steps: expected at most the 4 steps that there are .* got 5"):
        agent.learn(4, env, batch_steps=5, eval_every=0)  # not 9: the first five are forgotten
    assert (agent.steps, agent.updates) == (5, 1)


def test_an_environment_without_ends_teaches_nothing_and_that_is_told():
    env = gym.make("Pendulum-v1").unwrapped  # no time limit
    agent = REINFORCE(env.observation_space, env.action_space, **SMALL)
    with pytest.warns(UserWarning, match="env: nothing was learned: too few of the 30 steps were in episodes that"):
        agent.learn(30, env, batch_steps=5, eval_every=0)
    assert (agent.steps, agent.updates) == (30, 0)


def test_it_learns_which_actions_pay():
    """Reward 1 - |a - 0.5| in episodes of one step: from samples around 0 the mean goes to 0.5."""

    class Bandit(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), 1 - abs(float(action[0]) - 0.5), True, False, {}

    env = Bandit()
    for baseline in (True, False):
        agent = REINFORCE(env.observation_space, env.action_space, seed=0, lr=2e-2, baseline=baseline, hidden=(8,))
        agent.learn(1_500, env, batch_steps=50, eval_every=0)
        action, _ = agent.predict(np.zeros(1, np.float32), deterministic=True)
        assert action[0] == pytest.approx(0.5, abs=0.2)


def test_from_the_command_line_with_and_without_a_baseline(tmp_path):
    tiny = "--total-timesteps 60 --batch-steps 20 --hidden 8 --eval-every 30 --eval-episodes 1"
    for env_id, agent in (("CartPole-v1", "DiscreteREINFORCE"), ("InvertedPendulum-v5", "REINFORCE")):
        root = tmp_path / env_id
        assert (
            main(["train", "reinforce", "--env-id", env_id, "--no-baseline", "--root", str(root), *tiny.split()]) == 0
        )
        (path,) = root.iterdir()
        run = Run.open(path)
        assert run.config["agent"] == agent
        assert run.config["learner"]["baseline"] is False
        assert run.metrics()[-1]["train/n_updates"] >= 1
        assert main(["evaluate", str(path), "--episodes", "1"]) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReinforceConfig(baseline_lr=0.0), "baseline_lr: expected a positive"),
        (lambda: ReinforceConfig(baseline_updates=0), "baseline_updates: expected at least 1"),
        (lambda: OnPolicyConfig(batch_steps=0), "batch_steps: expected at least 1"),
        (lambda: OnPolicyConfig(eval_every=-1), "eval_every: expected 0"),
        (lambda: OnPolicyConfig(discount=1.1), "discount: expected"),
        (lambda: DiscreteReinforceLearner(3, 0), "expected positive sizes"),
        (lambda: ReinforceLearner(0, (-1.0,), (1.0,)), "obs_dim"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
