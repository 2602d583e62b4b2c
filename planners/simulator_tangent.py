"""MuJoCo's physics states as a smooth space, and derivatives of its steps there.

A tangent vector is (dq, dv, da): nv + nv + na numbers, since orientations have three coordinates and quaternions four.
`difference` is `mj_differentiatePos`, `move` is `mj_integratePos`, for all rows at once.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from planners.derivatives import Expansion, central_differences, expand_differences, gauss_newton, tracked

if TYPE_CHECKING:
    from planners.simulator import Fields, SimState, Simulator

EPS = 1e-6
"""Of differences, in units of MuJoCo's state and controls."""
_FULL = mujoco.mjtState.mjSTATE_INTEGRATION


class Tangent:
    """The tangent space of a model's states. Physics is mjSTATE_INTEGRATION: (time, qpos, qvel, act, ...)."""

    def __init__(self, model: Any) -> None:
        self.size = 2 * model.nv + model.na
        self._parts = (model.nv, model.nv, model.na)
        self._qpos = slice(1, 1 + model.nq)
        self._qvel_act = slice(1 + model.nq, 1 + model.nq + model.nv + model.na)
        plain: list[tuple[int, int]] = []  # (index in qpos, index in qvel)
        self._quaternions: list[tuple[int, int]] = []
        for kind, q, v in zip(model.jnt_type, model.jnt_qposadr, model.jnt_dofadr, strict=True):
            if kind == mujoco.mjtJoint.mjJNT_FREE:
                plain += [(q + i, v + i) for i in range(3)]
                self._quaternions.append((q + 3, v + 3))
            elif kind == mujoco.mjtJoint.mjJNT_BALL:
                self._quaternions.append((q, v))
            else:
                plain.append((q, v))
        self._plain = torch.tensor([q for q, _ in plain]), torch.tensor([v for _, v in plain])

    def difference(self, physics: Float[Tensor, "rows n"], reference: Float[Tensor, "rows n"]) -> Tensor:
        """The tangent vectors [rows, dx] that lead from `reference` to `physics`."""
        to, old = physics[:, self._qpos], reference[:, self._qpos]
        rest = physics[:, self._qvel_act] - reference[:, self._qvel_act]
        if not self._quaternions:
            return torch.cat([to - old, rest], 1)
        turned = physics.new_zeros(len(physics), self._parts[0])
        turned[:, self._plain[1]] = to[:, self._plain[0]] - old[:, self._plain[0]]
        for q, v in self._quaternions:
            turned[:, v : v + 3] = _log(_multiply(_conjugate(_unit(old[:, q : q + 4])), _unit(to[:, q : q + 4])))
        return torch.cat([turned, rest], 1)

    def move(self, physics: Float[Tensor, "rows n"], dx: Float[Tensor, "rows dx"]) -> Tensor:
        """The physics that tangent vectors lead to; time, warm start and what else there is stay as they are."""
        moved = physics.clone()
        moved[:, self._qvel_act] += dx[:, self._parts[0] :]
        qpos = moved[:, self._qpos]
        if not self._quaternions:
            qpos += dx[:, : self._parts[0]]
            return moved
        qpos[:, self._plain[0]] += dx[:, self._plain[1]]
        for q, v in self._quaternions:
            qpos[:, q : q + 4] = _multiply(_unit(qpos[:, q : q + 4]), _exp(dx[:, v : v + 3]))
        return moved


def expand_simulator(simulator: Simulator, state: SimState, action: Float[Tensor, "rows act"]) -> Expansion:
    """The expansion of `Simulator.step` in tangent space, by differences.

    The reward's Hessian is that of Gauss and Newton, J' H J, where H is that of the reward in the fields that it reads,
    by torch, and J are the differences of those fields. Rows that diverge, or whose neighbours do, get NaN. A control
    at a limit of its range is differentiated just inside: MuJoCo clamps it, so that a difference would see half of
    the slope.

    Raises:
        ValueError: torch can't differentiate the reward.
    """
    action = action.detach().to("cpu", torch.float64)
    inside = _inside(simulator.model, action)
    if simulator.reward is not None and simulator.fields:  # the observation is no function of the state fields
        return expand_differences(simulator, state, inside, eps=EPS, reward=simulator.reward)
    size = simulator.tangent.size
    reached, derived, ok = _advance(simulator, state, action)
    about: tuple[Any, ...] = (state, inside, reached)
    linear = None
    if simulator.derivatives == "transition_fd":
        linear = torch.from_numpy(_transition(simulator, state, inside))
        about = (*about, linear)
    change, inputs, slope = central_differences(
        lambda *parts: _near(simulator, *parts), about, size + action.shape[1], EPS
    )
    jacobian = change if linear is None else linear
    jacobian = torch.where(ok[:, None, None], jacobian, torch.nan)
    before, after = simulator._before(state), {**simulator._read(reached), **derived}
    gradient, hessian = _reward_derivatives(simulator, before, action, after, inputs, slope[:, 0])
    return Expansion(jacobian[..., :size], jacobian[..., size:], gradient, hessian)


