"""The progress bar: a bar for terminals, plain lines for files."""

import io

import pytest

from mbrl.experiments import progress
from mbrl.experiments.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_the_return() -> None:
    terminal = Terminal()
    with Progress(1000, file=terminal) as bar:
        bar.advance(400)  # a resumed run
        bar.advance(401)
        bar.show({"rollout/ep_rew_mean": 12.34})
        bar.show({"model/train_loss": 1.0})
        bar.advance(500)
    last = terminal.getvalue().split("\r")[-1]
    assert "500/1000" in last
    assert "return=12.3" in last


def test_updates_are_counted_as_such_and_shown_with_evaluations() -> None:
    terminal = Terminal()
    with Progress(1000, unit="update", file=terminal) as bar:
        bar.advance(400)
        bar.show({"eval/mean_reward": -3.21})
        bar.advance(500)
    last = terminal.getvalue().split("\r")[-1]
    assert "return=-3.2" in last
    assert "update" in last


def test_a_file_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    file = io.StringIO()
    with Progress(10, description="pets", file=file) as bar:
        for step in range(1, 4):
            bar.advance(step)
            bar.show({"rollout/ep_rew_mean": float(step)})
    lines = file.getvalue().splitlines()
    assert [f"{step}/10" in line for step, line in enumerate(lines[:3], start=1)] == [True] * 3
    assert "return=3.0" in lines[-1]
    assert lines[-1].startswith("pets:")
    assert "\r" not in file.getvalue()


def test_what_was_done_before_does_not_count_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    with Progress(10**9, file=file) as bar:
        bar.advance(10**8)
        bar.advance(10**8 + 1)
        assert bar._bar.format_dict["initial"] == 10**8


def test_a_run_that_never_began_prints_nothing() -> None:
    file = io.StringIO()
    with Progress(10, file=file) as bar:
        bar.show({"rollout/ep_rew_mean": 1.0})
    assert file.getvalue() == ""
