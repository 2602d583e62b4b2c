"""COMBO: its loss on constant networks by hand, its laws, and its loop on a point on a line."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from mbrl.learners.combo import COMBOLearner, COMBOLearnerConfig
from mbrl.learners.conservative import proposal_values, propose
from mbrl.learners.networks import mlp
from mbrl.learners.sac import SACConfig, SACLearner
from mbrl.learners.testing import check_learner
from mbrl.pipelines.agents import SAC
from mbrl.pipelines.combo import COMBO, train_combo
from mbrl.pipelines.combo_config import PRESETS, COMBOConfig, combo_preset
from mbrl.seeding import generator
from planners.rows import leaves, map_rows
from tests.mbrl.learner_cases import HIGH, LOW, OBS, batch_of, set_constant
from tests.mbrl.line_cases import line_dataset
from tests.mbrl.memory import Memory, same
from tests.mbrl.published import RUNNERS, check_published

TINY = COMBOConfig(
    total_updates=24,
    batch_size=16,
    rollout_every=8,
    rollout_starts=20,
    rollout_length=2,
    retain_rounds=2,
    members=2,
    elites=2,
    model_hidden=(8,),
    model_max_steps=5,
    termination="never",
    log_every=6,
    eval_every=12,
    checkpoint_every=10,
)


def learner(**settings: Any) -> COMBOLearner:
    config = COMBOLearnerConfig(
        **{"hidden": (16, 16), "actions": 4, "actor_lr": 3e-4, "real_fraction": 0.25} | settings
    )
    return COMBOLearner(OBS, LOW, HIGH, config, torch.float64)


@pytest.mark.parametrize("settings", [{}, {"rho": "model"}, {"rho": "data", "backup": "soft"}, {"triples": True}])
def test_learner_laws(settings: dict[str, Any]) -> None:
    check_learner(replace(learner(**settings), low=(-1.0, -1.0), high=(1.0, 1.0)), OBS, 2, low=-1.0, high=1.0)


@pytest.mark.parametrize("temperature", [None, 0.3])
def test_without_weight_and_with_soft_backup_it_is_sac_on_mixed_batches(temperature: float | None) -> None:
    combo = learner(weight=0.0, backup="soft", temperature=temperature)
    sac = SACLearner(OBS, LOW, HIGH, SACConfig(hidden=(16, 16), temperature=temperature), torch.float64)
    one, other = combo.init([generator(0)]), sac.init([generator(0)])
    for k in range(5):
        batch = batch_of(seed=k)
        combo.update(one, batch, combo.noise(8, [generator(k, "noise")]))
        sac.update(other, batch, sac.noise(8, [generator(k, "noise")]))  # from the same generators
    assert all(torch.equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


@pytest.mark.parametrize(("rho", "first", "last"), [("mixture", 0, 8), ("data", 0, 2), ("model", 2, 8)])
def test_the_gap_by_a_loop(rho: Any, first: int, last: int) -> None:
    """Values are lowered at the rows of rho, and raised at the data's own actions, rows 0 and 1 of 8."""
    made, batch = learner(rho=rho, weight=2.0, critics=1), batch_of()
    state, noise = made.init([generator(0)]), made.noise(8, [generator(7)])
    proposals = propose(state.actor, batch.obs[:, first:last], batch.next_obs[:, first:last], noise.proposals)
    assert len(proposals.uniform[0]) == last - first
    lowered = 0.0
    for row in range(last - first):
        total = 0.0
        for actions, logs in zip(proposals[:3], proposals[3:], strict=True):
            for k in range(4):
                q = proposal_values(state.critics, batch.obs[:, first + row, None], actions[:, row, None, k, None])
                total += math.exp(float(q) - float(logs[0, row, k]))
        lowered += math.log(total) / (last - first)
    seen = torch.cat([batch.obs, state.bounds.unit(batch.action)], -1)[:, :2]
    gap = lowered - float(mlp(state.critics, seen).mean())
    _, metrics = made.critic_gradients(state, batch, noise)
    assert metrics["train/conservative_gap"].item() == pytest.approx(gap, rel=1e-10)
    plain = learner(weight=0.0, critics=1)
    _, without = plain.critic_gradients(state, batch, plain.noise(8, [generator(7)]))
    assert (metrics["train/critic_loss"] - without["train/critic_loss"]).item() == pytest.approx(gap, rel=1e-8)


@pytest.mark.parametrize("backup", ["deterministic", "soft"])
def test_targets_of_constant_networks(backup: Any) -> None:
    made, batch = learner(backup=backup, temperature=0.5, weight=0.0), batch_of()
    state, noise = made.init([generator(0)]), made.noise(8, [generator(7)])
    set_constant(state.critics, [[[1.0], [2.0]]])
    set_constant(state.targets, [[[3.0], [4.0]]])
    entropy = made.sac.valued_actions(state, batch.next_obs, noise.sac.next_action).entropy
    target = batch.reward + 0.9 * (3.0 + (entropy if backup == "soft" else 0.0))
    expected = sum(0.5 * (q - target).square().mean() for q in (1.0, 2.0))
    assert made.critic_gradients(state, batch, noise)[1]["train/critic_loss"].item() == pytest.approx(float(expected))


