"""Runs of a comparison by task and label, their returns at the budget, and the scale that tasks have in common."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import gymnasium as gym
import numpy as np

from mbrl.data.policies import RandomPolicy
from mbrl.envs.make import make_env
from mbrl.experiments import statistics
from mbrl.experiments.coverage import coverage
from mbrl.experiments.episode import play
from mbrl.experiments.findings import Estimate, TaskInfo
from mbrl.experiments.results import Failure, Outcome, Results, loop_settings
from mbrl.experiments.run import file_name
from mbrl.experiments.statistics import Statistic, iqm
from mbrl.seeding import derive

EPISODES = 20
"""Of each policy that has learned nothing. The mean return of the uniformly random one is score 0."""
CLEAR = 3.0
"""Standard errors of that mean by which the best label has to be better, for scores to mean anything."""
GIVEN = "given"
"""The source of a threshold that the user named."""
WAY = 0.9
"""A threshold that is not given stands so far on the way to the best label, from the better of two policies that have
learned nothing: uniformly random actions, and actions held at the middle of their range. Where actions are torques that
cost reward, an untrained network is as good as the second, and far above the first."""


@dataclass(frozen=True)
class Cell:
    """The runs of one label on one task that got as far as the budget, and were evaluated within it."""

    env_id: str
    label: str
    outcomes: tuple[Outcome, ...]
    """In the order of their seeds."""
    returns: np.ndarray
    """[runs] of the last evaluation within the budget; finite, for diverged ones count as `Comparison.floors`."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(outcome.seed for outcome in self.outcomes)


@dataclass(frozen=True)
class Comparison:
    """What all parts of a summary start from."""

    results: Results
    tasks: tuple[TaskInfo, ...]
    labels: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    """By (environment id, label): those with a run that counts at the budget."""
    floors: dict[str, float]
    """By environment id, what a diverged evaluation counts as; see `floor`."""
    warnings: tuple[str, ...]

    def failed(self, env_id: str, label: str) -> int:
        """Runs of a label on a task that failed, or can't be read."""
        stem = f"{file_name(env_id)}__"

        def here(failure: Failure) -> bool:
            unknown = failure.env_id is None and failure.path is not None and failure.path.name.startswith(stem)
            return failure.algorithm == label and (failure.env_id == env_id or unknown)

        return sum(map(here, self.results.failures))

    def short(self, env_id: str, label: str) -> int:
        """Runs of a label on a task that fell short of the budget."""
        budget = next(task.budget for task in self.tasks if task.env_id == env_id)
        return sum(fell_short(outcome, budget) for outcome in self.outcomes(env_id, label))

    def lost(self, env_id: str, label: str) -> int:
        """Runs that failed or fell short."""
        return self.failed(env_id, label) + self.short(env_id, label)

    def outcomes(self, env_id: str, label: str) -> list[Outcome]:
        """All runs of a label on a task, those that fell short of the budget too."""
        return [one for one in self.results.outcomes if one.env_id == env_id and one.algorithm == label]

    def labels_of(self, env_id: str) -> list[str]:
        """Labels with a run that counts at the task's budget."""
        return [label for label in self.labels if (env_id, label) in self.cells]

    def scores(self, task: TaskInfo, label: str) -> np.ndarray:
        """[runs] of a label, at the budget."""
        return score(task, self.cells[task.env_id, label].returns)


