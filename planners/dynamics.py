"""What a planner needs of a model: `s', r, end = f(s, a)`, in batches of independent rows.

`Dynamics` is the protocol, `Smooth` what derivative-based planners need beyond it, and `FunctionDynamics` the adapter
that makes a `Dynamics` of plain functions.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

State = TypeVar("State")


class Step(NamedTuple):
    """What one step of a model returns beside the next state."""

    obs: Float[Tensor, "rows obs"]
    """What reward, value and policy functions read of the next state."""
    reward: Float[Tensor, "rows"]
    """Reward of the step. Not finite: the step failed, and the row is invalid."""
    terminated: Bool[Tensor, "rows"]
    """The Markov decision process ended; never a time limit."""


class Dynamics(Protocol[State]):
    """A model of an environment. `State` is a tensor or a NamedTuple of tensors with rows leading.

    Rows are independent: a row's result never depends on the contents of other rows, and the number of random draws
    depends on the number of rows alone.
    """

    def reset(self, obs: Float[Tensor, "rows obs"]) -> State:
        """The state that an observation determines.

        Raises:
            ValueError: an observation does not determine the state of this model, or has the wrong shape.
        """

    def observe(self, state: State) -> Float[Tensor, "rows obs"]:
        """The observation of a state: equals `Step.obs` of the step that made it."""

    def assign(self, state: State, particles: int, *, generator: Generator) -> State:
        """Make row i the particle `i % particles`: give it its ensemble member or its randomised world."""

    def step(
        self, state: State, action: Float[Tensor, "rows act"], *, generator: Generator | None = None
    ) -> tuple[State, Step]:
        """Advance every row by one step. Without a generator: the mean transition.

        Raises:
            ValueError: no generator was given and the model has no mean transition.
        """


class Expansion(NamedTuple):
    """Linear dynamics and quadratic reward in the tangent coordinates z = (dx, u)."""

    state_jacobian: Float[Tensor, "rows dx dx"]
    action_jacobian: Float[Tensor, "rows dx act"]
    reward_gradient: Float[Tensor, "rows z"]
    reward_hessian: Float[Tensor, "rows z z"]


class Smooth(Dynamics[State], Protocol):
    """Dynamics with a tangent space of dimension dx at every state, as derivative-based planners need it."""

    def difference(self, state: State, reference: State) -> Float[Tensor, "rows dx"]:
        """The tangent vector that leads from `reference` to `state`."""

    def retract(self, reference: State, dx: Float[Tensor, "rows dx"]) -> State:
        """The state that the tangent vector `dx` leads to: the inverse of `difference`."""

    def expand(self, state: State, action: Float[Tensor, "rows act"]) -> Expansion:
        """Derivatives of the mean transition and of the reward at (state, action)."""


Transition = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[Tensor, Tensor, Generator], Tensor]
Reward = Callable[[Tensor, Tensor, Tensor], Tensor]
Termination = Callable[[Tensor, Tensor, Tensor], Tensor]


class FunctionDynamics:
    """Plain functions of tensors as `Dynamics` (and `Smooth`): the state is the observation.

    Args:
        transition: `next_obs = transition(obs, action)`, [rows, obs], [rows, act] -> [rows, obs].
        reward: `reward(obs, action, next_obs)` -> [rows].
        termination: `termination(obs, action, next_obs)` -> bool [rows]; None: episodes never terminate.
        noise: `next_obs = mean + noise(obs, action, generator)` -> [rows, obs]; None: the transition is deterministic.

    The functions are called with all rows at once. What they return is checked at the first step: later steps trust it.

    Raises:
        ValueError: a function returned the wrong shape or type; the message names it.
    """

    def __init__(
        self,
        transition: Transition,
        reward: Reward,
        termination: Termination | None = None,
        noise: Noise | None = None,
    ) -> None:
        self.transition = transition
        self.reward = reward
        self.termination = termination
        self.noise = noise
        self._checked = False

    def reset(self, obs: Float[Tensor, "rows obs"]) -> Tensor:
        if obs.dim() != 2:
            raise ValueError(f"obs: expected shape [rows, obs], got {list(obs.shape)}; a single one is obs[None]")
        return obs

    def observe(self, state: Tensor) -> Tensor:
        return state

    def assign(self, state: Tensor, particles: int, *, generator: Generator) -> Tensor:
        return state

    def step(self, state: Tensor, action: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Step]:
        checked, rows = self._checked, state.shape[:1]
        next_state = self.transition(state, action)
        if not checked:  # before the other functions read it, so that the message names the right one
            check_result("transition", next_state, state.shape, state.dtype)
        if self.noise is not None and generator is not None:
            noise = self.noise(state, action, generator)
            check_result("noise", noise, state.shape, state.dtype)
            next_state = next_state + noise
        reward = self.reward(state, action, next_state)
        if self.termination is None:
            terminated = torch.zeros(rows, dtype=torch.bool, device=state.device)
        else:
            terminated = self.termination(state, action, next_state)
        if not checked:
            check_result("reward", reward, rows, state.dtype)
            check_result("termination", terminated, rows, torch.bool)
            self._checked = True
        return next_state, Step(next_state, reward, terminated)

    def difference(self, state: Tensor, reference: Tensor) -> Tensor:
        return state - reference

    def retract(self, reference: Tensor, dx: Tensor) -> Tensor:
        return reference + dx

    def expand(self, state: Tensor, action: Tensor) -> Expansion:
        return expand_autodiff(self, state, action)


def expand_autodiff(dynamics: Smooth[State], state: State, action: Tensor) -> Expansion:
    """The expansion of the mean transition, by automatic differentiation through `retract`, `step` and `difference`.

    Costs one forward-over-reverse pass over all rows per coordinate of z = (dx, u).

    Raises:
        RuntimeError: the dynamics are not differentiable by torch.
    """
    zero = dynamics.difference(state, state)
    size, act = zero.shape[1], action.shape[1]
    reached, _ = dynamics.step(state, action)
    z = torch.zeros(len(action), size + act, dtype=zero.dtype, device=zero.device)

    def both(z: Tensor) -> tuple[Tensor, Tensor]:
        next_state, step = dynamics.step(dynamics.retract(state, z[:, :size]), action + z[:, size:])
        return dynamics.difference(next_state, reached), step.reward

    # Rows are independent, so the Jacobian of a sum over rows holds every row's own derivative.
    def gradient(z: Tensor) -> Tensor:
        return torch.func.grad(lambda y: both(y)[1].sum())(z)

    basis = torch.eye(size + act, dtype=z.dtype, device=z.device).unsqueeze(1).expand(-1, len(z), -1)
    jacobian = torch.stack([torch.func.jvp(lambda y: both(y)[0], (z,), (b,))[1] for b in basis], dim=-1)
    hessian = torch.stack([torch.func.jvp(gradient, (z,), (b,))[1] for b in basis], dim=-1)
    return Expansion(jacobian[..., :size], jacobian[..., size:], gradient(z), hessian)


def check_result(name: str, value: object, shape: torch.Size, dtype: torch.dtype) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a tensor of shape {list(shape)}, got {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(
            f"{name}: expected shape {list(shape)}, got {list(value.shape)}; "
            "the function gets all rows at once and must keep the leading axis"
        )
    if value.dtype != dtype:
        raise ValueError(f"{name}: expected dtype {dtype}, got {value.dtype}; convert it in the function")
