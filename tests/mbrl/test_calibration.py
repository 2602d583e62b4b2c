"""Penalty calibration: reports with known answers, replay in true models, and a model that is wrong off its data."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl.data.collect import RandomPolicy, collect
from mbrl.data.datasets import Dataset, DatasetInfo, from_buffer
from mbrl.envs.make import make_env
from mbrl.experiments.calibration import Calibration, calibrate
from mbrl.experiments.replay import Truth, true_replay
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.models.penalties import penalty_function
from mbrl.seeding import generator


def never(obs, action, next_obs):
    return torch.zeros_like(obs[:, 0])


def dynamics(**settings):
    ensemble = GaussianEnsemble(2, 1, members=3, hidden=(8,), dtype=torch.float64, **settings)
    return EnsembleDynamics(ensemble, propagation="ts1_independent", reward=never)


def line(rows: int = 60, episodes: int = 4) -> Dataset:
    rng = np.random.default_rng(0)
    lengths = np.full(episodes, rows // episodes)
    ends = np.zeros(rows, dtype=bool)
    ends[lengths.cumsum() - 1] = True
    return Dataset(
        rng.normal(size=(rows + episodes, 2)),
        rng.normal(size=(rows, 1)),
        rng.normal(size=rows),
        np.zeros(rows, dtype=bool),
        ends,
        np.full(rows, np.nan),
        lengths,
        DatasetInfo(action_low=(-1.0,), action_high=(1.0,)),
    )


def still(obs, action):
    """A world in which nothing ever moves: the true error is what the model moves by."""
    return Truth(obs, torch.ones(len(obs), dtype=torch.bool), torch.zeros(len(obs), dtype=torch.bool))


def no_action(obs, g):
    return torch.zeros(len(obs), 1, dtype=obs.dtype)


def moved(prediction):
    """The root mean square of a draw, over members, noise and the two numbers of an observation."""
    return (prediction.mean.square() + prediction.std.square()).mean((0, 2)).sqrt()


PENALTIES = {
    "exact": moved,
    "mean": lambda p: p.mean.mean(0).square().mean(-1).sqrt(),
    "inverse": lambda p: 10 - moved(p),
    "constant": lambda p: torch.ones_like(moved(p)),
}


def report(replay=still, **settings) -> Calibration:
    return calibrate(dynamics(), no_action, line(), PENALTIES, replay=replay, starts=50, **settings)


def test_a_penalty_that_is_the_error_ranks_perfectly():
    made = report()
    assert made.curves["exact"].spearman == pytest.approx(1)
    assert made.curves["exact"].by_step == pytest.approx([1] * 5)
    assert made.curves["exact"].error == pytest.approx(made.curves["exact"].penalty)
    assert (np.diff(made.curves["exact"].error) > 0).all()
    assert made.curves["mean"].of_mean == pytest.approx(1)
    assert made.curves["exact"].of_mean < 0.999
    assert made.curves["inverse"].spearman == pytest.approx(-1)
    assert np.isnan(made.curves["constant"].spearman)
    assert (made.rows, made.unknown) == (250, 0)


def test_the_suggested_weight_covers_the_mean_loss_of_value():
    """V = 3 x_0: the loss is 0.9 * 3 |move_0|, against a penalty of 1."""
    made = report(value=lambda obs: 3 * obs[:, 0], discount=0.9)
    weight = made.curves["constant"].weight
    seen = []

    def replay(obs, action):
        seen.append(obs)
        return still(obs, action)

    model = dynamics()
    calibrate(model, no_action, line(), PENALTIES, replay=replay, starts=50)
    move = model.ensemble.predict(seen[0], torch.zeros(250, 1, dtype=torch.float64)).mean.mean(0)[:, 0]
    assert weight == pytest.approx(float(2.7 * move.abs().mean()), rel=1e-9)
    assert made.curves["constant"].covered == pytest.approx(float((weight >= 2.7 * move.abs()).double().mean()))
    assert np.isnan(report().curves["constant"].weight)


@pytest.mark.parametrize("model_ends", [False, True])
@pytest.mark.parametrize("truth_ends", [False, True])
def test_nothing_is_worth_anything_behind_an_end(model_ends, truth_ends):
    """V is 7 everywhere: what is lost is nothing where both go on or both end, and 0.9 * 7 where one of them ends."""
    model = dynamics()
    if model_ends:
        model.termination = lambda obs, action, next_obs: torch.ones(len(obs), dtype=torch.bool)

    def replay(obs, action):
        return still(obs, action)._replace(terminated=torch.full((len(obs),), truth_ends))

    arguments = {"value": lambda obs: torch.full((len(obs),), 7.0), "discount": 0.9, "starts": 50, "steps": 1}
    found = calibrate(model, no_action, line(), PENALTIES, replay=replay, **arguments)
    assert found.curves["constant"].weight == pytest.approx(6.3 * (model_ends != truth_ends))
    data = line()
    if truth_ends:  # every episode ends in its first row
        data = data.select([0, 1, 2, 3] * 5)
        ends = np.ones(20, dtype=bool)
        seen = data.observations.reshape(20, 16, 2)[:, :2].reshape(-1, 2)
        data = Dataset(seen, data.actions[:20], data.rewards[:20], ends, ~ends, data.log_probs[:20], np.ones(20, int))
    followed = calibrate(model, no_action, data, PENALTIES, replay=None, **arguments)
    assert followed.curves["constant"].weight == pytest.approx(6.3 * (model_ends != truth_ends))


def test_replay_knows_where_a_pole_has_fallen():
    """From an angle of 0.19 at a speed of 2: 0.27 is beyond 0.2, where an episode of the pole ends."""
    replay = true_replay(make_env("InvertedPendulum-v5", as_registered=True))
    obs = torch.tensor([[0.0, 0.19, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    truth = replay(obs, torch.zeros(2, 1))
    assert truth.next_obs[0, 1] == pytest.approx(0.27, abs=0.01)
    assert truth.terminated.tolist() == [True, False]


def test_what_the_true_model_can_not_be_set_to_is_left_out():
    def replay(obs, action):
        return still(obs, action)._replace(known=obs[:, 0] > 0)

    made = report(replay)
    assert 0 < made.unknown < 250
    assert made.rows + made.unknown == 250
    with pytest.raises(ValueError, match="expected 10 transitions or more whose truth is known, got 0 of 250"):
        report(lambda obs, action: still(obs, action)._replace(known=obs[:, 0] > 1e9))


def test_without_a_true_model_the_data_are_followed():
    """Actions are those of the data, and starts are never nearer to an episode's end than the steps."""
    model = dynamics(deterministic=True)
    made = calibrate(model, no_action, line(), PENALTIES, replay=None, steps=3, starts=40)
    assert made.source.startswith("against the data")
    assert made.rows == 120
    data = line()
    rows = data.transitions(dtype=torch.float64)
    first = [t for t in range(60) if t % 15 <= 12]
    possible = []
    for t in first:
        for member in range(3):
            mean = model.ensemble.predict(rows.obs[t : t + 1], rows.action[t : t + 1]).mean[member, 0]
            possible.append(float((rows.obs[t] + mean - rows.next_obs[t]).square().mean().sqrt()))
    assert min(possible) - 1e-9 <= made.mean_error[0] <= max(possible) + 1e-9
    for steps in (16, 70):  # longer than any episode, and than all together
        with pytest.raises(ValueError, match=f"dataset: expected an episode of {steps} steps or more"):
            calibrate(model, no_action, data, PENALTIES, replay=None, steps=steps)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "InvertedPendulum-v5", "HalfCheetah-v5", "Hopper-v5"])
