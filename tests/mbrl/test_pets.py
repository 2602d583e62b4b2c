"""PETS on real environments with tiny budgets."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from mbrl.envs.make import make_env
from mbrl.envs.tasks import task
from mbrl.models.diagnostics import open_loop_report
from mbrl.pipelines.pets import _PETS, train_pets
from mbrl.pipelines.pets_agent import PETSAgent
from mbrl.pipelines.pets_config import PETSConfig, preset
from mbrl.pipelines.recorder import NullRecorder
from mbrl.types import TransitionBatch
from planners.rows import leaves, map_rows
from tests.mbrl.memory import Memory

TINY = PETSConfig(
    total_timesteps=60,
    initial_steps=30,
    fit_every=15,
    hidden=(16, 16),
    batch_size=32,
    fit_steps=20,
    horizon=5,
    population=10,
    elites=4,
    iterations=2,
    particles=5,
)


class Rows:
    """A recorder that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.saved: list[int] = []

    def log(self, row: Any) -> None:
        self.rows.append(dict(row))

    def advance(self, steps: int) -> None:
        pass

    def save(self, steps: int, tensors: Any, meta: Any) -> None:
        self.saved.append(steps)

    def load(self) -> None:
        return None

    def values(self, key: str) -> list[float]:
        return [row[key] for row in self.rows if key in row]


def test_rounds_alternate_between_fitting_and_acting() -> None:
    rows = Rows()
    result = train_pets(make_env("InvertedPendulum-v5"), TINY, seed=0, recorder=rows)
    assert len(result.buffer) == result.steps == 60
    assert result.random_rows == 30
    fits = [row["time/total_timesteps"] for row in rows.rows if "model/train_loss" in row]
    assert fits == [30, 45]
    assert rows.values("train/gradient_steps")[-1] == 40
    # A plan is (iterations x population + 1) sequences of 5 steps with 5 particles.
    assert rows.values("plan/model_steps")[-1] <= 30 * (2 * 10 + 1) * 5 * 5
    assert rows.saved[-1] == 60
    assert "model/rmse_1" in rows.rows[[i for i, r in enumerate(rows.rows) if "model/train_loss" in r][1]]


def test_the_models_error_is_in_units_of_all_steps() -> None:
    agent = PETSAgent(make_env("Pendulum-v1"), replace(TINY, total_timesteps=80, diagnostic_horizons=(3,)), 0)

    def error(earlier: float) -> Tensor:
        """On the same 20 newest steps behind 60 earlier ones that are so wide, in units of the observation."""
        pets = _PETS(agent, NullRecorder(), None, lambda: False)
        x = torch.randn(81, 1, generator=torch.Generator().manual_seed(0)).expand(81, 3).clone()
        x[:60] *= earlier
        zero = torch.zeros(80)
        batch = TransitionBatch(x[:-1], zero[:, None], zero, x[1:], zero.bool(), zero.bool(), zero, zero)
        pets.buffer.extend_rows(batch, torch.tensor([60, 20]))
        pets.count.fitted_rows = 60
        return pets._diagnose()["model/rmse_3"] * pets.buffer.all().obs[:, 0].std(correction=0)

    torch.testing.assert_close(error(10.0), error(1.0))


def test_the_model_is_scored_at_no_horizon_where_none_is_given() -> None:
    rows = Rows()
    train_pets(make_env("InvertedPendulum-v5"), replace(TINY, diagnostic_horizons=()), seed=0, recorder=rows)
    assert not any(key.startswith("model/rmse") for row in rows.rows for key in row)
    for steps in (0, -1):
        with pytest.raises(ValueError, match="diagnostic_horizons: expected numbers of steps from 1, or none"):
            replace(TINY, diagnostic_horizons=(1, steps))


def test_it_can_be_stopped_between_steps_and_between_episodes() -> None:
    left = iter(range(6))
    env = make_env("InvertedPendulum-v5")
    assert train_pets(env, TINY, stop_now=lambda: next(left, None) is None).steps == 7
    result = train_pets(env, TINY, stop=lambda episode, buffer: True)
    assert result.steps == result.episodes[0].length < TINY.total_timesteps


