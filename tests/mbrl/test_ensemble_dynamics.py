"""Trajectory sampling: who predicts which row, with which noise, and what comes back."""

import pytest
import torch
from torch import Tensor

from mbrl.models.ensemble_dynamics import EnsembleDynamics, EnsembleState
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble, Prediction
from mbrl.models.grouping import group_rows
from mbrl.types import TransitionBatch
from planners import Problem, evaluate_plans
from planners.testing import check_dynamics, check_smooth

OBS, ACT = 3, 2


def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[:, 0] - 0.1 * (obs * next_obs).sum(-1) ** 2 - (action**2).sum(-1)


def data(n: int = 40) -> TransitionBatch:
    g = torch.Generator().manual_seed(3)
    obs, action, noise = (torch.randn(n, k, generator=g, dtype=torch.float64) for k in (OBS, ACT, OBS))
    zero, no = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.bool)
    return TransitionBatch(obs, action, obs[:, 0] + 5, obs + 0.1 * obs + noise, no, no, zero + 1, zero)


def trained(members: int = 5, elites: tuple[int, ...] | None = None, **kwargs) -> GaussianEnsemble:
    """A few steps away from the start, so that scalings, biases and members differ."""
    ensemble = GaussianEnsemble(OBS, ACT, members=members, hidden=(8, 8), dtype=torch.float64, **kwargs)
    fit(ensemble, data(), seed=0, steps=20, batch_size=16, lr=1e-2)
    if elites is not None:
        ensemble.replace(ensemble.parameters, ensemble.inputs, ensemble.targets, torch.tensor(elites))
    return ensemble


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(dynamics: EnsembleDynamics, rows: int, particles: int) -> tuple[EnsembleState, Tensor]:
    g = seeded(7)
    obs = torch.randn(rows, OBS, generator=g, dtype=torch.float64)
    action = torch.rand(rows, ACT, generator=g, dtype=torch.float64)
    return dynamics.assign(dynamics.reset(obs), particles, generator=g), action


@pytest.mark.parametrize("propagation", ["ts_inf", "ts1", "ts1_independent", "expectation"])
@pytest.mark.parametrize(("particles", "elites"), [(5, None), (6, None), (3, (4, 1))])
def test_conformance(propagation: str, particles: int, elites: tuple[int, ...] | None) -> None:
    dynamics = EnsembleDynamics(trained(elites=elites), propagation=propagation, reward=reward)
    state, _ = start(dynamics, 4 * particles, particles)
    actions = torch.rand(3, 4 * particles, ACT, generator=seeded(), dtype=torch.float64)
    check_dynamics(dynamics, state, actions, particles=particles)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, as forward mode is loaded
@pytest.mark.parametrize("learned", [True, False])
def test_derivatives_are_those_of_finite_differences(learned: bool) -> None:
    ensemble = trained(elites=(0, 3), learned_reward=learned)
    dynamics = EnsembleDynamics(ensemble, reward=None if learned else reward)
    state, action = start(dynamics, 4, 1)
    check_smooth(dynamics, state, action)


@pytest.mark.parametrize("rows", [12, 13])  # equal blocks, and unequal ones
def test_a_step_is_each_rows_member_plus_its_particles_noise(rows: int) -> None:
    ensemble = trained(members=3)
    dynamics = EnsembleDynamics(ensemble, reward=reward)
    state, action = start(dynamics, rows, 6)
    after, step = dynamics.step(state, action, generator=seeded())
    prediction = ensemble.predict(state.obs, action)
    index = torch.arange(rows)
    noise = torch.randn(rows, OBS, generator=seeded(), dtype=torch.float64)[index % 6]
    expected = state.obs + prediction.mean[index % 6 % 3, index] + prediction.std[index % 6 % 3, index] * noise
    torch.testing.assert_close(step.obs, expected)
    torch.testing.assert_close(step.reward, reward(state.obs, action, step.obs))
    assert after.obs is step.obs
    assert not step.terminated.any()


