"""Tabular Dyna: hand tables of model and planning, and the book's comparisons on the mazes."""

import gymnasium as gym
import numpy as np
import pytest

import mbrl.envs  # noqa: F401 - registers the mazes
from mbrl.learners.tabular import QLearning, Transition
from mbrl.learners.tabular_agent import Tabular
from mbrl.learners.tabular_dyna import DynaQ, PrioritizedSweeping, expected, model_tables, observe, sample


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def agent(env_id: str, rule, seed: int = 0) -> tuple[Tabular, gym.Env]:
    env = gym.make(f"mbrl/{env_id}-v0")
    return Tabular(env.observation_space, env.action_space, rule, seed=seed), env


def step(state: int, action: int, reward: float, to: int, terminated: bool = False) -> Transition:
    return Transition(state, action, reward, to, terminated, False)


def test_counts_are_the_model():
    tables = {"q": np.array([[0.0, 0.0], [2.0, 4.0], [10.0, 0.0]]), **model_tables(3, 2, stochastic=True)}
    seen = [step(0, 0, 1.0, 1), step(0, 0, 3.0, 1), step(0, 0, 0.0, 2), step(0, 0, 5.0, 2, True)]
    for t in seen:
        observe(tables, t)
    # half of the time to 1 (mean reward 2), a quarter to 2, and a quarter to an end there
    assert expected(tables, 0, 0, 0.5) == pytest.approx(0.5 * (2 + 0.5 * 4) + 0.25 * (0 + 0.5 * 10) + 0.25 * 5)
    drawn = [sample(tables, 0, 0, luck) for luck in (0.0, 0.49, 0.5, 0.74, 0.75, 0.99)]
    assert drawn == [(2.0, 1, False)] * 2 + [(0.0, 2, False)] * 2 + [(5.0, 2, True)] * 2


def test_the_deterministic_model_holds_the_last_outcome():
    tables = {"q": np.array([[0.0], [2.0], [7.0]]), **model_tables(3, 1, stochastic=False)}
    for t in (step(0, 0, 1.0, 1), step(0, 0, 3.0, 2, True)):
        observe(tables, t)
    assert sample(tables, 0, 0, 0.3) == (3.0, 2, True)
    assert expected(tables, 0, 0, 0.5) == 3.0


def test_planning_repeats_the_one_pair_that_was_tried():
    rule = DynaQ(alpha=0.5, planning_steps=3)
    tables = rule.tables(3, 2)
    rule.step(tables, None, step(0, 1, 1.0, 2, True), rng())
    assert tables["q"][0].tolist() == [0.0, 1 - 0.5**4]  # four updates towards 1
    assert not tables["q"][1:].any()
    assert tables["updates"] == 4


def test_without_planning_it_is_q_learning():
    tables = [rule.tables(3, 2) for rule in (QLearning(), DynaQ(planning_steps=0))]
    for t in (step(0, 1, 1.0, 1), step(1, 0, 2.0, 2, True), step(0, 1, 0.0, 1)):
        QLearning(discount=0.95).step(tables[0], None, t, rng())
        DynaQ(planning_steps=0).step(tables[1], None, t, rng())
    np.testing.assert_array_equal(tables[0]["q"], tables[1]["q"])


def test_the_bonus_is_that_of_the_book():
    rule = DynaQ(alpha=1.0, discount=0.5, planning_steps=400, kappa=0.1)
    tables = rule.tables(2, 2)
    tables["time"][0], tables["last"][0, 0] = 24, 0
    rule.step(tables, None, step(0, 1, 0.0, 1, True), rng())
    # At time 25: action 1 was tried now, so its bonus is 0. Action 0 never was: it is taken to lead back, for 0.1 * 5.
    assert tables["q"][0, 1] == 0.0
    assert tables["q"][0, 0] == pytest.approx(0.5 / (1 - 0.5))
    # Without a bonus it is not planned with.
    plain = DynaQ(alpha=1.0, discount=0.5, planning_steps=400)
    tables = plain.tables(2, 2)
    tables["q"][0] = [3.0, 0.0]
    plain.step(tables, None, step(0, 1, 0.0, 1, True), rng())
    assert tables["q"][0, 0] == 3.0


