"""The model of a dataset: its cache, its ends, and what is said where the data don't fit."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbrl.data.datasets import Dataset, DatasetInfo, dataset_buffer
from mbrl.pipelines import offline_model
from mbrl.pipelines.agents import SAC
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.learned_model import LearnedModel
from mbrl.pipelines.mopo import train_mopo
from mbrl.pipelines.mopo_config import MOPOConfig
from mbrl.pipelines.offline_model import fit_once, learned_model, penalty_of
from tests.mbrl.memory import Memory, same

CONFIG = MOPOConfig(
    total_updates=2,
    batch_size=8,
    rollout_starts=4,
    rollout_length=1,
    retain_rounds=1,
    members=2,
    elites=1,
    model_hidden=(8,),
    model_max_steps=5,
    termination="learned",
)
ENDS_STEPS = offline_model.ENDS_STEPS


def pole(ends: bool = True, env_id: str | None = "InvertedPendulum-v5") -> Dataset:
    """Two episodes of InvertedPendulum-v5 of ten steps; with `ends` the first falls in its last one."""
    rng = np.random.default_rng(0)
    obs = 0.05 * rng.standard_normal((22, 4))
    if ends:
        obs[10, 1] = 0.3
    last = np.zeros(20, dtype=bool)
    last[[9, 19]] = True
    fell = last & (np.arange(20) == 9) & ends
    info = DatasetInfo(env_id=env_id, action_low=(-3.0,), action_high=(3.0,))
    actions = rng.uniform(-3, 3, (20, 1)).astype(np.float32)
    lengths, unknown = np.full(2, 10, dtype=np.int64), np.full(20, np.nan)
    return Dataset(obs, actions, 1.0 - fell, fell, last & ~fell, unknown, lengths, info)


@pytest.fixture(autouse=True)
def quick_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for the few rows of most tests."""
    monkeypatch.setattr(offline_model, "ENDS_STEPS", 200)


def model_of(dataset: Dataset, config: MOPOConfig = CONFIG, seed: int = 0, **given: Any) -> LearnedModel:
    return learned_model(dataset, SAC(*dataset.spaces(), hidden=(8,)), config, seed=seed, **given)


def fitted(dataset: Dataset, config: MOPOConfig, seed: int = 0) -> tuple[LearnedModel, dict[str, float], Counters]:
    model, count = model_of(dataset, config, seed), Counters()
    return model, fit_once(model, dataset_buffer(dataset), dataset, config, count), count


def cached(tmp_path: Path, **changed: Any) -> MOPOConfig:
    return replace(CONFIG, model_cache=str(tmp_path), **changed)


def test_a_cached_model_is_the_one_that_would_be_fitted(tmp_path: Path) -> None:
    model, row, count = fitted(pole(), cached(tmp_path))
    (path,) = tmp_path.iterdir()
    again, told, counted = fitted(pole(), cached(tmp_path, penalty_weight=9.0, rollout_length=7))
    assert told.pop("model/cached") == 1.0
    row.pop("time/fit_seconds"), told.pop("time/fit_seconds")
    assert told == row
    assert counted == count
    same(again.state_dict(), model.state_dict())
    same(model.state_dict(), fitted(pole(), CONFIG)[0].state_dict())  # without a cache
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changed", "seed"), [({"members": 3}, 0), ({"model_lr": 2e-3}, 0), ({"patience": 4}, 0), ({}, 1)]
)
def test_another_model_is_another_file(tmp_path: Path, changed: dict[str, Any], seed: int) -> None:
    fitted(pole(), cached(tmp_path))
    _, row, _ = fitted(pole(), cached(tmp_path, **changed), seed)
    assert "model/cached" not in row
    assert len(list(tmp_path.iterdir())) == 2


