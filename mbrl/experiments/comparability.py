"""Whether runs can be compared: what makes no sense is an error, what a reader has to know is a warning."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from mbrl.experiments.statistics import FEWEST

if TYPE_CHECKING:
    from mbrl.experiments.results import Outcome

_LENGTH = ("total_timesteps", "eval_every", "eval_episodes", "checkpoint_every")
"""Settings that say how long a run is and how closely it is watched, not what it does."""
MANY_SEEDS = 10
"""From here on an interval is what it says."""


def check_distinct(outcomes: Sequence[Outcome]) -> None:
    """Raises ValueError where a run counts twice, or a label is the name of two algorithms."""
    cells: dict[Any, Outcome] = {}
    paths: dict[Any, Outcome] = {}
    algos: dict[str, Outcome] = {}
    for outcome in outcomes:
        cell = outcome.algorithm, outcome.env_id, outcome.seed
        if (other := cells.setdefault(cell, outcome)) is not outcome:
            raise ValueError(
                f"runs: expected one run of {outcome.algorithm} on {outcome.env_id} with seed {outcome.seed}, got "
                f"{other.path} and {outcome.path}: leave one out, or give them different labels"
            )
        if (other := paths.setdefault(outcome.path.resolve(), outcome)) is not outcome:
            raise ValueError(
                f"runs: expected every run once, got {outcome.path} as {other.algorithm} and as {outcome.algorithm}"
            )
        if (other := algos.setdefault(outcome.algorithm, outcome)).algo != outcome.algo:
            raise ValueError(
                f"runs: expected one algorithm a label, got {outcome.algorithm!r} for {other.algo} ({other.path}) and "
                f"for {outcome.algo} ({outcome.path}): give one of them another label"
            )


def check_versions(env_ids: Iterable[str]) -> None:
    """Raises ValueError where two versions of one environment stand side by side."""
    for first, second in combinations(dict.fromkeys(env_ids), 2):
        if re.sub(r"-v\d+$", "", first) == re.sub(r"-v\d+$", "", second):
            raise ValueError(
                f"runs: expected one version of each environment, got {first} and {second}, whose returns are not "
                f"comparable: compare them in two reports"
            )


def protocol_warnings(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Where returns of one task were not measured alike."""
    for env_id, group in _grouped(outcomes, "env_id"):
        for name, what in (("episodes", "episodes per evaluation"), ("env_kwargs", "options of the environment")):
            labels = defaultdict(set)
            for outcome in group:
                labels[getattr(outcome.protocol, name)].add(outcome.algorithm)
            if len(labels) > 1:
                told = "; ".join(f"{value} ({', '.join(sorted(who))})" for value, who in labels.items())
                yield f"{env_id}: runs were evaluated by different protocols, {what}: {told}"


def settings_warnings(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Where seeds of one label on one task have other settings, or are few, or not those of the other labels."""
    for env_id, task in _grouped(outcomes, "env_id"):
        seeds: dict[str, tuple[int, ...]] = {}
        for label, group in _grouped(task, "algorithm"):
            seeds[label] = tuple(sorted(outcome.seed for outcome in group))
            flat = [flatten(outcome.settings) for outcome in group]
            names = sorted({name for one in flat for name in one if len({repr(each.get(name)) for each in flat}) > 1})
            decisive = [name for name in names if name.rpartition(".")[2] not in _LENGTH]
            if decisive:
                yield (
                    f"{label} on {env_id}: its runs have different settings ({', '.join(decisive)}): they are pooled "
                    "under one name, although they are not runs of one thing"
                )
            elif names:
                yield f"{label} on {env_id}: its runs differ in {', '.join(names)}"
        single = [label for label, numbers in seeds.items() if len(numbers) < FEWEST]
        if single:
            yield f"{env_id}: only one seed for {', '.join(single)}: there is no interval, and nothing is told apart"
        few = [f"{label} ({len(numbers)})" for label, numbers in seeds.items() if FEWEST <= len(numbers) < MANY_SEEDS]
        if few:
            yield (
                f"{env_id}: fewer than {MANY_SEEDS} seeds for {', '.join(few)}: intervals hold the truth less often "
                "than in 95 % of studies; how often stands beside them"
            )
        if len(set(seeds.values())) > 1:
            told = "; ".join(f"{label}: {', '.join(map(str, numbers))}" for label, numbers in seeds.items())
            yield f"{env_id}: labels have different seeds ({told}); only common ones are paired"


def software_warnings(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Where runs were made with other software."""
    libraries = sorted({library for outcome in outcomes for library in outcome.versions})
    for library in libraries:
        found = sorted({outcome.versions[library] for outcome in outcomes if library in outcome.versions})
        if len(found) > 1:
            yield f"runs were made with different versions of {library}: {', '.join(found)}"
    machines = {outcome.machine for outcome in outcomes if outcome.machine is not None}
    if len(machines) > 1:
        yield f"runs were made on {len(machines)} machines, or with other threads: minutes are not comparable"
    commits = {outcome.commit for outcome in outcomes}
    if len(commits) > 1:
        yield f"runs were made with {len(commits)} different commits of this library; the table of commits has them"
    if any(commit and commit.endswith("-dirty") for commit in commits):
        yield "some runs were made with changes that no commit has"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names; lists stay whole, as JSON text."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value) if isinstance(value, (list, dict)) else value
    return flat


def _grouped(outcomes: Sequence[Outcome], name: str) -> Iterator[tuple[str, list[Outcome]]]:
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[getattr(outcome, name)].append(outcome)
    yield from groups.items()
