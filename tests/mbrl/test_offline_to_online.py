"""Offline to online: what is taken along, a run from a dataset to the real environment, and its interruption."""

import shutil
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl.cli import main
from mbrl.data.collect import RandomPolicy, collect
from mbrl.data.datasets import DatasetInfo, from_buffer, save_dataset
from mbrl.envs.make import make_env
from mbrl.envs.tasks import task
from mbrl.experiments.agent_runs import load_agent
from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.offline_runs import create_offline_run
from mbrl.experiments.online_runs import create_online_run, default_config
from mbrl.experiments.run import Run
from mbrl.experiments.runs import run_env, train_run
from mbrl.learners.cql import CQLConfig
from mbrl.learners.sac import SACConfig
from mbrl.pipelines.agents import SAC, TD3
from mbrl.pipelines.mbpo_config import MBPOConfig
from mbrl.pipelines.mopo import train_mopo
from mbrl.pipelines.mopo_config import MOPOConfig
from mbrl.pipelines.offline_agents import CQL
from mbrl.pipelines.offline_config import OfflineConfig
from mbrl.pipelines.offline_to_online import online_config, sac_of, train_online
from mbrl.pipelines.schedules import Ramp
from mbrl.seeding import generator
from planners.rows import leaves

ENV, ROWS = "InvertedPendulum-v5", 200
OFFLINE = MOPOConfig(
    total_updates=20,
    batch_size=16,
    rollout_every=10,
    rollout_starts=30,
    rollout_length=2,
    members=3,
    elites=2,
    model_hidden=(8, 8),
    model_max_steps=20,
    log_every=10,
    eval_every=0,
    checkpoint_every=10,
)
FAST = {"update_ratio": 1.0, "model_every": 10, "retain_steps": 10, "eval_every": 0, "checkpoint_every": 8}
LEARNER = SACConfig(hidden=(8,))


def data():
    env = make_env(ENV, as_registered=True)
    return from_buffer(collect(env, RandomPolicy(env.action_space), steps=ROWS, seed=0), DatasetInfo.of(env))


@pytest.fixture(scope="module")
def trained():
    """Dataset, agent and model of MOPO."""
    dataset = data()
    done = train_mopo(dataset, SAC(*dataset.spaces(), seed=0, config=LEARNER), OFFLINE, seed=0)
    return dataset, done.policy, done


@pytest.fixture(scope="module")
def offline_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("offline")
    save_dataset(data(), root / "data.hdf5")
    run = create_offline_run(root / "runs", root / "data.hdf5", "mopo", OFFLINE, LEARNER, seed=0)
    train_run(run, progress=False)
    return run


def test_policy_data_and_model_go_on_together(trained):
    """The agent is taken along as it is; the buffer has the data first and then the steps; both are learned from."""
    dataset, agent, _ = trained
    env = make_env(ENV, as_registered=True)
    config = online_config(OFFLINE, env, ROWS, total_timesteps=12, **FAST)
    before = [x.clone() for x in leaves(agent.state)]
    done = train_online(env, agent, dataset, config, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(before, leaves(agent.state), strict=True))
    assert done.steps == 12
    assert len(done.buffer) == ROWS + 12
    torch.testing.assert_close(done.buffer.all().obs[:ROWS], dataset.transitions().obs)
    assert from_buffer(done.buffer).lengths[: dataset.episodes].tolist() == dataset.lengths.tolist()
    assert done.policy.updates == agent.updates + 12
    moved = [not torch.equal(a, b) for a, b in zip(before, leaves(done.policy.state), strict=True)]
    assert any(moved)
    first = agent.explore(done.buffer.all().obs[ROWS : ROWS + 1].numpy(), generator(1, "act", 0, 0))
    assert done.buffer.all().action[ROWS].numpy() == pytest.approx(first[0])  # no random action comes first


def test_the_first_fit_starts_from_the_model(trained):
    """A fit of one tiny step leaves it nearly where it was, and a fresh one elsewhere."""
    dataset, agent, done = trained
    env = make_env(ENV, as_registered=True)
    config = online_config(OFFLINE, env, ROWS, total_timesteps=2, **FAST)
    config = replace(config, model_lr=1e-9, model_max_steps=1)
    weights = done.ensemble.parameters.weights[0]
    kept, fresh = (
        train_online(env, agent, dataset, config, model_state=given, seed=1).ensemble.parameters.weights[0]
        for given in (done.model_state, None)
    )
    assert (kept - weights).abs().max() < 1e-6
    assert (fresh - weights).abs().max() > 1e-2


def test_given_rewards_and_ends_go_on_too():
    """A model that was trained with a given reward has no output for one."""
    env = gym.wrappers.TransformReward(make_env(ENV, as_registered=True), lambda reward: 3 * reward)
    known = task(env)

    def reward(obs, action, next_obs):
        return 3 * known.reward(obs, action, next_obs)

    dataset = from_buffer(collect(env, RandomPolicy(env.action_space), steps=ROWS, seed=0), DatasetInfo.of(env))
    agent = SAC(*dataset.spaces(), seed=0, config=LEARNER)
    done = train_mopo(dataset, agent, OFFLINE, reward=reward, termination=known.termination)
    state = done.model_state
    config = online_config(OFFLINE, env, ROWS, total_timesteps=3, **FAST)
    online = train_online(
        env, agent, dataset, config, model_state=state, reward=reward, termination=known.termination, seed=1
    )
    assert not online.ensemble.learned_reward
    assert online.model_buffer.all().reward.unique().tolist() in ([3.0], [0.0, 3.0])
    for wrong in ({"reward": known.reward}, {"reward": reward, "termination": lambda o, a, n: o[:, 0] == o[:, 0]}):
        with pytest.raises(ValueError, match="disagrees with the environment in row 0"):
            train_online(env, agent, dataset, config, model_state=state, seed=1, **wrong)


