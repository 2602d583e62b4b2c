"""Tabular learning against value iteration, forward views, hand tables and the figures of the book."""

from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest

import mbrl.envs  # noqa: F401 - registers the mazes
from mbrl.envs.gridworlds import Maze, RandomWalk
from mbrl.learners.tabular import (
    DoubleQLearning,
    MonteCarloControl,
    QLearning,
    SarsaLambda,
    TDLambda,
    Transition,
    epsilon_greedy,
)
from mbrl.learners.tabular_agent import Tabular
from mbrl.learners.tabular_dyna import DynaQ, PrioritizedSweeping
from mbrl.types import NonFiniteUpdate
from planners.finite import FiniteMDP, q_values, value_iteration

TAXI = "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"
RULES = [
    QLearning(),
    DoubleQLearning(),
    SarsaLambda(),
    SarsaLambda(traces="accumulating"),
    MonteCarloControl(),
    TDLambda(),
    TDLambda(traces="dutch", policy=((0.25, 0.25, 0.3, 0.2),) * 48),
    DynaQ(),
    DynaQ(kappa=1e-3, stochastic=True),
    PrioritizedSweeping(),
    PrioritizedSweeping(stochastic=True),
]


def agent(env, rule, seed=0) -> Tabular:
    return Tabular(env.observation_space, env.action_space, rule, seed=seed)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def play(rule, tables, episode: list[Transition]):
    """Teach a rule an episode of which the steps are given."""
    memory, g = rule.begin(tables), rng()
    for t in episode:
        rule.step(tables, memory, t, g)


def walk(states: list[int], reward: float = 1.0, truncated: bool = False) -> list[Transition]:
    """An episode through the states given that pays at its end; every action is 0."""
    last = len(states) - 2
    return [
        Transition(s, 0, reward if i == last else 0.0, to, i == last and not truncated, i == last and truncated)
        for i, (s, to) in enumerate(pairwise(states))
    ]


class Corridor(gym.Env):
    """Five states; a step to the right pays noise, one to the left little; falling off the right end pays 1."""

    observation_space, action_space = gym.spaces.Discrete(5), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s = int(self.np_random.integers(4))
        return self.s, {}

    def step(self, action):
        slips = self.np_random.random() < 0.2
        right = (action == 1) != slips
        reward = 1.0 if right and self.s == 3 else (0.1 if not right and self.s == 0 else 0.0)
        self.s = min(self.s + 1, 4) if right else max(self.s - 1, 0)
        return self.s, reward, self.s == 4, False, {}

    @property
    def P(self):
        tables = {4: {a: [(1.0, 4, 0.0, True)] for a in range(2)}}
        for s in range(4):
            right, left = (s + 1, float(s == 3), s == 3), (max(s - 1, 0), 0.1 * (s == 0), False)
            tables[s] = {a: [(0.8 if a else 0.2, *right), (0.2 if a else 0.8, *left)] for a in range(2)}
        return tables


