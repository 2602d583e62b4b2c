"""Open-loop error and coverage where both are known: a random walk."""

import pytest
import torch

from mbrl.models.diagnostics import open_loop_report
from mbrl.types import TransitionBatch
from planners import FunctionDynamics


def walk(episodes: int, length: int, noise: float = 1.0, seed: int = 0) -> tuple[TransitionBatch, torch.Tensor]:
    """x' = x + u + noise, episode after episode."""
    g = torch.Generator().manual_seed(seed)
    action = torch.randn(episodes, length, 2, generator=g, dtype=torch.float64)
    change = action + noise * torch.randn(episodes, length, 2, generator=g, dtype=torch.float64)
    after = change.cumsum(1)
    before = after - change
    rows, no = episodes * length, torch.zeros(episodes * length, dtype=torch.bool)
    one = torch.ones(rows, dtype=torch.float64)
    batch = TransitionBatch(before.flatten(0, 1), action.flatten(0, 1), one, after.flatten(0, 1), no, no, one, one)
    return batch, torch.arange(episodes).repeat_interleave(length)


def model(noise: float = 1.0, shift: float = 0.0) -> FunctionDynamics:
    return FunctionDynamics(
        lambda x, u: x + u + shift,
        lambda x, u, y: x[:, 0],
        noise=lambda x, u, g: noise * torch.randn(x.shape, generator=g, dtype=x.dtype),
    )


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("particles", [19, 20, 50])
def test_a_right_model_covers_90_percent_at_every_horizon(particles: int) -> None:
    batch, episodes = walk(400, 6)
    report = open_loop_report(
        model(), batch, episodes, horizons=(1, 2, 5), starts=2400, particles=particles, generator=seeded()
    )
    assert report.coverage90.tolist() == pytest.approx([0.9] * 3, abs=0.025)
    # The error of a mean of n samples about a truth of the same variance, which grows with the horizon.
    scale = (1 + 1 / particles) ** 0.5 / batch.obs.std(0, correction=0).mean()
    assert report.rmse.tolist() == pytest.approx([float(h**0.5 * scale) for h in (1, 2, 5)], rel=0.06)


def test_a_sure_model_covers_little_and_a_cautious_one_all() -> None:
    batch, episodes = walk(100, 6)
    sure, cautious = (open_loop_report(model(n), batch, episodes, horizons=(1,), generator=seeded()) for n in (0.1, 9))
    assert sure.coverage90 < 0.25
    assert cautious.coverage90 > 0.98


def test_a_biased_models_error_grows_by_its_bias_each_step() -> None:
    batch, episodes = walk(20, 12, noise=0.0)
    batch = batch._replace(obs=batch.obs, next_obs=batch.next_obs)
    report = open_loop_report(model(0.0, shift=0.5), batch, episodes, horizons=(10, 1), generator=seeded())
    unit = (1 / batch.obs.var(0, correction=0)).mean().sqrt()
    assert report.horizons == (10, 1)
    assert report.rmse.tolist() == pytest.approx([float(0.5 * 10 * unit), float(0.5 * unit)])


def test_trajectories_never_run_from_one_episode_into_the_next() -> None:
    batch, episodes = walk(5, 4, noise=0.0)
    report = open_loop_report(model(0.0), batch, episodes, horizons=(1, 4, 5), generator=seeded())
    assert report.rmse[:2].tolist() == pytest.approx([0, 0], abs=1e-12)
    assert report.coverage90[2].isnan()
    assert report.rmse[2].isnan()


def test_rows_of_several_environments_may_alternate() -> None:
    batch, episodes = walk(2, 6, noise=0.0)
    mixed = torch.arange(12).view(2, 6).T.flatten()
    shuffled = TransitionBatch(*(x[mixed] for x in batch))
    report = open_loop_report(model(0.0), shuffled, episodes[mixed], horizons=(6,), generator=seeded())
    assert float(report.rmse) == pytest.approx(0, abs=1e-12)


def test_no_data_gives_no_numbers() -> None:
    batch, episodes = walk(1, 1)
    empty = TransitionBatch(*(x[:0] for x in batch))
    assert open_loop_report(model(), empty, episodes[:0], generator=seeded()).rmse.isnan().all()


def test_bad_arguments() -> None:
    batch, episodes = walk(1, 3)
    with pytest.raises(ValueError, match="horizons: expected one or more"):
        open_loop_report(model(), batch, episodes, horizons=(0, 1), generator=seeded())
    with pytest.raises(ValueError, match="particles: expected at least 19"):
        open_loop_report(model(), batch, episodes, particles=5, generator=seeded())
    with pytest.raises(ValueError, match="starts: expected at least 1, got 0"):
        open_loop_report(model(), batch, episodes, starts=0, generator=seeded())
