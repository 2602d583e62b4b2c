"""Rewards and terminations of MuJoCo's ant and humanoids (v5), as functions of observations and of physics.

Source: Gymnasium's own environments, https://gymnasium.farama.org/environments/mujoco/. Each builder takes the
environment's options that matter here, with Gymnasium's defaults.

Forward velocities are those of fields one substep behind the state (`xpos`, the centre of mass), which observations do
not hold: the ant's and the humanoid's rewards are known to the simulator and not to a learned model. Contact forces
(`cfrc_ext`) are observed, and cost.
"""

import math

import torch
from torch import Tensor

from mbrl.envs.definition import Fields, Physics, Task, never, within

Range = tuple[float, float]


def ant(
    frame_skip: int = 5,
    forward_reward_weight: float = 1.0,
    ctrl_cost_weight: float = 0.5,
    contact_cost_weight: float = 5e-4,
    healthy_reward: float = 1.0,
    terminate_when_unhealthy: bool = True,
    healthy_z_range: Range = (0.2, 1.0),
    contact_force_range: Range = (-1.0, 1.0),
    exclude_current_positions_from_observation: bool = True,
    include_cfrc_ext_in_observation: bool = True,
) -> Task:
    """Ant-v5: velocity of the torso, a bonus while healthy, minus squared action and clipped contact forces."""
    dt, hidden = 0.01 * frame_skip, exclude_current_positions_from_observation

    def healthy(z: Tensor) -> Tensor:
        return (z >= healthy_z_range[0]) & (z <= healthy_z_range[1])

    def terminated(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        seen = 27 + 2 * (not hidden)  # positions and velocities
        return ~(healthy(next_obs[:, 2 * (not hidden)]) & next_obs[:, :seen].isfinite().all(1))

    def contact(after: Fields) -> Tensor:
        return after["cfrc_ext"].clamp(*contact_force_range)

    def observe(after: Fields) -> Tensor:
        seen = [after["qpos"][:, 2 * hidden :], after["qvel"]]
        return torch.cat([*seen, contact(after)[:, 1:].flatten(1)] if include_cfrc_ext_in_observation else seen, 1)

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        forward = forward_reward_weight * (after["xpos"][:, 1, 0] - before["xpos"][:, 1, 0]) / dt
        well = healthy(after["qpos"][:, 2])
        cost = ctrl_cost_weight * action.square().sum(1)
        cost = cost + contact_cost_weight * contact(after).square().sum((1, 2))
        return forward + healthy_reward * well - cost, ~well & terminate_when_unhealthy

    options = {
        "frame_skip": frame_skip,
        "forward_reward_weight": forward_reward_weight,
        "ctrl_cost_weight": ctrl_cost_weight,
        "contact_cost_weight": contact_cost_weight,
        "healthy_reward": healthy_reward,
        "terminate_when_unhealthy": terminate_when_unhealthy,
        "healthy_z_range": healthy_z_range,
        "contact_force_range": contact_force_range,
        "exclude_current_positions_from_observation": hidden,
        "include_cfrc_ext_in_observation": include_cfrc_ext_in_observation,
    }
    physics = Physics(outcome, observe, fields=("xpos", "cfrc_ext"), carry=("xpos",))
    return Task("Ant-v5", options, physics, None, terminated if terminate_when_unhealthy else None)


def humanoid(
    frame_skip: int = 5,
    forward_reward_weight: float = 1.25,
    ctrl_cost_weight: float = 0.1,
    contact_cost_weight: float = 5e-7,
    contact_cost_range: Range = (-math.inf, 10.0),
    healthy_reward: float = 5.0,
    terminate_when_unhealthy: bool = True,
    healthy_z_range: Range = (1.0, 2.0),
    exclude_current_positions_from_observation: bool = True,
    include_cinert_in_observation: bool = True,
    include_cvel_in_observation: bool = True,
    include_qfrc_actuator_in_observation: bool = True,
    include_cfrc_ext_in_observation: bool = True,
) -> Task:
    """Humanoid-v5: velocity of the centre of mass, a bonus while healthy, minus squared action and contact forces."""
    dt, hidden = 0.003 * frame_skip, exclude_current_positions_from_observation
    included = {
        "include_cinert_in_observation": include_cinert_in_observation,
        "include_cvel_in_observation": include_cvel_in_observation,
        "include_qfrc_actuator_in_observation": include_qfrc_actuator_in_observation,
        "include_cfrc_ext_in_observation": include_cfrc_ext_in_observation,
    }
    seen = _Humanoid(hidden, **included)

    def healthy(z: Tensor) -> Tensor:
        return within(z, healthy_z_range)

    def terminated(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return ~healthy(next_obs[:, 2 * (not hidden)])

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        moved = after["subtree_com"][:, 0, 0] - before["subtree_com"][:, 0, 0]  # of the world: everything
        well = healthy(after["qpos"][:, 2])
        contact = contact_cost_weight * after["cfrc_ext"].square().sum((1, 2))
        cost = ctrl_cost_weight * action.square().sum(1) + contact.clamp(*contact_cost_range)
        return forward_reward_weight * moved / dt + healthy_reward * well - cost, ~well & terminate_when_unhealthy

    options = {
        "frame_skip": frame_skip,
        "forward_reward_weight": forward_reward_weight,
        "ctrl_cost_weight": ctrl_cost_weight,
        "contact_cost_weight": contact_cost_weight,
        "contact_cost_range": contact_cost_range,
        "healthy_reward": healthy_reward,
        "terminate_when_unhealthy": terminate_when_unhealthy,
        "healthy_z_range": healthy_z_range,
        "exclude_current_positions_from_observation": hidden,
        **included,
    }
    physics = Physics(outcome, seen.observe, fields=(*seen.fields, "subtree_com"), carry=("subtree_com",))
    return Task("Humanoid-v5", options, physics, None, terminated if terminate_when_unhealthy else None)


def humanoid_standup(
    frame_skip: int = 5,
    uph_cost_weight: float = 1.0,
    ctrl_cost_weight: float = 0.1,
    impact_cost_weight: float = 0.5e-6,
    impact_cost_range: Range = (-math.inf, 10.0),
    exclude_current_positions_from_observation: bool = True,
    include_cinert_in_observation: bool = True,
    include_cvel_in_observation: bool = True,
    include_qfrc_actuator_in_observation: bool = True,
    include_cfrc_ext_in_observation: bool = True,
) -> Task:
    """HumanoidStandup-v5: height over the time of a substep, minus squared action and contact forces, plus 1.

    The environment takes `uph_cost_weight` and does not use it.
    """
    substep, hidden = 0.003, exclude_current_positions_from_observation
    included = {
        "include_cinert_in_observation": include_cinert_in_observation,
        "include_cvel_in_observation": include_cvel_in_observation,
        "include_qfrc_actuator_in_observation": include_qfrc_actuator_in_observation,
        "include_cfrc_ext_in_observation": include_cfrc_ext_in_observation,
    }
    seen = _Humanoid(hidden, **included)

    def value(z: Tensor, action: Tensor, forces: Tensor) -> Tensor:
        impact = (impact_cost_weight * forces.square().sum(1)).clamp(*impact_cost_range)
        return z / substep - ctrl_cost_weight * action.square().sum(1) - impact + 1

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return value(next_obs[:, 2 * (not hidden)], action, next_obs[:, -78:])  # the ground feels no force

    def outcome(before: Fields, action: Tensor, after: Fields) -> tuple[Tensor, Tensor]:
        result = value(after["qpos"][:, 2], action, after["cfrc_ext"].flatten(1))
        return result, never(result)

    options = {
        "frame_skip": frame_skip,
        "uph_cost_weight": uph_cost_weight,
        "ctrl_cost_weight": ctrl_cost_weight,
        "impact_cost_weight": impact_cost_weight,
        "impact_cost_range": impact_cost_range,
        "exclude_current_positions_from_observation": hidden,
        **included,
    }
    physics = Physics(outcome, seen.observe, fields=seen.fields)
    return Task("HumanoidStandup-v5", options, physics, reward if seen.cfrc_ext else None)


class _Humanoid:
    """What both humanoids observe: positions, velocities, and what the options include of derived fields."""

    def __init__(
        self,
        hidden: bool,
        include_cinert_in_observation: bool,
        include_cvel_in_observation: bool,
        include_qfrc_actuator_in_observation: bool,
        include_cfrc_ext_in_observation: bool,
    ) -> None:
        self.cfrc_ext = include_cfrc_ext_in_observation
        included = {
            "cinert": (include_cinert_in_observation, 1),  # all bodies but the world
            "cvel": (include_cvel_in_observation, 1),
            "qfrc_actuator": (include_qfrc_actuator_in_observation, 6),  # all joints but the free one of the root
            "cfrc_ext": (include_cfrc_ext_in_observation, 1),
        }
        self._hidden = 2 * hidden
        self._derived = [(name, first) for name, (is_in, first) in included.items() if is_in]
        self.fields = tuple(dict.fromkeys([*(name for name, _ in self._derived), "cfrc_ext"]))  # which always costs

    def observe(self, after: Fields) -> Tensor:
        derived = [after[name][:, first:].flatten(1) for name, first in self._derived]
        return torch.cat([after["qpos"][:, self._hidden :], after["qvel"], *derived], 1)