@pytest.mark.parametrize(
    ("rule", "episodes"),
    [
        (QLearning(alpha=0.03, discount=0.9, epsilon=0.3), 2500),
        (DoubleQLearning(alpha=0.05, discount=0.9, epsilon=0.3), 2500),
        (DynaQ(alpha=0.03, discount=0.9, epsilon=0.3, planning_steps=3, stochastic=True), 800),
        (PrioritizedSweeping(alpha=1.0, discount=0.9, epsilon=0.3, planning_steps=3, stochastic=True), 500),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_those_of_value_iteration(rule, episodes):
    env = Corridor()
    mdp = FiniteMDP.from_env(env)
    optimal = q_values(mdp, value_iteration(mdp, 0.9), 0.9).numpy()[:4]
    learned = agent(env, rule).learn(env, episodes).tables["q"]
    q = learned.mean(0) if learned.ndim == 3 else learned
    np.testing.assert_allclose(q[:4], optimal, atol=0.08)
    assert (q[:4].argmax(1) == optimal.argmax(1)).all()


@pytest.mark.parametrize("rule", [SarsaLambda(0.02, 0.9, 0.2, 0.5), MonteCarloControl(0.9, 0.2, alpha=0.02)])
def test_on_policy_values_are_those_of_the_policy_that_explores(rule):
    env = Corridor()
    mdp = FiniteMDP.from_env(env)
    q = np.zeros((5, 2))
    for _ in range(500):  # policy evaluation and improvement among epsilon-greedy policies at once
        worth = 0.8 * q.max(1) + 0.2 * q.mean(1)
        q = (mdp.probability.numpy() * (mdp.reward.numpy() + 0.9 * np.where(mdp.terminated, 0, worth))).sum(2)
    learned = agent(env, rule).learn(env, 4000).tables["q"]
    np.testing.assert_allclose(learned[:4], q[:4], atol=0.07)


def test_hand_table_of_q_learning():
    rule = QLearning(alpha=0.5, discount=0.9)
    tables = rule.tables(3, 2)
    tables["q"][:] = [[1.0, 2.0], [4.0, 3.0], [9.0, 9.0]]
    rule.step(tables, None, Transition(0, 1, 1.0, 1, False, False), rng())
    assert tables["q"][0].tolist() == [1.0, pytest.approx(2 + 0.5 * (1 + 0.9 * 4 - 2))]
    rule.step(tables, None, Transition(1, 1, 1.0, 2, True, False), rng())  # 9 of the terminal state does not count
    assert tables["q"][1].tolist() == [4.0, 3 + 0.5 * (1 - 3)]
    rule.step(tables, None, Transition(1, 0, 1.0, 2, False, True), rng())  # a cut: it does
    assert tables["q"][1, 0] == pytest.approx(4 + 0.5 * (1 + 0.9 * 9 - 4))


def test_hand_table_of_double_q_learning():
    rule = DoubleQLearning(alpha=0.5, discount=1.0)
    seen = set()
    for seed in range(10):
        tables = rule.tables(2, 2)
        tables["q"][:, 1] = [[5.0, 1.0], [2.0, 3.0]]
        rule.step(tables, None, Transition(0, 0, 1.0, 1, False, False), rng(seed))
        # Q1 picks action 0, which Q2 holds for 2; Q2 picks 1, which Q1 holds for 1. One of the two tables moves.
        seen.add(tuple(tables["q"][:, 0, 0].tolist()))
    assert seen == {(0.5 * (1 + 2), 0.0), (0.0, 0.5 * (1 + 1))}


def test_hand_table_of_traces():
    episode = [Transition(0, 0, 0.0, 0, False, False), *walk([0, 1, 2])]  # state 0 twice, then 1, then the end
    # lambda 0.5, discount 0.5: a trace fades to a quarter a step; all errors but the last are 0
    for traces, fading in {"accumulating": (1 + 0.25) * 0.25, "replacing": 0.25}.items():
        rule = SarsaLambda(alpha=0.5, discount=0.5, lambda_=0.5, traces=traces)
        tables = rule.tables(3, 1)
        play(rule, tables, episode)
        assert tables["q"][:, 0].tolist() == [pytest.approx(0.5 * fading), 0.5, 0.0], traces


@pytest.mark.parametrize(("first_visit", "expected"), [(True, 0.5**3), (False, (0.5**3 + 0.5) / 2)])
def test_hand_table_of_monte_carlo(first_visit, expected):
    rule = MonteCarloControl(discount=0.5, first_visit=first_visit)
    tables = rule.tables(4, 1)
    play(rule, tables, walk([0, 1, 0, 2, 3]))  # state 0 at returns 1/8 and 1/2
    assert tables["q"][0, 0] == pytest.approx(expected)
    assert tables["returns"][:, 0].tolist() == [1 if first_visit else 2, 1, 1, 0]
    play(rule, tables, walk([2, 3], reward=3.0))
    assert tables["q"][2, 0] == pytest.approx((1 + 3) / 2)
    play(rule, tables, walk([3, 2], reward=0.0, truncated=True))  # cut in a state that is worth 2
    assert tables["q"][3, 0] == pytest.approx(0.5 * 2)


def random_episode(g: np.random.Generator, length: int, truncated: bool) -> list[Transition]:
    states = g.integers(4, size=length + 1)
    return [
        Transition(int(s), 0, float(r), int(to), i == length - 1 and not truncated, i == length - 1 and truncated)
        for i, (s, to, r) in enumerate(zip(states, states[1:], g.normal(size=length), strict=False))
    ]


def lambda_returns(episode, horizon, value_of, discount, lambda_):
    """G^lambda of steps 0 to horizon - 1, from n-step returns by their definition; `value_of(time)` after that step."""
    made = []
    for start in range(horizon):
        longest, total, mixed = horizon - start, 0.0, 0.0
        for n in range(1, longest + 1):
            t = episode[start + n - 1]
            total += discount ** (n - 1) * t.reward
            bootstrap = 0.0 if t.terminated else discount**n * value_of(start + n)
            weight = lambda_ ** (n - 1) * (1.0 if n == longest else 1 - lambda_)
            mixed += weight * (total + bootstrap)
        made.append(mixed)
    return made


@pytest.mark.parametrize("truncated", [False, True])
def test_offline_td_lambda_is_the_lambda_return_algorithm(truncated):
    episode, start = random_episode(rng(1), 12, truncated), rng(2).normal(size=4)
    rule = TDLambda(alpha=0.3, discount=0.9, lambda_=0.7, offline=True, policy=((1.0,),) * 4)
    tables = rule.tables(4, 1)
    tables["v"][:] = start
    play(rule, tables, episode)
    expected = start.copy()
    targets = lambda_returns(episode, 12, lambda time: start[episode[time - 1].next_state], 0.9, 0.7)
    for t, target in zip(episode, targets, strict=True):
        expected[t.state] += 0.3 * (target - start[t.state])
    np.testing.assert_allclose(tables["v"], expected, rtol=1e-12)


def test_true_online_td_lambda_is_the_online_lambda_return_algorithm():
    episode, start = random_episode(rng(3), 10, False), rng(4).normal(size=4)
    rule = TDLambda(alpha=0.3, discount=0.9, lambda_=0.7, traces="dutch", policy=((1.0,),) * 4)
    tables = rule.tables(4, 1)
    tables["v"][:] = start
    play(rule, tables, episode)
    newest = [
        start
    ]  # what the algorithm had learned at each time: n-step returns bootstrap from the time before theirs
    for horizon in range(1, 11):
        values = lambda time: newest[time - 1][episode[time - 1].next_state]  # noqa: E731
        targets, v = lambda_returns(episode, horizon, values, 0.9, 0.7), start.copy()
        for t, target in zip(episode, targets, strict=False):
            v[t.state] += 0.3 * (target - v[t.state])
        newest.append(v)
    np.testing.assert_allclose(tables["v"], newest[-1], rtol=1e-12)


@pytest.mark.parametrize("traces", ["accumulating", "replacing", "dutch"])
def test_lambda_0_is_td_0(traces):
    episode = random_episode(rng(5), 15, False)
    rule = TDLambda(alpha=0.3, discount=0.9, lambda_=0.0, traces=traces, policy=((1.0,),) * 4)
    tables, v = rule.tables(4, 1), np.zeros(4)
    play(rule, tables, episode)
    for t in episode:
        v[t.state] += 0.3 * (t.reward + (0.0 if t.terminated else 0.9 * v[t.next_state]) - v[t.state])
    np.testing.assert_allclose(tables["v"], v, rtol=1e-12)


def test_offline_lambda_1_is_every_visit_monte_carlo():
    episode, ret = random_episode(rng(6), 15, False), 0.0
    rule = TDLambda(alpha=0.3, discount=0.9, lambda_=1.0, offline=True, policy=((1.0,),) * 4)
    tables, v = rule.tables(4, 1), np.zeros(4)
    play(rule, tables, episode)
    for t in reversed(episode):
        ret = t.reward + 0.9 * ret
        v[t.state] += 0.3 * ret
    np.testing.assert_allclose(tables["v"], v, rtol=1e-12)


@pytest.mark.parametrize("traces", ["accumulating", "dutch"])
def test_td_lambda_values_a_random_walk(traces):
    env = RandomWalk()
    learned = agent(env, TDLambda(alpha=0.01, discount=1.0, lambda_=0.8, traces=traces)).learn(env, 2500)
    np.testing.assert_allclose(learned.tables["v"][1:-1], np.arange(1, 6) / 6, atol=0.08)
    assert learned.tables["v"][[0, -1]].tolist() == [0.0, 0.0]


class MaximisationBias(gym.Env):
    """Example 6.7: in A (0) going right ends with 0, going left leads to B (1), where ten actions pay N(-0.1, 1)."""

    observation_space, action_space = gym.spaces.Discrete(3), gym.spaces.Discrete(10)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s, self.went_left = 0, False
        return 0, {}

    def step(self, action):
        if self.s == 0 and action % 2 == 0:
            self.s = 1
            return 1, 0.0, False, False, {}
        reward = 0.0 if self.s == 0 else float(self.np_random.normal(-0.1, 1.0))
        self.s = 2
        return 2, reward, True, False, {}


def test_double_q_learning_is_less_biased_by_the_maximum():
    env = MaximisationBias()
    shares = []
    for rule in (QLearning(alpha=0.1, discount=1.0, epsilon=0.1), DoubleQLearning(0.1, 1.0, 0.1)):
        lengths = [[p.length for p in agent(env, rule, seed).learn(env, 100).history] for seed in range(20)]
        shares.append(float((np.array(lengths) == 2).mean()))  # two steps: it went left
    assert shares[0] > 0.5  # at best 0.05: half of the actions that are drawn
    assert shares[1] < 0.8 * shares[0]


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "CliffWalking-v1", TAXI])
@pytest.mark.parametrize("rule", [QLearning(), MonteCarloControl(), DynaQ()], ids=lambda rule: type(rule).__name__)
def test_gymnasiums_environments_are_learned(env_id, rule):
    env = gym.make(env_id, max_episode_steps=50)
    learned = agent(env, rule).learn(env, 5)
    assert learned.episodes == 5
    assert all(p.length <= 50 for p in learned.history)
    assert bool(learned.tables["q"].any()) or env_id == "FrozenLake-v1"
    action, memory = learned.predict(0, "kept", deterministic=True)
    assert env.action_space.contains(action[()])
    assert memory == "kept"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_saved_and_loaded_is_learning_on(rule, tmp_path):
    env = gym.make("CliffWalking-v1", max_episode_steps=60)
    whole = agent(env, rule, 3).learn(env, 12)
    part = agent(env, rule, 3).learn(env, 6)
    assert any(not np.array_equal(part.tables[name], whole.tables[name]) for name in part.tables)
    loaded = Tabular.load(part.save(tmp_path / "agent"))
    assert loaded.rule == rule
    loaded.learn(env, 6)
    assert loaded.tables.keys() == whole.tables.keys()
    for name, table in whole.tables.items():
        np.testing.assert_array_equal(loaded.tables[name], table)
        assert loaded.tables[name].dtype == table.dtype
    assert loaded.history == whole.history[6:]


