"""Rewards and terminations of MuJoCo's runners and of the swimmer (v5), as functions of observations and of physics.

Source: Gymnasium's own environments, https://gymnasium.farama.org/environments/mujoco/. Each builder takes the
environment's options that matter here, with Gymnasium's defaults.
"""

import math

import torch
from torch import Tensor

from mbrl.envs.definition import Fields, Physics, Task, clipped_state, never, within
from mbrl.envs.terminal_values import half_cheetah_upright, hopper_stance

Range = tuple[float, float]


def half_cheetah(
    frame_skip: int = 5,
    forward_reward_weight: float = 1.0,
    ctrl_cost_weight: float = 0.1,
    exclude_current_positions_from_observation: bool = True,
) -> Task:
    """HalfCheetah-v5: velocity of x over the step, minus the squared action.

    The observation gives it only where it includes x. Far from the origin, float32 differences of x lose digits.
    """
    dt, hidden = 0.01 * frame_skip, exclude_current_positions_from_observation

    def forward(x: Tensor, action: Tensor, next_x: Tensor) -> Tensor:
        return forward_reward_weight * (next_x - x) / dt - ctrl_cost_weight * action.square().sum(1)

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return forward(obs[:, 0], action, next_obs[:, 0])

    def observe(after: Fields) -> Tensor:
        return torch.cat([after["qpos"][:, hidden:], after["qvel"]], 1)

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        value = forward(before["qpos"][:, 0], action, after["qpos"][:, 0])
        return value, never(value)

    options = {
        "frame_skip": frame_skip,
        "forward_reward_weight": forward_reward_weight,
        "ctrl_cost_weight": ctrl_cost_weight,
        "exclude_current_positions_from_observation": hidden,
    }
    physics = Physics(outcome, observe, None if hidden else lambda obs: (obs[:, :9], obs[:, 9:]))
    return Task(
        "HalfCheetah-v5",
        options,
        physics,
        None if hidden else reward,
        terminal_value=half_cheetah_upright(0 if hidden else 1),
        ignored_inputs=() if hidden else (0,),
        x_gain=forward_reward_weight / dt,
    )


