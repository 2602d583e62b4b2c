"""What the library knows about a task: a record that planners, models and the simulator read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from planners.dynamics import Reward, Termination, Transition

Fields = Mapping[str, Tensor]


@dataclass(frozen=True)
class Physics:
    """A task's functions of physics, for `planners.simulator.Simulator`: the environment's own, exactly."""

    outcome: Callable[[Fields, Tensor, Fields], tuple[Tensor, Tensor]]
    """`outcome(before, action, after)` -> reward [rows], terminated [rows]."""
    observe: Callable[[Fields], Tensor]
    """`observe(after)` -> [rows, obs]."""
    state_from_obs: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    """Positions and velocities of observations; None: they do not tell them."""
    fields: tuple[str, ...] = ()
    """MuJoCo fields beyond the state that the functions read."""
    carry: tuple[str, ...] = ()
    """Those of them that `outcome` reads in `before` too."""


@dataclass(frozen=True)
class Task:
    """A known environment, with the options it was made with.

    Functions take torch tensors of any floating-point type on any device, `(obs, action, next_obs)` with rows leading.
    """

    env_id: str
    env_kwargs: Mapping[str, Any]
    """Gymnasium options that these functions hold for."""
    physics: Physics | None
    """For MuJoCo tasks."""
    reward: Reward | None
    """[rows]; None: the observation does not tell the reward, so learn it."""
    termination: Termination | None = None
    """Bool [rows]; None: episodes never terminate."""
    objective: Reward | None = None
    """A shaped reward that planners may use instead of `reward`. Never a score: scores are the environment's."""
    terminal_value: Callable[[Tensor], Tensor] | None = None
    """`terminal_value(obs)` -> [rows]: for planners, where short plans would walk into a fall. Never a score."""
    ignored_inputs: tuple[int, ...] = ()
    """Observation indices that change nothing about what follows (a position on an endless floor): a model that
    predicts differences of observations should not read them."""
    hidden_end: Termination | None = field(default=None, repr=False)
    """Bool [rows]: where the observation does not tell for certain whether the environment terminated."""
    hidden_reward: Termination | None = field(default=None, repr=False)
    """Bool [rows]: where the observation does not tell the reward, such as velocities that it clips."""
    reward_error: float = 0.0
    """How far the environment's reward may be from the one that the observation tells, beyond rounding."""
    x_gain: float = 0.0
    """How much the reward changes with the position obs[:, 0] that a step began or ended at, where it pays for the
    velocity between them: its weight over the duration of a step, 1/s; else 0."""
    transition: Transition | None = field(default=None, repr=False)
    """`transition(obs, action)` -> next_obs, exactly, where a formula gives it; actions are Long [rows] where they are
    discrete."""


def never(like: Tensor) -> Tensor:
    """No end, for as many rows as `like` has."""
    return torch.zeros(len(like), dtype=torch.bool, device=like.device)


def within(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Where x is strictly between the bounds."""
    return (x > bounds[0]) & (x < bounds[1])


def balance(x: Tensor, angle: Tensor, velocity: Tensor, turn: Tensor, *, lever: float) -> Tensor:
    """How well a pole on a cart is kept up and at the centre, from short plans: in (0, 1], so that staying alive pays.

    exp(-((10 e)^2 + p^2) / 2) with e = angle + 0.15 (p + 1.5 dp/dt). p = x + lever * angle is the pole's centre of
    percussion (`lever` metres above the hinge), whose velocity a push on the cart leaves alone. Held at e = 0 the pole
    leans back to the centre, and p follows p'' = -0.15 g (p + 1.5 p'), which is stable.
    """
    p = x + lever * angle
    e = angle + 0.15 * (p + 1.5 * (velocity + lever * turn))
    return torch.exp(-((10 * e) ** 2 + p**2) / 2)


def clipped_state(env_id: str, velocities: Tensor, limit: float = 10.0) -> None:
    """Refuse observations whose velocities stand at the limit at which the environment clips them.

    Raises:
        ValueError: a velocity is at the limit or beyond.
    """
    if bool((velocities.abs() >= limit).any()):
        raise ValueError(
            f"obs: expected velocities within +-{limit:g}, where {env_id} clips them: beyond, an observation does not "
            "determine the state; start from simulator.state_of(env)"
        )
