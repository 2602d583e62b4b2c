"""Normalised scores, and what a run's evaluations come to: the mean of the last ten beside the best.

    score = 100 (return - random) / (expert - random)

with the references of D4RL (Fu et al. 2020, https://arxiv.org/abs/2004.07219), which were measured on version 2 of the
tasks. On other versions the number is still a fixed scale, but none to set beside published tables: `reference_label`
says which it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

REFERENCES = {
    "HalfCheetah": (-280.178953, 12135.0),
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
}
"""Returns of a random and of an expert policy, by the name of the task."""
LAST = 10
"""Evaluations whose mean counts: one alone is luck, and the best of many is chosen with hindsight."""


def normalized_score(env_id: str, ret: float) -> float | None:
    """100 (return - random) / (expert - random); None where D4RL has no references for the task."""
    name, _ = _name_and_version(env_id)
    if name not in REFERENCES:
        return None
    random, expert = REFERENCES[name]
    return 100 * (ret - random) / (expert - random)


def reference_label(env_id: str) -> str:
    """What a score of the environment is called: scores with different labels are not comparable."""
    _, version = _name_and_version(env_id)
    return "D4RL score" if version == "v2" else f"D4RL refs on {version}"


@dataclass(frozen=True)
class Summary:
    """What the evaluations of a run come to."""

    env_id: str
    evaluations: int
    """How many there are."""
    diverged: int
    """Of the last `LAST`, how many the simulation diverged in: they have no return."""
    last: float | None
    """Mean return of the last `LAST`, or of all where there are fewer; None where one of them diverged."""
    best: float | None
    """The highest mean return of one evaluation: chosen with hindsight, and so too high. None: all diverged."""
    best_at: int
    """Where it was, on the run's x axis."""

    def __str__(self) -> str:
        count = min(LAST, self.evaluations)
        if self.last is None:
            last = f"no mean return, for the simulation diverged in {self.diverged} of them"
        else:
            last = f"mean return {_scored(self.env_id, self.last)}"
        best = ""
        if self.best is not None:
            best = (
                f"; best of {self.evaluations}: {_scored(self.env_id, self.best)} at {self.best_at:,}, which is chosen "
                f"with hindsight"
            )
        return f"last {count} evaluations: {last}{best}"


def summarize(rows: Sequence[dict[str, Any]], env_id: str, x: str) -> Summary | None:
    """The summary of a run's metrics; None where it has not been evaluated.

    Args:
        rows: of metrics.jsonl; an evaluation whose return is null diverged.
        env_id: of the evaluations.
        x: the metric that is the run's x axis.
    """
    points = [(int(row[x]), row["eval/mean_reward"]) for row in rows if "eval/mean_reward" in row]
    if not points:
        return None
    last = [ret for _, ret in points[-LAST:]]
    diverged = last.count(None)
    finite = [(float(ret), at) for at, ret in points if ret is not None]
    best, at = max(finite, key=lambda point: point[0], default=(None, points[-1][0]))
    return Summary(env_id, len(points), diverged, None if diverged else sum(last) / len(last), best, at)


def _scored(env_id: str, ret: float) -> str:
    score = normalized_score(env_id, ret)
    return f"{ret:.1f}" if score is None else f"{ret:.1f} (score {score:.1f}, {reference_label(env_id)})"


def _name_and_version(env_id: str) -> tuple[str, str]:
    found = re.fullmatch(r"(?:.*:)?(.+)-(v\d+)", env_id)
    return (found[1], found[2]) if found else (env_id, "")
