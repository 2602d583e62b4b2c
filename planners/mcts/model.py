"""Steps of a model for discrete actions: where the model was written for continuous ones, the error says so."""

from typing import Any

from jaxtyping import Int
from torch import Generator, Tensor

from planners.dynamics import Step
from planners.problem import Problem


def take_step(
    problem: Problem, state: Any, action: Int[Tensor, "rows"], generator: Generator | None
) -> tuple[Any, Step]:
    """The model's step.

    Raises:
        ValueError: the model reads the actions as a matrix.
    """
    try:
        return problem.dynamics.step(state, action, generator=generator)
    except IndexError as error:
        raise ValueError(
            f"problem: expected dynamics that take discrete actions, int64 of shape [rows], but their step raised "
            f"IndexError: {error}; for continuous actions, [rows, act], use CEM, iCEM or MPPI"
        ) from error