def test_without_a_generator_the_transition_is_the_mean_of_the_elites() -> None:
    ensemble = trained(elites=(3, 0))
    state, action = start(EnsembleDynamics(ensemble, reward=reward), 6, 2)
    expected = state.obs + ensemble.predict(state.obs, action).mean[[0, 3]].mean(0)
    torch.testing.assert_close(EnsembleDynamics(ensemble, reward=reward).step(state, action)[1].obs, expected)
    expectation = EnsembleDynamics(ensemble, reward=reward, propagation="expectation")
    torch.testing.assert_close(expectation.step(state, action, generator=seeded())[1].obs, expected)


def test_ts_infinity_keeps_members_and_ts1_deals_them_anew() -> None:
    ensemble = trained(elites=(4, 2, 0))
    for propagation in ("ts_inf", "ts1"):
        dynamics = EnsembleDynamics(ensemble, reward=reward, propagation=propagation)
        state, action = start(dynamics, 24, 6)
        assert state.member.tolist() == [4, 2, 0] * 8
        g, seen = seeded(), []
        for _ in range(40):
            state, _ = dynamics.step(state, action, generator=g)
            blocks = state.member.view(4, 6)
            assert (blocks == blocks[0]).all()  # a particle has one member, whatever its plan
            assert blocks[0].bincount(minlength=5).tolist() == [2, 0, 2, 0, 2]  # dealt evenly
            seen.append(blocks[0])
        shares = torch.stack(seen).eq(4).double().mean(0)
        if propagation == "ts_inf":
            assert shares.tolist() == [1, 0, 0, 1, 0, 0]
        else:
            assert ((shares > 0.1) & (shares < 0.6)).all()


def test_equal_plans_get_equal_scores_in_one_call() -> None:
    dynamics = EnsembleDynamics(trained(), reward=reward)
    problem = Problem(dynamics, particles=7)
    plan = torch.rand(1, 1, 4, ACT, generator=seeded(), dtype=torch.float64)
    other = torch.rand(1, 1, 4, ACT, generator=seeded(1), dtype=torch.float64)
    obs = dynamics.reset(torch.ones(1, OBS))
    scores = evaluate_plans(problem, obs, torch.cat([plan, other, plan], 1), generator=seeded()).scores[0]
    assert scores[0] == scores[2]
    assert scores[0] != scores[1]


def test_particles_of_a_part_of_a_state_may_outnumber_its_rows() -> None:
    dynamics = EnsembleDynamics(trained(), reward=reward)
    state, action = start(dynamics, 10, 10)
    part = EnsembleState(*(x[8:] for x in state))
    _, step = dynamics.step(part, action[8:], generator=seeded())
    assert step.obs.isfinite().all()


def test_predictions_follow_a_further_fit() -> None:
    ensemble = trained()
    dynamics = EnsembleDynamics(ensemble, reward=reward)
    state, action = start(dynamics, 10, 5)
    before = dynamics.step(state, action, generator=seeded())[1].obs
    fit(ensemble, data(), seed=1, steps=20, batch_size=16, lr=1e-2)
    after = dynamics.step(state, action, generator=seeded())[1].obs
    fresh = EnsembleDynamics(ensemble, reward=reward).step(state, action, generator=seeded())[1].obs
    assert torch.equal(after, fresh)
    assert not torch.allclose(after, before)
    ensemble.replace(ensemble.parameters, ensemble.inputs, ensemble.targets, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="state: expected members among the elites, got others"):
        dynamics.step(state, action, generator=seeded())


def test_a_member_written_in_place_is_noticed() -> None:
    dynamics = EnsembleDynamics(trained(), reward=reward)
    state, action = start(dynamics, 10, 5)
    dynamics.step(state, action, generator=seeded())
    state.member.fill_(1)
    copy = EnsembleState(*(x.clone() for x in state))
    got, expected = (dynamics.step(s, action, generator=seeded())[1].obs for s in (state, copy))
    assert torch.equal(got, expected)