def test_another_program_makes_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(pole(), cached(tmp_path))
    for owner, name, value in (
        (torch, "get_num_threads", lambda: 64),
        (torch, "__version__", "9.9"),
        (offline_model.metadata, "version", lambda _: "9.9"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            assert "model/cached" not in fitted(pole(), cached(tmp_path))[1]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_cache_that_cannot_be_written_costs_no_fit(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="model_cache: the fitted model can't be kept for other runs"):
        model, row, _ = fitted(pole(), cached(tmp_path / "file"))
    assert "model/cached" not in row
    same(model.state_dict(), fitted(pole(), CONFIG)[0].state_dict())


def test_other_data_are_another_file_and_runs_may_share_a_seed(tmp_path: Path) -> None:
    config = cached(tmp_path, model_seed=5)
    fitted(pole(), config, seed=0)
    assert "model/cached" in fitted(pole(), config, seed=1)[1]
    assert "model/cached" not in fitted(pole(ends=False, env_id=None).concatenate(pole()), config, seed=1)[1]


def test_rewards_and_ends_that_are_not_learned_are_another_model(tmp_path: Path) -> None:
    fitted(pole(), cached(tmp_path))
    for changed in ({"reward": "task"}, {"termination": "task"}):
        assert "model/cached" not in fitted(pole(), cached(tmp_path, **changed))[1]


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    model, _, _ = fitted(pole(), cached(tmp_path))
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="model_cache: the model is fitted anew.*is damaged"):
        again, row, _ = fitted(pole(), cached(tmp_path))
    assert "model/cached" not in row
    same(again.state_dict(), model.state_dict())
    assert "model/cached" in fitted(pole(), cached(tmp_path))[1]  # and written again


def test_training_takes_the_model_from_the_cache_and_so_does_resuming(tmp_path: Path) -> None:
    data, runs = pole(), []
    for folder in (None, str(tmp_path), str(tmp_path)):
        memory = Memory()
        train_mopo(data, SAC(*data.spaces(), hidden=(8,)), replace(CONFIG, model_cache=folder), seed=3, recorder=memory)
        runs.append(memory)
    for other in runs[1:]:
        same(runs[0].saved[-1][0], other.saved[-1][0])
    moved = replace(CONFIG, model_cache="elsewhere")  # a folder is no setting that decides anything
    resumed = train_mopo(data, SAC(*data.spaces(), hidden=(8,)), moved, seed=3, recorder=Memory(runs[0].saved[-1]))
    assert resumed.updates == 2
    assert not Path("elsewhere").exists()


def ends_of(model: LearnedModel) -> list[bool]:
    obs = torch.tensor([[0.0, 0.25, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert model.dynamics.termination is not None
    return model.dynamics.termination(obs, torch.zeros(2, 1), obs).tolist()


def test_the_tasks_ends_are_taken_where_the_library_knows_them() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = model_of(pole(), replace(CONFIG, termination="task"))
    assert ends_of(model) == [True, False]
    assert not model.learns_ends


def test_the_ends_of_an_unknown_task_are_learned() -> None:
    config = replace(CONFIG, termination="task")
    for env_id in (None, "Unknown-v0"):
        assert model_of(pole(env_id=env_id), config).learns_ends


@pytest.mark.parametrize(
    ("termination", "ends", "env_id", "reason"),
    [
        ("never", True, "InvertedPendulum-v5", "termination='never' was asked for"),
        ("never", False, None, "termination='never' was asked for"),
        ("task", False, None, "no row of the dataset is terminated"),
        ("learned", False, "InvertedPendulum-v5", "no row of the dataset is terminated"),
    ],
)
def test_a_model_without_ends_is_warned_of(termination: Any, ends: bool, env_id: str | None, reason: str) -> None:
    with pytest.warns(UserWarning, match=f"{reason}.*hopper, scores stay below 7.*use termination='learned'"):
        model_of(pole(ends, env_id), replace(CONFIG, termination=termination))


def rare_falls(rows: int = 4_000) -> Dataset:
    """Episodes of one step; one in fifty falls."""
    rng = np.random.default_rng(0)
    obs = rng.normal(0, 0.086, (2 * rows, 4))
    fell = np.abs(obs[1::2, 1]) > 0.2
    actions = rng.uniform(-3, 3, (rows, 1)).astype(np.float32)
    ones, unknown = np.ones(rows), np.full(rows, np.nan)
    info = DatasetInfo(action_low=(-3.0,), action_high=(3.0,))
    return Dataset(obs, actions, ones, fell, ~fell, unknown, np.ones(rows, np.int64), info)


def test_the_one_fit_finds_ends_that_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_model, "ENDS_STEPS", 20)
    with pytest.warns(UserWarning, match=r"termination: the learned ends miss \d+% of those in the dataset"):
        _, row, _ = fitted(rare_falls(), CONFIG)
    assert row["model/missed_ends"] > 0.2
    monkeypatch.setattr(offline_model, "ENDS_STEPS", ENDS_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, row, _ = fitted(rare_falls(), CONFIG)
    assert row["model/missed_ends"] < 0.1
    assert row["model/false_ends"] < 0.005


def test_given_ends_need_no_warning_and_are_verified() -> None:
    def fell(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return next_obs[:, 1].abs() > 0.2

    model_of(pole(env_id=None), replace(CONFIG, termination="never"), termination=fell)
    with pytest.raises(ValueError, match="the task's terminated disagrees with the environment in row 9 of 20"):
        model_of(pole(), termination=lambda obs, action, next_obs: fell(obs, action, 0 * next_obs))


def test_data_of_another_task_are_refused() -> None:
    wrong = pole(ends=False)
    observations = wrong.observations.copy()
    observations[5, 1] = 0.3  # fallen, and went on
    wrong = replace(wrong, observations=observations)
    with pytest.raises(ValueError, match="the task's terminated disagrees with the environment in row 4 of 20"):
        model_of(wrong, replace(CONFIG, termination="task"))
    with pytest.raises(ValueError, match="the task's reward disagrees with the environment in row 0"):
        model_of(replace(pole(), rewards=pole().rewards + 1), replace(CONFIG, reward="task"))


def test_a_holdout_without_a_row_is_refused_before_anything_is_made() -> None:
    with pytest.raises(ValueError, match=r"holdout: expected a share that leaves rows on both sides, got 0.02 of 20"):
        model_of(pole(), replace(CONFIG, holdout=0.02))


def test_the_weight_is_in_usual_rewards() -> None:
    data, config = pole(), replace(CONFIG, penalty="ensemble_std", penalty_weight=2.0)
    model = model_of(data, config, penalty=penalty_of(config, data))
    loud = replace(data, rewards=10 * data.rewards)
    louder = model_of(loud, config, penalty=penalty_of(config, loud))
    obs, action = torch.zeros(3, 4), torch.zeros(3, 1)
    prediction = model.ensemble.predict(obs, action)
    assert model.dynamics.penalty is not None
    assert louder.dynamics.penalty is not None
    torch.testing.assert_close(louder.dynamics.penalty(prediction), 10 * model.dynamics.penalty(prediction))
    raw = replace(config, penalty_units="raw")
    one, other = (penalty_of(raw, rows)(model.ensemble) for rows in (data, loud))
    assert one is not None
    assert other is not None
    assert torch.equal(one(prediction), other(prediction))
