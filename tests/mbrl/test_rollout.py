"""Branched rollouts: what counts as a transition, and what rows owe each other (nothing)."""

import pytest
import torch
from torch import Generator, Tensor

from mbrl.data.buffer import ReplayBuffer
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.rollout import rollout
from planners.dynamics import FunctionDynamics


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def counting(end: float = 4.0) -> FunctionDynamics:
    """s' = s + a; the reward is s'; it ends where s' reaches `end`."""
    return FunctionDynamics(
        lambda obs, action: obs + action,
        lambda obs, action, next_obs: next_obs[:, 0],
        lambda obs, action, next_obs: next_obs[:, 0] >= end,
    )


def one(obs: Tensor, generator: Generator) -> Tensor:
    return torch.ones_like(obs)


def gaussian(obs: Tensor, generator: Generator) -> Tensor:
    return torch.randn(obs.shape, generator=generator, dtype=obs.dtype)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_ends_rewards_and_masks_of_a_model_that_counts() -> None:
    result = rollout(counting(), one, column(0, 2, 3), 3, generator=seeded())
    batch = result.batch
    assert batch.obs[..., 0].tolist() == [[0, 2, 3], [1, 3, 4], [2, 4, 5]]
    assert batch.next_obs[..., 0].tolist() == batch.reward.tolist() == [[1, 3, 4], [2, 4, 5], [3, 5, 6]]
    assert batch.terminated.tolist() == [[False, False, True], [False, True, True], [False, True, True]]
    assert batch.discount.tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert result.alive.tolist() == [[True, True, True], [True, True, False], [True, False, False]]
    assert not batch.truncated.any()
    assert batch.log_prob.isnan().all()
    kept = result.transitions()
    assert kept.obs[:, 0].tolist() == [0, 2, 3, 1, 3, 2]
    assert kept.terminated.tolist() == [False, False, True, False, True, False]


def test_transitions_go_into_a_buffer_without_links() -> None:
    buffer = ReplayBuffer(10, 1, 1, dtype=torch.float64)
    buffer.extend_rows(rollout(counting(), one, column(0, 2, 3), 3, generator=seeded()).transitions())
    assert len(buffer) == 6
    assert len(buffer.episode_ids().unique()) == 6
    sample = buffer.sample(200, generator=seeded(), discount=0.5, n_step=3)
    assert set(sample.discount.tolist()) == {0.0, 0.5}  # one step, whatever n_step says, and 0 at an end


def test_rows_that_end_change_nothing_for_those_that_go_on() -> None:
    def noisy(end: float) -> FunctionDynamics:
        return FunctionDynamics(
            lambda obs, action: obs + action,
            lambda obs, action, next_obs: next_obs[:, 0],
            lambda obs, action, next_obs: next_obs[:, 0] > end,
            lambda obs, action, generator: torch.randn(obs.shape, generator=generator, dtype=obs.dtype),
        )

    start = torch.zeros(50, 1, dtype=torch.float64)
    some, none = (rollout(noisy(end), gaussian, start, 6, generator=seeded(), chunk=20) for end in (1.5, torch.inf))
    assert 0 < some.alive[-1].sum() < 50
    assert none.alive.all()
    for name in ("obs", "action", "reward", "next_obs"):
        assert torch.equal(getattr(some.batch, name)[some.alive], getattr(none.batch, name)[some.alive])


def test_a_prediction_that_is_not_finite_ends_its_row() -> None:
    spoiled = FunctionDynamics(
        lambda obs, action: torch.where(obs == 1, torch.nan, obs + action),
        lambda obs, action, next_obs: torch.where(obs[:, 0] == 11, torch.inf, 0.0).double(),
    )
    result = rollout(spoiled, one, column(0, 10, 20), 3, generator=seeded())
    assert result.alive.tolist() == [[True, True, True], [False, False, True], [False, False, True]]
    assert all(x.isfinite().all() for x in result.transitions()[:4])


def test_merged_steps_by_hand() -> None:
    # From 0: 1 + 2 / 2 + 3 / 4, and on with 1 / 8; from 2: 3 + 4 / 2, and over; from 3: 4, and over.
    merged, alive = rollout(counting(), one, column(0, 2, 3), 3, generator=seeded()).merged(0.5)
    assert alive.all()
    assert merged.obs[:, 0].tolist() == [0, 2, 3]
    assert merged.reward.tolist() == [2.75, 5, 4]
    assert merged.next_obs[:, 0].tolist() == [3, 4, 4]
    assert merged.terminated.tolist() == [False, True, True]
    assert merged.discount.tolist() == [0.125, 0, 0]


