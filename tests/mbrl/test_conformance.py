"""Shipped planners on shipped models: the laws hold for the pairs that users run."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mbrl.envs import make_env, simulator
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from planners import CEM, Box, Problem, RandomShooting
from planners.risk import cvar, exponential, worst
from planners.rows import map_rows
from planners.testing import check_dynamics, check_planner

BOX = Box([-1.0, -0.5], [1.0, 2.0])
PLANNERS = {
    "cem": CEM(BOX, 4, population=40, elites=6, iterations=2),
    "random_shooting": RandomShooting(BOX, 4, population=40, iterations=2),
}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return -next_obs.square().sum(-1)


def ends(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[:, 0] > 1.0


def learned(propagation: str, dtype: torch.dtype) -> EnsembleDynamics:
    ensemble = GaussianEnsemble(3, 2, members=3, hidden=(16, 16), learned_reward=propagation == "ts1", dtype=dtype)
    given = None if propagation == "ts1" else reward
    return EnsembleDynamics(ensemble, propagation=propagation, reward=given, termination=ends)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("propagation", ["ts_inf", "ts1", "expectation"])
def test_learned_dynamics(propagation: str, dtype: torch.dtype) -> None:
    dynamics = learned(propagation, dtype)
    start = dynamics.reset(torch.randn(9, 3, generator=generator(), dtype=dtype))
    actions = torch.rand(2, 9, 2, generator=generator(), dtype=dtype)
    check_dynamics(dynamics, start, actions, particles=3)


@pytest.mark.parametrize("planner", PLANNERS.values(), ids=PLANNERS)
@pytest.mark.parametrize(
    ("propagation", "particles", "risk"),
    [("ts_inf", 6, worst), ("ts1", 3, cvar(0.5)), ("expectation", 1, exponential(0.5))],
)
def test_planners_on_learned_dynamics(planner, propagation, particles, risk) -> None:
    dynamics = learned(propagation, torch.float32)
    problem = Problem(dynamics, discount=0.95, particles=particles, risk=risk)
    check_planner(planner, problem, dynamics.reset(torch.randn(4, 3, generator=generator())))


@pytest.mark.parametrize("kind", [CEM, RandomShooting])
@pytest.mark.parametrize("env_id", ["mbrl/CartPoleSwingUp-v0", "Hopper-v5"])
def test_planners_on_the_simulator(kind, env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where MuJoCo would write a log
    env = make_env(env_id)
    model = simulator(env, threads=1)
    states = []
    for seed in range(2):
        env.reset(seed=seed)
        states.append(model.state_of(env))
    start = map_rows(lambda *parts: torch.cat(parts), *states)
    budget = {"population": 40, "iterations": 2, **({"elites": 6} if kind is CEM else {})}
    check_planner(kind(Box.from_space(env.action_space), 3, **budget), Problem(model), start)
    assert list(tmp_path.iterdir()) == []
    env.close()