def test_predict_is_greedy_or_explores():
    env = Maze()
    one = agent(env, QLearning(epsilon=0.2))
    one.tables["q"][5] = [0.0, 1.0, 0.0, 0.0]
    actions, _ = one.predict(np.full(400, 5), deterministic=True)
    assert actions.dtype == np.int64
    assert actions.shape == (400,)
    assert (actions == 1).all()
    noisy, _ = one.predict(np.full(400, 5))
    assert 0.78 < (noisy == 1).mean() < 0.92  # 1 - epsilon + epsilon / 4 = 0.85
    assert one.predict(5, deterministic=True)[0].shape == ()


def test_stable_baselines3_evaluates_it():
    evaluate_policy = pytest.importorskip("stable_baselines3.common.evaluation").evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    env = gym.make("mbrl/DynaMaze-v0", max_episode_steps=1000)
    learned = agent(env, DynaQ(planning_steps=50)).learn(env, 20)
    assert evaluate_policy(learned, Monitor(env), n_eval_episodes=2)[0] == 1.0


def test_ties_are_drawn_from():
    g = rng()
    actions = [epsilon_greedy(np.array([1.0, 0.0, 1.0]), 0.0, g) for _ in range(200)]
    assert set(actions) == {0, 2}
    assert 70 < actions.count(0) < 130