def compare(
    results: Results, *, budgets: Mapping[str, int], thresholds: Mapping[str, float] | None, seed: int
) -> Comparison:
    """Sort the runs and measure the scale; arguments are those of `mbrl.experiments.summary.summarise`."""
    env_ids = list(dict.fromkeys(outcome.env_id for outcome in results.outcomes))
    labels = tuple(dict.fromkeys(outcome.algorithm for outcome in results.outcomes))
    if missing := [env_id for env_id in env_ids if env_id not in budgets]:
        raise ValueError(f"budgets: expected one for every task, got none for {', '.join(missing)}")
    failed = {failure.env_id for failure in results.failures}  # a task of which all runs failed is one, too
    if unknown := sorted(set(thresholds or {}) - set(env_ids) - failed):
        raise ValueError(f"thresholds: expected tasks of the comparison ({', '.join(env_ids)}), got {unknown[0]}")
    cells: dict[tuple[str, str], Cell] = {}
    floors: dict[str, float] = {}
    tasks, warnings = [], []
    for env_id in env_ids:
        group = [outcome for outcome in results.outcomes if outcome.env_id == env_id]
        random_returns = play_at_random(env_id, group[0].protocol.env_kwargs, seed)
        random = float(np.mean(random_returns))
        floors[env_id] = floor(group, random)
        found, said = _cells(env_id, group, budgets[env_id], floors[env_id])
        warnings += said
        if not found:
            warnings.append(f"{env_id}: no run counts at {budgets[env_id]:,} steps; the task is left out")
            continue
        cells |= {(env_id, cell.label): cell for cell in found}
        given = (thresholds or {}).get(env_id)
        rest = -math.inf if given is not None else _mean(play_at_rest(env_id, group[0].protocol.env_kwargs, seed))
        tasks.append(_task(env_id, budgets[env_id], found, random, rest, given))
        warnings += _scale_warnings(tasks[-1], np.array(random_returns))
    if not tasks:
        raise ValueError("budgets: expected one that a run reached, got " + "; ".join(warnings))
    return Comparison(results, tuple(tasks), labels, cells, floors, tuple(warnings))


def floor(outcomes: Sequence[Outcome], random: float) -> float:
    """What an evaluation that diverged counts as: the worst finite one of all runs of the task, and no better than the
    random policy's return."""
    finite = np.concatenate([outcome.returns for outcome in outcomes])
    return min([random, *finite[np.isfinite(finite)].tolist()])


def score(task: TaskInfo, returns: np.ndarray) -> np.ndarray:
    """Returns as scores: 0 for the random policy, 1 for the best label. NaN where nothing is better than random."""
    way = task.best_return - task.random_return
    return (returns - task.random_return) / way if way > 0 else np.full(np.shape(returns), math.nan)


def fell_short(outcome: Outcome, budget: int) -> bool:
    """Whether a run ended before the budget. One that took all steps, but was evaluated last before them, did not."""
    took_all = outcome.complete and loop_settings(outcome.settings)["total_timesteps"] >= budget
    return bool(outcome.steps[-1] < budget) and not took_all


def at_budget(outcome: Outcome, budget: int) -> float | None:
    """The return of a run's last evaluation within the budget; None where it fell short, or was evaluated later."""
    within = outcome.steps <= budget
    if fell_short(outcome, budget) or not within.any():
        return None
    return float(outcome.returns[within][-1])


def estimate(values: np.ndarray, statistic: Statistic = "iqm") -> Estimate:
    """The interquartile mean, or mean, of the runs of one task."""
    return stratified_estimate([np.asarray(values)], statistic)


def stratified_estimate(tasks: Sequence[np.ndarray], statistic: Statistic = "iqm") -> Estimate:
    """The interquartile mean, or mean, of the runs of several tasks together, which count alike."""
    value = float(statistics.over_tasks(tasks, statistic))
    n = min(len(values) for values in tasks)
    found = statistics.stratified_interval(tasks, statistic)
    if found is None:
        return Estimate(value, None, None, n, None)
    return Estimate(value, float(found.low), float(found.high), n, coverage(n, len(tasks), statistic))


def _cells(env_id: str, outcomes: Sequence[Outcome], budget: int, worst: float) -> tuple[list[Cell], list[str]]:
    """The cells of a task, and what a reader must know about them."""
    warnings = []
    reached: dict[str, list[tuple[Outcome, float]]] = {}
    for outcome in sorted(outcomes, key=lambda one: one.seed):
        name = f"{outcome.algorithm} on {env_id}, seed {outcome.seed}"
        ret = at_budget(outcome, budget)
        if ret is None:
            warnings.append(f"{name} {_why_missing(outcome, budget)}")
            continue
        reached.setdefault(outcome.algorithm, []).append((outcome, ret))
        last = int(outcome.steps[outcome.steps <= budget][-1])
        if last < budget:
            warnings.append(f"{name}: its last evaluation within the budget is at {last:,} of {budget:,} steps")
    cells = []
    for label in dict.fromkeys(outcome.algorithm for outcome in outcomes):
        runs = reached.get(label, [])
        lost = sum(not math.isfinite(ret) for _, ret in runs)
        if lost:
            warnings.append(
                f"{label} on {env_id}: {lost} of {len(runs)} runs diverged in the evaluation at the budget; they count "
                f"as {worst:.6g}, the worst finite return of the task"
            )
        if runs:
            returns = np.array([ret if math.isfinite(ret) else worst for _, ret in runs])
            cells.append(Cell(env_id, label, tuple(outcome for outcome, _ in runs), returns))
    return cells, warnings


