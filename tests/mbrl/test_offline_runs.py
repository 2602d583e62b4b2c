"""Runs on datasets from the command line: trained, killed, resumed, evaluated, drawn, and refused."""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbrl.cli import main
from mbrl.data.datasets import DatasetInfo, save_dataset
from mbrl.experiments import runs
from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.metrics import read_metrics
from mbrl.experiments.offline_runs import OFFLINE, run_dataset
from mbrl.experiments.run import Run
from tests.mbrl.offline_cases import ENV_ID, pendulum_data

UPDATES = 60
TINY = (
    f"--total-updates {UPDATES} --batch-size 8 --hidden 8 8 --log-every 20 --eval-every 30 --eval-episodes 1 "
    "--checkpoint-every 10"
).split()
_MODEL = (
    f"--rollout-every {UPDATES // 3} --rollout-starts 20 --rollout-length 2 --members 2 --elites 2 --model-hidden 8 "
    "--model-max-steps 5"
).split()
WITH_MODEL = {"mopo": _MODEL, "combo": [*_MODEL, "--actions", "2"], "mobile": [*_MODEL, "--samples", "1"]}
ALL = pytest.mark.parametrize("algorithm", OFFLINE)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dataset(pendulum_data(), tmp_path_factory.mktemp("data") / "pendulum.hdf5")


def command(algorithm: str, dataset: Path, root: Path) -> list[str]:
    return [
        "train",
        algorithm,
        "--dataset",
        str(dataset),
        "--seed",
        "3",
        "--root",
        str(root),
        *TINY,
        *WITH_MODEL.get(algorithm, []),
    ]


def only_run(root: Path) -> Path:
    """Beside the cache of models."""
    (path,) = root.glob("*__*")
    return path


def train(algorithm: str, dataset: Path, root: Path, *more: str) -> Path:
    assert main([*command(algorithm, dataset, root), *more]) == 0
    return only_run(root)


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Finished runs by algorithm, made when they are first asked for."""
    made: dict[str, Path] = {}

    def run(algorithm: str) -> Path:
        if algorithm not in made:
            made[algorithm] = train(algorithm, dataset, tmp_path_factory.mktemp(algorithm))
        return made[algorithm]

    return run


def outcome(run: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The metrics without timings and without where a model came from, and all that the last checkpoint holds."""
    rows = [
        {
            k: v
            for k, v in row.items()
            if k == "time/total_timesteps" or not (k.startswith("time/") or k == "model/cached")
        }
        for row in read_metrics(run)
    ]
    return rows, {name: tensor.numpy().tobytes() for name, tensor in load_checkpoint(run)[0].items()}


