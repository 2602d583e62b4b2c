"""The loop that all sampling planners share: sample candidates, roll them out, update what is searched around.

A new sampling planner is a frozen dataclass with two short functions, `sample` and `update`; everything else that
`planners.planner.Planner` asks for is here.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from planners.box import Box
from planners.planner import Plan, never
from planners.problem import Problem, evaluate_plans
from planners.rows import first_leaf, where_rows
from planners.sampling.knots import Knots
from planners.sampling.proposals import Proposals, propose


class SamplingMemory(NamedTuple):
    """What is searched around: actions of each step, or values of knots; "size" is how many."""

    mean: Float[Tensor, "batch size act"]
    variance: Float[Tensor, "batch size act"]
    kept: Float[Tensor, "batch keep size act"]
    """Candidates that the next iteration tries again."""
    phase: Int[Tensor, "batch"]
    """Steps since the window last began at a knot."""


class SamplingInfo(NamedTuple):
    """Diagnostics, of the last iteration where it is not said otherwise. An element that has stopped is still sampled
    for beside those that have not: its `effective_samples` and `elite_spread` are then of candidates without effect."""

    iterations: Int[Tensor, "batch"]
    """How many were run, before the variance fell below its threshold or the planner was stopped."""
    sequences: Int[Tensor, "batch"]
    """How many were rolled out in them and at the end: times horizon and particles, the steps of the model."""
    effective_samples: Float[Tensor, "batch"]
    """1 / sum of squared weights of the candidates in the update: the elites of CEM, a softer number in MPPI."""
    elite_spread: Float[Tensor, "batch"]
    """Weighted standard deviation of the candidates, mean over steps and dimensions, in units of the half range."""
    std: Float[Tensor, "batch"]
    """Standard deviation that the next iteration would sample with, likewise."""
    at_bound: Float[Tensor, "batch"]
    """Share of the plan's actions that lie on a bound."""


class _Best(NamedTuple):
    actions: Tensor  # [batch, horizon, act]
    score: Tensor  # [batch]


class _Search(NamedTuple):
    memory: SamplingMemory
    candidates: Tensor  # of the last iteration
    weights: Tensor  # of the candidates in its update
    scores: Tensor
    best: _Best
    iterations: Tensor
    sequences: Tensor
    ran: bool  # whether there was an iteration


