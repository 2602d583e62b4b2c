"""Schedules over real steps."""

from dataclasses import dataclass

from mbrl.learners.settings import check_numbers


@dataclass(frozen=True)
class Ramp:
    """A whole number that rises linearly with real steps, from `first` until `start` to `last` from `end` on.

    Raises:
        ValueError: it would decrease, start below 1, or end before it starts.
    """

    first: int = 1
    """Until step `start`."""
    last: int = 1
    """From step `end` on."""
    start: int = 0
    """Real steps at which it begins to rise."""
    end: int = 1
    """Real steps at which it has risen."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.first < 1 or self.last < self.first:
            raise ValueError(
                f"first, last: expected numbers from 1 that don't decrease, got {self.first} and {self.last}"
            )
        if self.start < 0 or self.end <= self.start:
            raise ValueError(f"start, end: expected steps from 0, the end later, got {self.start} and {self.end}")

    def at(self, steps: int) -> int:
        """The value after `steps` real steps, rounded down."""
        risen = min(max(steps - self.start, 0), self.end - self.start)
        return self.first + risen * (self.last - self.first) // (self.end - self.start)
