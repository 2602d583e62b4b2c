"""Training: what it recovers, who meets whom, who stops when, and that a seed decides everything."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mbrl.data.buffer import ReplayBuffer
from mbrl.models import trainer as training
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.fit import Rows, _Batches, _split, _train_until_stale, fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.models.network import forward
from mbrl.models.penalties import penalty_function
from mbrl.models.trainer import Trainer
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.rows import leaves, map_rows


def transitions(obs: Tensor, action: Tensor, change: Tensor, reward: Tensor | None = None) -> TransitionBatch:
    zero, no = torch.zeros(len(obs), dtype=obs.dtype), torch.zeros(len(obs), dtype=torch.bool)
    return TransitionBatch(obs, action, zero if reward is None else reward, obs + change, no, no, zero + 1, zero)


def linear(n: int = 300, seed: int = 0, dtype: torch.dtype = torch.float64) -> TransitionBatch:
    g = torch.Generator().manual_seed(seed)
    obs, action = (torch.randn(n, k, generator=g, dtype=dtype) for k in (2, 1))
    noise = 0.05 * torch.randn(n, 2, generator=g, dtype=dtype)
    return transitions(obs, action, 0.3 * obs.flip(-1) + action + noise, obs[:, 0] + 2 * action[:, 0])


def small(**kwargs) -> GaussianEnsemble:
    return GaussianEnsemble(2, 1, hidden=(16,), dtype=torch.float64, **{"members": 3, **kwargs})


def spread(x: Tensor) -> Tensor:
    """The true standard deviation of the heteroscedastic function."""
    return 0.05 + 0.15 * torch.sigmoid(3 * x)


def heteroscedastic(n: int, seed: int, low: float = -2, high: float = 2) -> TransitionBatch:
    g = torch.Generator().manual_seed(seed)
    x = low + (high - low) * torch.rand(n, 1, generator=g)
    action = torch.zeros(n, 1)
    return transitions(x, action, torch.sin(2 * x) + spread(x) * torch.randn(n, 1, generator=g))


@pytest.fixture(scope="module")
def recovered() -> GaussianEnsemble:
    ensemble = GaussianEnsemble(1, 1, members=5, hidden=(64, 64), seed=0)
    fit(ensemble, heteroscedastic(10_000, 0), seed=0, steps=2000, batch_size=256)
    return ensemble


def test_a_known_heteroscedastic_function_is_recovered(recovered: GaussianEnsemble) -> None:
    x = torch.linspace(-1.8, 1.8, 73)[:, None]
    mean, std = recovered.predict(x, torch.zeros_like(x))
    assert (mean.mean(0) - torch.sin(2 * x)).abs().max() < 0.06
    aleatoric = std.square().mean(0).sqrt()
    assert (aleatoric / spread(x) - 1).abs().max() < 0.15


def test_intervals_cover_held_out_data(recovered: GaussianEnsemble) -> None:
    batch = heteroscedastic(4000, 1)
    mean, std = recovered.predict(batch.obs, batch.action)
    centre = mean.mean(0)
    total = (std.square() + (mean - centre).square()).mean(0).sqrt()
    inside = (batch.next_obs - batch.obs - centre).abs() < 1.645 * total
    assert 0.85 <= inside.double().mean() <= 0.95
    for part in (batch.obs < -1, (batch.obs > -1) & (batch.obs < 1), batch.obs > 1):  # not by luck on the whole
        assert 0.85 <= inside[part].double().mean() <= 0.95


def test_members_disagree_far_from_the_data(recovered: GaussianEnsemble) -> None:
    def disagreement(low: float, high: float) -> float:
        x = torch.linspace(low, high, 50)[:, None]
        return float(recovered.predict(x, torch.zeros_like(x)).mean.std(0).mean())

    near = disagreement(-1.8, 1.8)
    assert disagreement(4, 5) >= 5 * near
    assert disagreement(-5, -4) >= 5 * near


@pytest.mark.parametrize("bounded", [True, False])
def test_members_trained_together_are_members_trained_alone(bounded: bool) -> None:
    ensemble = small(deterministic=not bounded)
    decay = ensemble.weight_decay
    g = torch.Generator().manual_seed(0)
    together = Trainer(ensemble.parameters, "silu", decay, 1e-2)
    alone = [Trainer(map_rows(lambda p, m=m: p[m : m + 1], ensemble.parameters), "silu", decay, 1e-2) for m in range(3)]
    for _ in range(20):
        x = torch.randn(3, 8, 3, generator=g, dtype=torch.float64)
        y = torch.randn(3, 8, 2, generator=g, dtype=torch.float64)
        together.update(x, y)
        for m, trainer in enumerate(alone):
            trainer.update(x[m : m + 1], y[m : m + 1])
    for m, trainer in enumerate(alone):
        for a, b in zip(leaves(together.parameters), leaves(trainer.parameters), strict=True):
            torch.testing.assert_close(a[m], b[0])


@pytest.mark.parametrize(
    ("activation", "bounded", "hidden"),
    [("silu", True, (16, 9)), ("relu", True, (16,)), ("tanh", True, (16,)), ("silu", False, (16,)), ("silu", True, ())],
)
def test_steps_are_adam_on_the_written_loss(activation: str, bounded: bool, hidden: tuple[int, ...]) -> None:
    ensemble = GaussianEnsemble(
        2, 1, members=2, hidden=hidden, activation=activation, deterministic=not bounded, dtype=torch.float64
    )
    decay = tuple(0.1 * (i + 1) for i in range(len(hidden) + 1))
    trainer = Trainer(ensemble.parameters, activation, decay, 1e-2)
    reference = map_rows(lambda p: p.clone().requires_grad_(), ensemble.parameters)
    adam = torch.optim.Adam([p for p in leaves(reference) if p.numel()], lr=1e-2)
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        x = torch.randn(2, 8, 3, generator=g, dtype=torch.float64)
        y = 3 * torch.randn(2, 8, 2, generator=g, dtype=torch.float64)
        mean, logvar = forward(reference, x, getattr(functional, activation))
        fitted = (mean - y) ** 2 / logvar.exp() + logvar if bounded else (mean - y) ** 2
        fitted = fitted.mean((1, 2))
        penalty = sum(0.5 * d * (w**2).sum() for d, w in zip(decay, reference.weights, strict=True))
        bounds = 0.01 * (reference.max_logvar.sum() - reference.min_logvar.sum())
        adam.zero_grad()
        (fitted.sum() + penalty + bounds).backward()
        adam.step()
        torch.testing.assert_close(trainer.update(x, y), fitted.detach())
    for a, b in zip(leaves(trainer.parameters), leaves(reference), strict=True):
        torch.testing.assert_close(a, b.detach())


def test_a_kept_member_goes_on_as_if_nothing_had_happened() -> None:
    ensemble = small()
    g = torch.Generator().manual_seed(0)
    batches = [torch.randn(2, 3, 8, 3, generator=g, dtype=torch.float64) for _ in range(6)]
    whole, shrinking = (Trainer(ensemble.parameters, "silu", ensemble.weight_decay, 1e-2) for _ in range(2))
    kept = torch.tensor([0, 2])
    for i, (x, y) in enumerate(batches):
        whole.update(x, y[..., :2])
        if i == 3:
            shrinking.keep(kept)
        own = kept if i >= 3 else torch.arange(3)
        shrinking.update(x[own], y[own][..., :2])
    for a, b in zip(leaves(whole.parameters), leaves(shrinking.parameters), strict=True):
        torch.testing.assert_close(a[kept], b)


class _Record:
    """Scores by a script, one list of errors a member, and remembers what it was shown."""

    def __init__(self, script: dict[int, list[float]]) -> None:
        self.script, self.seen, self.shown = script, [], dict.fromkeys(script, 0)

    def __call__(self, parameters) -> Tensor:
        self.seen.append(map_rows(Tensor.clone, parameters))
        active = [m for m in self.script if self.shown[m] < len(self.script[m])]
        assert len(active) == len(parameters.max_logvar)
        values = [self.script[m][self.shown[m]] for m in active]
        for m in active:
            self.shown[m] += 1
        return torch.tensor(values, dtype=torch.float64)


def test_each_member_stops_alone_and_ends_with_its_own_best_weights() -> None:
    # Initial score, then one an epoch; patience 2. 0.995 improves 1.0 by less than 1 %, NaN improves nothing.
    script = {0: [5.0, 1.0, 0.995, 2.0], 1: [5.0, 4.0, math.nan, 3.0, 3.5, 3.5], 2: [5.0, 6.0, 7.0]}
    score = _Record(script)
    ensemble = small()
    batch = linear()
    x = torch.cat([batch.obs, batch.action], -1)
    data = Rows(x, batch.next_obs - batch.obs)
    trainer = Trainer(ensemble.parameters, "silu", ensemble.weight_decay, 1e-2)
    batches = _Batches(torch.arange(300), 3, 100, True, torch.Generator().manual_seed(0))
    best, _, steps = _train_until_stale(trainer, data, batches, score, 3, 100, 2)
    # Member 0 is best after epoch 1, member 1 after 3, member 2 before the first. Position of each in what was scored:
    for member, (epoch, position) in enumerate([(1, 0), (3, 0), (0, 2)]):
        positions = len(score.seen[epoch].max_logvar)
        assert position < positions
        at = position if epoch < 3 else positions - 1
        for a, b in zip(leaves(best), leaves(score.seen[epoch]), strict=True):
            assert torch.equal(a[member], b[at])
    assert [len(p.max_logvar) for p in score.seen] == [3, 3, 3, 2, 1, 1]
    assert steps == 5 * 3


def test_the_weights_that_stay_are_those_that_score() -> None:
    ensemble, batch = small(members=4), linear(200)
    report = fit(ensemble, batch, seed=0, holdout=0.25, patience=2, epochs=60, lr=3e-2, batch_size=20, elites=2)
    train, held = _split(batch, 200, 0.25, 5000, generator(0, "fit", "holdout"))
    assert len(held) == 50
    assert not set(train.tolist()) & set(held.tolist())
    mean = ensemble.predict(batch.obs[held], batch.action[held]).mean
    error = ((mean - (batch.next_obs - batch.obs)[held]) / ensemble.targets.std).square().mean((1, 2))
    torch.testing.assert_close(report.holdout_mse, error)
    assert torch.equal(report.elites, error.argsort()[:2])
    assert torch.equal(ensemble.elites, report.elites)
    # Statistics are those of the training rows.
    torch.testing.assert_close(ensemble.inputs.mean, torch.cat([batch.obs, batch.action], -1)[train].mean(0))


def test_the_holdout_of_a_buffer_is_whole_episodes() -> None:
    batch = linear(120)
    buffer = ReplayBuffer(200, 2, 1, dtype=torch.float64)
    for row in range(120):
        step = TransitionBatch(*(x[row : row + 1] for x in batch))
        buffer.extend(step._replace(truncated=torch.tensor([row % 20 == 19])))
    ensemble = small()
    report = fit(ensemble, buffer, seed=0, holdout=0.25, epochs=1, batch_size=64)
    mean = ensemble.predict(batch.obs, batch.action).mean
    error = ((mean - (batch.next_obs - batch.obs)) / ensemble.targets.std).square().mean(-1).view(3, 6, 20).mean(-1)
    # The error of one of the six episodes: of 30 rows, more than one does not fit.
    matches = (error - report.holdout_mse[:, None]).abs().amax(0) < 1e-9
    assert matches.sum() == 1
    train = torch.cat([batch.obs, batch.action], -1).view(6, 20, 3)[~matches].flatten(0, 1)
    torch.testing.assert_close(ensemble.inputs.mean, train.mean(0))


def test_a_buffer_of_one_episode_holds_out_rows() -> None:
    batch = linear(60)
    buffer = ReplayBuffer(100, 2, 1, dtype=torch.float64)
    for row in range(60):
        buffer.extend(TransitionBatch(*(x[row : row + 1] for x in batch)))
    report = fit(small(), buffer, seed=0, patience=1, elites=2)
    assert report.holdout_mse.isfinite().all()
    assert len(report.elites) == 2


@pytest.mark.parametrize("rows", [105, 130, 190, 230, 395, 430, 620])
def test_the_episode_under_way_is_trained_on(rows: int) -> None:
    buffer = ReplayBuffer(1000, 2, 1, dtype=torch.float64)
    for row in range(rows):
        step = TransitionBatch(*(x[:1] for x in linear(1)))
        buffer.extend(step._replace(truncated=torch.tensor([row % 100 == 99])))
    train, held = _split(buffer, rows, 0.2, 5000, generator(0, "fit", "holdout"))
    assert sorted(train.tolist() + held.tolist()) == list(range(rows))
    assert len(held) == (100 if rows > 600 else round(0.2 * rows))  # an episode fits once there are five before
    under_way = rows - rows % 100
    assert (train >= under_way).sum() >= 0.5 * (rows % 100)


def test_the_same_seed_gives_the_same_bits() -> None:
    def run(seed: int) -> list[Tensor]:
        ensemble = small()
        fit(ensemble, linear(), seed=seed, holdout=0.2, epochs=5, batch_size=32)
        return leaves(ensemble.parameters)

    first, again, other = run(0), run(0), run(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_batches_pass_over_every_row() -> None:
    train = torch.tensor([3, 5, 8, 9, 11, 12])
    batches = _Batches(train, 2, 4, False, torch.Generator().manual_seed(0))
    drawn = torch.cat([batches.next() for _ in range(3)], 1)  # two passes in three batches
    for member in drawn:
        assert sorted(member[:6].tolist()) == train.tolist()
        assert sorted(member[6:].tolist()) == train.tolist()
    assert not torch.equal(drawn[0], drawn[1])


def test_bootstrap_samples_are_drawn_once_and_differ() -> None:
    batches = _Batches(torch.arange(100), 2, 100, True, torch.Generator().manual_seed(0))
    first, second = batches.next().sort().values, batches.next().sort().values
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert first[0].unique().numel() == pytest.approx(63.2, abs=12)  # 1 - 1/e of the rows


def test_a_linear_system_is_learned_with_its_reward() -> None:
    ensemble = small(learned_reward=True, members=2)
    report = fit(ensemble, linear(), seed=0, steps=1000, batch_size=64, lr=1e-2)
    assert (report.steps, report.epochs) == (1000, 200)
    fresh = linear(200, seed=1)
    mean = ensemble.predict(fresh.obs, fresh.action).mean
    change = 0.3 * fresh.obs.flip(-1) + fresh.action
    truth = torch.cat([change, fresh.reward[:, None]], -1)
    assert (mean - truth).square().mean().sqrt() < 0.1
    assert report.holdout_mse.isnan().all()
    assert report.elites.tolist() == [0, 1]


def test_a_deterministic_network_is_learned() -> None:
    ensemble = small(deterministic=True, members=1, normalize_targets=False)
    fit(ensemble, linear(), seed=0, epochs=200, batch_size=64, lr=1e-2)
    fresh = linear(200, seed=1)
    mean, std = ensemble.predict(fresh.obs, fresh.action)
    assert (mean[0] - 0.3 * fresh.obs.flip(-1) - fresh.action).square().mean().sqrt() < 0.1
    assert not std.any()
    assert torch.equal(ensemble.targets.std, torch.ones(2, dtype=torch.float64))


def test_constant_columns_do_no_harm() -> None:
    batch = linear()
    still = batch._replace(
        obs=batch.obs * torch.tensor([0.0, 1.0]) + 7, next_obs=batch.obs * torch.tensor([0.0, 2.0]) + 7
    )
    ensemble = small()
    fit(ensemble, still, seed=0, steps=50)
    mean, std = ensemble.predict(still.obs, still.action)
    assert mean.isfinite().all()
    assert std.isfinite().all()


@pytest.mark.parametrize("settings", [{}, {"normalize_targets": False}, {"deterministic": True}])
def test_what_never_changes_is_predicted_to_stay(settings: dict[str, bool]) -> None:
    """A goal in the observation, another one in each episode, over a plan: it does not wander."""
    batch = linear(dtype=torch.float32)
    batch = batch._replace(next_obs=torch.stack([batch.obs[:, 0], batch.next_obs[:, 1]], -1))
    ensemble = GaussianEnsemble(2, 1, hidden=(16,), members=3, **settings)
    fit(ensemble, batch, seed=0, steps=20)
    prediction = ensemble.predict(batch.obs, batch.action)
    assert not prediction.mean[..., 0].any()
    assert not prediction.std[..., 0].any()
    assert prediction.mean[..., 1].std() > 0.01
    again = GaussianEnsemble(2, 1, hidden=(16,), members=3, **settings)
    again.load_state_dict(ensemble.state_dict())
    penalty = penalty_function("pairwise", ensemble, weight=1.0, units="raw" if settings else "data")
    dynamics = EnsembleDynamics(again, reward=lambda obs, action, next_obs: obs[:, 0], penalty=penalty)
    for made in (dynamics, EnsembleDynamics(again, reward=dynamics.reward)):  # asks all members, or one each
        g = generator(0)
        state = made.assign(made.reset(batch.obs[:60]), 3, generator=g)
        for _ in range(25):
            state, step = made.step(state, batch.action[:60], generator=g)
            assert step.reward.isfinite().all()
        assert torch.equal(state.obs[:, 0], batch.obs[:60, 0])
        assert made.uncertainty(state, batch.action[:60]).isfinite().all()


def test_networks_without_a_variance_are_scored_on_a_holdout() -> None:
    report = fit(small(deterministic=True), linear(), seed=0, max_steps=30, holdout=0.2, elites=1)
    assert report.holdout_mse.isfinite().all()
    assert report.holdout_mse[report.elites[0]] == report.holdout_mse.min()


@pytest.mark.parametrize("together", [1, 2, 3])
def test_members_may_take_their_steps_in_any_groups(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    whole, grouped = small(), small()
    monkeypatch.setattr(training, "TOGETHER", len(whole.parameters.max_logvar))
    report = fit(whole, linear(), seed=0, batch_size=32)
    monkeypatch.setattr(training, "TOGETHER", together)
    other = fit(grouped, linear(), seed=0, batch_size=32)
    torch.testing.assert_close(other.holdout_mse, report.holdout_mse, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(leaves(grouped.parameters), leaves(whole.parameters), rtol=1e-6, atol=1e-6)


def test_members_that_no_epoch_improved_are_reported() -> None:
    ensemble = small()
    assert not fit(ensemble, linear(), seed=0, batch_size=32, max_steps=20).kept.any()
    before = [p.clone() for p in leaves(ensemble.parameters)]
    assert fit(ensemble, linear(), seed=0, batch_size=32, max_steps=20, lr=1e-9).kept.all()
    assert all(torch.equal(a, b) for a, b in zip(before, leaves(ensemble.parameters), strict=True))


def test_a_cap_cuts_early_stopping_short_and_keeps_the_best() -> None:
    free, capped = small(), small()
    whole = fit(free, linear(), seed=0, batch_size=32)
    report = fit(capped, linear(), seed=0, batch_size=32, max_steps=20)
    assert report.steps == 20 < whole.steps
    assert report.holdout_mse.isfinite().all()
    assert fit(small(), linear(), seed=0, batch_size=32, max_steps=10**6).steps == whole.steps
    # A cap behind the first pass is the first pass.
    passes = fit(small(), linear(), seed=0, batch_size=32, holdout=0.2, epochs=1)
    assert torch.equal(fit(small(), linear(), seed=0, batch_size=32, max_steps=8).holdout_mse, passes.holdout_mse)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1"),
        ({"steps": 5, "epochs": 5}, "steps: expected either"),
        ({"holdout": 1.0}, r"holdout: expected a share in \[0, 1\)"),
        ({"holdout": 0.0}, "holdout: expected more than 0 where neither"),
        ({"holdout": 0.001}, "holdout: expected a share that leaves rows on both sides, got 0.001 of 300 rows"),
        ({"steps": 5, "elites": 4}, "elites: expected 1 to 3"),
        ({"steps": 5, "elites": 2}, "elites: expected a holdout"),
        ({"steps": 50, "patience": 0}, "patience: expected at least 1"),
        ({"steps": 50, "max_steps": 5}, "max_steps: expected a holdout that decides"),
        ({"max_steps": 0}, "max_steps: expected at least 1"),
        ({"max_holdout": 0}, "max_holdout: expected at least 1, got 0"),
        ({"steps": 5, "lr": 0.0}, "lr: expected a positive step size, got 0.0"),
        ({"steps": 50, "lr": 1e300}, "lr: training diverged"),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    ensemble = small()
    before = ensemble.state_dict()
    with pytest.raises(ValueError, match=message):
        fit(ensemble, linear(), seed=0, **kwargs)
    assert all(torch.equal(before[name], tensor) for name, tensor in ensemble.state_dict().items())


def test_bad_data() -> None:
    batch = linear(10)
    with pytest.raises(ValueError, match=r"data: expected obs of shape \[rows, 3\], got \[10, 2\]"):
        fit(GaussianEnsemble(3, 1), batch, seed=0, steps=1)
    with pytest.raises(ValueError, match="data: expected at least one transition"):
        fit(small(), TransitionBatch(*(x[:0] for x in batch)), seed=0, steps=1)
    broken = batch.next_obs.clone()
    broken[4, 1] = torch.nan
    with pytest.raises(ValueError, match=r"data: expected finite numbers, got in row 4 obs"):
        fit(small(), batch._replace(next_obs=broken), seed=0, steps=1)
