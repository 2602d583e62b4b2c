"""Models and evaluators written as numba functions of one row: a whole search then runs as one piece of compiled code.

They are `Dynamics` and `Evaluator` like any other, so that every planner takes them; tree search notices that both are
compiled and leaves Python and torch aside. Needs numba.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from planners.dynamics import Step
from planners.mcts import kernels, kernels_native
from planners.mcts.compiled import arrays_of
from planners.mcts.evaluators import Evaluator, Leaf, Rollouts
from planners.mcts.kernels_native import uniform
from planners.mcts.policies import Rule
from planners.mcts.tensors import Limits, Root
from planners.mcts.tree import Tree
from planners.problem import Problem

__all__ = ["NativeDynamics", "NativeEvaluator", "uniform"]


@dataclass(frozen=True)
class NativeDynamics:
    """A model for discrete actions whose state is a vector of float64, which is the observation too.

    Args:
        transition: `transition(state, action, next_state, luck) -> (reward, terminated)`, decorated with `numba.njit`:
            fills `next_state` [size] and draws by `uniform(luck)`, a number in [0, 1).
        size: length of the state.
        stochastic: `transition` draws; there is no mean transition then.

    Raises:
        ValueError: `transition` is no numba function.
    """

    transition: Callable[..., Any]
    size: int
    stochastic: bool = False

    def __post_init__(self) -> None:
        _check_compiled("transition", self.transition)

    def reset(self, obs: Float[Tensor, "rows obs"]) -> Float[Tensor, "rows obs"]:
        if obs.dim() != 2 or obs.shape[1] != self.size:
            raise ValueError(f"obs: expected shape [rows, {self.size}], got {list(obs.shape)}")
        return obs.double()

    def observe(self, state: Tensor) -> Tensor:
        return state

    def assign(self, state: Tensor, particles: int, *, generator: Generator) -> Tensor:
        return state

    def step(
        self, state: Float[Tensor, "rows obs"], action: Int[Tensor, "rows"], *, generator: Generator | None = None
    ) -> tuple[Tensor, Step]:
        self._check_drawn(generator is not None)
        next_state, reward = torch.empty_like(state), state.new_empty(len(state))
        ended = torch.empty(len(state), dtype=torch.bool)
        arrays = (x.numpy() for x in (state.contiguous(), action, next_state, reward, ended))
        kernels_native.step_rows(self.transition, *arrays, _streams(len(state), generator))
        return next_state, Step(next_state, reward, ended)

    def _check_drawn(self, drawn: bool) -> None:
        """Raise ValueError where outcomes are random, and are not `drawn`."""
        if self.stochastic and not drawn:
            raise ValueError("generator: this model has no mean transition; plan with stochastic=True")


@dataclass(frozen=True)
class NativeEvaluator:
    """An evaluator of the states of a `NativeDynamics`.

    Args:
        function: `function(state, logits, mask, luck) -> (value, sign)`, decorated with `numba.njit`: fills `logits`
            [actions], 0 before, and `mask` [actions], True before. `Leaf` says what they mean.
        actions: number of actions.

    Raises:
        ValueError: `function` is no numba function.
    """

    function: Callable[..., Any]
    actions: int

    def __post_init__(self) -> None:
        _check_compiled("function", self.function)

    def evaluate(self, state: Tensor, obs: Tensor, *, generator: Generator) -> Leaf:
        rows = len(state)
        logits, mask = state.new_zeros(rows, self.actions), torch.ones(rows, self.actions, dtype=torch.bool)
        value, sign = state.new_empty(rows), state.new_empty(rows)
        arrays = (x.numpy() for x in (state.contiguous(), logits, mask, value, sign))
        kernels_native.evaluate_rows(self.function, *arrays, _streams(rows, generator))
        return Leaf(logits, value, mask, sign)


class NativeFunctions(NamedTuple):
    transition: Callable[..., Any]
    evaluation: Callable[..., Any]


def native_functions(problem: Problem, evaluator: Evaluator, drawn: bool) -> NativeFunctions | None:
    """The numba functions of model and evaluator; None where one of them is not compiled.

    Raises:
        ValueError: outcomes are random, and are not `drawn`.
    """
    model = problem.dynamics
    if not isinstance(model, NativeDynamics):
        return None
    model._check_drawn(drawn)
    if isinstance(evaluator, NativeEvaluator):
        return NativeFunctions(model.transition, evaluator.function)
    if not isinstance(evaluator, Rollouts) or evaluator.problem is not problem or problem.terminal_value is not None:
        return None
    if not (evaluator.policy is None and evaluator.mask is None and evaluator.sign is None):
        return None
    sizes = (evaluator.actions, evaluator.depth, evaluator.count, problem.discount)
    return NativeFunctions(model.transition, kernels_native.make_rollout(model.transition, *sizes))


class NativeSearch:
    """Simulations of a native model with a native evaluator; `tree` is changed in place."""

    def __init__(
        self,
        functions: NativeFunctions,
        tree: Tree,
        rule: Rule,
        root: Root,
        limits: Limits,
        drawn: bool,
        generator: Generator,
    ) -> None:
        self.functions = functions
        batch, actions = tree.child.shape[0], tree.child.shape[2]
        self.arrays = arrays_of(tree)
        if tree.states.dtype != torch.float64:  # compiled code compares what it computes with what is stored
            raise ValueError(
                f"start: expected states in float64, as NativeDynamics.reset makes them, got {tree.states.dtype}"
            )
        self.states = tree.states.numpy()
        self.leaf = kernels.LeafArrays(
            reward=np.zeros(batch),
            obs=np.zeros((batch, self.states.shape[2])),
            terminated=np.zeros(batch, dtype=bool),
            logits=np.zeros((batch, actions)),
            value=np.zeros(batch),
            mask=np.ones((batch, actions), dtype=bool),
            sign=np.ones(batch),
        )
        self.rule, self.limits, self.drawn = rule, tuple(limits), drawn
        self.root = kernels.RootArrays(*(field.contiguous().numpy() for field in root))
        self.stuck = torch.zeros(batch, dtype=torch.bool)
        self.luck = _streams(batch, generator)

    def simulate(self, first: int, end: int) -> None:
        """Run simulations `first` to `end - 1` in every tree."""
        kernels_native.simulate(
            self.arrays,
            self.states,
            self.leaf,
            self.rule,
            self.root,
            self.luck,
            self.stuck.numpy(),
            (first, end),
            self.limits,
            self.drawn,
            *self.functions,
        )


def _streams(rows: int, generator: Generator | None) -> Any:
    """The random streams of rows: [rows] of uint64."""
    if generator is None:
        return np.zeros(rows, dtype=np.uint64)
    return torch.randint(2**63 - 1, (rows,), generator=generator).numpy().astype(np.uint64)


def _check_compiled(name: str, function: object) -> None:
    if not hasattr(function, "py_func"):
        raise ValueError(f"{name}: expected a function decorated with numba.njit, got {function!r}")
