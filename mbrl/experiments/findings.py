"""What a comparison finds: every number that the report shows, as plain frozen dataclasses.

Scores, which are what tasks have in common, are 0 for the uniformly random policy, measured here over 20 episodes, and
1 for the best algorithm's interquartile mean at the budget *in this study*: they rank what was compared, and are no
scale to set beside other studies. docs/statistics.md says how each interval is made and how often it holds the truth.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float | None
    """None: too few runs for an interval."""
    high: float | None
    n: int
    """Runs behind it; over several tasks, the fewest that one of them has."""
    coverage: tuple[float, float] | None
    """How often such an interval really holds the truth at this n, as shares: the lowest and the highest over the
    shapes of returns that were simulated. None: there is no interval, or it is one of a share or a probability, which
    is made for few runs."""


@dataclass(frozen=True)
class Entry:
    """One of the things compared."""

    label: str
    algo: str
    """The library's name of the algorithm."""
    model_based: bool


@dataclass(frozen=True)
class TaskInfo:
    """One task of the comparison, and what its scores mean."""

    env_id: str
    budget: int
    """Real steps that all algorithms have."""
    random_return: float
    """Of the uniformly random policy: score 0."""
    best_return: float
    """The best label's interquartile mean at the budget: score 1."""
    best_label: str
    threshold: float
    """The return that "steps to the threshold" is about."""
    threshold_source: str
    """Where it comes from, for people: "given", or how it was derived."""


@dataclass(frozen=True)
class AtBudget:
    """Returns of one label on one task at the budget."""

    env_id: str
    label: str
    iqm: Estimate
    """Interquartile mean of the runs' returns."""
    mean: Estimate
    score: Estimate
    """The interquartile mean as a score."""
    returns: tuple[float, ...]
    """Of the runs, in the order of `seeds`."""
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Aggregate:
    """One label over all tasks, at the budget, in scores."""

    label: str
    iqm: Estimate
    mean: Estimate
    tasks: int
    """Tasks that it has runs of: labels with other tasks are not comparable, and a warning says so."""


@dataclass(frozen=True)
class Curve:
    """Return against a cost, over the runs of one label on one task. All tuples have one length."""

    env_id: str
    label: str
    axis: str
    """One of `results.COSTS`."""
    statistic: str
    """"iqm" or "mean"."""
    x: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...] | None
    """None: too few runs for an interval."""
    high: tuple[float, ...] | None
    n: int


@dataclass(frozen=True)
class Cost:
    """What one label has spent on one task when it reached the budget: the median of its runs and their range."""

    env_id: str
    label: str
    axis: str
    median: float | None
    """None: not known."""
    low: float | None
    """The smallest of the runs, not an interval."""
    high: float | None


@dataclass(frozen=True)
class Improvement:
    """Probability that a run of `first` beats a run of `second` at the budget; ties count half."""

    env_id: str | None
    """None: the mean over all tasks that both have."""
    first: str
    second: str
    probability: Estimate


@dataclass(frozen=True)
class Profile:
    """Share of one label's runs, over all tasks, whose score at the budget is above each value of `score`."""

    label: str
    score: tuple[float, ...]
    share: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class ToThreshold:
    """What one label spends until its evaluation first reaches the task's threshold. Runs that never do are censored:
    they count as "not until what was spent in the end", never as missing."""

    env_id: str
    label: str
    axis: str
    """One of `results.COSTS`."""
    threshold: float
    reached: int
    """Runs that reached it."""
    n: int
    """All runs, failed ones too, which count as those that never do."""
    failed: int
    short: int
    """Runs that fell short of the budget before they had reached it: they count as watched no longer."""
    share: Estimate
    """The share of runs that reached it."""
    median: float | None
    """Kaplan-Meier median; None where not even half of the runs are known to have reached it."""
    low: float | None
    """Of the median's interval; None where unknown."""
    high: float | None
    """None: without bound, for too few runs reached it."""
    restricted_mean: float | None
    """Mean cost until the threshold or `horizon`, whichever comes first."""
    horizon: float | None
    """The same for all labels of the task: the most that every label's longest run has spent."""


def lost_runs(failed: int, short: int) -> str:
    """Runs of a label that did not go on to the end, in brackets; nothing where there are none."""
    lost = [f"{count} {how}" for count, how in ((failed, "failed"), (short, "fell short of the budget")) if count]
    return f" ({', '.join(lost)})" if lost else ""


