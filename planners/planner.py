"""What every planner is: frozen hyperparameters, explicit memory, batch first."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from jaxtyping import Bool, Float
from torch import Generator, Tensor

from planners.problem import Problem

Memory = TypeVar("Memory")


class Plan(NamedTuple):
    """What a planner returns, batch leading everywhere."""

    actions: Tensor
    """[batch, horizon, act], or long [batch, horizon] where actions are discrete."""
    value: Float[Tensor, "batch"]
    """Score of `actions`; -inf where they are invalid."""
    valid: Bool[Tensor, "batch"]
    """False: every candidate was invalid."""
    memory: Any
    """The warm start of the next plan."""
    info: Any
    """A NamedTuple of diagnostics and of what `Planner.action` needs. Where plans may end before the horizon, a field
    `length` [batch] (long) says after how many actions: `MPC` then plans anew."""


def never() -> bool:
    """The `stop` of a plan that runs to its end."""
    return False


class Planner(Protocol[Memory]):
    """A planner: a frozen dataclass of hyperparameters. `Memory` is a NamedTuple of tensors, batch leading.

    With the batch size fixed, the contents of other batch elements never change an element's plan.
    """

    def init(self, problem: Problem, start: Any, *, generator: Generator) -> Memory:
        """The memory of a planner that knows nothing yet, for the states `start` [batch, ...]."""

    def plan(
        self,
        problem: Problem,
        start: Any,
        memory: Memory,
        *,
        generator: Generator,
        stop: Callable[[], bool] = never,
    ) -> Plan:
        """Refine what `memory` holds for the states `start`; never shift it.

        Anytime: between iterations `stop()` is asked, and the best so far is returned once it is True. Where it is
        True at once, the plan is what `memory` holds.
        """

    def advance(self, problem: Problem, memory: Memory, action: Tensor, start: Any) -> Memory:
        """Shift the memory by one step. To be called after every executed `action` [batch, act].

        Args:
            start: the states in which `action` was executed.
        """

    def action(self, problem: Problem, plan: Plan, age: Tensor, state: Any) -> Tensor:
        """The action of row i, `age[i]` steps after the plan was made, in `state`: [batch, act]."""
