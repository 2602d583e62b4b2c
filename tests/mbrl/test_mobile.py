"""MOBILE: its penalty against a loop, whom it is for, and its loop."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mbrl.learners.sac import SACConfig
from mbrl.models.fit import fit
from mbrl.pipelines.agents import SAC, TD3
from mbrl.pipelines.learned_model import LearnedModel
from mbrl.pipelines.mobile import Inconsistency, train_mobile
from mbrl.pipelines.mobile_config import MOBILEConfig, mobile_preset
from mbrl.pipelines.offline_model import learned_model
from mbrl.seeding import generator
from tests.mbrl.line_cases import line_dataset
from tests.mbrl.memory import Memory, same
from tests.mbrl.published import RUNNERS, check_published

TINY = MOBILEConfig(
    total_updates=16,
    batch_size=20,
    real_fraction=0.25,
    penalty_weight=2.0,
    samples=3,
    rollout_every=8,
    rollout_starts=20,
    rollout_length=2,
    retain_rounds=2,
    members=4,
    elites=3,
    model_hidden=(16,),
    model_max_steps=20,
    termination="never",
    log_every=4,
    eval_every=0,
)
pytestmark = pytest.mark.filterwarnings("ignore:termination. episodes of the model never end")


def made(config: MOBILEConfig = TINY, **given: Any) -> tuple[LearnedModel, SAC, Any]:
    """A model of the line that was fitted, an agent, and rows of the data."""
    data = line_dataset(100)
    agent = SAC(*data.spaces(), 1, config=SACConfig(hidden=(8, 8)))
    model = learned_model(data, agent, config, seed=0, **given)
    rows = data.transitions()
    fit(model.ensemble, rows, seed=0, steps=20, holdout=0.2, elites=config.elites)
    return model, agent, rows


def test_the_penalty_by_a_loop() -> None:
    """Standard deviation over elites of the mean over samples of the least target value, of an action sampled there."""
    model, agent, rows = made()
    state, learner, ensemble = agent.state, agent.learner, model.ensemble
    obs, action = rows.obs[:4], rows.action[:4]
    penalty = Inconsistency(model, learner=learner, config=TINY, real_rows=0).penalty(
        obs, action, state, generator=generator(5)
    )
    g = generator(5)
    noise = torch.randn(3, 3, 4, ensemble.out_dim, generator=g)
    drawn = learner.act_noise(3 * 3 * 4, [g])[0].view(3, 3, 4, 1)
    prediction, expected = ensemble.predict(obs, action), []
    for row in range(4):
        by_elite = []
        for i, member in enumerate(ensemble.elites.tolist()):
            total = 0.0
            for k in range(3):
                change = prediction.mean[member, row] + prediction.std[member, row] * noise[k, i, row]
                next_obs = (obs[row] + change[:1])[None, None]
                sampled = learner.valued_actions(state, next_obs, drawn[k, i, row][None, None])
                total += float((sampled.value - sampled.entropy[:, None]).min()) / 3
            by_elite.append(total)
        expected.append(2.0 * torch.tensor(by_elite).std())
    assert len(set(ensemble.elites.tolist())) == 3
    torch.testing.assert_close(penalty, torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_real_rows_are_left_alone() -> None:
    model, agent, rows = made()
    batch = type(rows)(*(x[:10] for x in rows))
    adjust = Inconsistency(model, learner=agent.learner, config=TINY, real_rows=4)
    lowered = adjust(batch, agent.state, generator=generator(5))
    assert torch.equal(lowered.reward[:4], batch.reward[:4])
    assert (lowered.reward[4:] < batch.reward[4:]).all()
    for name in ("obs", "action", "next_obs", "terminated", "discount"):
        assert torch.equal(getattr(lowered, name), getattr(batch, name))
    free = Inconsistency(model, learner=agent.learner, config=replace(TINY, penalty_weight=0.0), real_rows=4)
    assert torch.equal(free(batch, agent.state, generator=generator(5)).reward, batch.reward)


def test_behind_an_end_nothing_is_worth_anything() -> None:
    def everywhere(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(obs), dtype=torch.bool)

    model, agent, rows = made()
    model.dynamics.termination = everywhere
    adjust = Inconsistency(model, learner=agent.learner, config=TINY, real_rows=0)
    assert (adjust.penalty(rows.obs[:4], rows.action[:4], agent.state, generator=generator(5)) == 0).all()


def train(recorder: Memory | None = None, config: MOBILEConfig = TINY, **extra: Any) -> Any:
    data = line_dataset(100)
    return train_mobile(data, SAC(*data.spaces(), 1, hidden=(8, 8)), config, seed=3, recorder=recorder, **extra)


def test_a_run_that_was_interrupted_is_the_run_that_was_not() -> None:
    whole, broken = Memory(), Memory()
    train(whole)
    train(broken, stop=lambda: True)
    assert 0 < broken.saved[-1][1]["counters"]["updates"] < 16
    rest = Memory(broken.saved[-1])
    train(rest)
    same(rest.saved[-1][0], whole.saved[-1][0])
    assert [*broken.rows, *rest.rows] == whole.rows
    assert all(row["model/penalty_mean"] > 0 for row in whole.rows if "model/rows" in row)


def test_a_weight_lowers_values() -> None:
    """The same batches and noise; what the critics are told is less."""
    config = replace(TINY, total_updates=60, rollout_every=60, log_every=60)
    q = []
    for weight in (0.0, 100.0):
        memory = Memory()
        train(memory, replace(config, penalty_weight=weight))
        q.append(next(row["train/q_mean"] for row in memory.rows if "train/q_mean" in row))
    assert q[1] < q[0]


def test_agents_and_settings_that_do_not_fit() -> None:
    data = line_dataset(20)
    with pytest.raises(ValueError, match="agent: expected SAC, whose critics can be asked, got TD3"):
        train_mobile(data, TD3(*data.spaces(), hidden=(8,)), TINY)
    for changed, message in (
        ({"penalty_weight": -1.0}, "penalty_weight: expected a finite number of 0 or more, got -1.0"),
        ({"samples": 0}, "samples: expected at least 1, got 0"),
        ({"elites": 1}, "elites: expected at least 2, which may disagree, got 1"),
        ({"real_fraction": 1.0}, "real_fraction: expected a share"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(TINY, **changed)


def test_presets_are_the_published_ones() -> None:
    for env_id in RUNNERS:
        check_published("mobile", env_id, mobile_preset(env_id, "published"))
    for env_id in ("InvertedPendulum-v5", "Pendulum-v1"):
        learner = mobile_preset(env_id).learner
        assert (learner.hidden, learner.backup) == ((64, 64), "deterministic")
    assert mobile_preset("Pusher-v5").learner.backup == "deterministic"
