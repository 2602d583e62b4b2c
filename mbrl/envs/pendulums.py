"""Rewards and terminations of MuJoCo's pendulums (v5) and of the swing-up, as functions of observations and of physics.

Source: Gymnasium's own environments, https://gymnasium.farama.org/environments/mujoco/. Each builder takes the
environment's options that matter here, with Gymnasium's defaults.
"""

import torch
from torch import Tensor

from mbrl.envs.definition import Fields, Physics, Task, balance, clipped_state, never


def swing_up() -> Task:
    """mbrl/CartPoleSwingUp-v0: (1 + cos) / 2 * exp(-x^2) of the state that is reached."""

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return (1 + next_obs[:, 2]) / 2 * torch.exp(-(next_obs[:, 0] ** 2))

    def observe(after: Fields) -> Tensor:
        x, angle = after["qpos"].unbind(1)
        return torch.cat([torch.stack([x, angle.sin(), angle.cos()], 1), after["qvel"]], 1)

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        obs = observe(after)
        return reward(obs, action, obs), never(obs)

    def state_from_obs(obs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.stack([obs[:, 0], torch.atan2(obs[:, 1], obs[:, 2])], 1), obs[:, 3:]

    return Task("mbrl/CartPoleSwingUp-v0", {}, Physics(outcome, observe, state_from_obs), reward)


def inverted_pendulum(frame_skip: int = 2) -> Task:
    """InvertedPendulum-v5: 1 while the pole is within 0.2 rad of upright, which ties all plans that keep it there.

    The objective is `balance` with the pole's centre of percussion 0.4 m above the hinge. A pull of x alone lets plans
    of 0.6 s swing the cart to the end of its rail: to go back to the centre it has to move away from it first.
    """

    def terminated(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return ~next_obs.isfinite().all(1) | (next_obs[:, 1].abs() > 0.2)

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return (~terminated(obs, action, next_obs)).to(next_obs.dtype)

    def objective(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        x, angle, velocity, turn = next_obs.unbind(1)
        return balance(x, angle, velocity, turn, lever=0.4)

    def observe(after: Fields) -> Tensor:
        return torch.cat([after["qpos"], after["qvel"]], 1)

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        obs = observe(after)
        return reward(obs, action, obs), terminated(obs, action, obs)

    physics = Physics(outcome, observe, lambda obs: (obs[:, :2], obs[:, 2:]))
    return Task("InvertedPendulum-v5", {"frame_skip": frame_skip}, physics, reward, terminated, objective)


def inverted_double_pendulum(frame_skip: int = 5, healthy_reward: float = 10.0) -> Task:
    """InvertedDoublePendulum-v5: a bonus while the tip is above 1 m, minus its distance from (0, 2), minus turning.

    The environment reads the tip one stage of the integrator before the state that it observes: a tip computed from
    the observation differs by 1e-4 m at most, and so does the reward. An end at 1 m is not told for certain within 1 mm
    (`hidden_end`). The reward is not told where velocities are clipped to +-10, nor where the cart hits the end of its
    rail, which is a force in the observation (`hidden_reward`).
    """
    link, limit, margin = 0.6, 10.0, 1e-3

    def tip(obs: Tensor) -> tuple[Tensor, Tensor]:
        """Where the second pole ends: to the right, and above the cart."""
        x, (sin1, sin2), (cos1, cos2) = obs[:, 0], obs[:, 1:3].unbind(1), obs[:, 3:5].unbind(1)
        return x + link * (sin1 + sin1 * cos2 + cos1 * sin2), link * (cos1 + cos1 * cos2 - sin1 * sin2)

    def value(x: Tensor, y: Tensor, turns: Tensor) -> Tensor:
        alive = healthy_reward * (y > 1)
        return alive - 0.01 * x**2 - (y - 2) ** 2 - 1e-3 * turns[:, 0] ** 2 - 5e-3 * turns[:, 1] ** 2

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return value(*tip(next_obs), next_obs[:, 6:8])

    def terminated(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return ~(tip(next_obs)[1] > 1)

    def hidden_end(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return (tip(next_obs)[1] - 1).abs() < margin

    def hidden_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return (next_obs[:, 6:8].abs() >= limit).any(1) | (next_obs[:, 8] != 0)

    def observe(after: Fields) -> Tensor:
        x, angles = after["qpos"][:, :1], after["qpos"][:, 1:]
        seen = torch.cat([after["qvel"], after["qfrc_constraint"][:, :1]], 1).clamp(-limit, limit)
        return torch.cat([x, angles.sin(), angles.cos(), seen], 1)

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        x, y = after["site_xpos"][:, 0, 0], after["site_xpos"][:, 0, 2]
        return value(x, y, after["qvel"][:, 1:]), y <= 1

    def state_from_obs(obs: Tensor) -> tuple[Tensor, Tensor]:
        clipped_state("InvertedDoublePendulum-v5", obs[:, 5:8])
        return torch.cat([obs[:, :1], torch.atan2(obs[:, 1:3], obs[:, 3:5])], 1), obs[:, 5:8]

    physics = Physics(outcome, observe, state_from_obs, ("site_xpos", "qfrc_constraint"))
    options = {"frame_skip": frame_skip, "healthy_reward": healthy_reward}
    return Task(
        "InvertedDoublePendulum-v5",
        options,
        physics,
        reward,
        terminated,
        hidden_end=hidden_end,
        hidden_reward=hidden_reward,
        reward_error=5e-4,
    )
