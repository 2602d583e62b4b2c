"""Policies to collect data with."""

from typing import Any

import gymnasium as gym
import numpy as np

from mbrl.seeding import derive

_BLOCK = 64  # ticks whose actions are drawn at once: making a random stream costs more than drawing from it


class RandomPolicy:
    """Uniform actions, within the bounds or of a discrete set, with stable-baselines3's `predict`.

    The state that `predict` takes and returns is the number of calls so far, an int. Actions depend on the seed, that
    number and the number of rows alone, so a run continued from the number repeats the same actions.

    Args:
        action_space: of one environment: a flat Box with finite bounds, or a Discrete.
        seed: of the actions.

    Raises:
        ValueError: the space is neither a flat Box with finite bounds nor a Discrete.
    """

    def __init__(self, action_space: gym.Space[Any], seed: int = 0) -> None:
        discrete = isinstance(action_space, gym.spaces.Discrete)
        if not discrete and (not isinstance(action_space, gym.spaces.Box) or len(action_space.shape) != 1):
            raise ValueError(f"action_space: expected a flat Box or a Discrete, got {action_space}")
        if isinstance(action_space, gym.spaces.Box) and not action_space.is_bounded("both"):
            raise ValueError(
                f"action_space: expected finite bounds, got {action_space}; rescale the actions, for example with "
                "gymnasium.wrappers.RescaleAction"
            )
        self.action_space, self.seed = action_space, seed
        self._drawn: tuple[tuple[int, int], np.ndarray] | None = None

    def predict(
        self, obs: Any, state: int | None = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, int]:
        """Random actions.

        Args:
            obs: [rows, obs], or [obs] for one action without a leading axis; only its shape is read.
            state: what the last call returned; None at the start.
            episode_start: not used.
            deterministic: not used: the actions are random all the same.

        Returns:
            Actions [rows, act] or [act] in the space's type, where they are discrete [rows] or one, and the next state.
        """
        single = np.ndim(obs) == 1
        rows = 1 if single else len(obs)
        tick = 0 if state is None else int(state)
        block = (rows, tick // _BLOCK)
        if self._drawn is None or self._drawn[0] != block:
            self._drawn = (block, self._draw(*block))
        actions = self._drawn[1][tick % _BLOCK].copy()
        return (actions[0] if single else actions), tick + 1

    def _draw(self, rows: int, block: int) -> np.ndarray:
        stream = np.random.default_rng(derive(self.seed, "random policy", rows, block))
        space = self.action_space
        if isinstance(space, gym.spaces.Discrete):
            return space.start + stream.integers(space.n, size=(_BLOCK, rows))
        assert isinstance(space, gym.spaces.Box)
        low = space.low.astype(np.float64)
        unit = stream.random((_BLOCK, rows, len(low)))
        return (low + unit * (space.high.astype(np.float64) - low)).astype(space.dtype)
