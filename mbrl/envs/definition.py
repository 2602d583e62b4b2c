"""What the library knows about a task: a record that planners, models and the simulator read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from planners.dynamics import Reward, Termination

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


@dataclass(frozen=True)
class Task:
    """A known environment, with the options it was made with.

    Functions take torch tensors of any floating-point type on any device, `(obs, action, next_obs)` with rows leading.
    """

    env_id: str
    env_kwargs: Mapping[str, Any]
    """Gymnasium options that these functions hold for."""
    physics: Physics
    reward: Reward | None
    """[rows]; None: the observation does not tell the reward, so learn it."""
    termination: Termination | None = None
    """Bool [rows]; None: episodes never terminate."""
    objective: Reward | None = None
    """A shaped reward that planners may use instead of `reward`. Never a score: scores are the environment's."""
    ignored_inputs: tuple[int, ...] = ()
    """Observation indices that change nothing about what follows (a position on an endless floor): a model that
    predicts differences of observations should not read them."""
    hidden_end: Termination | None = field(default=None, repr=False)
    """Bool [rows]: where the environment may have terminated for a reason that the observation hides."""