def test_settings_of_model_and_rollouts_stay():
    env = make_env(ENV, as_registered=True)
    made = online_config(OFFLINE, env, ROWS, total_timesteps=50, update_ratio=3.0)
    assert (made.members, made.model_hidden, made.batch_size) == (3, (8, 8), 16)
    assert made.rollout_length == Ramp(2, 2)
    assert (made.initial_steps, made.buffer_size, made.update_ratio) == (0, ROWS + 50, 3.0)
    free = OfflineConfig(discount=0.9, batch_size=17)
    model_free = online_config(replace(free, device="cuda"), env, ROWS, total_timesteps=50)
    assert model_free.device == "cuda"
    assert model_free.members == MBPOConfig().members
    assert (model_free.discount, model_free.batch_size) == (0.9, 17)
    with pytest.raises(ValueError, match="normalize_rewards: expected False"):
        online_config(replace(free, normalize_rewards=True), env, ROWS, total_timesteps=50)
    unknown = online_config(OFFLINE, gym.make("MountainCarContinuous-v0"), ROWS, total_timesteps=50)
    assert unknown.termination == "learned"
    with pytest.raises(ValueError, match="settings: expected those of MBPO"):
        online_config(OFFLINE, env, ROWS, total_timesteps=50, penalty="none")


def test_a_conservative_agent_goes_on_as_sac():
    spaces = data().spaces()
    agent = CQL(*spaces, seed=3, config=CQLConfig(hidden=(8, 8), actor_lr=2e-4))
    made = sac_of(agent)
    obs = np.ones((5, 4), np.float32)
    assert np.array_equal(made.predict(obs, deterministic=True)[0], agent.predict(obs, deterministic=True)[0])
    assert (made.config.hidden, made.config.actor_lr) == ((8, 8), 2e-4)
    made.state.critics[0][0].zero_()
    assert agent.state.sac.critics[0][0].any()  # nothing is shared
    with pytest.raises(ValueError, match=r"agent: expected SAC .* got TD3"):
        sac_of(TD3(*spaces, hidden=(8,)))


def test_several_environments_are_refused(trained):
    dataset, agent, _ = trained
    env = make_env(ENV, as_registered=True)
    config = replace(online_config(OFFLINE, env, ROWS, total_timesteps=8), num_envs=2)
    with pytest.raises(ValueError, match="num_envs: expected 1"):
        train_online(env, agent, dataset, config)


def test_a_run_goes_on_bit_for_bit_from_before_its_first_step(offline_run, tmp_path):
    """What the run on the dataset learned is in the first checkpoint: stopped or not, the end is the same."""
    runs = []
    for name in ("whole", "stopped"):
        config = default_config(offline_run.path, total_timesteps=16, **FAST)
        run = create_online_run(offline_run.path, config, seed=5, root=tmp_path / name)
        tensors, _ = load_checkpoint(run.path)
        start = load_checkpoint(offline_run.path)[0]
        assert torch.equal(tensors["agent/0000"], start["agent/0000"])
        assert torch.equal(tensors["model/ensemble/weights.0"], start["model/ensemble/weights.0"])
        runs.append(run)
    train_run(runs[0], progress=False)
    train_run(runs[1], progress=False, minutes=1e-9)  # ends behind the first step
    assert load_checkpoint(runs[1].path)[1]["counters"]["steps"] < 16
    train_run(Run.open(runs[1].path), progress=False)
    whole, stopped = (load_checkpoint(run.path)[0] for run in runs)
    assert set(whole) == set(stopped)
    for name in whole:
        torch.testing.assert_close(whole[name], stopped[name], rtol=0, atol=0, equal_nan=True)


def test_a_run_that_was_trained_elsewhere_goes_on_where_it_is_asked_to(offline_run, tmp_path, capsys):
    there = tmp_path / offline_run.path.name
    shutil.copytree(offline_run.path, there)
    run = Run.open(there)
    run.change({**run.config, "loop": {**run.config["loop"], "device": "nowhere"}})
    run.keep_changes()
    command = ["online", str(there), "--total-timesteps", "1", "--root", str(tmp_path / "runs")]
    assert main(command) == 2
    assert "device: expected one that is here, such as cpu, got 'nowhere'" in capsys.readouterr().err
    assert main([*command, "--device", "cpu"]) == 0


def test_the_command(offline_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mbrl.experiments.online_runs.default_config", _small(default_config))
    status = main(["online", str(offline_run.path), "--total-timesteps", "8", "--root", str(tmp_path)])
    assert status == 0
    assert "run directory: " in capsys.readouterr().out
    run = Run.open(next(tmp_path.iterdir()))
    assert (run.algo, run.config["from"]) == ("mbpo", str(offline_run.path))
    with run_env(run) as env:
        assert load_agent(run, env).updates == 20 + 8
    assert main(["online", str(run.path)]) == 2
    assert "run: expected one on a dataset" in capsys.readouterr().err


def _small(function):
    return lambda path, **options: function(path, **{**options, **FAST})
