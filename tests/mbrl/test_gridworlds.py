"""Mazes and the random walk: ways of known length, values of known size."""

from collections import deque

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl.envs.gridworlds import Maze, RandomWalk
from planners.finite import FiniteMDP, value_iteration


def shortest(env: Maze) -> int:
    """Steps from start to goal, by breadth-first search."""
    start = env.start[0] * env.shape[1] + env.start[1]
    length, queue = {start: 0}, deque([start])
    while queue:
        state = queue.popleft()
        for ((_, to, _, ends),) in env.P[state].values():
            if ends:
                return length[state] + 1
            if to not in length:
                length[to] = length[state] + 1
                queue.append(to)
    raise AssertionError("no way to the goal")


@pytest.mark.parametrize(
    ("env_id", "before", "change", "after"),
    [("DynaMaze", 14, 0, 14), ("BlockingMaze", 10, 1000, 16), ("ShortcutMaze", 16, 3000, 10)],
)
def test_mazes_have_the_books_shortest_ways(env_id, before, change, after):
    env = gym.make(f"mbrl/{env_id}-v0").unwrapped
    env.reset(seed=0)
    assert shortest(env) == before
    for _ in range(change):
        env.step(3)
    assert shortest(env) == before
    env.reset(seed=1)  # walls do not come back with a reset
    env.step(3)
    assert shortest(env) == after


def test_walls_may_be_lists_as_json_has_them():
    cells = ((2, 1), (1, 0))
    assert Maze(walls=[list(cell) for cell in cells], start=[2, 0]).P == Maze(walls=cells).P
    with pytest.raises(ValueError, match="start: expected a free cell"):
        Maze(walls=[[2, 0]])


def test_moves_walls_and_the_goal():
    env = Maze(render_mode="ansi")
    state, _ = env.reset(seed=0)
    assert state == 18
    for action, expected in [(3, 18), (2, 19), (2, 19), (0, 10), (1, 19), (1, 28)]:  # 19 is beside a wall
        state, reward, terminated, truncated, _ = env.step(action)
        assert (state, reward, terminated, truncated) == (expected, 0.0, False, False)
    assert env.render() == ".......#G\n..#....#.\nS.#....#.\n.A#......\n.....#...\n.........\n"
    env.s = 17
    assert env.step(0)[:4] == (8, 1.0, True, False)


def test_optimal_values_of_the_dyna_maze():
    mdp = FiniteMDP.from_env(Maze())
    assert value_iteration(mdp, 0.95)[18].item() == pytest.approx(0.95**13)


def test_the_random_walk_is_worth_its_place():
    env = RandomWalk(states=19, left=-1.0, right=1.0)
    mdp = FiniteMDP.from_env(env)
    values = torch.zeros(21, dtype=torch.float64)
    for _ in range(4000):
        ahead = torch.where(mdp.terminated, 0.0, values)
        values = (mdp.probability * (mdp.reward + ahead)).sum(2).mean(1)
    np.testing.assert_allclose(values[1:-1], np.arange(1, 20) / 10 - 1, atol=1e-6)
    assert env.reset(seed=0)[0] == 10
    assert RandomWalk(states=1).step(1)[:3] == (2, 1.0, True)


def test_bad_worlds_are_refused():
    with pytest.raises(ValueError, match=r"start: expected a free cell of a grid of shape \(6, 9\), got \(1, 2\)"):
        Maze(start=(1, 2))
    with pytest.raises(ValueError, match="goal: expected a free cell"):
        Maze(goal=(0, 9))
    with pytest.raises(ValueError, match="states: expected an odd positive number, got 4"):
        RandomWalk(states=4)
