"""Copies of environments: they step as the environment does, share nothing with it, and refuse what can't be copied."""

import random

import gymnasium as gym
import numpy as np
import pytest
import torch

from planners import CEM, MPC, UCT, Box, Problem, evaluate_plans
from planners.env_copies import EnvCopies
from planners.rows import map_rows


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1"])
def test_a_deterministic_environment_steps_as_its_copy(env_id):
    env = gym.make(env_id)
    model = EnvCopies(env, deterministic=True)
    obs, _ = env.reset(seed=1)
    env.action_space.seed(0)
    state = model.state_of(env, obs)
    for _ in range(10):
        action = env.action_space.sample()
        obs, reward, terminated, _, _ = env.step(action)
        state, step = model.step(state, torch.as_tensor(np.asarray(action))[None])
        assert np.array_equal(step.obs[0].numpy(), obs.astype(np.float64))
        assert float(step.reward) == pytest.approx(float(reward), abs=0)
        assert bool(step.terminated) == terminated
    fresh = model.state_of(env, obs)
    assert torch.equal(fresh.blob, state.blob)  # the same state, byte by byte, wrappers' counters included


def test_states_are_values_and_rows_independent():
    env = gym.make("CartPole-v1")
    model = EnvCopies(env, deterministic=True)
    obs, _ = env.reset(seed=1)
    one = model.state_of(env, obs)
    state = map_rows(lambda x: x.repeat_interleave(3, 0), one)
    after, _ = model.step(state, torch.tensor([0, 1, 0]))
    assert torch.equal(after.obs[0], after.obs[2])
    assert not torch.equal(after.obs[0], after.obs[1])
    again, _ = model.step(state, torch.tensor([0, 1, 0]))
    assert torch.equal(again.blob, after.blob)
    untouched = env.unwrapped.state
    assert np.array_equal(np.asarray(untouched, dtype=np.float32), obs)


def test_every_step_has_a_stream_of_its_own():
    """FrozenLake slips: copies must not share the environment's luck, and outcomes follow the generator alone."""
    env = gym.make("FrozenLake-v1", is_slippery=True)
    model = EnvCopies(env, fields=("s", "lastaction"))
    obs, _ = env.reset(seed=0)
    before = env.unwrapped.np_random.bit_generator.state
    state = map_rows(lambda x: x.repeat_interleave(300, 0), model.state_of(env, obs))
    action = torch.full((300,), 2)
    _, step = model.step(state, action, generator=generator())
    _, same = model.step(state, action, generator=generator())
    _, other = model.step(state, action, generator=generator(1))
    assert torch.equal(step.obs, same.obs)
    assert not torch.equal(step.obs, other.obs)
    share = torch.bincount(step.obs[:, 0].long(), minlength=16) / 300
    assert share[[0, 1, 4]].tolist() == pytest.approx([1 / 3] * 3, abs=0.09)
    assert env.unwrapped.np_random.bit_generator.state == before


def test_ended_rows_stay_as_they_are():
    env = gym.make("FrozenLake-v1", is_slippery=False)
    model = EnvCopies(env, deterministic=True)
    obs, _ = env.reset(seed=0)
    state = model.state_of(env, obs)
    for move in (1, 2):  # down, then right: a hole
        state, step = model.step(state, torch.tensor([move]))
    assert step.obs.tolist() == [[5.0]]
    assert bool(step.terminated)
    later, step = model.step(state, torch.tensor([2]))
    assert torch.equal(later.blob, state.blob)
    assert bool(step.terminated)
    assert float(step.reward) == 0


