"""Small worlds with numbered states, for tabular methods: the mazes of Dyna, and a random walk.

Source: Sutton and Barto, Reinforcement Learning, 2nd edition, examples 8.1 to 8.3 (mazes), 6.2 and 7.1 (random walk),
http://incompleteideas.net/book/the-book.html.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

Cell = tuple[int, int]
Tables = dict[int, dict[int, list[tuple[float, int, float, bool]]]]
"""`P[state][action] = [(probability, next state, reward, ends)]`, as Gymnasium's FrozenLake has them."""

_MOVES = ((-1, 0), (1, 0), (0, 1), (0, -1))  # up, down, right, left
_BARRIER = 3  # the row of the wall in the mazes that change
_DYNA_WALLS: tuple[Cell, ...] = ((1, 2), (2, 2), (3, 2), (0, 7), (1, 7), (2, 7), (4, 5))
_OPEN_RIGHT: tuple[Cell, ...] = tuple((_BARRIER, column) for column in range(8))
_OPEN_LEFT: tuple[Cell, ...] = tuple((_BARRIER, column) for column in range(1, 9))
_OPEN_BOTH: tuple[Cell, ...] = tuple((_BARRIER, column) for column in range(1, 8))


class Maze(gym.Env):
    """A grid with walls: 1 for reaching the goal, which ends the episode, 0 for every other step.

    State `row * columns + column`; row 0 is the top. Actions 0 up, 1 down, 2 right, 3 left; a move into a wall or off
    the grid stays. Registered are, all of 6 rows and 9 columns and without a time limit:

    - `mbrl/DynaMaze-v0`: 14 steps from the start (2, 0) to the goal (0, 8) (example 8.1).
    - `mbrl/BlockingMaze-v0`: after 1,000 steps the way around the right of the wall closes, and a longer one around the
      left opens (example 8.2).
    - `mbrl/ShortcutMaze-v0`: after 3,000 steps a shorter way opens on the right; the old one stays (example 8.3).

    Args:
        walls: cells that can't be entered.
        start: where episodes begin.
        goal: where they end.
        shape: rows and columns.
        later_walls: the walls from `change_after` steps on; None: they never change.
        change_after: steps in the life of the environment, resets or not.
        render_mode: None or "ansi".

    Raises:
        ValueError: start or goal are off the grid or in a wall.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 - a class attribute in Gymnasium

    def __init__(
        self,
        walls: tuple[Cell, ...] = _DYNA_WALLS,
        start: Cell = (2, 0),
        goal: Cell = (0, 8),
        shape: tuple[int, int] = (6, 9),
        later_walls: tuple[Cell, ...] | None = None,
        change_after: int = 0,
        render_mode: str | None = None,
    ) -> None:
        # As tuples, for JSON gives lists, and those are no cells.
        walls, (start, goal) = _cells(walls), _cells((start, goal))
        later_walls = None if later_walls is None else _cells(later_walls)
        for name, cell in (("start", start), ("goal", goal)):
            if not _inside(cell, shape) or cell in walls or cell in (later_walls or ()):
                raise ValueError(f"{name}: expected a free cell of a grid of shape {shape}, got {cell}")
        self.shape, self.start, self.goal = shape, start, goal
        self.change_after, self.render_mode = change_after, render_mode
        self._walls, self._later_walls = walls, later_walls
        self.P = _moves(walls, goal, shape)
        self.observation_space = gym.spaces.Discrete(shape[0] * shape[1])
        self.action_space = gym.spaces.Discrete(len(_MOVES))
        self.steps = 0
        """Taken so far, in all episodes."""
        self.s = self._number(start)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Back to the start: its state. Walls stay as they are."""
        super().reset(seed=seed)
        self.s = self._number(self.start)
        return self.s, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Move: state, reward, terminated, truncated (False), info (empty)."""
        if self._later_walls is not None and self.steps == self.change_after:
            self._walls, self._later_walls = self._later_walls, None
            self.P = _moves(self._walls, self.goal, self.shape)
        ((_, self.s, reward, terminated),) = self.P[self.s][int(action)]
        self.steps += 1
        return self.s, reward, terminated, False, {}

    def render(self) -> str | None:
        """The grid as text, where `render_mode` is "ansi": `#` walls, `S`, `G`, and `A` for where the agent is."""
        if self.render_mode != "ansi":
            return None
        rows, columns = self.shape
        grid = [["." for _ in range(columns)] for _ in range(rows)]
        marks = {"#": self._walls, "S": [self.start], "G": [self.goal], "A": [divmod(self.s, columns)]}
        for mark, cells in marks.items():
            for row, column in cells:
                grid[row][column] = mark
        return "\n".join("".join(row) for row in grid) + "\n"

    def _number(self, cell: Cell) -> int:
        return cell[0] * self.shape[1] + cell[1]


class RandomWalk(gym.Env):
    """States in a row, `mbrl/RandomWalk-v0`: from the middle, a step to the left (action 0) or to the right (1).

    Stepping off an end ends the episode. State 0 is off the left end, `states + 1` off the right one. With a policy
    that tosses a coin, rewards 0 and 1 and no discount, state i is worth i / (states + 1).

    Args:
        states: how many there are beside the two ends; odd, so that there is a middle.
        left: reward for stepping off the left end.
        right: reward for stepping off the right end.

    Raises:
        ValueError: `states` is not odd or not positive.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - a class attribute in Gymnasium

    def __init__(self, states: int = 5, left: float = 0.0, right: float = 1.0) -> None:
        if states < 1 or states % 2 == 0:
            raise ValueError(f"states: expected an odd positive number, got {states}")
        self.states, self.s = states, (states + 1) // 2
        self.observation_space = gym.spaces.Discrete(states + 2)
        self.action_space = gym.spaces.Discrete(2)
        ends = {0: left, states + 1: right}
        self.P: Tables = {s: {a: [(1.0, s, 0.0, True)] for a in range(2)} for s in ends}
        for s in range(1, states + 1):
            self.P[s] = {a: [(1.0, to, ends.get(to, 0.0), to in ends)] for a, to in enumerate((s - 1, s + 1))}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Back to the middle: its state."""
        super().reset(seed=seed)
        self.s = (self.states + 1) // 2
        return self.s, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Move: state, reward, terminated, truncated (False), info (empty)."""
        ((_, self.s, reward, terminated),) = self.P[self.s][int(action)]
        return self.s, reward, terminated, False, {}


