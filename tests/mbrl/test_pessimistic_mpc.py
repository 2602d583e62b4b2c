"""Pessimistic MPC: the gate, by what members are made to say, and a pit that the data don't show."""

import math

import numpy as np
import pytest
import torch

from mbrl.data.datasets import Dataset
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.models.penalties import penalty_function
from mbrl.pipelines.pessimistic_mpc import PessimisticMPC, disagreement_quantile
from planners import CEM, Box, FunctionDynamics, Problem

BOX = Box(-1.0, 1.0, 1)
PLANNER = CEM(BOX, horizon=3, population=60, elites=8, iterations=3)


class Zero:
    """A fallback that counts its calls."""

    def predict(self, obs, state=None, episode_start=None, deterministic=False):
        shape = (*np.shape(obs)[:-1], 1)
        return np.zeros(shape, np.float32), (state or 0) + 1


def to_the_right(obs, action, next_obs):
    return next_obs[:, 0]


def walk(rows: int = 600) -> Dataset:
    """x' = x + 0.3 a, seen where x is below 1 alone."""
    rng = np.random.default_rng(0)
    x, a = rng.uniform(-1, 1, rows), rng.uniform(-1, 1, rows)
    seen = np.stack([x, x + 0.3 * a], 1).reshape(-1, 1)
    yes = np.ones(rows, dtype=bool)
    return Dataset(seen, a[:, None], 0 * x, ~yes, yes, x * np.nan, np.ones(rows, np.int64))


@pytest.fixture(scope="module")
def ensemble() -> GaussianEnsemble:
    made = GaussianEnsemble(1, 1, members=5, hidden=(24, 24), seed=0)
    fit(made, walk().transitions(), seed=0, steps=300, batch_size=64)
    return made


def controller(ensemble, threshold, weight=0.0) -> PessimisticMPC:
    def penalty(prediction):
        return weight * penalty_function("pairwise", ensemble)(prediction)

    dynamics = EnsembleDynamics(ensemble, reward=to_the_right, penalty=penalty)
    return PessimisticMPC(PLANNER, Problem(dynamics, particles=5), Zero(), threshold)


def test_the_gate_is_shut_where_the_ensemble_disagrees(ensemble):
    """Within the data MPC goes right; far outside of them the fallback stands still, row by row."""
    limit = disagreement_quantile(controller(ensemble, 0.0).dynamics, walk())
    made = controller(ensemble, limit)
    obs = np.array([[0.0], [30.0], [-0.5]], np.float32)
    action, state = made.predict(obs)
    assert state.gated.tolist() == [False, True, False]
    assert action[1] == 0
    assert (action[[0, 2]] > 0.5).all()
    assert ((state.disagreement > limit) == state.gated).all()
    single, state = made.predict(obs[1])
    assert single.shape == (1,)
    assert single == 0
    assert state.gated.tolist() == [True]


def test_the_gate_lets_nothing_or_everything_through_at_its_ends(ensemble):
    obs = np.array([[0.0], [30.0]], np.float32)
    shut, _ = controller(ensemble, 0.0).predict(obs)
    assert (shut == 0).all()
    open_, state = controller(ensemble, math.inf).predict(obs)
    plain, _ = controller(ensemble, math.inf).mpc.predict(obs)
    assert np.array_equal(open_, plain)
    assert not state.gated.any()


def test_memories_of_both_policies_go_on(ensemble):
    made, obs, state = controller(ensemble, 0.0), np.array([0.1], np.float32), None
    for count in (1, 2, 3):
        _, state = made.predict(obs, state, np.array([count == 1]))
        assert state.fallback == count
        assert int(state.mpc.tick[0]) == count


def test_nothing_finite_shuts_the_gate(ensemble):
    made = controller(ensemble, 1e9)
    made.dynamics.uncertainty = lambda state, action: torch.full((1,), torch.nan)
    action, state = made.predict(np.array([0.1], np.float32))
    assert action == 0
    assert state.gated.all()


@pytest.mark.parametrize("replan_every", [1, 3])
def test_the_gate_is_shut_where_no_plan_is_valid(ensemble, replan_every):
    """The ensemble agrees, but rewards right of 0.2 are NaN: there is nothing to be executed but the fallback."""

    def reward(obs, action, next_obs):
        return torch.where(obs[:, 0] > 0.2, torch.nan, next_obs[:, 0])

    dynamics = EnsembleDynamics(ensemble, reward=reward, penalty=penalty_function("pairwise", ensemble))
    made = PessimisticMPC(PLANNER, Problem(dynamics, particles=5), Zero(), math.inf, replan_every=replan_every)
    obs, state = np.array([[-0.9], [0.5]], np.float32), None
    for _ in range(3):
        action, state = made.predict(obs, state)
        assert state.gated.tolist() == [False, True]
        assert action[0] != 0
        assert action[1] == 0


def test_a_penalty_keeps_plans_within_the_data(ensemble):
    """Paid to go right, without a penalty MPC leaves the data; with a heavy one it stops at their edge."""
    ends = {}
    for weight in (0.0, 300.0):
        made, x, state = controller(ensemble, math.inf, weight), 0.5, None
        for _ in range(12):
            action, state = made.predict(np.array([x], np.float32), state)
            x += 0.3 * float(action[0])
        ends[weight] = x
    assert ends[0.0] > 3
    assert ends[300.0] < 2


def test_a_quantile_of_the_data_is_one(ensemble):
    dynamics, data = controller(ensemble, 0.0).dynamics, walk()
    rows = data.transitions()
    own = dynamics.uncertainty(dynamics.reset(rows.obs), rows.action).double().numpy()
    assert disagreement_quantile(dynamics, data, 0.5) == pytest.approx(float(np.median(own)))
    assert disagreement_quantile(dynamics, data, 1.0) == pytest.approx(float(own.max()))
    with pytest.raises(ValueError, match="quantile: expected a number in"):
        disagreement_quantile(dynamics, data, 0.0)


def test_what_has_no_penalty_or_no_members_is_refused(ensemble):
    plain = Problem(EnsembleDynamics(ensemble, reward=to_the_right))
    with pytest.raises(ValueError, match=r"problem: expected EnsembleDynamics\(penalty"):
        PessimisticMPC(PLANNER, plain, Zero(), 1.0)
    formula = Problem(FunctionDynamics(lambda x, a: x + a, to_the_right))
    with pytest.raises(ValueError, match="problem: expected dynamics of an ensemble"):
        PessimisticMPC(PLANNER, formula, Zero(), 1.0)
    with pytest.raises(ValueError, match="threshold: expected a number of 0 or more, got nan"):
        controller(ensemble, math.nan)
