"""Schedules: what they give, and what they refuse."""

import pytest

from mbrl.pipelines.schedules import Ramp


def test_a_ramp_rises_between_its_steps() -> None:
    ramp = Ramp(1, 15, start=20_000, end=100_000)  # MBPO's for Hopper
    assert [ramp.at(steps) for steps in (0, 20_000, 60_000, 99_999, 100_000, 10**6)] == [1, 1, 8, 14, 15, 15]
    assert Ramp(2, 2).at(0) == Ramp(2, 2).at(5) == 2
    assert Ramp(1, 3, start=0, end=2).at(1) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 4, 0, 10), "first, last: expected numbers from 1 that don't decrease, got 5 and 4"),
        ((0, 4, 0, 10), "first, last: expected numbers from 1"),
        ((1, 4, 10, 10), "start, end: expected steps from 0, the end later, got 10 and 10"),
        ((1, 4, -1, 10), "start, end: expected"),
    ],
)
def test_bad_ramps(arguments: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ramp(*arguments)