class Told(gym.Env):
    """Three states, of which it goes to the one that it is told, with the reward that it is told."""

    observation_space, action_space = gym.spaces.Discrete(3), gym.spaces.Discrete(2)

    def __init__(self, state, reward=0.0):
        self.told = state, reward

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return *self.told, False, True, {}


@pytest.mark.parametrize("rule", [SarsaLambda, TDLambda])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of overflows, on the way
def test_tables_that_diverge_are_told(rule):
    """Accumulating traces with no decay, and steps as large as they can be."""
    env = gym.make("CliffWalking-v1", max_episode_steps=300)
    with pytest.raises(NonFiniteUpdate, match="the tables diverged: take a smaller alpha"):
        agent(env, rule(alpha=1.0, discount=1.0, lambda_=1.0, traces="accumulating")).learn(env, 300)


def test_numbered_states_of_another_type_are_the_same_states():
    env = Told(1)
    env.observation_space = gym.spaces.Discrete(3, dtype=np.int32)
    assert agent(Told(1), QLearning()).learn(env, 2).episodes == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QLearning(alpha=0.0), r"alpha: expected a number in \(0, 1\], got 0.0"),
        (lambda: SarsaLambda(lambda_=1.5), r"lambda_: expected a number in \[0, 1\], got 1.5"),
        (lambda: SarsaLambda(traces="dutch"), "traces: expected one of accumulating, replacing, got 'dutch'"),
        (lambda: TDLambda(traces="dutch", offline=True), "traces: expected one of accumulating, replacing"),
        (lambda: TDLambda(policy=((0.5, 0.4),)), "policy: expected probabilities"),
        (lambda: agent(Maze(), TDLambda(policy=((0.5, 0.5),))), r"policy: expected shape \[54, 4\], got \[1, 2\]"),
        (lambda: MonteCarloControl(epsilon=float("nan")), "epsilon: expected a number"),
        (lambda: DynaQ(planning_steps=-1), "planning_steps, kappa: expected numbers from 0"),
        (lambda: PrioritizedSweeping(threshold=0.0), "planning_steps, threshold: expected at least 1"),
        (lambda: agent(gym.make("CartPole-v1"), QLearning()), "observation_space: .* for vectors use DQN"),
        (lambda: agent(gym.make("Pendulum-v1"), QLearning()), "observation_space: .* or SAC"),
        (lambda: agent(Maze(), QLearning()).learn(RandomWalk(), 1), "env: expected spaces"),
        (lambda: agent(Maze(), QLearning()).learn(Maze(), 0), "episodes: expected a whole number from 1, got 0"),
        (lambda: agent(Maze(), QLearning()).learn(5, Maze()), "episodes: expected a whole number from 1, got <"),
        (lambda: agent(Told(-1), QLearning()).learn(Told(-1), 1), r"env: expected states of Discrete\(3\), got -1"),
        (lambda: agent(Told(3), QLearning()).learn(Told(3), 1), r"env: expected states of Discrete\(3\), got 3"),
        (
            lambda: agent(Told(0, np.nan), QLearning()).learn(Told(0, np.nan), 1),
            "env: expected finite rewards, got nan",
        ),
        (lambda: DynaQ(planning_steps=2.5), "planning_steps: expected a whole number, got 2.5"),
        (lambda: agent(Maze(), QLearning()).predict(54), "observation: expected states of"),
        (lambda: agent(Maze(), QLearning()).predict(np.zeros(3)), "observation: expected a state's number"),
    ],
)
def test_bad_input_says_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()