@dataclass(frozen=True)
class Paired:
    """Difference `first` - `second` of returns at the budget, between runs with the same seed."""

    env_id: str
    first: str
    second: str
    difference: Estimate
    """Interquartile mean of the differences, in returns."""
    correlation: float | None
    """Pearson's, of the returns over common seeds; None: fewer than three pairs, or returns that are all equal. Where
    it is not well above 0, pairing gains nothing."""


@dataclass(frozen=True)
class Difference:
    """Difference `first` - `second` of interquartile means at the budget, of runs that need no common seeds."""

    env_id: str
    first: str
    second: str
    difference: Estimate
    """In returns; n is that of the fewer runs."""
    p: float
    """Of the rule by which answers decide; see `mbrl.experiments.decisions`."""


@dataclass(frozen=True)
class Detectable:
    """The smallest true difference that the rule of `mbrl.experiments.decisions` finds in 80 % of such studies, were
    returns normal with the deviation that was seen."""

    env_id: str
    first: str
    second: str
    n: int
    """Runs of each, the fewer."""
    difference: float | None
    """In returns; None: too few runs."""
    score: float | None
    """The same in scores."""
    observed: float
    """The difference of means that was seen."""


@dataclass(frozen=True)
class Final:
    """Final evaluations of one label on one task: means over runs of each run's mean return."""

    env_id: str
    label: str
    deterministic: Estimate | None
    """None: no run has one. Those that diverged count as the worst return of the task."""
    stochastic: Estimate | None
    runs: int
    missing: int
    """Of these, without any final evaluation."""
    diverged: int
    """Of these, with one in which the simulation diverged."""
    episodes: tuple[int, ...]
    """Of each run's evaluation, every number that occurs."""


@dataclass(frozen=True)
class SettingDifference:
    """A setting that not all labels of a task share."""

    env_id: str
    name: str
    values: tuple[tuple[str, str | None], ...]
    """(label, value as JSON text) for every label of the task; None: it has no such setting."""


@dataclass(frozen=True)
class RunRow:
    """One run, for tables and CSV files."""

    env_id: str
    label: str
    algo: str
    seed: int
    path: str
    complete: bool
    commit: str | None
    at_budget: float | None
    """Return at the budget; None: it did not get there."""
    deterministic: float | None
    stochastic: float | None
    steps: tuple[int, ...]
    """[evaluations]"""
    returns: tuple[float, ...]
    """[evaluations]; -inf where the simulation diverged."""
    costs: dict[str, tuple[float, ...]]
    """[evaluations] by cost; NaN where not known."""


@dataclass(frozen=True)
class FailureRow:
    """A run that is missing from the figures, and why."""

    env_id: str | None
    label: str
    seed: int | None
    path: str | None
    reason: str


@dataclass(frozen=True)
class Answer:
    """One question that a reader has, with a sentence for an answer."""

    question: str
    answer: str
    env_id: str | None
    """None: over all tasks."""
    decided: bool
    """False: the runs don't tell, and the answer says so."""


@dataclass(frozen=True)
class Summary:
    """Everything that the report shows. Tuples are ordered by task, then label, as given; the same results give an
    equal summary."""

    answers: tuple[Answer, ...]
    tasks: tuple[TaskInfo, ...]
    entries: tuple[Entry, ...]
    at_budget: tuple[AtBudget, ...]
    aggregates: tuple[Aggregate, ...]
    curves: tuple[Curve, ...]
    costs: tuple[Cost, ...]
    improvements: tuple[Improvement, ...]
    profiles: tuple[Profile, ...]
    thresholds: tuple[ToThreshold, ...]
    paired: tuple[Paired, ...]
    differences: tuple[Difference, ...]
    detectable: tuple[Detectable, ...]
    finals: tuple[Final, ...]
    settings: tuple[SettingDifference, ...]
    runs: tuple[RunRow, ...]
    failures: tuple[FailureRow, ...]
    versions: dict[str, tuple[str, ...]]
    """By library: every version that a run was made with."""
    commits: dict[str, int]
    """Runs by git commit; "unknown" where there is none."""
    machines: dict[str, int]
    """Runs by what they were made on, in words; "unknown" where runs are older than that is kept."""
    warnings: tuple[str, ...]
