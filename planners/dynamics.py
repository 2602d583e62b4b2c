"""What a planner needs of a model: `s', r, end = f(s, a)`, in batches of independent rows.

`Dynamics` is the protocol, `Smooth` what derivative-based planners need beyond it, and `FunctionDynamics` the adapter
that makes a `Dynamics` of plain functions.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from planners.derivatives import (
    Expansion,
    curvature,
    curvature_differences,
    expand_autodiff,
    expand_differences,
)

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

    Two things more a model may have, for speed. An attribute `endless = True` says that its episodes never terminate:
    planners then do not look at `terminated`. A method `unroll(state, actions, generator=)` takes actions
    [steps, rows, act] and returns what as many calls of `step` would: the last state, and a `Step` of tensors with
    steps in front.
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
        derivatives: where planners need them, "autodiff" by torch, or "differences" of the functions, for functions
            that torch can't differentiate.
        dtype: of the observations that `reset` is given, in which plans are made: torch.float32 for networks, where
            observations are float64 as MuJoCo's. None: as they come.
        device: where the functions live, likewise.

    The functions are called with all rows at once. What they return is checked at the first step: later steps trust it.

    Raises:
        ValueError: a function returned the wrong shape or type, wrote into what it was given, or can't be
            differentiated where that was asked; the message names it.
    """

    def __init__(
        self,
        transition: Transition,
        reward: Reward,
        termination: Termination | None = None,
        noise: Noise | None = None,
        *,
        derivatives: Literal["autodiff", "differences"] = "autodiff",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if derivatives not in ("autodiff", "differences"):
            raise ValueError(f'derivatives: expected "autodiff" or "differences", got {derivatives!r}')
        self.transition = transition
        self.reward = reward
        self.termination = termination
        self.noise = noise
        self.derivatives = derivatives
        self.dtype, self.device = dtype, device
        self._checked = False
        self._differentiable = False

    @property
    def endless(self) -> bool:
        """Whether no step ends an episode; a subclass with a `step` of its own has not said so."""
        return self.termination is None and type(self).step is FunctionDynamics.step

    def reset(self, obs: Float[Tensor, "rows obs"]) -> Tensor:
        if obs.dim() != 2:
            raise ValueError(f"obs: expected shape [rows, obs], got {list(obs.shape)}; a single one is obs[None]")
        return obs.to(device=self.device, dtype=self.dtype)

    def observe(self, state: Tensor) -> Tensor:
        return state

    def assign(self, state: Tensor, particles: int, *, generator: Generator) -> Tensor:
        return state

    def step(self, state: Tensor, action: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Step]:
        checked, rows = self._checked, state.shape[:1]
        given = () if checked else (state.clone(), action.clone())
        next_state = self.transition(state, action)
        if not checked:  # before the other functions read it, so that the message names the right one
            check_result("transition", next_state, state.shape, state.dtype)
            check_untouched("transition", given, (state, action))
        if self.noise is not None and generator is not None:
            noise = self.noise(state, action, generator)
            check_result("noise", noise, state.shape, state.dtype)
            next_state = next_state + noise
        reward = self.reward(state, action, next_state)
        ends = self.termination
        terminated = _no_ends(state) if ends is None else ends(state, action, next_state)
        if not checked:
            check_result("reward", reward, rows, state.dtype)
            check_result("termination", terminated, rows, torch.bool)
            check_untouched("reward, termination or noise", given, (state, action))
            self._checked = True
        return next_state, Step(next_state, reward, terminated)

    def unroll(self, state: Tensor, actions: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Step]:
        """Several steps: rewards and ends of all of them in one call of their functions."""
        if not self._checked:  # without moving the draws
            self.step(state, actions[0], generator=None if generator is None else generator.clone_state())
        path = [state]
        for action in actions.unbind(0):
            next_state = self.transition(path[-1], action)
            if self.noise is not None and generator is not None:
                noise = self.noise(path[-1], action, generator)
                check_result("noise", noise, state.shape, state.dtype)  # the first step may have had no generator
                next_state = next_state + noise
            path.append(next_state)
        states, shape = torch.stack(path), actions.shape[:2]
        before, after, flat = states[:-1].flatten(0, 1), states[1:].flatten(0, 1), actions.flatten(0, 1)
        reward, ends = self.reward(before, flat, after).view(shape), self.termination
        terminated = _no_ends(flat) if ends is None else ends(before, flat, after)
        return path[-1], Step(states[1:], reward, terminated.view(shape))

    def difference(self, state: Tensor, reference: Tensor) -> Tensor:
        return state - reference

    def retract(self, reference: Tensor, dx: Tensor) -> Tensor:
        return reference + dx

    def expand(self, state: Tensor, action: Tensor) -> Expansion:
        if self.derivatives == "differences":
            return expand_differences(self, state, action)
        self._check_differentiable(state, action)
        return expand_autodiff(self, state, action)

    def curvature(self, state: Tensor, action: Tensor) -> Float[Tensor, "rows dx z z"]:
        """Second derivatives of the transition, for differential dynamic programming."""
        if self.derivatives == "differences":
            return curvature_differences(self, state, action)
        self._check_differentiable(state, action)
        return curvature(self, state, action)

    def _check_differentiable(self, state: Tensor, action: Tensor) -> None:
        if not self._differentiable:
            next_state, _ = self.step(state, action)
            check_differentiable("transition", self.transition, state, action)
            check_differentiable("reward", self.reward, state, action, next_state, constant=True)
            self._differentiable = True


def check_untouched(name: str, before: Sequence[Tensor], now: Sequence[Tensor]) -> None:
    """A function that works in place would write into states that others still need."""
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, now, strict=True)):
        raise ValueError(f"{name}: expected a new tensor, got one that was written into the state or action given")


def _no_ends(rows: Tensor) -> Bool[Tensor, "rows"]:
    """False for each row: a tensor of its own for each step, for callers may write into what they were given."""
    return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)


def check_differentiable(name: str, function: Callable[..., Tensor], *inputs: Tensor, constant: bool = False) -> None:
    """Require that torch can differentiate `function` at the first row of `inputs`.

    Args:
        name: of the function, for the message.
        function: of `inputs`.
        constant: whether the function may be one that does not depend on its inputs nearby.

    Raises:
        ValueError: it fails on tensors that require gradients, or cuts their graph.
    """
    advice = (
        f"torch can't differentiate the {name} function; write it with torch operations alone, or pass "
        'derivatives="differences" to FunctionDynamics'
    )
    with torch.inference_mode(False), torch.enable_grad():
        tracked = [x[:1].detach().clone().requires_grad_() for x in inputs]
        try:
            result = function(*tracked)
        except Exception as error:  # it has worked without gradients, so gradients are why
            raise ValueError(f"derivatives: {advice}: {error}") from error
    if result.requires_grad:
        return
    # A constant is the same at two points nearby, on one side of a jump at least; a graph that was cut changes.
    one, two = ([function(*(x[:1] + sign * step for x in inputs)) for step in (1e-3, 2e-3)] for sign in (1, -1))
    if not constant or all(bool((near != far).any()) for near, far in (one, two)):
        raise ValueError(f"derivatives: {advice}: its result is cut off from its inputs (detach, numpy or no_grad)")


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
