"""The demonstration's bookkeeping. Whether it learns is `make demo` and benchmarks/."""

from pathlib import Path

import pytest

from mbrl.cli import main
from mbrl.experiments.demo import Trial, table, true_model_return


def test_the_true_model_reaches_most_of_the_reward() -> None:
    assert true_model_return() >= 0.7 * 200


def test_the_table_shows_every_trial_and_the_verdict() -> None:
    text = table([Trial(200, 12.5, 3.0, False), Trial(400, 160.0, 20.0, True)], 177.0, True)
    rows = text.splitlines()
    assert rows[1].split() == ["1", "200", "12.5", "3", "s", "177.0", "no"]
    assert rows[2].split() == ["2", "400", "160.0", "20", "s", "177.0", "yes"]
    assert rows[-1] == "solved: yes"


def test_a_demonstration_that_is_not_solved_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One random trial is all there is time for: no, and exit status 1, with the picture all the same."""
    assert main(["demo", "--total-timesteps", "200", "--root", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == "solved: no"
    assert lines[-2].startswith("video: ")
    plot = Path(lines[-1].removeprefix("learning curve: "))
    assert plot.read_bytes().startswith(b"\x89PNG")