def test_the_reward_may_be_learned() -> None:
    ensemble = trained(learned_reward=True)
    dynamics = EnsembleDynamics(ensemble)
    state, action = start(dynamics, 10, 5)
    step = dynamics.step(state, action)[1]
    torch.testing.assert_close(step.reward, ensemble.predict(state.obs, action).mean[..., -1].mean(0))
    assert step.obs.shape == (10, OBS)
    sampled = dynamics.step(state, action, generator=seeded())[1]
    assert sampled.reward[0] != step.reward[0]
    with pytest.raises(ValueError, match="reward: expected a function"):
        EnsembleDynamics(trained())


def test_a_deterministic_ensemble_adds_no_noise() -> None:
    ensemble = trained(members=1, deterministic=True)
    dynamics = EnsembleDynamics(ensemble, reward=reward)
    state, action = start(dynamics, 6, 3)
    torch.testing.assert_close(
        dynamics.step(state, action, generator=seeded())[1].obs, dynamics.step(state, action)[1].obs
    )
    assert not dynamics.uncertainty(state, action).any()


def test_a_penalty_lowers_the_reward() -> None:
    def disagreement(prediction: Prediction) -> Tensor:
        return (prediction.mean - prediction.mean.mean(0)).norm(dim=-1).amax(0)

    ensemble = trained()
    plain = EnsembleDynamics(ensemble, reward=reward)
    cautious = EnsembleDynamics(ensemble, reward=reward, penalty=disagreement)
    state, action = start(plain, 10, 5)
    a, b = (d.step(state, action, generator=seeded())[1] for d in (plain, cautious))
    torch.testing.assert_close(a.obs, b.obs)
    torch.testing.assert_close(a.reward - b.reward, disagreement(ensemble.predict(state.obs, action)))


def test_uncertainty_is_the_disagreement_in_units_of_the_data() -> None:
    ensemble = trained(elites=(0, 3))
    dynamics = EnsembleDynamics(ensemble, reward=reward)
    state, action = start(dynamics, 5, 1)
    mean = ensemble.predict(state.obs, action).mean
    half = (mean[0] - mean[3]).abs() / 2 / ensemble.targets.std  # the deviation of two numbers is half their distance
    torch.testing.assert_close(dynamics.uncertainty(state, action), half.square().mean(-1).sqrt())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"reward": lambda o, a, n: n}, r"reward: expected shape \[6\], got \[6, 3\]"),
        ({"reward": lambda o, a, n: n[:, 0].float()}, "reward: expected dtype torch.float64"),
        ({"termination": lambda o, a, n: n[:, 0]}, "termination: expected dtype torch.bool"),
        ({"termination": lambda o, a, n: (n > 0).any()}, r"termination: expected shape \[6\], got \[\]"),
        ({"penalty": lambda p: p.std.mean(0)}, r"penalty: expected shape \[6\], got \[6, 3\]"),
        ({"reward": lambda o, a, n: n[:, 0].sub_(1.0)}, "reward or termination: expected a new tensor"),
    ],
)
def test_what_users_functions_return_is_checked(kwargs: dict, message: str) -> None:
    dynamics = EnsembleDynamics(trained(), **{"reward": reward, **kwargs})
    state, action = start(dynamics, 6, 3)
    with pytest.raises(ValueError, match=message):
        dynamics.step(state, action, generator=seeded())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="propagation: expected"):
        EnsembleDynamics(trained(), reward=reward, propagation="ts2")
    with pytest.raises(ValueError, match=r"obs: expected shape \[rows, 3\], got \[3\]"):
        EnsembleDynamics(trained(), reward=reward).reset(torch.zeros(3))
    for shape in ((4, ACT + 1), (4,)):
        dynamics = EnsembleDynamics(trained(), reward=reward)
        with pytest.raises(ValueError, match=rf"^action: expected shape \[rows, {ACT}\], got \[4"):
            dynamics.step(dynamics.reset(torch.zeros(4, OBS)), torch.zeros(shape))