def test_replay_is_what_the_environment_does(env_id):
    """Also of observations as registered, without positions along the floor."""
    env = make_env(env_id, as_registered=True)
    rows = collect(env, RandomPolicy(env.action_space), steps=30, seed=0).all()
    replay = true_replay(env)
    truth = replay(rows.obs, rows.action)
    clipped = (rows.obs.abs() >= 10).any(1) if env_id == "Hopper-v5" else torch.zeros(30, dtype=torch.bool)
    assert torch.equal(truth.known, ~clipped)
    torch.testing.assert_close(truth.next_obs[truth.known].float(), rows.next_obs[truth.known], rtol=1e-3, atol=1e-3)
    env.close()


def test_there_is_no_replay_of_what_is_not_known():
    assert true_replay(gym.make("MountainCarContinuous-v0")) is None


def test_hopper_states_at_the_limit_of_velocities_are_not_known():
    replay = true_replay(make_env("Hopper-v5", as_registered=True))
    obs = torch.zeros(3, 11)
    obs[:, 0], obs[1, 8], obs[2, 0] = 1.25, 10.0, torch.nan
    assert replay(obs, torch.zeros(3, 3)).known.tolist() == [True, False, False]


def test_disagreement_tells_where_a_model_of_narrow_data_is_wrong():
    """A pendulum that was only pushed gently: of the rollouts, those with full torque leave the data."""
    env = make_env("Pendulum-v1")

    class Gentle:
        def predict(self, obs, state=None, episode_start=None, deterministic=False):
            return (0.3 * np.sin(np.arange(len(obs)) + 7 * obs[:, :1])).astype(np.float32), None

    dataset = from_buffer(collect(env, Gentle(), steps=800, seed=0), DatasetInfo.of(env))
    ensemble = GaussianEnsemble(3, 1, members=5, hidden=(32, 32), seed=0)
    fit(ensemble, dataset.transitions(), seed=0, steps=500, batch_size=128)
    made = calibrate(
        EnsembleDynamics(ensemble, propagation="ts1_independent", reward=never),
        lambda obs, g: 2 * torch.rand(len(obs), 1, generator=g) ** 3,
        dataset,
        {kind: penalty_function(kind, ensemble) for kind in ("pairwise", "ensemble_std", "aleatoric")},
        replay=true_replay(env),
        starts=300,
    )
    # Noise leads later states off the circle of cosine and sine, where every prediction is wrong.
    for name in ("pairwise", "ensemble_std"):
        assert made.curves[name].by_step[0] > 0.6
        assert made.curves[name].spearman > 0.3
    text = str(made)
    assert "penalty calibration: 1500 transitions, replayed in the true model" in text
    assert made.record()["curves"]["pairwise"]["by_step"] == pytest.approx(made.curves["pairwise"].by_step)


def test_numbers_are_checked():
    for name in ("steps", "starts"):
        with pytest.raises(ValueError, match="steps, starts: expected at least 1"):
            calibrate(dynamics(), no_action, line(), PENALTIES, replay=still, **{name: 0})


def test_the_seed_decides_the_report():
    one, other, third = (report(seed=seed).curves["exact"].penalty for seed in (0, 0, 1))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)
    assert generator(0, "calibrate").initial_seed() != generator(1, "calibrate").initial_seed()