class SamplingPlanner(Protocol):
    """A planner that scores sampled action sequences.

    A subclass gives the fields below and the functions `sample` and `update`; it overrides nothing else.
    """

    box: Box
    horizon: int
    iterations: int
    """At most; `stop` is asked in between."""
    initial_std: float
    """Of the first iteration of a step, in units of the half range."""
    knots: Knots | None
    proposals: Proposals | None
    executes: Literal["mean", "best"]
    """Whether the plan is what is searched around, or the best candidate of all iterations."""
    score_mean: bool = True
    """Whether a plan that is no candidate is rolled out for its value; else that is the candidates' weighted one."""
    repeat_last: bool = True
    """Whether the new last action of a shifted sequence is the old last one, as it always is with knots, or the centre
    of the box."""
    keep: int = 0
    """How many candidates the memory keeps."""
    min_variance: float = 0.0
    """An element stops when its largest variance, in units of the half range squared, is below this."""

    def sample(
        self, memory: SamplingMemory, iteration: int, *, generator: Generator
    ) -> Float[Tensor, "batch plans size act"]:
        """Candidates. What leaves the box is clamped afterwards."""

    def update(
        self,
        memory: SamplingMemory,
        candidates: Float[Tensor, "batch plans size act"],
        scores: Float[Tensor, "batch plans"],
    ) -> tuple[SamplingMemory, Float[Tensor, "batch plans"]]:
        """The new memory, and the weights of the candidates in it: they sum to 1, or to 0 where none was used.

        Invalid candidates score -inf; an element without valid ones keeps its memory.
        """

    def init(self, problem: Problem, start: Any, *, generator: Generator) -> SamplingMemory:
        """Search around the centre of the box.

        Raises:
            ValueError: the states' first tensor, in whose type actions are, holds no floating-point numbers.
        """
        like = first_leaf(start)
        if not like.is_floating_point():
            raise ValueError(
                f"start: expected states whose first tensor has a floating-point type, which actions have too, got "
                f"{like.dtype}; convert it, or use tree search (UCT, PUCT or Gumbel) where actions are discrete"
            )
        size = self.horizon if self.knots is None else self.knots.size(self.horizon)
        mean = self.box.center.to(like).repeat(len(like), size, 1)
        phase = torch.zeros(len(like), dtype=torch.long, device=like.device)
        return SamplingMemory(mean, self._initial_variance(mean), copies(mean, self.keep), phase)

    @torch.no_grad()
    def plan(
        self,
        problem: Problem,
        start: Any,
        memory: SamplingMemory,
        *,
        generator: Generator,
        stop: Callable[[], bool] = never,
    ) -> Plan:
        # For the score of what is searched around: its draws must not move those of the iterations, so that two plans
        # of n iterations draw what one of 2n draws, nor be moved by them, as how many there are depends on other
        # batch elements.
        final_generator = generator.clone_state()
        proposed = self._propose(problem, start, memory, generator)
        search = self._begin(memory)
        for iteration in range(self.iterations):
            active = self._active(search.memory)
            if stop() or (active is not None and not active.any()):
                break
            search = self._iterate(problem, start, search, proposed, iteration, active, generator)
        result = self._result(problem, start, search, final_generator)
        info = self._info(search, result.actions, rolled_out=not (search.ran and self._plan_is_scored))
        return Plan(result.actions, result.score, result.score.isfinite(), search.memory, info)

    def advance(self, problem: Problem, memory: SamplingMemory, action: Tensor, start: Any) -> SamplingMemory:
        interval = 1 if self.knots is None else self.knots.interval(self.horizon)
        phase = (memory.phase + 1) % interval
        passed = phase == 0
        mean = torch.where(passed[:, None, None], self._shift(memory.mean), memory.mean)
        kept = torch.where(passed[:, None, None, None], self._shift(memory.kept), memory.kept)
        return SamplingMemory(mean, self._initial_variance(mean), kept, phase)

    def action(self, problem: Problem, plan: Plan, age: Tensor, state: Any) -> Tensor:
        return plan.actions[torch.arange(len(age), device=age.device), age]

    def _actions(self, memory: SamplingMemory, values: Tensor) -> Tensor:
        """Sequences [batch, plans, horizon, act] of values that lie in the box."""
        if self.knots is None:
            return values
        return self.box.clamp(self.knots.actions(values, memory.phase, self.horizon))

    def _propose(self, problem: Problem, start: Any, memory: SamplingMemory, generator: Generator) -> Tensor | None:
        if self.proposals is None:
            return None
        actions = propose(self.proposals, problem, start, (self.horizon, self.box.dim), generator=generator)
        if self.knots is not None:
            actions = self.knots.fit(actions, memory.phase, self.horizon)
        # A policy knows nothing of rows that went wrong: what is not finite must not enter a weighted sum.
        center = self.box.center.to(actions)
        return self.box.clamp(torch.where(actions.isfinite(), actions, center))

    def _begin(self, memory: SamplingMemory) -> _Search:
        candidates = memory.mean.unsqueeze(1)
        nothing = torch.zeros_like(candidates[..., 0, 0])
        best = _Best(self._actions(memory, candidates)[:, 0], torch.full_like(nothing[:, 0], -torch.inf))
        none = torch.zeros_like(memory.phase)
        return _Search(memory, candidates, nothing, nothing, best, none, none, ran=False)

    def _active(self, memory: SamplingMemory) -> Tensor | None:
        """Which elements go on; None: all, without looking."""
        if self.min_variance == 0:
            return None
        large = memory.variance >= self.min_variance * self._half_range(memory.mean) ** 2
        if self.knots is not None:  # the variance of values without effect does not shrink
            large = large & self.knots.read(memory.phase, self.horizon).unsqueeze(-1)
        return large.flatten(1).any(1)

    def _iterate(
        self,
        problem: Problem,
        start: Any,
        search: _Search,
        proposed: Tensor | None,
        iteration: int,
        active: Tensor | None,
        generator: Generator,
    ) -> _Search:
        memory = search.memory
        candidates = self.box.clamp(self.sample(memory, iteration, generator=generator))
        candidates = candidates if proposed is None else torch.cat([candidates, proposed], dim=1)
        actions = self._actions(memory, candidates)
        scores = evaluate_plans(problem, start, actions, generator=generator).scores
        updated, weights = self.update(memory, candidates, scores)
        went_on = 1 if active is None else active.long()
        return _Search(
            updated if active is None else where_rows(active, updated, memory),
            candidates,
            weights,
            scores,
            _better(search.best, actions, scores, active) if self._needs_best else search.best,
            search.iterations + went_on,
            search.sequences + candidates.shape[1] * went_on,
            ran=True,
        )

    @property
    def _needs_best(self) -> bool:
        return self.executes == "best" or self.score_mean

    @property
    def _plan_is_scored(self) -> bool:
        """Whether the iterations score the plan; else it is rolled out after them."""
        return self.executes == "best" or not self.score_mean

    def _result(self, problem: Problem, start: Any, search: _Search, generator: Generator) -> _Best:
        """The plan and its score, -inf where there is no valid one."""
        if self.executes == "best" and search.ran:
            return search.best
        actions = self._actions(search.memory, search.memory.mean.unsqueeze(1))
        if search.ran and not self.score_mean:
            weights = search.weights
            score = torch.where(weights > 0, weights * search.scores, 0.0).sum(1)
            return _Best(actions[:, 0], torch.where(weights.sum(1) > 0, score, -torch.inf))
        final = evaluate_plans(problem, start, actions, generator=generator)
        valid = final.valid[:, 0]
        return _Best(
            torch.where(valid[:, None, None], actions[:, 0], search.best.actions),
            torch.where(valid, final.scores[:, 0], search.best.score),
        )

    def _info(self, search: _Search, actions: Tensor, rolled_out: bool) -> SamplingInfo:
        memory, weights = search.memory, search.weights
        half = self._half_range(memory.mean)
        mean = weighted_sum(weights, search.candidates)
        spread = weighted_sum(weights, (search.candidates - mean.unsqueeze(1)).square()).sqrt() / half
        at_bound = (actions <= self.box.low.to(actions)) | (actions >= self.box.high.to(actions))
        return SamplingInfo(
            search.iterations,
            search.sequences + int(rolled_out),
            1 / weights.square().sum(1).clamp(min=torch.finfo(weights.dtype).tiny),
            spread.mean((1, 2)),
            (memory.variance.sqrt() / half).mean((1, 2)),
            at_bound.to(actions.dtype).mean((1, 2)),
        )

    def _shift(self, values: Tensor) -> Tensor:
        # With knots, a new one of another value would bend the stretch that was held behind the last one.
        repeat = self.repeat_last or self.knots is not None
        last = values[..., -1:, :] if repeat else self.box.center.to(values).expand_as(values[..., -1:, :])
        return torch.cat([values[..., 1:, :], last], dim=-2)

    def _half_range(self, like: Tensor) -> Tensor:
        return self.box.range.to(like) / 2

    def _initial_variance(self, mean: Tensor) -> Tensor:
        return (self.initial_std * self._half_range(mean)).square().expand_as(mean).clone()


def _better(best: _Best, actions: Tensor, scores: Tensor, active: Tensor | None) -> _Best:
    top, index = scores.max(1)
    better = top > best.score
    better = better if active is None else better & active
    chosen = actions[torch.arange(len(scores), device=scores.device), index]
    return _Best(torch.where(better[:, None, None], chosen, best.actions), torch.where(better, top, best.score))


def take_plans(candidates: Tensor, index: Tensor) -> Tensor:
    """The plans `index` [batch, chosen] of each element: [batch, plans, ...] -> [batch, chosen, ...]."""
    return candidates[torch.arange(len(index), device=index.device).unsqueeze(1), index]


def weighted_sum(
    weights: Float[Tensor, "batch plans"], values: Float[Tensor, "batch plans size act"]
) -> Float[Tensor, "batch size act"]:
    """The sum over plans of weight times values."""
    return torch.bmm(weights.unsqueeze(1), values.flatten(2)).view(len(values), *values.shape[2:])


def copies(mean: Tensor, times: int) -> Tensor:
    """[batch, ...] -> [batch, times, ...]."""
    return mean.unsqueeze(1).repeat(1, times, *(1,) * (mean.dim() - 1))
