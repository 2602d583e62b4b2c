"""How everything here is timed: contestants take turns in one mirrored order, A B C C B A, round after round.

Mirroring cancels a drift that is linear within a round, ratios are formed within rounds, and the two readings of the
same contestant in a round give the noise. A round in which any contestant got less than 90 % of a core is dropped.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

CORE_SHARE = 0.9
"""Process time per wall-clock time below which a reading says more about the neighbours than about the program."""


class Cost(NamedTuple):
    """What one unit of work took, in seconds."""

    wall: float
    cpu: float
    """Process time: user and system, all threads."""


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


class NoisyMachineError(RuntimeError):
    """Too few rounds got a core for themselves."""


Unit = Callable[[], Cost]
Round = dict[str, tuple[Cost, Cost]]
"""By contestant, the readings on the way there and on the way back."""


class Readings(NamedTuple):
    rounds: list[Round]
    dropped: int

    def wall(self, name: str) -> Spread:
        """Seconds per unit of work."""
        return spread([_mean(r[name]) for r in self.rounds])

    def ratio(self, slow: str, fast: str) -> Spread:
        """How many times as long `slow` takes."""
        return spread([_mean(r[slow]) / _mean(r[fast]) for r in self.rounds])

    def noise(self, name: str) -> Spread:
        """The ratio of two readings of the same program: a gain within its spread is none."""
        return spread([r[name][1].wall / r[name][0].wall for r in self.rounds])


def timed(work: Callable[[], object]) -> Unit:
    """A unit of work in this process."""

    def unit() -> Cost:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return Cost(time.perf_counter() - wall, time.process_time() - cpu)

    return unit


def alternate(contestants: Mapping[str, Unit], *, rounds: int, core_share: float = CORE_SHARE) -> Readings:
    """Take turns until `rounds` rounds are good, after one turn each that warms up.

    Raises:
        NoisyMachineError: more than two rounds of three had to be dropped.
    """
    for unit in contestants.values():
        unit()
    order = list(contestants)
    kept: list[Round] = []
    dropped = 0
    while len(kept) < rounds:
        if dropped > 2 * rounds:
            raise NoisyMachineError(
                f"{dropped} of {dropped + len(kept)} rounds got less than {core_share:.0%} of a core: "
                "no figure is quoted; measure again on an idle machine"
            )
        there = {name: contestants[name]() for name in order}
        back = {name: contestants[name]() for name in reversed(order)}
        readings: Round = {name: (there[name], back[name]) for name in order}
        if all(cost.cpu >= core_share * cost.wall for pair in readings.values() for cost in pair):
            kept.append(readings)
        else:
            dropped += 1
    return Readings(kept, dropped)


def spread(values: list[float]) -> Spread:
    """Median and quartiles; of one value: itself."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def _mean(pair: tuple[Cost, Cost]) -> float:
    return (pair[0].wall + pair[1].wall) / 2
