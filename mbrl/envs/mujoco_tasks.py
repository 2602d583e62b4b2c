"""Rewards and terminations of Gymnasium's MuJoCo tasks (v5) and of the swing-up, as functions of observations and of
physics. Source: Gymnasium's own environments, https://gymnasium.farama.org/environments/mujoco/.

Each builder takes the environment's options that matter here, with Gymnasium's defaults.
"""

import math

import torch
from torch import Tensor

from mbrl.envs.definition import Fields, Physics, Task

Range = tuple[float, float]


def swing_up() -> Task:
    """mbrl/CartPoleSwingUp-v0: (1 + cos) / 2 * exp(-x^2) of the state that is reached."""

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return (1 + next_obs[:, 2]) / 2 * torch.exp(-(next_obs[:, 0] ** 2))

    def observe(after: Fields) -> Tensor:
        x, angle = after["qpos"].unbind(1)
        return torch.cat([torch.stack([x, angle.sin(), angle.cos()], 1), after["qvel"]], 1)

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        obs = observe(after)
        return reward(obs, action, obs), _never(obs)

    def state_from_obs(obs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.stack([obs[:, 0], torch.atan2(obs[:, 1], obs[:, 2])], 1), obs[:, 3:]

    return Task("mbrl/CartPoleSwingUp-v0", {}, Physics(outcome, observe, state_from_obs), reward)


def inverted_pendulum(frame_skip: int = 2) -> Task:
    """InvertedPendulum-v5: 1 while the pole is within 0.2 rad of upright, which ties all plans that keep it there.

    The objective is exp(-((10 e)^2 + p^2) / 2) with e = angle + 0.15 (p + 1.5 dp/dt): smooth, positive, so that staying
    alive always pays. p = x + 0.4 angle is the pole's centre of percussion (0.4 m above the hinge), whose velocity a
    push on the cart leaves alone; held at e = 0 the pole leans back to the centre and p follows
    p'' = -0.15 g (p + 1.5 p'), which is stable. A pull of x alone lets plans of 0.6 s swing the cart to the end of its
    rail: to go back to the centre it has to move away from it first.
    """

    def terminated(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return ~next_obs.isfinite().all(1) | (next_obs[:, 1].abs() > 0.2)

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return (~terminated(obs, action, next_obs)).to(next_obs.dtype)

    def objective(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        x, angle, velocity, turn = next_obs.unbind(1)
        p = x + 0.4 * angle
        e = angle + 0.15 * (p + 1.5 * (velocity + 0.4 * turn))
        return torch.exp(-((10 * e) ** 2 + p**2) / 2)

    def observe(after: Fields) -> Tensor:
        return torch.cat([after["qpos"], after["qvel"]], 1)

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        obs = observe(after)
        return reward(obs, action, obs), terminated(obs, action, obs)

    physics = Physics(outcome, observe, lambda obs: (obs[:, :2], obs[:, 2:]))
    return Task("InvertedPendulum-v5", {"frame_skip": frame_skip}, physics, reward, terminated, objective)


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
        return -reward_dist_weight * distance - cost, _never(distance)

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
        return value, _never(value)

    options = {
        "frame_skip": frame_skip,
        "forward_reward_weight": forward_reward_weight,
        "ctrl_cost_weight": ctrl_cost_weight,
        "exclude_current_positions_from_observation": hidden,
    }
    physics = Physics(outcome, observe, None if hidden else lambda obs: (obs[:, :9], obs[:, 9:]))
    return Task("HalfCheetah-v5", options, physics, None if hidden else reward, ignored_inputs=() if hidden else (0,))


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
        inside = _within(rest, healthy_state_range).all(1)
        return inside & _within(z, healthy_z_range) & _within(angle, healthy_angle_range)

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
        if bool((obs[:, 6:].abs() >= limit).any()):
            raise ValueError(
                "obs: expected velocities within +-10, where Hopper-v5 clips them: beyond, an observation does not "
                "determine the state; start from simulator.state_of(env)"
            )
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
        ignored_inputs=() if hidden else (0,),
        hidden_end=hidden_end,
    )


def _never(like: Tensor) -> Tensor:
    return torch.zeros(len(like), dtype=torch.bool, device=like.device)


def _within(x: Tensor, bounds: Range) -> Tensor:
    return (x > bounds[0]) & (x < bounds[1])