def test_tree_search_on_copies_crosses_the_lake():
    env = gym.make("FrozenLake-v1", is_slippery=False)
    problem = Problem(EnvCopies(env, deterministic=True, fields=("s", "lastaction")), discount=0.9)
    planner = UCT(4, simulations=150, rollout=5, backup="max")
    obs, _ = env.reset(seed=0)
    env.step(1), env.step(1)
    obs, *_ = env.step(2)
    state = problem.dynamics.state_of(env, obs)
    memory, total = planner.init(problem, state, generator=generator()), 0.0
    for _ in range(10):
        plan = planner.plan(problem, state, memory, generator=generator())
        memory = planner.advance(problem, plan.memory, plan.actions[:, 0], state)
        obs, reward, ended, *_ = env.step(int(plan.actions[0, 0]))
        total += float(reward)
        if ended:
            break
        state = problem.dynamics.state_of(env, obs)
    assert total == 1.0


def test_continuous_planners_plan_on_copies():
    env = gym.make("Pendulum-v1", disable_env_checker=True)
    problem = Problem(EnvCopies(env, deterministic=True, fields=("state", "last_u")))
    obs, _ = env.reset(seed=1)
    start = problem.dynamics.state_of(env, obs)
    planner = CEM(Box.from_space(env.action_space), horizon=8, population=30, elites=5, iterations=3)
    plan = planner.plan(problem, start, planner.init(problem, start, generator=generator()), generator=generator())
    random_plans = 4 * torch.rand(1, 30, 8, 1, generator=generator(), dtype=torch.float64) - 2
    scores = evaluate_plans(problem, start, random_plans, generator=generator()).scores
    assert float(plan.value) > float(scores.max())
    assert plan.actions.dtype == torch.float64
    total = 0.0
    for action in plan.actions[0].numpy():
        _, reward, *_ = env.step(action.astype(np.float32))
        total += float(reward)
    assert total == pytest.approx(float(plan.value), abs=1e-4)  # what was planned is what comes
    action = MPC(planner, problem, seed=0).act_from(start)
    assert action.shape == (1, 1)


@pytest.mark.parametrize(
    ("env_id", "action", "message"),
    [
        ("CartPole-v1", torch.tensor([0.9]), r"action: expected integers of shape \[1\].*got torch.float32.*use UCT"),
        ("CartPole-v1", torch.tensor([[1]]), r"action: expected integers of shape \[1\].*got torch.int64 \[1, 1\]"),
        ("CartPole-v1", torch.tensor([2]), r"action: expected integers in \[0, 2\), got 2"),
        ("Pendulum-v1", torch.tensor([[1]]), r"action: expected floats of shape \[1, 1\].*got torch.int64.*use CEM"),
        ("Pendulum-v1", torch.tensor([0]), r"action: expected floats of shape \[1, 1\].*got torch.int64 \[1\]"),
        ("Pendulum-v1", torch.tensor([0.5]), r"action: expected floats of shape \[1, 1\].*got torch.float32 \[1\]"),
    ],
)
def test_actions_of_the_wrong_kind_are_refused(env_id, action, message):
    env = gym.make(env_id)
    model = EnvCopies(env, deterministic=True)
    obs, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        model.step(model.state_of(env, obs), action)


class Noise:
    def __init__(self, stream):
        self.streams = {"push": [stream]}


STREAMS = {
    "Generator": lambda: np.random.default_rng(0),
    "RandomState": lambda: np.random.RandomState(0),
    "PCG64": lambda: np.random.PCG64(0),
    "Random": lambda: random.Random(0),
    "torch": lambda: torch.Generator(),
    "nested": lambda: Noise(np.random.default_rng(0)),
}


