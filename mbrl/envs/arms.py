"""Rewards and terminations of MuJoCo's arms (v5), as functions of observations and of physics.

Source: Gymnasium's own environments, https://gymnasium.farama.org/environments/mujoco/. Each builder takes the
environment's options that matter here, with Gymnasium's defaults.
"""

import torch
from torch import Tensor

from mbrl.envs.definition import Fields, Physics, Task, never

TIP, OBJECT, GOAL = 10, 11, 12
"""Bodies of the pusher's model."""


def reacher(reward_dist_weight: float = 1.0, reward_control_weight: float = 1.0, frame_skip: int = 2) -> Task:
    """Reacher-v5: minus the distance of fingertip and target, minus the squared action.

    The observation ends with that distance's x and y, which are one substep old, as the reward's are.
    """

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        distance = torch.linalg.vector_norm(next_obs[:, 8:], dim=1)
        return -reward_dist_weight * distance - reward_control_weight * action.square().sum(1)

    def gap(after: Fields) -> Tensor:
        return after["xpos"][:, 3] - after["xpos"][:, 4]  # bodies: world, body0, body1, fingertip, target

    def observe(after: Fields) -> Tensor:
        angle, velocity = after["qpos"][:, :2], after["qvel"][:, :2]
        return torch.cat([angle.cos(), angle.sin(), after["qpos"][:, 2:], velocity, gap(after)[:, :2]], 1)

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        distance = torch.linalg.vector_norm(gap(after), dim=1)
        cost = reward_control_weight * action.square().sum(1)
        return -reward_dist_weight * distance - cost, never(distance)

    def state_from_obs(obs: Tensor) -> tuple[Tensor, Tensor]:
        angle = torch.atan2(obs[:, 2:4], obs[:, :2])
        still = torch.zeros_like(obs[:, :2])  # the target does not move
        return torch.cat([angle, obs[:, 4:6]], 1), torch.cat([obs[:, 6:8], still], 1)

    options = {
        "reward_dist_weight": reward_dist_weight,
        "reward_control_weight": reward_control_weight,
        "frame_skip": frame_skip,
    }
    return Task("Reacher-v5", options, Physics(outcome, observe, state_from_obs, ("xpos",)), reward)


def pusher(
    frame_skip: int = 5,
    reward_near_weight: float = 0.5,
    reward_dist_weight: float = 1.0,
    reward_control_weight: float = 0.1,
) -> Task:
    """Pusher-v5: minus the distances of object and goal, and of object and fingertip, minus the squared action.

    The observation ends with the places of fingertip, object and goal, one substep old, as the reward's are.
    """

    def value(action: Tensor, tip: Tensor, thing: Tensor, goal: Tensor) -> Tensor:
        near = torch.linalg.vector_norm(thing - tip, dim=1)
        distance = torch.linalg.vector_norm(thing - goal, dim=1)
        control = action.square().sum(1)
        return -reward_dist_weight * distance - reward_control_weight * control - reward_near_weight * near

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return value(action, next_obs[:, 14:17], next_obs[:, 17:20], next_obs[:, 20:23])

    def places(after: Fields) -> tuple[Tensor, Tensor, Tensor]:
        x = after["xpos"]
        return x[:, TIP], x[:, OBJECT], x[:, GOAL]

    def observe(after: Fields) -> Tensor:
        return torch.cat([after["qpos"][:, :7], after["qvel"][:, :7], *places(after)], 1)

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        value_ = value(action, *places(after))
        return value_, never(value_)

    options = {
        "frame_skip": frame_skip,
        "reward_near_weight": reward_near_weight,
        "reward_dist_weight": reward_dist_weight,
        "reward_control_weight": reward_control_weight,
    }
    # The velocities of the object are not observed.
    return Task("Pusher-v5", options, Physics(outcome, observe, fields=("xpos",)), reward)
