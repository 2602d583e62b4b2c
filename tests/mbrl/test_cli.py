"""The command line: what a user types, what comes out, and what bad input gets."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mbrl.cli import _changed, main
from mbrl.data.datasets import DatasetInfo, save_dataset
from mbrl.learners.dqn import DQNConfig
from mbrl.pipelines.pets_config import PETSConfig
from tests.mbrl.offline_cases import pendulum_data

TINY = [
    "--env-id",
    "InvertedPendulum-v5",
    "--total-timesteps",
    "60",
    "--initial-steps",
    "30",
    "--fit-every",
    "30",
    "--fit-steps",
    "10",
    "--hidden",
    "8",
    "8",
    "--horizon",
    "4",
    "--population",
    "10",
    "--elites",
    "4",
    "--iterations",
    "1",
    "--eval-every",
    "0",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    assert main(["train", "pets", *TINY, "--root", str(root), "--distill"]) == 0
    (path,) = root.iterdir()
    return path


def test_a_run_is_evaluated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--episodes", "2"]) == 0
    assert "over 2 episodes" in capsys.readouterr().out


def test_the_distilled_policy_is_evaluated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--episodes", "1", "--policy", "distilled"]) == 0
    assert "episode 1: return" in capsys.readouterr().out


def test_a_run_is_plotted(run: Path, tmp_path: Path) -> None:
    assert main(["plot", str(run), "--out", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_resumes_to_itself(run: Path) -> None:
    before = (run / "metrics.jsonl").read_text().splitlines()[:-1]
    assert main(["resume", str(run)]) == 0
    assert (run / "metrics.jsonl").read_text().splitlines()[:-1] == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "pets", "--env-id", "NoSuchTask-v0"], "NoSuchTask-v0"),
        (["train", "pets", "--env-id", "CartPole-v1"], "action"),
        (["train", "pets", *TINY, "--elites", "11"], "elites"),
        (["train", "pets", *TINY, "--horizon", "0"], "horizon"),
        (["train", "pets", *TINY, "--threads", "0"], "threads"),
        (["evaluate", "no/such/run"], "no/such/run"),
        (["resume", "no/such/run"], "no/such/run"),
        (["plot", "no/such/run"], "no/such/run"),
    ],
)
def test_bad_input_gets_one_clear_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if arguments[0] == "train":
        arguments = [*arguments, "--root", str(tmp_path)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_help_reads_like_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "pets", "--env-id", "InvertedPendulum-v5", "--help"])
    text = capsys.readouterr().out
    assert "Real environment steps between" in text or "Real steps between fits" in text
    assert "(default: 15)" in text  # the preset's horizon


def test_a_process_says_each_warning_once_and_as_a_sentence(tmp_path: Path) -> None:
    data = pendulum_data(episodes=2, steps=10)
    file = save_dataset(replace(data, info=DatasetInfo()), tmp_path / "data.hdf5")
    command = ["train", "bc", "--dataset", str(file), "--total-updates", "2", "--root", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "mbrl", *command], capture_output=True, text=True, check=True)
    said = [line for line in done.stderr.splitlines() if "action bounds" in line]
    assert len(said) == 1
    assert said[0].startswith("warning: action bounds: the dataset does not say them")
    assert ".py:" not in done.stderr


def test_a_reader_that_has_gone_is_no_error() -> None:
    command = [sys.executable, "-m", "mbrl", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141


def test_settings_that_are_true_or_false_can_be_changed() -> None:
    """As options they have no value."""
    present = {"config": PETSConfig(), "learner": DQNConfig()}
    changed = _changed(present, ("objective=True", "double=false", "lr=1e-4", "diagnostic_horizons="))
    assert changed["config"] == replace(PETSConfig(), objective=True, diagnostic_horizons=())
    assert changed["learner"] == replace(DQNConfig(), double=False, lr=1e-4)
    with pytest.raises(ValueError, match="settings: expected double=true or double=false, got 'maybe'"):
        _changed(present, ("double=maybe",))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train sac --env-id Pendulum-v1 --learning-rate 1e-3", "learning_rate: expected a setting of sac, .*--lr"),
        ("train dqn --env-id CartPole-v1 --gamma=0.9", "gamma: expected a setting of dqn, .* --discount"),
        ("train ppo --env-id Pendulum-v1", "got 'ppo': did you mean sb3-ppo?"),
    ],
)
def test_names_of_other_libraries_are_known(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert re.search(message, capsys.readouterr().err)