def test_merged_steps_stop_before_what_is_not_finite() -> None:
    spoiled = FunctionDynamics(
        lambda obs, action: torch.where(obs == 1, torch.nan, obs + action), lambda obs, action, next_obs: 0 * obs[:, 0]
    )
    merged, alive = rollout(spoiled, one, column(0, 1, 2), 3, generator=seeded()).merged(0.5)
    assert alive.tolist() == [True, False, True]
    assert merged.next_obs[0].tolist() == [1]
    assert merged.discount[[0, 2]].tolist() == [0.5, 0.125]


def test_chunks_are_parts_of_the_rows() -> None:
    start = torch.arange(7.0)[:, None]
    result = rollout(counting(3.0), one, start, 2, generator=seeded(), chunk=3)
    whole = rollout(counting(3.0), one, start, 2, generator=seeded())
    assert torch.equal(result.alive, whole.alive)
    for got, expected in zip(result.batch, whole.batch, strict=True):
        torch.testing.assert_close(got, expected, equal_nan=True)


def test_discrete_actions_stay_numbers() -> None:
    walk = FunctionDynamics(
        lambda obs, action: obs + (2 * action - 1)[:, None], lambda obs, action, next_obs: next_obs[:, 0]
    )

    def coin(obs: Tensor, generator: Generator) -> Tensor:
        return torch.randint(2, (len(obs),), generator=generator)

    result = rollout(walk, coin, torch.zeros(5, 1), 4, generator=seeded())
    assert result.batch.action.dtype == torch.int64
    assert torch.equal(result.batch.next_obs[-1, :, 0], (2 * result.batch.action - 1).sum(0).float())


def test_an_ensemble_rolls_out_with_its_elites_alone() -> None:
    """Members whose change of the observation tells their number."""
    dynamics = EnsembleDynamics(told_apart(), propagation="ts1", reward=lambda o, a, n: n[:, 0])
    batch = rollout(dynamics, gaussian, torch.zeros(600, 1), 3, generator=seeded()).batch
    member = (batch.next_obs - batch.obs).round()[..., 0]
    assert set(member.flatten().tolist()) == {1, 3, 4}
    for step in member:  # equal shares, in a new order each time
        assert [int((step == m).sum()) for m in (1, 3, 4)] == [200, 200, 200]
    assert not torch.equal(member[0], member[1])


def test_independent_draws_are_uniform_and_independent() -> None:
    dynamics = EnsembleDynamics(told_apart(), propagation="ts1_independent", reward=lambda o, a, n: n[:, 0])
    batch = rollout(dynamics, gaussian, torch.zeros(3000, 1), 2, generator=seeded(), chunk=1000).batch
    member = (batch.next_obs - batch.obs).round()[..., 0]
    counts = torch.stack([(member == m).view(2, 3, 1000).sum(-1) for m in (1, 3, 4)]).double()
    assert counts.sum() == 6000
    # Binomial: a chunk's share has a standard deviation of 15, and is not always the same.
    assert (counts - 1000 / 3).abs().max() < 60
    assert counts.std() > 5
    pairs = torch.stack([((member[0] == a) & (member[1] == b)).sum() for a in (1, 3, 4) for b in (1, 3, 4)])
    chi_square = float(((pairs - 3000 / 9).square() / (3000 / 9)).sum())
    assert chi_square < 26.1  # 0.999 of chi-square with 8 degrees of freedom


def told_apart() -> GaussianEnsemble:
    """Member m says s' = s + m, nearly without noise; elites 1, 3 and 4."""
    ensemble = GaussianEnsemble(1, 1, members=5, hidden=(4,))
    weights = tuple(torch.zeros_like(w) for w in ensemble.parameters.weights)
    biases = tuple(torch.zeros_like(b) for b in ensemble.parameters.biases)
    biases[-1][:, 0, 0] = torch.arange(5.0)
    biases[-1][:, 0, 1] = -10
    parameters = ensemble.parameters._replace(weights=weights, biases=biases)
    ensemble.replace(parameters, ensemble.inputs, ensemble.targets, torch.tensor([4, 1, 3]))
    return ensemble


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"length": 0}, "length: expected at least 1, got 0"),
        ({"length": 1, "chunk": 0}, "chunk: expected at least 1, got 0"),
        ({"length": 1, "start_obs": torch.zeros(0, 1)}, "start_obs: expected at least 1, got 0"),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout(counting(), one, generator=seeded(), **{"start_obs": torch.zeros(3, 1), **kwargs})
