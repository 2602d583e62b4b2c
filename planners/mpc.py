"""Model predictive control: plan, execute the beginning, plan again. The one stateful shell around planners."""

import time
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from planners.checks import is_whole
from planners.latency import Clock, Deadline, Latency
from planners.planner import Plan, Planner, never
from planners.problem import Problem
from planners.rows import first_leaf, where_rows


class MPCState(NamedTuple):
    """What `MPC.predict` takes and returns, batch leading."""

    memory: Any
    """The planner's warm start for the next step."""
    plan: Plan
    """The plan that is being executed."""
    age: Int[Tensor, "batch"]
    """Steps executed since it was made."""
    last_action: Tensor
    """[batch, act], or long [batch] where actions are discrete."""
    queue: Tensor
    """[batch, delay, ...]: actions that were chosen and are not executed yet, the next one first."""
    tick: Int[Tensor, "batch"]
    """Calls so far: seeds the next plan."""


class InvalidPlanError(ValueError):
    """Every candidate of a plan was invalid: the message shows the first bad row."""


class MPC:
    """Model predictive control of one environment, or of a batch of them.

    `act` is the short form with a state of its own. `predict` takes and returns the state, as stable-baselines3's
    recurrent policies do, so that `evaluate_policy` runs an MPC as it stands. Each plan is seeded by (seed, tick), so
    that neither evaluation nor other controllers disturb it.

    Args:
        planner: how to plan.
        problem: what to plan for.
        seed: of all randomness.
        replan_every: steps that are executed of each plan (open loop, unless the planner has feedback); fewer where
            the plan is shorter, as tree search's may be (`plan.info.length`).
        deadline_ms: milliseconds that a plan may take, of a planner that is anytime: it then returns the best so far.
            What a planner takes to finish, once it is told to stop, is known from the plan before. How many iterations
            it gets depends on the machine: with a deadline the same seed no longer gives the same numbers.
        delay: steps between the choice of an action and its execution, as real actuators have them. Plans start from
            the state that the model predicts after the actions under way; the first actions of an episode are the
            planner's initial ones.
        on_invalid: what to do where every candidate is invalid: "raise" InvalidPlanError, or "hold" the last action
            (the planner's initial one at the start of an episode).

    `latency` collects what plans take.

    Raises:
        ValueError: `replan_every` is below 1 or beyond the planner's horizon, `seed` or `delay` is negative,
            `deadline_ms` is not positive, or `on_invalid` is unknown.
    """

    def __init__(
        self,
        planner: Planner[Any],
        problem: Problem,
        *,
        seed: int = 0,
        replan_every: int = 1,
        deadline_ms: float | None = None,
        delay: int = 0,
        on_invalid: Literal["raise", "hold"] = "raise",
    ) -> None:
        horizon = getattr(planner, "horizon", None)
        if not is_whole(replan_every) or replan_every < 1 or (horizon is not None and replan_every > horizon):
            raise ValueError(f"replan_every: expected 1 to the planner's horizon of {horizon}, got {replan_every}")
        if not (is_whole(seed) and seed >= 0):
            raise ValueError(f"seed: expected a whole number of at least 0, got {seed!r}")
        if deadline_ms is not None and not deadline_ms > 0:
            raise ValueError(f"deadline_ms: expected a positive number of milliseconds, or None, got {deadline_ms}")
        if not (is_whole(delay) and delay >= 0):
            raise ValueError(f"delay: expected 0 steps or more, a whole number, got {delay!r}")
        if on_invalid not in ("raise", "hold"):
            raise ValueError(f'on_invalid: expected "raise" or "hold", got {on_invalid!r}')
        self.planner = planner
        self.problem = problem
        self.seed = seed
        self.replan_every = replan_every
        self.deadline_ms = deadline_ms
        self.delay = delay
        self.on_invalid = on_invalid
        self.latency = Latency()
        self._finish: float | None = None  # seconds from when the last deadline stopped a plan to the plan's end
        self._state: MPCState | None = None

    def reset(self) -> None:
        """Forget the plan and the warm start that `act` keeps: to be called when an episode begins."""
        self._state = None

    def act(self, obs: ArrayLike) -> NDArray[Any]:
        """The action for an observation, [obs] -> [act] or [batch, obs] -> [batch, act]; keeps the state itself."""
        action, self._state = self.predict(obs, self._state)
        return action

    def act_from(self, start: Any) -> Tensor:
        """As `act`, from states of the dynamics [batch, ...], for models that an observation does not determine.

        Returns [batch, act], or long [batch] where actions are discrete.
        """
        action, self._state = self.predict_from(start, self._state)
        return action

    def predict(
        self,
        obs: ArrayLike,
        state: MPCState | None = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], MPCState]:
        """The action for an observation and the state for the next call.

        Args:
            obs: [obs] or [batch, obs].
            state: what the last call returned; None: nothing has been planned yet.
            episode_start: [batch], True where an episode begins: warm start and plan are forgotten there.
            deterministic: accepted for compatibility; planning is a function of the inputs and the seed anyway.

        Returns:
            The action, [act] or [batch, act], and the new state.

        Raises:
            InvalidPlanError: every candidate was invalid, and `on_invalid` is "raise".
        """
        rows = torch.as_tensor(np.asarray(obs))
        if not rows.is_floating_point():
            rows = rows.to(torch.get_default_dtype())
        rows = rows[None] if rows.dim() == 0 else rows  # the number of a state
        single = rows.dim() == 1
        start = self.problem.dynamics.reset(rows.unsqueeze(0) if single else rows)
        action, state = self.predict_from(start, state, episode_start)
        array = action.cpu().numpy().copy()
        return (array[0] if single else array), state

    @torch.no_grad()
    def predict_from(
        self, start: Any, state: MPCState | None = None, episode_start: ArrayLike | None = None
    ) -> tuple[Tensor, MPCState]:
        """As `predict`, from states of the dynamics [batch, ...]."""
        began = time.perf_counter()
        like = first_leaf(start)
        tick = 0 if state is None else int(state.tick[0])
        generator = self._generator(tick, like.device)
        fresh = self._fresh(like, state, episode_start)
        memory, queue = self._begin(start, state, fresh, generator)
        start = self._predict_through(start, queue)

        if state is None:
            need, plan, age = fresh, None, torch.zeros(len(like), dtype=torch.long, device=like.device)
        else:
            plan, age = state.plan, state.age
            length = getattr(plan.info, "length", self.replan_every)
            need = fresh | ~plan.valid | (age >= self.replan_every) | (age >= length)
        if plan is None or need.any():
            made = self._plan(start, memory, generator, began)
            plan = made if plan is None else where_rows(need, made, plan)
            memory = where_rows(need, made.memory, memory)
            age = torch.where(need, 0, age)
        last = None if state is None else state.last_action
        action = self._choose(plan, age, start, last, fresh)
        memory = self.planner.advance(self.problem, memory, action, start)
        ticks = torch.full((len(like),), tick + 1, dtype=torch.long, device=like.device)
        state = MPCState(memory, plan, age + 1, action.clone(), queue, ticks)  # the caller may write into the action
        if self.delay == 0:
            return action, state
        return queue[:, 0], state._replace(queue=torch.cat([queue[:, 1:], action.unsqueeze(1)], dim=1))

    def _fresh(self, like: Tensor, state: MPCState | None, episode_start: ArrayLike | None) -> Bool[Tensor, "batch"]:
        """Where an episode begins."""
        batch, device = len(like), like.device
        if state is not None and len(state.age) != batch:
            raise ValueError(
                f"obs: expected {len(state.age)} rows as in the last call, got {batch}; start anew with state=None"
            )
        if state is None:
            return torch.ones(batch, dtype=torch.bool, device=device)
        if episode_start is None:
            return torch.zeros(batch, dtype=torch.bool, device=device)
        fresh = torch.as_tensor(np.asarray(episode_start, dtype=bool), device=device).reshape(-1)
        if len(fresh) != batch:
            raise ValueError(f"episode_start: expected {batch} flags, one a row of obs, got {len(fresh)}")
        return fresh

    def _begin(
        self, start: Any, state: MPCState | None, fresh: Tensor, generator: torch.Generator
    ) -> tuple[Any, Tensor]:
        """Memory and queue, new ones where an episode begins."""
        if state is not None and not fresh.any():
            return state.memory, state.queue
        memory = self.planner.init(self.problem, start, generator=generator)
        queue = first_leaf(start).new_empty(len(fresh), 0)
        if self.delay > 0:  # a plan that is stopped at once is the planner's initial one
            idle = self.planner.plan(self.problem, start, memory, generator=generator.clone_state(), stop=lambda: True)
            queue = torch.stack([idle.actions[:, 0]] * self.delay, dim=1)
        if state is None:
            return memory, queue
        return where_rows(fresh, memory, state.memory), where_rows(fresh, queue, state.queue)

    def _predict_through(self, start: Any, queue: Tensor) -> Any:
        """The states in which the next action will be executed, by the mean of the model."""
        for action in queue.unbind(1) if self.delay else ():
            try:
                start, _ = self.problem.dynamics.step(start, action)
            except ValueError as error:
                raise ValueError(
                    f"delay: expected 0, for the model has no mean transition to predict through ({error}), "
                    f"got {self.delay}"
                ) from error
        return start

    def _plan(self, start: Any, memory: Any, generator: torch.Generator, began: float) -> Plan:
        seconds = None if self.deadline_ms is None else self.deadline_ms / 1e3
        clock = _clock(generator.device)
        deadline = None if seconds is None else Deadline(began, seconds, clock, self._finish)
        plan = self.planner.plan(self.problem, start, memory, generator=generator, stop=deadline or never)
        ended = clock()
        self.latency.record(ended - began, seconds)
        if deadline is not None and deadline.stopped is not None:
            self._finish = ended - deadline.stopped
        return plan

    def _choose(self, plan: Plan, age: Tensor, start: Any, last: Tensor | None, fresh: Tensor) -> Tensor:
        action = self.planner.action(self.problem, plan, age, start)
        if bool(plan.valid.all()):
            return action
        if self.on_invalid == "raise":
            row = int((~plan.valid).nonzero()[0, 0])
            raise InvalidPlanError(
                f"every candidate plan of batch element {row} met a number that is not finite"
                f'{self._first_bad_row(plan.actions, start, row)}. Check that, or pass on_invalid="hold"'
            )
        # At the start of an episode the action of an invalid plan is the planner's initial one.
        hold = action if last is None else where_rows(fresh, action, last)
        return where_rows(plan.valid, action, hold)

    def _first_bad_row(self, actions: Tensor, start: Any, row: int) -> str:
        """What the plan of a batch element first meets that is not finite, as far as it does so again."""
        dynamics, generator = self.problem.dynamics, self._generator(0, actions.device)
        state = dynamics.assign(start, 1, generator=generator)
        for t in range(actions.shape[1]):
            before = dynamics.observe(state)[row].tolist()
            state, step = dynamics.step(state, actions[:, t], generator=generator)
            if not (step.reward[row].isfinite() and step.obs[row].isfinite().all()):
                return (
                    f": dynamics or reward, first at step {t} of the plan: obs {before}, action "
                    f"{actions[row, t].tolist()}, next_obs {step.obs[row].tolist()}, reward {step.reward[row].item()}"
                )
        value = self.problem.terminal_value
        if value is not None and not value(step.obs)[row].isfinite():
            return f": terminal_value, {value(step.obs)[row].item()} of obs {step.obs[row].tolist()}"
        seen = dynamics.observe(start)[row].tolist()
        return f": risk or terminal_value, or dynamics or reward of another plan, from obs {seen} on"

    def _generator(self, tick: int, device: torch.device) -> torch.Generator:
        seed = np.random.SeedSequence([self.seed, tick]).generate_state(1, np.uint64)[0]
        return torch.Generator(device).manual_seed(int(seed) >> 1)


def _clock(device: torch.device) -> Clock:
    """Seconds; on a GPU, of work that is done and not only queued."""
    if device.type != "cuda":
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock
