"""Results of finished runs: what a comparison knows of each run directory, checked before anything is computed.

Whatever would make a figure silently wrong is either an error (the question makes no sense: two versions of one task,
two runs of one seed) or a warning that the report shows (an interrupted run, other library versions). A run that can't
be read is a failure with its reason, never a gap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

COSTS = ("steps", "minutes", "gradient_steps", "model_steps", "flops")
"""What a run costs: real environment steps, wall-clock minutes, gradient steps of learner and model together, steps in
a learned model, and floating-point operations of networks (see `mbrl.experiments.costs`)."""
FINAL = "evaluation.json"
"""The final evaluation in a run directory."""
MODEL_BASED = frozenset({"pets", "dyna", "mbpo", "mopo", "combo", "mobile"})
"""Values of a run's `algo` that learn a model of the dynamics."""
FEW_SEEDS = 3
"""Fewer runs than this have no interval."""


@dataclass(frozen=True)
class EvaluationProtocol:
    """What makes returns comparable. How often a run is evaluated is resolution, and is not part of it."""

    env_id: str
    env_kwargs: str
    """Options of the environment, as JSON text with sorted keys."""
    episodes: int
    """Per evaluation."""
    deterministic: bool
    """Whether actions are the policy's mode; during training they are."""


@dataclass(frozen=True)
class Outcome:
    """What one run came to."""

    path: Path
    env_id: str
    algorithm: str
    """The label that the user gave, unique in a comparison."""
    algo: str
    """The run directory's own name of the algorithm."""
    seed: int
    steps: np.ndarray
    """[evaluations] real environment steps, rising."""
    returns: np.ndarray
    """[evaluations] mean return of deterministic episodes; -inf where the simulation diverged."""
    costs: dict[str, np.ndarray]
    """[evaluations] for each of `COSTS`, what was spent until then; NaN where that is not known."""
    final: dict[str, float | None]
    """Mean return of the "deterministic" and the "stochastic" final evaluation; None where there is none."""
    settings: dict[str, Any]
    """The run's settings, as config.json has them."""
    protocol: EvaluationProtocol
    versions: dict[str, str]
    commit: str | None
    complete: bool
    """Whether the run reached all of its steps."""

    @property
    def model_based(self) -> bool:
        return self.algo in MODEL_BASED


@dataclass(frozen=True)
class Failure:
    """A run that is missing from the figures, and why."""

    env_id: str | None
    """None where not even this could be read."""
    algorithm: str
    seed: int | None
    path: Path | None
    reason: str


@dataclass(frozen=True)
class Results:
    """All outcomes of a comparison, with everything that a reader must know about them."""

    outcomes: tuple[Outcome, ...]
    warnings: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = field(default=())


def read_results(cells: Iterable[tuple[str, str | Path]], *, failures: Iterable[Failure] = ()) -> Results:
    """Read run directories, and check that they can be compared.

    Args:
        cells: (label, run directory) of every run; a label is one algorithm's name in the comparison.
        failures: runs that are known to be missing, which the report has to list.

    Raises:
        ValueError: two versions of one environment, two runs of one label, task and seed, one directory under two
            labels, a label for two algorithms, or no run that can be read.
    """
    raise NotImplementedError