class OwnLuck(gym.Env):
    """A walk whose luck lies elsewhere than in `np_random`, from the start or from the first step on."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, kind, late=False):
        self.x, self.kind, self.rng = 0.0, kind, None if late else STREAMS[kind]()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0.0
        return np.array([self.x]), {}

    def step(self, action):
        if self.rng is None:
            self.rng = STREAMS[self.kind]()
        self.x += (2 * action - 1) * (self.rng.random() if hasattr(self.rng, "random") else 1.0)
        return np.array([self.x]), 0.0, False, False, {}


class SameLuck(OwnLuck):
    """It draws from `np_random` under another name."""

    def reset(self, *, seed=None, options=None):
        first = super().reset(seed=seed)
        self.rng = self.np_random
        return first


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("fields", [None, ("x",)])
def test_a_random_stream_of_its_own_is_refused(kind, fields):
    """Its copies would hold it as it stands, and planning would know the luck to come."""
    where = r"rng.streams\['push'\]\[0\]" if kind == "nested" else "rng"
    name = {"nested": "Generator", "torch": "Generator"}.get(kind, kind)
    with pytest.raises(ValueError, match=rf"attribute {where} is .*{name}.*know the luck to come.*self.np_random"):
        EnvCopies(OwnLuck(kind), fields=fields)


def test_a_random_stream_made_late_is_refused():
    with pytest.raises(ValueError, match=r"attribute rng is .*know the luck to come"):
        EnvCopies(OwnLuck("Generator", late=True), room=4096)


def test_np_random_under_another_name_has_a_stream_for_every_step():
    env = SameLuck("Generator")
    model = EnvCopies(env)
    obs, _ = env.reset(seed=0)
    rows = map_rows(lambda x: x.repeat_interleave(50, 0), model.state_of(env, obs))
    _, step = model.step(rows, torch.ones(50, dtype=torch.long), generator=generator())
    assert len(step.obs.unique()) == 50
    assert not bool((step.obs == env.step(1)[0][0]).any())


class Lucky(gym.Env):
    """A walk whose third step has luck in what `luck` names."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, luck):
        self.luck, self.t = luck, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1), {}

    def step(self, action):
        self.t += 1
        lucky = self.np_random.random() < 0.5 and self.t == 3
        obs = np.array([float(self.t + (lucky and self.luck == "obs"))])
        return obs, float(lucky and self.luck == "reward"), lucky and self.luck == "end", False, {}


@pytest.mark.parametrize("luck", ["obs", "reward", "end", "nothing"])
def test_luck_is_no_part_of_a_deterministic_environment(luck):
    env = Lucky(luck)
    assert EnvCopies(env).deterministic is False
    if luck == "nothing":  # it draws, and uses it for nothing
        assert EnvCopies(env, deterministic=True).deterministic
        return
    with pytest.raises(ValueError, match=r"deterministic: expected False, .*several outcomes, got True"):
        EnvCopies(env, deterministic=True)


@pytest.mark.parametrize("fields", [None, ("s", "lastaction")])
def test_a_slippery_lake_is_not_deterministic(fields):
    with pytest.raises(ValueError, match="deterministic: expected False"):
        EnvCopies(gym.make("FrozenLake-v1", is_slippery=True), deterministic=True, fields=fields)


class Hidden(gym.Env):
    """What a step changes lies outside the environment's attributes."""

    counter = [0]  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 1000, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1), {}

    def step(self, action):
        self.counter[0] += 1
        return np.array([float(self.counter[0])]), 0.0, False, False, {}


class Unpicklable(Hidden):
    def __init__(self):
        self.function = lambda: 0


def test_bad_input():
    with pytest.raises(ValueError, match=r"Hopper.* rests on MuJoCo.*planners.simulator"):
        EnvCopies(gym.make("Hopper-v5"))
    with pytest.raises(ValueError, match="can't be copied: from a copy of its attributes the same step"):
        EnvCopies(Hidden())
    with pytest.raises(ValueError, match="can't be copied"):
        EnvCopies(Unpicklable())
    with pytest.raises(ValueError, match="expected one gymnasium"):
        EnvCopies(object())
    env = gym.make("CartPole-v1")
    model = EnvCopies(env)
    obs, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=r"no mean transition; plan with stochastic=True"):
        model.step(model.state_of(env, obs), torch.tensor([0]))
    with pytest.raises(ValueError, match="does not determine the state"):
        model.reset(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="expected the wrappers of"):
        model.state_of(env.unwrapped, obs)
    with pytest.raises(ValueError, match="room: a state takes"):
        EnvCopies(env, room=10)
