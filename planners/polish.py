"""A sampling planner whose plan iLQR refines: the sampler finds the right valley, derivatives find its floor."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from planners.box import Box
from planners.ilqr import ILQR, ILQRInfo, ILQRMemory
from planners.planner import Plan, Planner, never
from planners.problem import Problem, evaluate_plans
from planners.risk import mean
from planners.rows import where_rows


class PolishedMemory(NamedTuple):
    sampler: Any
    """The memory of the sampling planner."""
    actions: Float[Tensor, "batch horizon act"]
    """The best plan so far, which iLQR may start from."""


class PolishedInfo(NamedTuple):
    sampler: Any
    """What the sampling planner has to tell."""
    ilqr: ILQRInfo
    """What iLQR has to tell; its gains are 0 where its plan is not the one that was kept."""
    kept: Bool[Tensor, "batch"]
    """Whether iLQR's plan is the one that was kept: it scores at least as much as what it started from."""
    gain: Float[Tensor, "batch"]
    """By how much it scores more; 0 where it was not kept, or started from an invalid plan."""


class _Scored(NamedTuple):
    actions: Tensor
    value: Tensor


@dataclass(frozen=True)
class Polished:
    """Plan with `planner`, refine with `ilqr`, keep whichever scores better.

    iLQR starts from the better of the sampler's new plan and of the last plan, shifted; it refines on the mean
    transition, but what counts is the score under the problem as it is, particles and risk included. Between replans,
    `action` adds iLQR's feedback. Four rollouts stand around the iterations of the two, so that a deadline has to leave
    time for more than an iteration.

    Args:
        planner: finds the plan; with a `box` and a `horizon`.
        ilqr: refines it; its box, horizon and actions are those of the planner.

    Raises:
        ValueError: box or horizon of the two disagree.
    """

    planner: Planner[Any]
    ilqr: ILQR

    def __post_init__(self) -> None:
        horizon, box = getattr(self.planner, "horizon", None), getattr(self.planner, "box", None)
        if self.ilqr.horizon != horizon:
            raise ValueError(f"ilqr: expected the planner's horizon of {horizon}, got {self.ilqr.horizon}")
        ours = self.ilqr.box
        same = isinstance(box, Box) and ours is not None and ours.dim == box.dim
        if not same or not (torch.equal(ours.low, box.low) and torch.equal(ours.high, box.high)):  # type: ignore[union-attr]
            raise ValueError(f"ilqr: expected the planner's box {box}, got {ours}")

    @property
    def horizon(self) -> int:
        """Steps of a plan."""
        return self.ilqr.horizon

    @property
    def box(self) -> Box | None:
        """Action bounds."""
        return self.ilqr.box

    def init(self, problem: Problem, start: Any, *, generator: Generator) -> PolishedMemory:
        memory = self.planner.init(problem, start, generator=generator)
        held = self.planner.plan(problem, start, memory, generator=generator.clone_state(), stop=lambda: True)
        return PolishedMemory(memory, held.actions)

    @torch.no_grad()
    def plan(
        self,
        problem: Problem,
        start: Any,
        memory: PolishedMemory,
        *,
        generator: Generator,
        stop: Callable[[], bool] = never,
    ) -> Plan:
        # All candidates meet the same draws, which are not those of the sampler.
        judge = generator.clone_state()
        answers: list[bool] = []

        def halt() -> bool:
            answers.append(any(answers[-1:]) or stop())
            return answers[-1]

        found = self.planner.plan(problem, start, memory.sampler, generator=generator, stop=halt)
        stopped_at_once = any(answers[:1])
        halt()  # here and below, lest a deadline take what lies between the iterations of the two for one of them
        held = self._score(problem, start, memory.actions, judge)
        best = held
        if not stopped_at_once:  # else the plan is what memory holds
            fresh = self._score(problem, start, found.actions, judge)
            best = where_rows(fresh.value > held.value, fresh, held)
        halt()
        mean_problem = replace(problem, particles=1, risk=mean)
        refined = self.ilqr.plan(
            mean_problem, start, ILQRMemory(best.actions), generator=judge.clone_state(), stop=halt
        )
        after = self._score(problem, start, refined.actions, judge)
        kept = (after.value >= best.value) & after.value.isfinite()
        chosen = where_rows(kept, after, best)
        gain = torch.where(kept & best.value.isfinite(), after.value - best.value, 0.0)
        info = refined.info._replace(gains=torch.where(kept[:, None, None, None], refined.info.gains, 0.0))
        return Plan(
            chosen.actions,
            chosen.value,
            chosen.value.isfinite(),
            PolishedMemory(found.memory, chosen.actions),
            PolishedInfo(found.info, info, kept, gain),
        )

    def advance(self, problem: Problem, memory: PolishedMemory, action: Tensor, start: Any) -> PolishedMemory:
        shifted = self.ilqr.advance(problem, ILQRMemory(memory.actions), action, start)
        return PolishedMemory(self.planner.advance(problem, memory.sampler, action, start), shifted.actions)

    def action(self, problem: Problem, plan: Plan, age: Tensor, state: Any) -> Tensor:
        return self.ilqr.action(problem, plan._replace(info=plan.info.ilqr), age, state)

    def _score(self, problem: Problem, start: Any, actions: Tensor, judge: Generator) -> _Scored:
        scores = evaluate_plans(problem, start, actions.unsqueeze(1), generator=judge.clone_state()).scores
        return _Scored(actions, scores[:, 0])
