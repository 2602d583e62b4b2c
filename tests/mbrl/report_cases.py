"""A comparison as a report meets it: invented curves with known numbers, corners of real ones, a reader of pages."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np

from mbrl.experiments.findings import (
    Aggregate,
    Answer,
    AtBudget,
    Cost,
    Curve,
    Detectable,
    Difference,
    Entry,
    Estimate,
    FailureRow,
    Final,
    Improvement,
    Paired,
    Profile,
    RunRow,
    SettingDifference,
    Summary,
    TaskInfo,
    ToThreshold,
)
from mbrl.experiments.oracle_gap import HorizonError, OracleGap
from mbrl.experiments.results import COSTS

TASKS = {
    "Pendulum-v1": (5000, -1240.0, -150.0),
    "InvertedPendulum-v5": (2500, 6.0, 1000.0),
    "mbrl/CartPoleSwingUp-v0": (5000, 1.2, 172.0),
    "Reacher-v5": (5000, -43.0, -4.2),
}
"""Budget, return of the random policy, return of a learned one."""
ENTRIES = (
    Entry("pets", "pets", True),
    Entry("mbpo", "mbpo", True),
    Entry("sac", "sac", False),
    Entry("sb3-sac", "sb3-sac", False),
    Entry("sb3-ppo", "sb3-ppo", False),
)
TIMES = {"pets": 1, "mbpo": 1, "sac": 4, "sb3-sac": 4, "sb3-ppo": 20}
HALF = {"pets": 500, "mbpo": 900, "sac": 2600, "sb3-sac": 2900, "sb3-ppo": 30_000}
"""Steps to half of what can be learned."""
SPENT = {  # minutes, those of the processor, gradient steps, model steps and FLOPs of one real step
    "pets": (0.008, 0.008 * 0.75, 2.0, 9000.0, 3e9),
    "mbpo": (0.004, 0.004 * 0.75, 12.0, 80.0, 4e8),
    "sac": (0.0003, 0.0003 * 0.75, 1.0, 0.0, 3e7),
    "sb3-sac": (0.0004, 0.0004 * 0.75, 1.0, 0.0, 3e7),
    "sb3-ppo": (0.00001, 0.00001 * 0.75, 0.3, 0.0, math.nan),
}
SEEDS = (0, 1, 2, 3, 4)


def estimate(values: np.ndarray) -> Estimate:
    """A made-up interval of a mean."""
    half = 1.2 * float(values.std())
    return Estimate(
        float(values.mean()), float(values.mean()) - half, float(values.mean()) + half, len(values), (0.86, 0.91)
    )


def invented_runs() -> tuple[RunRow, ...]:
    g = np.random.default_rng(0)
    rows = []
    for env_id, (budget, low, high) in TASKS.items():
        for entry in ENTRIES:
            count = 50 if entry.label == "sb3-ppo" else 10 * TIMES[entry.label]
            steps = np.arange(1, count + 1) * (budget * TIMES[entry.label] // count)
            for seed in SEEDS:
                half = HALF[entry.label] * g.lognormal(0, 0.25) * budget / 5000
                share = 1 - 0.5 ** (steps / half) + g.normal(0, 0.03, count)
                returns = low + (high - low) * np.clip(share, 0, 1.02)
                each = dict(zip(COSTS[1:], SPENT[entry.label], strict=True))
                costs = {
                    "steps": steps * 1.0,
                    **{axis: steps * per * g.uniform(0.9, 1.1) for axis, per in each.items()},
                }
                rows.append(
                    RunRow(
                        env_id,
                        entry.label,
                        entry.algo,
                        seed,
                        f"runs/{env_id.replace('/', '-')}__{entry.algo}__{seed}__20261121-2330{seed:02}",
                        True,
                        "4d936e9b1f0c5d2a7e8f9a0b1c2d3e4f5a6b7c8d",
                        float(returns[steps <= budget][-1]),
                        float(returns[-1]),
                        None if entry.label == "pets" else float(returns[-1]) - 1,
                        tuple(steps.tolist()),
                        tuple(returns.tolist()),
                        {axis: tuple(spent.tolist()) for axis, spent in costs.items()},
                    )
                )
    return tuple(rows)


def invented_summary() -> Summary:
    """Four tasks, five algorithms, five seeds."""
    runs = invented_runs()
    cells = {
        (env_id, e.label): [r for r in runs if (r.env_id, r.label) == (env_id, e.label)]
        for env_id in TASKS
        for e in ENTRIES
    }
    best = {
        env_id: max((np.mean([r.at_budget for r in cells[env_id, e.label]]), e.label) for e in ENTRIES)
        for env_id in TASKS
    }
    tasks = tuple(
        TaskInfo(
            env_id,
            budget,
            low,
            best[env_id][0],
            best[env_id][1],
            low + 0.9 * (best[env_id][0] - low),
            "90 % of the way to the best",
        )
        for env_id, (budget, low, _) in TASKS.items()
    )
    scored = {
        (t.env_id, e.label): np.array(
            [(r.at_budget - t.random_return) / (t.best_return - t.random_return) for r in cells[t.env_id, e.label]]
        )
        for t in tasks
        for e in ENTRIES
    }
    whole = {e.label: np.concatenate([scored[t.env_id, e.label] for t in tasks]) for e in ENTRIES}
    pairs = [(a.label, b.label) for i, a in enumerate(ENTRIES) for b in ENTRIES[i + 1 :]]
    grid = tuple(np.linspace(-0.1, 1.1, 61).round(3).tolist())
    return Summary(
        answers=_answers(),
        tasks=tasks,
        entries=ENTRIES,
        at_budget=tuple(_at_budget(runs_, scored[key]) for key, runs_ in cells.items()),
        aggregates=tuple(Aggregate(e.label, estimate(whole[e.label]), estimate(whole[e.label]), 4) for e in ENTRIES),
        curves=tuple(curve for runs_ in cells.values() for axis in COSTS if (curve := _curve(runs_, axis))),
        costs=tuple(_cost(runs_, axis) for runs_ in cells.values() for axis in COSTS),
        improvements=tuple(
            Improvement(env_id, a, b, Estimate(_beats(whole[a], whole[b]), 0.3, 0.97, 5, None))
            for env_id in (None, *TASKS)
            for a, b in pairs
        ),
        profiles=tuple(_profile(e.label, whole[e.label], grid) for e in ENTRIES),
        thresholds=tuple(
            _threshold(t, cells[t.env_id, e.label], axis) for t in tasks for e in ENTRIES for axis in COSTS
        ),
        paired=tuple(
            Paired(env_id, a, b, Estimate(12.3, -4.0, 30.0, 5, (0.88, 0.93)), -0.21)
            for env_id in TASKS
            for a, b in pairs
        ),
        differences=tuple(
            Difference(env_id, a, b, Estimate(14.2, -9.0, 41.0, 5, (0.92, 0.97)), 0.31)
            for env_id in TASKS
            for a, b in pairs
        ),
        detectable=tuple(Detectable(env_id, a, b, 5, 40.0, 0.2, 13.1) for env_id in TASKS for a, b in pairs),
        finals=tuple(
            Final(
                key[0],
                key[1],
                estimate(np.array([r.deterministic for r in runs_])),
                None if key[1] == "pets" else estimate(np.array([r.stochastic for r in runs_])),
                runs=5,
                missing=0,
                diverged=0,
                episodes=(5 if key[1] == "pets" else 20,),
            )
            for key, runs_ in cells.items()
        ),
        settings=tuple(
            SettingDifference(env_id, name, tuple((e.label, value if i % 2 else None) for i, e in enumerate(ENTRIES)))
            for env_id in TASKS
            for name, value in (("batch_size", "256"), ("hidden", "[200, 200, 200, 200]"), ("planner", '"cem"'))
        ),
        runs=runs,
        failures=(
            FailureRow("Reacher-v5", "mbpo", 5, "runs/Reacher-v5__mbpo__5__20261121-233000", "the fit diverged, twice"),
        ),
        versions={"mbrl-planners": ("0.1.0",), "torch": ("2.13.0",), "numpy": ("2.4.5", "2.4.6")},
        commits={"4d936e9b1f0c5d2a7e8f9a0b1c2d3e4f5a6b7c8d": 99, "unknown": 1},
        machines={"Some processor, 2 cores, 1 threads": 100},
        warnings=(
            "5 runs an algorithm and task: intervals are narrower than they say; see the true coverage beside them",
        ),
    )


def _answers() -> tuple[Answer, ...]:
    return (
        Answer(
            "Is a model worth it?",
            "With equal real steps, yes: pets reaches the threshold in a fifth of the steps of sac. In minutes, no.",
            None,
            True,
        ),
        *(
            Answer(
                f"Is a model worth it on {env_id}?",
                "mbpo (-160 [-180, -140]) is better than sac (-420 [-600, -240]) at the budget.",
                env_id,
                i != 2,
            )
            for i, env_id in enumerate(TASKS)
        ),
    )


def _at_budget(runs: list[RunRow], scores: np.ndarray) -> AtBudget:
    values = np.array([r.at_budget for r in runs])
    return AtBudget(
        runs[0].env_id,
        runs[0].label,
        estimate(values),
        estimate(values),
        estimate(scores),
        tuple(values.tolist()),
        SEEDS,
    )


def _curve(runs: list[RunRow], axis: str) -> Curve | None:
    x = np.mean([r.costs[axis] for r in runs], axis=0)
    y = np.array([r.returns for r in runs])
    half = 1.2 * y.std(0)
    columns = [tuple(v.tolist()) for v in (x, y.mean(0), y.mean(0) - half, y.mean(0) + half)]
    return None if np.isnan(x).all() else Curve(runs[0].env_id, runs[0].label, axis, "iqm", *columns, len(runs))


def _cost(runs: list[RunRow], axis: str) -> Cost:
    budget = TASKS[runs[0].env_id][0]
    spent = np.array([r.costs[axis][np.searchsorted(r.steps, budget)] for r in runs])
    if np.isnan(spent).any():
        return Cost(runs[0].env_id, runs[0].label, axis, None, None, None)
    return Cost(runs[0].env_id, runs[0].label, axis, float(np.median(spent)), float(spent.min()), float(spent.max()))


def _beats(first: np.ndarray, second: np.ndarray) -> float:
    return float((first[:, None] > second).mean())


def _profile(label: str, scores: np.ndarray, grid: tuple[float, ...]) -> Profile:
    share = (scores[:, None] > np.array(grid)).mean(0)
    return Profile(label, grid, tuple(share), tuple(np.clip(share - 0.1, 0, 1)), tuple(np.clip(share + 0.1, 0, 1)))


def _threshold(task: TaskInfo, runs: list[RunRow], axis: str) -> ToThreshold:
    first = [
        next((r.costs[axis][i] for i, ret in enumerate(r.returns) if ret >= task.threshold), math.nan) for r in runs
    ]
    hit = [v for v in first if not math.isnan(v)]
    median = float(np.median(hit)) if len(hit) > 2 else None
    end = max(r.costs[axis][-1] for r in runs)
    known = None if math.isnan(end) else end
    share = Estimate(len(hit) / len(runs), 0.3, 1.0, len(runs), None)
    low, high = (None, None) if median is None else (0.8 * median, 1.3 * median if len(hit) > 4 else None)
    mean = None if known is None else float(np.mean([end if math.isnan(v) else v for v in first]))
    return ToThreshold(
        task.env_id,
        runs[0].label,
        axis,
        task.threshold,
        len(hit),
        len(runs),
        0,
        0,
        share,
        median,
        low,
        high,
        mean,
        known,
    )


def invented_gaps() -> tuple[OracleGap, ...]:
    """Three runs of PETS on two tasks; the planner loses little, the model more."""
    g = np.random.default_rng(1)
    made = []
    for env_id, top in (("Pendulum-v1", -140.0), ("mbrl/CartPoleSwingUp-v0", 180.0)):
        for seed in range(3):
            base = top + g.normal(0, 5, 4)
            errors = [
                tuple(HorizonError(k, f * 0.02 * k, 0.9 - 0.01 * k) for k in (1, 10, 30)) for f in (1.0, 1.5, 2.2)
            ]
            made.append(
                OracleGap(
                    run=f"{env_id.replace('/', '-')}__pets__{seed}__20261121-233000",
                    env_id=env_id,
                    seed=seed,
                    steps=5000,
                    checkpoint="ab" * 32,
                    episodes=4,
                    true_steps=1_000_000,
                    max_steps=None,
                    objective=False,
                    reward="task",
                    returns={"stronger": tuple(base + 2), "true": tuple(base), "learned": tuple(base - 12)},
                    missing={"learned_reward": "the run has no learned reward"},
                    logged=errors[0],
                    visited=errors[1],
                    oracle=errors[2],
                )
            )
    return tuple(made)


def reduced(summary: Summary) -> Summary:
    """One task and two algorithms of it: what is quick to draw."""
    env_id, labels = "Pendulum-v1", ("pets", "sac")

    def kept(row: object) -> bool:
        names = [getattr(row, name) for name in ("label", "first", "second") if hasattr(row, name)]
        return getattr(row, "env_id", None) in (env_id, None) and all(name in labels for name in names)

    tables = {
        field.name: tuple(row for row in value if kept(row)) if isinstance(value, tuple) else value
        for field in fields(summary)
        if (value := getattr(summary, field.name)) is not None and field.name not in ("warnings", "settings")
    }
    return replace(summary, **tables)


class Reader(HTMLParser):
    """Elements and text of a page, read as a browser would."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)