def _why_missing(outcome: Outcome, budget: int) -> str:
    if fell_short(outcome, budget):
        return (
            f"did not get as far as {budget:,} steps and is missing at the budget and in curves, which flatters its "
            "algorithm if it failed by learning badly"
        )
    return (
        f"was first evaluated after {outcome.steps[0]:,} steps, beyond the budget of {budget:,}, and is missing there "
        "and in curves: choose a larger budget, or evaluate more often"
    )


def _task(
    env_id: str, budget: int, cells: Sequence[Cell], random: float, rest: float, threshold: float | None
) -> TaskInfo:
    best = max(cells, key=lambda cell: float(iqm(cell.returns)))
    top = float(iqm(best.returns))
    source = GIVEN
    if threshold is None:
        start, name = max((random, "the random policy"), (rest, "actions held at the middle of their range"))
        if top <= start:
            return TaskInfo(
                env_id, budget, random, top, best.label, start, f"that of {name}, than which none is better"
            )
        threshold = start + WAY * (top - start)
        source = (
            f"{WAY:.0%} of the way from {name} ({start:.4g}) to the best interquartile mean at the budget ({top:.4g}, "
            f"{best.label})"
        )
    return TaskInfo(env_id, budget, random, top, best.label, threshold, source)


def _scale_warnings(task: TaskInfo, random_returns: np.ndarray) -> list[str]:
    """Whether scores mean anything: they are in units of the way from random actions to the best label."""
    way = task.best_return - task.random_return
    if way <= 0:
        return [f"{task.env_id}: nothing is better than random actions; its scores have no meaning"]
    error = float(random_returns.std(ddof=1)) / math.sqrt(len(random_returns))
    if way >= CLEAR * error:
        return []
    return [
        f"{task.env_id}: {task.best_label} is better than random actions by {way:.4g} only, and their mean return over "
        f"{len(random_returns)} episodes has a standard error of {error:.3g}: its scores rest on noise, in aggregates "
        f"too{', and so does its threshold' if task.threshold_source != GIVEN else ''}"
    ]


@cache
def play_at_random(env_id: str, env_kwargs: str, seed: int) -> tuple[float, ...]:
    """Returns of the uniformly random policy in `EPISODES` seeded episodes; diverged ones are left out.

    Args:
        env_id: of the environment.
        env_kwargs: its options, as JSON text; all others are as registered.
        seed: of starts and actions.
    """
    env = make_env(env_id, discrete=True, as_registered=True, **json.loads(env_kwargs))
    returns = []
    for number in range(EPISODES):
        policy = RandomPolicy(env.action_space, seed=derive(seed, "random actions", number))
        returns.append(play(policy, env, seed=derive(seed, "random start", number) % 2**31).ret)
    env.close()
    return tuple(ret for ret in returns if math.isfinite(ret))


@cache
def play_at_rest(env_id: str, env_kwargs: str, seed: int) -> tuple[float, ...]:
    """Likewise with actions held at the middle of their range; nothing where actions are discrete."""
    env = make_env(env_id, discrete=True, as_registered=True, **json.loads(env_kwargs))
    if not isinstance(env.action_space, gym.spaces.Box):
        env.close()
        return ()
    policy = _Rest((env.action_space.low + env.action_space.high) / 2)
    starts = [derive(seed, "random start", number) % 2**31 for number in range(EPISODES)]
    returns = [play(policy, env, seed=start).ret for start in starts]
    env.close()
    return tuple(ret for ret in returns if math.isfinite(ret))


@dataclass(frozen=True)
class _Rest:
    """A policy that always does the same."""

    action: np.ndarray

    def predict(
        self, obs: np.ndarray, state: None = None, episode_start: object = None, deterministic: bool = True
    ) -> tuple[np.ndarray, None]:
        return self.action, None


def _mean(returns: Sequence[float]) -> float:
    return float(np.mean(returns)) if returns else -math.inf
