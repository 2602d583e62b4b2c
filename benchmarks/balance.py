"""Gymnasium's CartPole with a continuous force: the task of the row pets_solve.

Physics, limits, start and reward are those of Gymnasium's CartPole (Barto, Sutton and Anderson 1983); the force is the
action in [-1, 1] times 10 N, and an episode is cut after 200 steps. The peer ships the same task.
"""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

STEPS = 200
FORCE = 10.0  # N
GRAVITY = 9.8  # m/s^2
CART, POLE = 1.0, 0.1  # kg
HALF_LENGTH = 0.5  # m
INTERVAL = 0.02  # s
MAX_POSITION, MAX_ANGLE = 2.4, math.radians(12)


class ContinuousCartPole(gym.Env[np.ndarray, np.ndarray]):
    """Observation [x, x', angle, angle'] in m, rad and s; reward 1 a step, the last one too."""

    def __init__(self) -> None:
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.state = np.zeros(4)
        self.elapsed = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-0.05, 0.05, size=4)
        self.elapsed = 0
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        _, speed, angle, spin = self.state
        force = FORCE * float(np.clip(action[0], -1, 1))
        mass = CART + POLE
        push = (force + POLE * HALF_LENGTH * spin**2 * math.sin(angle)) / mass
        turn = (GRAVITY * math.sin(angle) - math.cos(angle) * push) / (
            HALF_LENGTH * (4 / 3 - POLE * math.cos(angle) ** 2 / mass)
        )
        pull = push - POLE * HALF_LENGTH * turn * math.cos(angle) / mass
        # Explicit Euler, as Gymnasium integrates.
        self.state = self.state + INTERVAL * np.array([speed, pull, spin, turn])
        self.elapsed += 1
        fell = abs(self.state[0]) > MAX_POSITION or abs(self.state[2]) > MAX_ANGLE
        return self.state.copy(), 1.0, fell, self.elapsed >= STEPS, {}


def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """1 a step: [rows]."""
    return torch.ones_like(obs[:, 0])


def termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The cart left the track or the pole fell: bool [rows]."""
    return (next_obs[:, 0].abs() > MAX_POSITION) | (next_obs[:, 2].abs() > MAX_ANGLE)


def check_physics(steps: int = 50) -> float:
    """Compare with Gymnasium's own CartPole under the two forces that it knows.

    Returns the largest difference of an observation.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    theirs, ours = gym.make("CartPole-v1").unwrapped, ContinuousCartPole()
    worst, pushes = 0.0, np.random.default_rng(0)
    for seed in range(5):
        theirs.reset(seed=seed)
        ours.reset()
        theirs.state = tuple(ours.state)  # type: ignore[attr-defined]
        for _ in range(steps):
            push = int(pushes.integers(2))
            expected, _, fell, _, _ = theirs.step(push)
            obs, _, ended, _, _ = ours.step(np.array([2.0 * push - 1.0]))
            worst = max(worst, float(np.abs(obs - expected).max()))
            if fell != ended or worst > 1e-5:
                raise RuntimeError(f"the task differs from Gymnasium's CartPole: {obs} instead of {expected}")
            if fell:
                break
    return worst