def out_of_data(weight: float, rho: Any) -> float:
    """How much higher actions near 1 are valued than those of the data, near -1, where all rewards are 0."""
    made = learner(weight=weight, lr=1e-2, rho=rho, actions=2)
    state = made.init([generator(0)])
    for k in range(40):
        batch = batch_of(rows=16, seed=k)
        unit = -1 + 0.1 * torch.rand(1, 16, 2, generator=generator(k), dtype=torch.float64)
        unit[:, 4:] *= -1  # what the model makes up
        zeros = torch.zeros_like(batch.reward)
        batch = batch._replace(action=state.bounds.action(unit), reward=zeros, discount=zeros)
        made.update(state, batch, made.noise(16, [generator(k, "noise")]))
    inside = torch.full((1, 16, 1, 2), -0.95, dtype=torch.float64)
    low, high = (float(proposal_values(state.critics, batch.obs, x).mean()) for x in (inside, -inside))
    return high - low


@pytest.mark.parametrize("rho", ["mixture", "model", "data"])
def test_values_of_actions_that_the_data_lack_fall_with_the_weight(rho: Any) -> None:
    plain, some, much = (out_of_data(weight, rho) for weight in (0.0, 1.0, 5.0))
    assert abs(plain) < 0.2
    assert much < some - 0.5 < plain - 1


def test_an_update_that_is_not_finite_moves_nothing() -> None:
    made, batch = learner(), batch_of(runs=2)
    state, noise = made.init([generator(0), generator(1)]), made.noise(8, [generator(7), generator(8)])
    kept, poisoned = map_rows(torch.clone, state), batch.reward.clone()
    poisoned[1, 0] = math.nan
    _, metrics = made.update(state, batch._replace(reward=poisoned), noise)
    assert metrics["train/critic_loss"].isfinite().tolist() == [True, False]
    assert all(torch.equal(a, b) for a, b in zip(leaves(kept), leaves(state), strict=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", ()),
        ("actor_lr", 0.0),
        ("actions", 0),
        ("weight", -1.0),
        ("rho", "both"),
        ("backup", "max"),
        ("real_fraction", 1.0),
        ("real_fraction", 0.0),
    ],
)
def test_settings_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        COMBOLearnerConfig(**{name: value})


def test_both_kinds_of_rows_are_needed() -> None:
    assert COMBOLearnerConfig().real_rows(256) == 128
    with pytest.raises(ValueError, match="got 0 of the data among 3"):
        COMBOLearnerConfig(real_fraction=0.25).real_rows(3)


def train(recorder: Memory | None = None, config: COMBOConfig = TINY, **extra: Any):
    dataset = line_dataset(100)
    agent = COMBO(*dataset.spaces(), 1, hidden=(8, 8), actions=2)
    with pytest.warns(UserWarning, match="episodes of the model never end"):
        return train_combo(dataset, agent, config, seed=3, recorder=recorder, **extra)


def evaluate(agent: Any, updates: int) -> dict[str, float]:
    return {"eval/mean_reward": float(updates)}


def test_a_run_that_was_interrupted_is_the_run_that_was_not() -> None:
    whole, broken = Memory(), Memory()
    train(whole, evaluate=evaluate)
    train(broken, evaluate=evaluate, stop=lambda: True)
    assert 0 < broken.saved[-1][1]["counters"]["updates"] < 24
    rest = Memory(broken.saved[-1])
    train(rest, evaluate=evaluate)
    same(rest.saved[-1][0], whole.saved[-1][0])
    assert [*broken.rows, *rest.rows] == whole.rows


def test_half_of_every_batch_is_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, update = [], COMBOLearner.update

    def spy(self: COMBOLearner, state: Any, batch: Any, noise: Any, *, actor: bool = True) -> Any:
        seen.append(batch.obs[0])
        return update(self, state, batch, noise, actor=actor)

    monkeypatch.setattr(COMBOLearner, "update", spy)
    result = train(config=replace(TINY, total_updates=8))
    data, made = (set(x.all().obs.flatten().tolist()) for x in (result.buffer, result.model_buffer))
    starts = data & made  # rollouts start from the data
    for obs in seen:
        assert set(obs[:8].flatten().tolist()) <= data
        assert set(obs[8:].flatten().tolist()) <= made
    assert any(set(obs[8:].flatten().tolist()) - starts for obs in seen)


def test_another_agent_is_refused() -> None:
    dataset = line_dataset(20)
    with pytest.raises(ValueError, match=r"agent: expected one of mbrl.pipelines.combo.COMBO, got SAC"):
        train_combo(dataset, SAC(*dataset.spaces()), TINY)


def test_presets() -> None:
    for env_id in RUNNERS:
        published, default = combo_preset(env_id, "published"), combo_preset(env_id)
        check_published("combo", env_id, published)
        assert default == published._replace(learner=replace(published.learner, triples=False))
    assert set(PRESETS) - set(RUNNERS) == {"Pendulum-v1", "InvertedPendulum-v5"}
    assert combo_preset("Pendulum-v1").learner.hidden == (64, 64)
    assert combo_preset("Pusher-v5").config == COMBOConfig()
    with pytest.raises(ValueError, match="preset: expected one of small for Pendulum-v1, got 'paper'"):
        combo_preset("Pendulum-v1", "paper")