@pytest.mark.parametrize("penalty", [None, lambda p: p.std.mean((0, 2))])
def test_members_that_are_no_elites_any_more_are_noticed(penalty) -> None:
    dynamics = EnsembleDynamics(trained(elites=(0, 1)), reward=reward, penalty=penalty)
    state, action = start(dynamics, 6, 3)
    ensemble = dynamics.ensemble
    ensemble.replace(ensemble.parameters, ensemble.inputs, ensemble.targets, torch.tensor([2, 3]))
    with pytest.raises(ValueError, match="state: expected members among the elites"):
        dynamics.step(state, action, generator=seeded())


def test_steps_leave_no_graph_unless_it_is_asked_for() -> None:
    dynamics = EnsembleDynamics(trained(), reward=reward)
    state, action = start(dynamics, 6, 3)
    assert not dynamics.step(state, action)[1].obs.requires_grad
    assert dynamics.step(state, action.requires_grad_())[1].obs.requires_grad
    assert not dynamics.step(state, action, generator=seeded())[1].obs.requires_grad


def test_precision_and_device_are_the_ensembles() -> None:
    ensemble = GaussianEnsemble(OBS, ACT, hidden=(8,))
    dynamics = EnsembleDynamics(ensemble, reward=reward)
    state = dynamics.reset(torch.zeros(4, OBS, dtype=torch.float64))
    _, step = dynamics.step(state, torch.zeros(4, ACT, dtype=torch.float64), generator=seeded())
    assert step.obs.dtype == step.reward.dtype == torch.float32


def test_a_penalty_leaves_every_draw_as_it_is() -> None:
    for propagation in ("ts1", "ts1_independent"):
        plain, cautious = (
            EnsembleDynamics(trained(elites=(0, 3, 4)), propagation=propagation, reward=reward, penalty=p)
            for p in (None, lambda prediction: prediction.std.mean((0, 2)))
        )
        state, action = start(plain, 600, 600)
        a, b = (d.step(d.reset(state.obs), action, generator=seeded())[1] for d in (plain, cautious))
        torch.testing.assert_close(a.obs, b.obs)
        torch.testing.assert_close(a.reward - b.reward, plain.ensemble.predict(state.obs, action).std.mean((0, 2)))


def test_blocks_of_a_given_size_lose_the_rows_that_don_t_fit() -> None:
    group = torch.tensor([2, 0, 2, 2, 0, 2])
    grouping = group_rows(group, torch.arange(6), 3, 2, size=3)
    assert grouping.shape == (3, 3)
    assert grouping.lost is not None
    assert grouping.lost.tolist() == [False] * 5 + [True]
    assert grouping.row_of_place.tolist() == [1, 4, 0, 0, 0, 0, 0, 2, 3]
    free = group_rows(group, torch.arange(6), 3, 2, size=4)
    assert free.lost is not None
    assert not free.lost.any()
    assert torch.equal(free.output_of_row, group_rows(group, torch.arange(6), 3, 2).output_of_row)


@pytest.mark.parametrize("members", [[0, 1, 2, 0, 1, 2], [2, 2, 0, 2], [1], []])
def test_rows_find_their_place_and_way_back(members: list[int]) -> None:
    group = torch.tensor(members, dtype=torch.long)
    rows = torch.arange(len(group))
    grouping = group_rows(group, rows % 2, 3, 2)
    # Outputs [groups, out, size] that tell their group, column and row.
    groups, size = grouping.shape
    row = grouping.row_of_place.view(groups, 1, size)
    column = torch.arange(2)[:, None]
    outputs = 100 * torch.arange(3)[:, None, None] + 10 * column + row
    expected = 100 * group[:, None] + 10 * torch.arange(2) + rows[:, None]
    assert torch.equal(outputs.flatten()[grouping.output_of_row].view(-1, 2), expected)
    noise = torch.stack([rows, rows + 10], 1)  # tells its row and column
    assert torch.equal(noise.flatten()[grouping.noise_of_output].view(groups, 2, size), row % 2 + 10 * column)