def hopper(
    frame_skip: int = 4,
    forward_reward_weight: float = 1.0,
    ctrl_cost_weight: float = 1e-3,
    healthy_reward: float = 1.0,
    terminate_when_unhealthy: bool = True,
    healthy_state_range: Range = (-100.0, 100.0),
    healthy_z_range: Range = (0.7, math.inf),
    healthy_angle_range: Range = (-0.2, 0.2),
    exclude_current_positions_from_observation: bool = True,
) -> Task:
    """Hopper-v5: velocity of x over the step, a bonus while healthy, minus the squared action; unhealthy is the end.

    Observed velocities are clipped to +-10, those that decide about health are not: with the default
    `healthy_state_range` of +-100, an end for a velocity beyond 100 can't be seen in the observation (`hidden_end`).
    """
    dt, hidden = 0.002 * frame_skip, exclude_current_positions_from_observation
    first, limit = 1 - hidden, 10.0  # first: index of z in the observation

    def healthy(positions: Tensor, velocities: Tensor) -> Tensor:
        """Of (z, angle, three joints) and six velocities."""
        z, angle, rest = positions[:, 0], positions[:, 1], torch.cat([positions[:, 1:], velocities], 1)
        inside = within(rest, healthy_state_range).all(1)
        return inside & within(z, healthy_z_range) & within(angle, healthy_angle_range)

    def value(x: Tensor, action: Tensor, next_x: Tensor, is_healthy: Tensor) -> Tensor:
        forward = forward_reward_weight * (next_x - x) / dt
        return forward + healthy_reward * is_healthy - ctrl_cost_weight * action.square().sum(1)

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return value(obs[:, 0], action, next_obs[:, 0], healthy(next_obs[:, 1:6], next_obs[:, 6:]))

    def terminated(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return ~healthy(next_obs[:, first : first + 5], next_obs[:, first + 5 :])

    def hidden_end(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return (next_obs[:, first + 5 :].abs() >= limit).any(1)

    def observe(after: Fields) -> Tensor:
        return torch.cat([after["qpos"][:, hidden:], after["qvel"].clamp(-limit, limit)], 1)

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        well = healthy(after["qpos"][:, 1:], after["qvel"])
        return value(before["qpos"][:, 0], action, after["qpos"][:, 0], well), ~well & terminate_when_unhealthy

    def state_from_obs(obs: Tensor) -> tuple[Tensor, Tensor]:
        clipped_state("Hopper-v5", obs[:, 6:])
        return obs[:, :6], obs[:, 6:]

    options = {
        "frame_skip": frame_skip,
        "forward_reward_weight": forward_reward_weight,
        "ctrl_cost_weight": ctrl_cost_weight,
        "healthy_reward": healthy_reward,
        "terminate_when_unhealthy": terminate_when_unhealthy,
        "healthy_state_range": healthy_state_range,
        "healthy_z_range": healthy_z_range,
        "healthy_angle_range": healthy_angle_range,
        "exclude_current_positions_from_observation": hidden,
    }
    return Task(
        "Hopper-v5",
        options,
        Physics(outcome, observe, None if hidden else state_from_obs),
        None if hidden else reward,
        terminated if terminate_when_unhealthy else None,
        terminal_value=hopper_stance(first),
        ignored_inputs=() if hidden else (0,),
        hidden_end=hidden_end,
        x_gain=forward_reward_weight / dt,
    )


def walker2d(
    frame_skip: int = 4,
    forward_reward_weight: float = 1.0,
    ctrl_cost_weight: float = 1e-3,
    healthy_reward: float = 1.0,
    terminate_when_unhealthy: bool = True,
    healthy_z_range: Range = (0.8, 2.0),
    healthy_angle_range: Range = (-1.0, 1.0),
    exclude_current_positions_from_observation: bool = True,
) -> Task:
    """Walker2d-v5: velocity of x over the step, a bonus while healthy, minus the squared action; unhealthy is the end.

    Observed velocities are clipped to +-10.
    """
    dt, hidden = 0.002 * frame_skip, exclude_current_positions_from_observation
    first = 1 - hidden  # index of z in the observation

    def healthy(z: Tensor, angle: Tensor) -> Tensor:
        return within(z, healthy_z_range) & within(angle, healthy_angle_range)

    def value(x: Tensor, action: Tensor, next_x: Tensor, is_healthy: Tensor) -> Tensor:
        forward = forward_reward_weight * (next_x - x) / dt
        return forward + healthy_reward * is_healthy - ctrl_cost_weight * action.square().sum(1)

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return value(obs[:, 0], action, next_obs[:, 0], healthy(next_obs[:, 1], next_obs[:, 2]))

    def terminated(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return ~healthy(next_obs[:, first], next_obs[:, first + 1])

    def observe(after: Fields) -> Tensor:
        return torch.cat([after["qpos"][:, hidden:], after["qvel"].clamp(-10, 10)], 1)

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        well = healthy(after["qpos"][:, 1], after["qpos"][:, 2])
        return value(before["qpos"][:, 0], action, after["qpos"][:, 0], well), ~well & terminate_when_unhealthy

    def state_from_obs(obs: Tensor) -> tuple[Tensor, Tensor]:
        clipped_state("Walker2d-v5", obs[:, 9:])
        return obs[:, :9], obs[:, 9:]

    options = {
        "frame_skip": frame_skip,
        "forward_reward_weight": forward_reward_weight,
        "ctrl_cost_weight": ctrl_cost_weight,
        "healthy_reward": healthy_reward,
        "terminate_when_unhealthy": terminate_when_unhealthy,
        "healthy_z_range": healthy_z_range,
        "healthy_angle_range": healthy_angle_range,
        "exclude_current_positions_from_observation": hidden,
    }
    return Task(
        "Walker2d-v5",
        options,
        Physics(outcome, observe, None if hidden else state_from_obs),
        None if hidden else reward,
        terminated if terminate_when_unhealthy else None,
        ignored_inputs=() if hidden else (0,),
        x_gain=forward_reward_weight / dt,
    )


def swimmer(
    frame_skip: int = 4,
    forward_reward_weight: float = 1.0,
    ctrl_cost_weight: float = 1e-4,
    exclude_current_positions_from_observation: bool = True,
) -> Task:
    """Swimmer-v5: velocity of x over the step, minus the squared action."""
    dt, hidden = 0.01 * frame_skip, exclude_current_positions_from_observation

    def forward(x: Tensor, action: Tensor, next_x: Tensor) -> Tensor:
        return forward_reward_weight * (next_x - x) / dt - ctrl_cost_weight * action.square().sum(1)

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return forward(obs[:, 0], action, next_obs[:, 0])

    def observe(after: Fields) -> Tensor:
        return torch.cat([after["qpos"][:, 2 * hidden :], after["qvel"]], 1)

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        value = forward(before["qpos"][:, 0], action, after["qpos"][:, 0])
        return value, never(value)

    options = {
        "frame_skip": frame_skip,
        "forward_reward_weight": forward_reward_weight,
        "ctrl_cost_weight": ctrl_cost_weight,
        "exclude_current_positions_from_observation": hidden,
    }
    physics = Physics(outcome, observe, None if hidden else lambda obs: (obs[:, :5], obs[:, 5:]))
    return Task(
        "Swimmer-v5",
        options,
        physics,
        None if hidden else reward,
        ignored_inputs=() if hidden else (0, 1),
        x_gain=forward_reward_weight / dt,
    )