def _cells(given: Iterable[Sequence[int]]) -> tuple[Cell, ...]:
    return tuple((int(row), int(column)) for row, column in given)


def _moves(walls: tuple[Cell, ...], goal: Cell, shape: tuple[int, int]) -> Tables:
    tables: Tables = {}
    for cell in np.ndindex(*shape):
        row, column = cell
        tables[row * shape[1] + column] = by_action = {}
        for action, (down, right) in enumerate(_MOVES):
            to = (row + down, column + right)
            if cell == goal or to in walls or not _inside(to, shape):
                to = (row, column)
            by_action[action] = [(1.0, to[0] * shape[1] + to[1], float(to == goal != cell), to == goal)]
    return tables


def _inside(cell: Cell, shape: tuple[int, int]) -> bool:
    return 0 <= cell[0] < shape[0] and 0 <= cell[1] < shape[1]


_CHANGING = {"start": (5, 3), "goal": (0, 8)}
_KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "mbrl/DynaMaze-v0": ("Maze", {}),
    "mbrl/BlockingMaze-v0": (
        "Maze",
        {**_CHANGING, "walls": _OPEN_RIGHT, "later_walls": _OPEN_LEFT, "change_after": 1000},
    ),
    "mbrl/ShortcutMaze-v0": (
        "Maze",
        {**_CHANGING, "walls": _OPEN_LEFT, "later_walls": _OPEN_BOTH, "change_after": 3000},
    ),
    "mbrl/RandomWalk-v0": ("RandomWalk", {}),
}
for _env_id, (_name, _kwargs) in _KNOWN.items():
    if _env_id not in gym.registry:
        gym.register(_env_id, entry_point=f"mbrl.envs.gridworlds:{_name}", kwargs=_kwargs)