def _near(
    simulator: Simulator, state: SimState, action: Tensor, reached: Tensor, *rest: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Change of the state after a step, what the reward reads, and the reward, at (state, action) moved by z.

    Args:
        reached: physics after the step that was not moved.
        rest: z, after the Jacobian of the step where that is known: then no step is taken.
    """
    tangent, z = simulator.tangent, rest[-1]
    physics = tangent.move(state.physics, z[:, : tangent.size])
    # What a step and its reward read of a state, unless derived fields are carried along: the observation is not.
    moved = simulator.retract(state, z[:, : tangent.size]) if simulator.carry else state._replace(physics=physics)
    action = action + z[:, tangent.size :]
    derived: dict[str, Tensor] = {}
    if len(rest) > 1:
        change = (rest[0] @ z[:, :, None])[:, :, 0]
        stepped = tangent.move(reached, change)
    else:
        stepped, derived, ok = _advance(simulator, moved, action)
        change = torch.where(ok[:, None], tangent.difference(stepped, reached), torch.nan)
    before, after = simulator._before(moved), {**simulator._read(stepped), **derived}
    reward = _reward(simulator, before, action, after)
    return change, _flat((*before.values(), action, *after.values())), reward[:, None]


def _advance(simulator: Simulator, state: SimState, action: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    physics, derived, ok = simulator._advance(state, action)
    return physics, derived, torch.ones(len(physics), dtype=torch.bool) if ok is None else ok


def _reward(simulator: Simulator, before: Fields, action: Tensor, after: Fields) -> Tensor:
    if simulator.reward is None:
        return simulator.outcome(before, action, after)[0]
    observe = simulator.observe_fields
    return simulator.reward(observe(before), action, observe(after))


def _reward_derivatives(
    simulator: Simulator, before: Fields, action: Tensor, after: Fields, jacobian: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian of the reward in z.

    Args:
        jacobian: differences of all that the reward reads, [rows, y, z].
        slope: differences of the reward itself, [rows, z].

    Raises:
        ValueError: they are not zero, but torch sees no way from the reward back to what it reads.
    """

    def value(*parts: Tensor) -> Tensor:
        count = len(before)
        first, last = parts[:count], parts[count + 1 :]
        names = dict(zip(before, first, strict=True)), dict(zip(after, last, strict=True))
        return _reward(simulator, names[0], parts[count], names[1])

    inputs = (*before.values(), action, *after.values())
    if tracked(lambda scale: value(*(scale * x for x in inputs)), torch.ones((), dtype=action.dtype)):
        return gauss_newton(value, inputs, jacobian)
    if bool((slope.abs() > 1e-8).any()):
        raise ValueError(
            "outcome: expected a reward that torch can differentiate, got one that is cut off from what it "
            "reads; write it with torch operations alone, or pass Simulator(..., reward=) for derivatives"
        )
    return torch.zeros_like(slope), slope.new_zeros(*slope.shape, slope.shape[1])  # constant nearby


def _transition(simulator: Simulator, state: SimState, action: Tensor) -> NDArray[np.float64]:
    """(A, B) of a control step by MuJoCo's `mjd_transitionFD`, chained over the substeps: [rows, dx, dx + act].

    It can't differentiate RK4: there, the substeps are those of the model, and each one's derivatives those of a copy
    with the implicitfast integrator.
    """
    size, act = simulator.tangent.size, action.shape[1]
    full = np.full((len(action), size, size + act), np.nan)
    A, B = np.zeros((size, size)), np.zeros((size, act))
    models = [_smooth(world) for world in simulator.models]
    physics, controls, worlds = state.physics.numpy(), action.numpy(), simulator._worlds(state.world)
    for row in np.flatnonzero(state.ok.numpy() & np.isfinite(physics).all(1) & np.isfinite(controls).all(1)):
        model, smooth, data = models[worlds[row]]
        mujoco.mj_setState(model, data, physics[row], int(_FULL))
        data.ctrl[:] = controls[row]
        total = np.eye(size, size + act)
        for _ in range(simulator.frame_skip):
            mujoco.mjd_transitionFD(smooth, data, EPS, True, A, B, None, None)
            total = A @ total
            total[:, size:] += B
            mujoco.mj_step(model, data)
        full[row] = total
    return full


def _smooth(model: Any) -> tuple[Any, Any, Any]:
    """The model, itself or a copy that `mjd_transitionFD` can differentiate, and scratch data."""
    smooth = model
    if model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4:
        smooth = copy.deepcopy(model)
        smooth.opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    return model, smooth, mujoco.MjData(model)


def _inside(model: Any, action: Tensor) -> Tensor:
    """Controls at a limit of their range, moved inside it by the length of a difference."""
    low, high = (torch.from_numpy(model.actuator_ctrlrange[:, i].copy()) for i in (0, 1))
    limited = torch.from_numpy(model.actuator_ctrllimited.astype(bool))
    within = limited & (action >= low) & (action <= high)
    return torch.where(within, torch.clamp(action, low + EPS, high - EPS), action)


def _flat(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([x.reshape(len(x), -1) for x in parts], 1)


def _unit(q: Tensor) -> Tensor:
    return q / torch.linalg.vector_norm(q, dim=1, keepdim=True)


def _conjugate(q: Tensor) -> Tensor:
    return torch.cat([q[:, :1], -q[:, 1:]], 1)


def _multiply(p: Tensor, q: Tensor) -> Tensor:
    """The product of quaternions (w, x, y, z)."""
    a, b = p[:, :1], q[:, :1]
    u, v = p[:, 1:], q[:, 1:]
    return torch.cat([a * b - (u * v).sum(1, keepdim=True), a * v + b * u + torch.linalg.cross(u, v)], 1)


def _exp(turn: Tensor) -> Tensor:
    """The quaternion of a rotation vector, in radians."""
    angle = torch.linalg.vector_norm(turn, dim=1, keepdim=True)
    return torch.cat([torch.cos(angle / 2), 0.5 * torch.sinc(angle / (2 * math.pi)) * turn], 1)


def _log(q: Tensor) -> Tensor:
    """The rotation vector of a quaternion, of at most half a turn."""
    q = torch.where(q[:, :1] < 0, -q, q)
    sine = torch.linalg.vector_norm(q[:, 1:], dim=1, keepdim=True)
    angle = 2 * torch.atan2(sine, q[:, :1])
    return torch.where(sine > 0, angle / sine.clamp(min=1e-300), 2.0) * q[:, 1:]