def test_one_round_fits_once() -> None:
    rows = Rows()
    train_pets(make_env("InvertedPendulum-v5"), replace(TINY, fit_every=1000), seed=0, recorder=rows)
    assert len(rows.values("model/train_loss")) == 1


def test_a_run_that_goes_on_with_another_horizon_plans_afresh() -> None:
    first, env = Memory(), make_env("InvertedPendulum-v5")
    train_pets(env, TINY, seed=0, recorder=first, stop_now=iter([False] * 40 + [True]).__next__)
    rest = Memory(first.saved[-1], accept=True)
    with pytest.warns(UserWarning, match="policy: planning starts afresh"):
        result = train_pets(env, replace(TINY, horizon=8), seed=0, recorder=rest)
    assert result.steps == 60


def test_diagnoses_are_those_of_the_sampled_model_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """However plans are made: particles of an expectation are all one, and their interval is empty."""
    seen: list[Any] = []

    def watched(dynamics: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((dynamics.propagation, dynamics.precision))
        return open_loop_report(dynamics, *args, **kwargs)

    monkeypatch.setattr("mbrl.pipelines.pets.open_loop_report", watched)
    train_pets(make_env("InvertedPendulum-v5"), replace(TINY, propagation="expectation"), seed=0)
    assert set(seen) == {("ts_inf", "full")}


def test_the_seed_decides_everything() -> None:
    def actions(seed: int) -> torch.Tensor:
        return train_pets(make_env("InvertedPendulum-v5"), TINY, seed=seed).buffer.all().action

    assert torch.equal(actions(1), actions(1))
    assert not torch.equal(actions(1), actions(2))


def test_replanning_less_often_executes_open_loop() -> None:
    rows_every, rows_third = Rows(), Rows()
    env = make_env("mbrl/CartPoleSwingUp-v0")
    config = replace(TINY, total_timesteps=240, initial_steps=200, fit_every=200)
    train_pets(env, config, seed=0, recorder=rows_every, evaluate=lambda policy, steps: {})
    result = train_pets(env, replace(config, replan_every=4), seed=0, recorder=rows_third)
    assert result.policy.replan_every == 4
    assert len(result.buffer) == 240


def test_several_environments_are_stepped_together() -> None:
    env = gym.vector.SyncVectorEnv(
        [lambda: make_env("InvertedPendulum-v5")] * 3, autoreset_mode=gym.vector.AutoresetMode.DISABLED
    )
    result = train_pets(env, replace(TINY, num_envs=3), seed=0)
    assert result.steps == 60
    assert len(result.buffer) == 60


@pytest.mark.parametrize(
    "change",
    [
        {"planner": "random_shooting"},
        {"propagation": "ts1"},
        {"propagation": "expectation"},
        {"deterministic": True, "particles": 1, "members": 1},
        {"risk": "cvar"},
        {"fit_steps": None, "max_epochs": 3},
        {"objective": True},
    ],
    ids=str,
)
def test_variants_run(change: dict[str, Any]) -> None:
    result = train_pets(make_env("InvertedPendulum-v5"), replace(TINY, **change), seed=0)
    assert result.steps == 60


def test_a_reward_is_learned_where_none_is_known() -> None:
    env = gym.make("MountainCarContinuous-v0")
    result = train_pets(env, replace(TINY, total_timesteps=40), seed=0)
    assert result.ensemble.learned_reward


class Broken(gym.Wrapper):  # type: ignore[type-arg]
    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, float(reward) + 0.1, terminated, truncated, info


def test_a_reward_function_that_disagrees_stops_the_run() -> None:
    env = Broken(make_env("mbrl/CartPoleSwingUp-v0"))
    with pytest.raises(ValueError, match="reward"):
        train_pets(env, TINY, seed=0)


def test_given_functions_are_verified_in_place_of_the_tasks() -> None:
    env, known = Broken(make_env("mbrl/CartPoleSwingUp-v0")), task("mbrl/CartPoleSwingUp-v0")
    assert known is not None
    assert known.reward is not None
    right = known.reward
    train_pets(env, TINY, reward=lambda o, a, n: right(o, a, n) + 0.1)
    with pytest.raises(ValueError, match="reward disagrees with the environment in row 0 of 1"):
        train_pets(env, TINY, reward=lambda o, a, n: right(o, a, n) + 0.2)
    with pytest.raises(ValueError, match="terminated disagrees with the environment in row 0 of 1"):
        train_pets(
            env, TINY, reward=lambda o, a, n: right(o, a, n) + 0.1, termination=lambda o, a, n: n[:, 0] == n[:, 0]
        )


@pytest.mark.parametrize("given", ["reward", "termination"])
def test_given_functions_are_verified_where_the_library_knows_nothing(given: str) -> None:
    wrong: Any = {"reward": lambda o, a, n: 5 + 0 * o[:, 0], "termination": lambda o, a, n: o[:, 0] == o[:, 0]}
    name = {"reward": "reward", "termination": "terminated"}[given]
    with pytest.raises(ValueError, match=f"{name} disagrees with the environment in row 0 of 1"):
        train_pets(gym.make("MountainCarContinuous-v0"), TINY, **{given: wrong[given]})


def test_everything_lives_on_the_device_of_the_settings() -> None:
    env, config = make_env("InvertedPendulum-v5"), replace(TINY, device="meta")
    agent = PETSAgent(env, config, 0)
    pets = _PETS(agent, NullRecorder(), None, lambda: False)
    assert {x.device.type for x in leaves(agent.ensemble.parameters)} == {"meta"}
    assert agent.dynamics.reset(torch.zeros(2, 4)).obs.device.type == "meta"
    assert pets.buffer.device.type == pets.buffer.all().obs.device.type == "meta"
    # What a checkpoint holds of the planner is on the CPU.
    host = PETSAgent(env, TINY, 0).policy.predict(np.zeros((1, 4)))[1]
    pets.memory.load_state_dict({str(i): leaf for i, leaf in enumerate(leaves(host))})
    restored = pets.memory.restored(lambda: map_rows(lambda x: x.to("meta"), host))
    assert restored is not None
    assert {x.device.type for x in leaves(restored)} == {"meta"}
    with pytest.raises(ValueError, match="device: expected one that is here, such as cpu, got 'cuda:99'"):
        train_pets(env, replace(TINY, device="cuda:99"))


def test_an_objective_must_exist() -> None:
    with pytest.raises(ValueError, match="objective"):
        train_pets(make_env("HalfCheetah-v5"), replace(TINY, objective=True), seed=0)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"total_timesteps": 0}, "total_timesteps"),
        ({"eval_every": -1}, "eval_every"),
        ({"fit_steps": 0}, "fit_steps"),
        ({"initial_steps": 60}, r"initial_steps: expected fewer than total_timesteps \(60\), got 60: nothing would be"),
        ({"members": 0}, "members: expected at least 1"),
        ({"max_epochs": 0}, "max_epochs: expected at least 1"),
        ({"patience": 0}, "patience: expected at least 1"),
        ({"holdout": 0.0}, r"holdout: expected a share in \(0, 1\)"),
        ({"holdout": 1.5}, r"holdout: expected a share in \(0, 1\)"),
        ({"learning_rate": 0.0}, "learning_rate: expected a positive"),
        ({"risk": "max"}, "risk: expected one of mean, worst, cvar, got 'max'"),
        ({"planner": "icem"}, "planner: expected one of cem, random_shooting, got 'icem'"),
        ({"propagation": "TS1"}, "propagation: expected one of ts_inf, ts1, expectation, got 'TS1'"),
    ],
)
def test_a_setting_out_of_range_is_named(change: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        replace(TINY, **change)


@pytest.mark.parametrize(("change", "name"), [({"horizon": 0}, "horizon"), ({"elites": 11}, "elites")])
def test_a_planner_setting_out_of_range_is_named(change: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        train_pets(make_env("InvertedPendulum-v5"), replace(TINY, **change), seed=0)


def test_presets_fit_their_tasks() -> None:
    for env_id in ("mbrl/CartPoleSwingUp-v0", "InvertedPendulum-v5", "Reacher-v5", "HalfCheetah-v5", "Hopper-v5"):
        small = replace(
            preset(env_id),
            total_timesteps=32,
            initial_steps=30,
            fit_every=100,
            fit_steps=2,
            population=10,
            elites=4,
            iterations=1,
            particles=5,
            eval_every=0,
        )
        result = train_pets(make_env(env_id), small, seed=0)
        assert np.isfinite(result.buffer.all().reward.numpy()).all()