def kill_at_random(arguments: list[str], root: Path) -> Path:
    """Train in another process, and end it with SIGKILL after some of its checkpoints."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mbrl.experiments.runs"])
    process = context.Process(target=main, args=(arguments,))
    process.start()
    seed = time.time_ns()
    print(f"killed at a moment drawn with seed {seed}")  # pytest shows it where the test fails
    moment, deadline = random.Random(seed), time.monotonic() + 60
    saved = moment.randrange(0, 4)
    while process.is_alive() and time.monotonic() < deadline:
        if len(list(root.glob("*/config.json"))) and updates(root) >= 10 * saved:
            break
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return only_run(root)


def updates(root: Path) -> int:
    names = [path.name for path in root.glob("*/checkpoints/*-step*")]
    return max((int(name.split("-step")[1]) for name in names), default=0)


@pytest.mark.parametrize(
    "algorithm", ["td3bc", "cql", "mopo"]
)  # tests/mbrl/test_offline.py stops and resumes all of them
def test_killed_and_resumed_equals_uninterrupted(algorithm: str, dataset: Path, trained: Any, tmp_path: Path) -> None:
    run = kill_at_random(command(algorithm, dataset, tmp_path), tmp_path)
    assert updates(tmp_path) < UPDATES
    assert main(["resume", str(run)]) == 0
    rows, tensors = outcome(trained(algorithm))
    resumed_rows, resumed = outcome(run)
    assert resumed_rows == rows
    assert {name for name in tensors if resumed[name] != tensors[name]} == set()
    assert resumed.keys() == tensors.keys()
    assert {row["time/total_timesteps"] for row in rows} == {0}
    assert [row["train/n_updates"] for row in rows if "eval/mean_reward" in row] == [30, 60]


@ALL
def test_a_run_is_evaluated_and_drawn(
    algorithm: str, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(algorithm)
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0
    assert "over 1 episodes" in capsys.readouterr().out
    assert main(["plot", str(run), "--out", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_end_tells_the_last_evaluations_and_the_best(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("bc", dataset, tmp_path)
    out = capsys.readouterr().out
    assert "last 2 evaluations: mean return -" in out
    assert "which is chosen with hindsight" in out
    assert run.name.startswith(f"{ENV_ID}__bc__3__")


@ALL
def test_the_run_remembers_its_dataset_and_where_models_are(algorithm: str, dataset: Path, trained: Any) -> None:
    run = Run.open(trained(algorithm))
    stored = json.loads((run.path / "config.json").read_text())["config"]["dataset"]
    assert stored["path"] == str(dataset)
    assert stored["hash"] == run_dataset(run).hash()
    assert stored["rows"] == 120
    assert stored["info"]["env_id"] == ENV_ID
    settings = runs.settings_of(run)
    assert settings["loop"].total_updates == UPDATES
    assert settings["learner"].hidden == (8, 8)
    models = run.path.parent / ".models"
    assert getattr(settings["loop"], "model_cache", None) == (str(models) if algorithm in WITH_MODEL else None)
    assert len(list(models.glob("*"))) == (algorithm in WITH_MODEL)


def test_minutes_end_a_run_that_then_goes_on(
    dataset: Path, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("iql", dataset, tmp_path, "--minutes", "1e-6")
    assert f"stopped at update 10 of {UPDATES}; to go on: mbrl resume {run}" in capsys.readouterr().out
    assert main(["resume", str(run), "--dataset", str(dataset)]) == 0
    assert outcome(run) == outcome(trained("iql"))


def test_a_dataset_that_has_moved_is_asked_for(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = (tmp_path / name / "data.hdf5" for name in ("here", "there"))
    for path in (here, there):
        path.parent.mkdir()
    shutil.copy(dataset, here)
    run = train("bc", here, tmp_path / "runs", "--minutes", "1e-6")
    here.rename(there)
    assert main(["resume", str(run)]) == 2
    assert "say where it is now with --dataset" in capsys.readouterr().err
    other = save_dataset(pendulum_data(seed=4), tmp_path / "other.hdf5")
    assert main(["resume", str(run), "--dataset", str(other)]) == 2
    assert "another one in" in capsys.readouterr().err
    assert main(["resume", str(run), "--dataset", str(there)]) == 0
    assert updates(tmp_path / "runs") == UPDATES


def test_other_settings_are_shown_and_refused(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("cql", dataset, tmp_path, "--minutes", "1e-6")
    changes = ["--settings", "weight=1.0", "total_updates=20"]
    assert main(["resume", str(run), *changes]) == 2
    assert "weight: 5.0 -> 1.0" in capsys.readouterr().err
    assert main(["resume", str(run), *changes, "--accept-changes"]) == 0
    assert updates(tmp_path) == 20


@pytest.mark.parametrize("env_id", [None, "NoSuchTask-v0"])
def test_without_an_environment_there_is_no_evaluation(
    env_id: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pendulum_data(episodes=2)
    path = save_dataset(replace(data, info=replace(data.info, env_id=env_id)), tmp_path / "data.hdf5")
    with pytest.warns(UserWarning, match=r"no evaluation: .*; to evaluate, pass --env-id"):
        run = train("bc", path, tmp_path / "runs")
    assert f"what it is worth on data: mbrl ope {run}" in capsys.readouterr().out
    assert not any("eval/mean_reward" in row for row in read_metrics(run))
    assert main(["evaluate", str(run)]) == 2
    assert "train with --env-id" in capsys.readouterr().err
    with contextlib.nullcontext() if env_id is None else pytest.warns(UserWarning, match=f"dataset is of {env_id}"):
        other = train("bc", path, tmp_path / "more", "--env-id", ENV_ID)
    assert any("eval/mean_reward" in row for row in read_metrics(other))


def test_evaluations_in_another_environment_than_the_datasets_are_warned_of(tmp_path: Path) -> None:
    """Though sizes and bounds are the same; the same one by another name of its module is no other."""
    data = pendulum_data()
    other = save_dataset(replace(data, info=replace(data.info, env_id="Pendulum-v0")), tmp_path / "other.hdf5")
    with pytest.warns(UserWarning, match="the dataset is of Pendulum-v0, evaluations are in Pendulum-v1, as --env-id"):
        train("bc", other, tmp_path / "runs", "--env-id", ENV_ID, "--minutes", "1e-6")
    same = save_dataset(data, tmp_path / "same.hdf5")
    train("bc", same, tmp_path / "more", "--env-id", f"gymnasium.envs:{ENV_ID}", "--minutes", "1e-6")


def test_bounds_that_a_dataset_does_not_say_are_the_environments(tmp_path: Path) -> None:
    data = pendulum_data()
    least, most = float(data.actions.min()), float(data.actions.max())
    path = save_dataset(replace(data, info=DatasetInfo()), tmp_path / "data.hdf5")
    run = train("bc", path, tmp_path / "runs", "--env-id", ENV_ID, "--minutes", "1e-6")
    assert main(["resume", str(run)]) == 0
    assert updates(tmp_path / "runs") == UPDATES
    info = run_dataset(Run.open(run)).info
    assert (info.action_low, info.action_high, info.env_id) == ((-2.0,), (2.0,), ENV_ID)
    with (
        pytest.warns(UserWarning, match="no evaluation: the dataset does not say"),
        pytest.warns(UserWarning, match="action bounds: .*write it anew with mbrl dataset import FILE.*--env-id ID"),
    ):
        other = train("bc", path, tmp_path / "more")
    space = run_dataset(Run.open(other)).spaces()[1]
    assert (space.low.item(), space.high.item()) == (least, most)


def test_data_that_name_no_environment_are_taken_to_be_of_the_given_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pendulum_data()
    nameless = replace(data, info=DatasetInfo())
    asked = ["--env-id", ENV_ID, "--reward", "task", "--termination", "task"]
    run = Run.open(train("mopo", save_dataset(nameless, tmp_path / "data.hdf5"), tmp_path / "runs", *asked))
    assert run_dataset(run).info == replace(data.info, versions={})
    assert "model/missed_ends" not in {key for row in run.metrics() for key in row}  # ends are the task's
    wrong = save_dataset(replace(nameless, rewards=data.rewards - 1), tmp_path / "wrong.hdf5")
    assert main([*command("mopo", wrong, tmp_path / "more"), *asked]) == 2
    assert "the task's reward disagrees with the environment in row 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"env_id": "Other-v0"}, "expected the env_id that the run began with, Pendulum-v1, got Other-v0"),
        ({"env_kwargs": {"g": 9.0}}, "expected the env_kwargs that the run began with, {}, got {'g': 9.0}"),
        ({"action_high": (3.0,)}, "expected the action_high that the run began with, (2.0,), got (3.0,)"),
    ],
)
def test_the_same_rows_of_another_environment_are_refused(
    changed: dict[str, Any], message: str, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pendulum_data()
    path = save_dataset(replace(data, info=replace(data.info, **changed)), tmp_path / "data.hdf5")
    assert main(["resume", str(trained("bc")), "--dataset", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_runs_that_act_and_runs_that_do_not_are_drawn_apart(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    acting = Run.create(tmp_path, ENV_ID, "sac", 0, {})
    assert main(["plot", str(trained("bc")), str(acting.path), "--out", str(tmp_path / "both.png")]) == 2
    assert "expected runs with one x axis" in capsys.readouterr().err
    assert main(["plot", str(trained("bc")), str(trained("iql")), "--out", str(tmp_path / "both.png")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train cql", "dataset: expected --dataset FILE, which cql learns from, got none"),
        ("train cql --dataset nowhere.hdf5", "nowhere.hdf5"),
        ("train cql --dataset DATA --preset paper", "preset: expected none"),
        ("train cql --dataset DATA --env-id NoSuchTask-v0", "NoSuchTask-v0"),
        ("train cql --dataset DATA --env-id InvertedPendulum-v5", "env: expected action_space"),
        ("train cql --dataset DATA --weight -1", "weight: expected 0 or more"),
        ("train mopo --dataset DATA --preset paper", "preset: expected one of small for Pendulum-v1"),
        ("train combo --dataset DATA --holdout 0.001", "holdout: expected a share that leaves rows on both sides"),
        ("train mobile --dataset DATA --elites 1", "elites: expected at least 2"),
        ("train cql --dataset DATA --device cuda:99", "device: expected one that is here"),
        ("train iql --dataset DATA --distill", "distill: expected it with pets only"),
        ("train sac --dataset DATA --env-id Pendulum-v1", "dataset: expected none, for sac learns by acting"),
        ("train sac", "env_id: expected --env-id ID"),
    ],
)
def test_bad_input_gets_one_clear_sentence(
    arguments: str, message: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(dataset) if word == "DATA" else word for word in arguments.split()]
    assert main([*given, "--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


@ALL
def test_data_with_defects_are_refused_with_episode_and_row(
    algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pendulum_data()
    rewards = data.rewards.copy()
    rewards[50] = np.nan
    path = save_dataset(replace(data, rewards=rewards), tmp_path / "data.hdf5")
    assert main(command(algorithm, path, tmp_path / "runs")) == 2
    assert "episode 1, row 50" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_that_acts_takes_no_dataset(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    acting = Run.create(tmp_path, ENV_ID, "sac", 0, {})
    assert main(["resume", str(acting.path), "--dataset", str(dataset)]) == 2
    assert "dataset: expected none, for a run of sac learns by acting" in capsys.readouterr().err


def test_help_shows_the_settings_for_the_datasets_environment(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "cql", "--dataset", str(dataset), "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--weight FLOAT Of the gap, beside the squared error. (default: 5.0)" in text
    assert "--total-updates INT Updates of the learner in all. (default: 10000)" in text  # Pendulum-v1's
