"""Deadlines of plans, and what planning takes."""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Clock = Callable[[], float]


class Deadline:
    """A `stop` for `Planner.plan`: True when the plan would end after the deadline with another iteration.

    Another iteration is taken to last as long as the longest one so far. The first one always runs, unless the
    deadline has passed already. So a plan is late where an iteration, or what comes after the last one, takes longer
    than expected, and where the first one and what comes after it take longer than there is.

    Args:
        start: when the time began to run, by the clock.
        seconds: what may be used.
        clock: seconds, monotonic.
        reserve: seconds that the planner takes to finish once it is told to stop, for a last rollout, say; None: as
            long as an iteration.
    """

    def __init__(
        self, start: float, seconds: float, clock: Clock = time.perf_counter, reserve: float | None = None
    ) -> None:
        self._clock = clock
        self._end = start + seconds
        self._reserve = reserve
        self._last: float | None = None
        self._longest = 0.0
        self.stopped: float | None = None
        """When it was True for the first time, by the clock."""

    def __call__(self) -> bool:
        now = self._clock()
        needed = 0.0
        if self._last is not None:
            self._longest = max(self._longest, now - self._last)
            needed = self._longest + (self._longest if self._reserve is None else self._reserve)
        self._last = now
        if self.stopped is None and now + needed >= self._end:
            self.stopped = now
        return self.stopped is not None


class LatencySummary(NamedTuple):
    """Milliseconds per plan; NaN where there was none."""

    plans: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    missed: int
    """Plans that ended after their deadline."""

    def metrics(self) -> dict[str, float]:
        """By the names that metrics have."""
        return {
            "plan/ms_p50": self.p50_ms,
            "plan/ms_p95": self.p95_ms,
            "plan/ms_p99": self.p99_ms,
            "plan/missed_deadlines": self.missed,
        }


class Latency:
    """Collects what plans take."""

    def __init__(self) -> None:
        self._milliseconds: deque[float] = deque(maxlen=100_000)
        self._missed = 0

    def record(self, seconds: float, deadline: float | None) -> None:
        """Add a plan that took `seconds`, and had `deadline` seconds, or all the time in the world."""
        self._milliseconds.append(1e3 * seconds)
        self._missed += deadline is not None and seconds > deadline

    def reset(self) -> None:
        """Forget all plans."""
        self._milliseconds.clear()
        self._missed = 0

    def summary(self) -> LatencySummary:
        """Percentiles over the plans since the last reset, of the last 100,000 of them."""
        if not self._milliseconds:
            return LatencySummary(0, np.nan, np.nan, np.nan, 0)
        p50, p95, p99 = np.percentile(self._milliseconds, [50, 95, 99])
        return LatencySummary(len(self._milliseconds), float(p50), float(p95), float(p99), self._missed)