def test_planning_takes_states_seen_and_actions_tried_alike():
    # One state with one action tried, one with three: a state is as likely as the other, whatever its actions.
    rule = DynaQ(alpha=1e-6, planning_steps=6000)
    tables = rule.tables(3, 3)
    for t in (step(0, 1, 1.0, 2, True), *(step(1, a, 1.0, 2, True) for a in (0, 1))):
        observe(tables, t)
        tables["last"][t.state, t.action] = 1
    tables["seen"][:2], tables["seen_count"][0] = [0, 1], 2
    rule.step(tables, None, step(1, 2, 1.0, 2, True), rng())
    times = (tables["q"] / 1e-6).round()
    assert times.sum() == pytest.approx(6001, abs=40)  # values grow by nearly alpha each
    np.testing.assert_allclose(times[0], [0, 3000, 0], atol=150)
    np.testing.assert_allclose(times[1], [1000, 1000, 1000], atol=120)


def test_prioritised_sweeping_goes_backwards_from_where_a_value_changed():
    rule = PrioritizedSweeping(alpha=1.0, discount=0.5, planning_steps=10, threshold=1e-3)
    tables = rule.tables(5, 1)
    for s in range(3):
        rule.step(tables, None, step(s, 0, 0.0, s + 1), rng())
    assert tables["updates"] == 0  # nothing has a value yet
    rule.step(tables, None, step(3, 0, 1.0, 4, True), rng())
    assert tables["q"][:, 0].tolist() == [0.125, 0.25, 0.5, 1.0, 0.0]
    assert tables["updates"] == 4
    assert not tables["priority"].any()


def test_prioritised_sweeping_takes_the_largest_error_first_and_leaves_small_ones():
    rule = PrioritizedSweeping(alpha=1.0, discount=0.5, planning_steps=1, threshold=0.1)
    tables = rule.tables(4, 2)
    tables["priority"][2, 1] = 0.3  # in the queue from before
    observe(tables, step(2, 1, 0.3, 3, True))
    rule.step(tables, None, step(1, 0, 0.05, 3, True), rng())  # too small: the queue's is taken
    assert tables["q"].tolist() == [[0.0, 0.0], [0.0, 0.0], [0.0, 0.3], [0.0, 0.0]]
    assert tables["priority"][1, 0] == 0.0  # it did not even enter
    observe(tables, step(2, 1, 0.9, 3, True))
    tables["priority"][2, 1] = 0.6
    rule.step(tables, None, step(1, 0, 2.0, 3, True), rng())  # larger than the queue's, so it is first
    assert tables["q"][1, 0] == 2.0
    assert tables["q"][2, 1] == 0.3
    assert tables["priority"][2, 1] == 0.6
    tables["priority"][1, 0], tables["priority"][2, 1] = 5.0, 9.0
    rule.step(tables, None, step(1, 0, 3.0, 3, True), rng())  # an error of 1, but it stands higher already
    assert tables["priority"][1, 0] == 5.0


def episodes_to_a_good_way(rule, seed: int, limit: int = 60) -> tuple[int, Tabular]:
    """Episodes until the greedy policy goes from start to goal in 14 or 16 steps; it may stay with either."""
    one, env = agent("DynaMaze", rule, seed)
    for count in range(1, limit + 1):
        one.learn(env, 1)
        state, _ = env.reset()
        for length in range(1, 17):
            state, _, terminated, _, _ = env.step(int(one.predict(state, deterministic=True)[0]))
            if terminated:
                assert length in (14, 16)
                return count, one
    raise AssertionError(f"{rule} found no good way in {limit} episodes")


def test_planning_saves_episodes_and_sweeping_by_priority_saves_updates():
    ours = [episodes_to_a_good_way(DynaQ(planning_steps=5), seed) for seed in range(3)]
    plain = [episodes_to_a_good_way(QLearning(alpha=0.1, discount=0.95), seed) for seed in range(3)]
    assert sum(count for count, _ in ours) * 3 <= sum(count for count, _ in plain)
    swept = [episodes_to_a_good_way(PrioritizedSweeping(alpha=0.5, planning_steps=5), s)[1] for s in range(3)]
    dyna = [episodes_to_a_good_way(DynaQ(alpha=0.5, planning_steps=5), s)[1] for s in range(3)]
    updates = [sum(int(one.tables["updates"][0]) for one in agents) for agents in (swept, dyna)]
    assert updates[0] < 0.7 * updates[1]


def test_dyna_q_plus_finds_the_shortcut():
    usual = {}
    for kappa in (0.0, 1e-3):
        usual[kappa] = []
        for seed in range(2):
            env = gym.make("mbrl/ShortcutMaze-v0", change_after=2000)
            rule = DynaQ(alpha=1.0, planning_steps=5, kappa=kappa)
            one = Tabular(env.observation_space, env.action_space, rule, seed=seed)
            while env.unwrapped.steps < 4500:
                one.learn(env, 1)
            usual[kappa].append(np.median([p.length for p in one.history[-20:]]))
    assert min(usual[0.0]) >= 16  # the old way
    assert max(usual[1e-3]) < 16
