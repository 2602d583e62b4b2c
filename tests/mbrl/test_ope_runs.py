"""`mbrl ope` from end to end: which data fit which runs, what is fitted, and what the environment itself says."""

import json
import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from mbrl.cli import main
from mbrl.data.collect import RandomPolicy, collect
from mbrl.data.datasets import DatasetError, DatasetInfo, from_buffer, load_dataset, save_dataset
from mbrl.envs.make import make_env
from mbrl.experiments.agent_runs import create_agent_run
from mbrl.experiments.episode import play
from mbrl.experiments.offline_runs import create_offline_run
from mbrl.experiments.ope import OPEConfig
from mbrl.experiments.ope_candidates import load_candidates
from mbrl.experiments.ope_runs import true_value
from mbrl.experiments.runs import train_run
from mbrl.learners.behavior_cloning import BehaviorCloningConfig
from mbrl.learners.dqn import DQNConfig
from mbrl.learners.sac import SACConfig
from mbrl.learners.td3 import TD3Config
from mbrl.pipelines.agents import SAC
from mbrl.pipelines.mopo_config import MOPOConfig, MOPOPreset
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from mbrl.pipelines.offline_config import OfflineConfig
from tests.mbrl.offline_cases import pendulum_data


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    """A dataset, and two runs of SAC that hardly learned anything."""
    root = tmp_path_factory.mktemp("ope")
    env = make_env("Pendulum-v1")
    buffer = collect(env, RandomPolicy(env.action_space), steps=600, seed=0)
    save_dataset(from_buffer(buffer, DatasetInfo.of(env)), root / "data.hdf5")
    config = OffPolicyConfig(total_timesteps=40, initial_steps=20, batch_size=8, eval_every=0, checkpoint_every=40)
    runs = [
        create_agent_run(root / "runs", "Pendulum-v1", "sac", config, SACConfig(hidden=(8,)), seed=seed)
        for seed in (0, 1)
    ]
    for run in runs:
        train_run(run, progress=False)
    return root / "data.hdf5", [run.path for run in runs]


TINY = MOPOConfig(members=3, elites=2, model_hidden=(16,), model_max_steps=60)


def test_the_command_compares_runs(pendulum, capsys, monkeypatch):
    monkeypatch.setattr("mbrl.experiments.ope.mopo_preset", lambda env_id: MOPOPreset(TINY, SACConfig()))
    file, paths = pendulum
    options = ["--dataset", str(file), "--updates", "20", "--discount", "0.9", "--sampled"]
    status = main(["ope", *map(str, paths), *options, "--episodes", "1", "--calibration"])
    text = capsys.readouterr().out
    assert status == 0
    for expected in ("dataset: 600 rows in 3 episodes", "fqe  ", "model  ", "importance sampling", "environment  "):
        assert expected in text
    assert "penalty calibration: 5000 transitions, replayed in the true model" in text
    assert "chosen by" in text
    report = json.loads((paths[0] / "ope.json").read_text())
    assert [one["name"] for one in report["estimates"]] == ["data", "fqe", "model", "importance sampling"]
    assert set(report["calibration"]["curves"]) == {"pairwise", "ensemble_std", "aleatoric"}
    assert report["environment"]["score"] < 0
    assert "[nan" not in text  # one episode has no interval
    assert report["dataset"]["path"] == str(file.resolve())
    assert (report["settings"]["discount"], report["settings"]["seed"]) == (0.9, 0)
    assert report["settings"]["fqe"]["updates"] == 20
    assert report["calibration"]["weight_units"] == "data"
    assert {"fqe", "model"} == {one["estimator"] for one in report["choices"]}


def test_what_an_earlier_report_says_of_the_same_policy_stays(pendulum):
    file, (path, _) = pendulum
    command = ["ope", str(path), "--dataset", str(file), "--updates", "20", "--no-model", "--discount"]
    assert main([*command, "0.9", "--episodes", "1"]) == 0
    first = json.loads((path / "ope.json").read_text())
    assert main([*command, "0.9"]) == 0
    assert json.loads((path / "ope.json").read_text())["environment"] == first["environment"]
    assert main([*command, "0.8"]) == 0  # another value
    assert "environment" not in json.loads((path / "ope.json").read_text())


def test_a_deterministic_policy_is_not_sampled(pendulum, tmp_path, capsys):
    """What is evaluated would be another policy than the one that is played."""
    config = OffPolicyConfig(total_timesteps=20, initial_steps=10, batch_size=8, eval_every=0, checkpoint_every=20)
    run = create_agent_run(tmp_path, "Pendulum-v1", "td3", config, TD3Config(hidden=(8,)), seed=0)
    train_run(run, progress=False)
    assert main(["ope", str(run.path), "--dataset", str(pendulum[0]), "--sampled"]) == 2
    assert "sampled: expected a run whose policy draws its actions, got TD3" in capsys.readouterr().err


def test_the_command_says_what_does_not_fit(pendulum, capsys, tmp_path):
    _, paths = pendulum
    other = make_env("InvertedPendulum-v5")
    buffer = collect(other, RandomPolicy(other.action_space), steps=30, seed=0)
    save_dataset(from_buffer(buffer, DatasetInfo.of(other)), tmp_path / "other.hdf5")
    assert main(["ope", str(paths[0]), "--dataset", str(tmp_path / "other.hdf5")]) == 2
    assert (
        "dataset: expected observations of (3,) numbers, as the run learned with, got (4,)" in capsys.readouterr().err
    )
    data = load_dataset(pendulum[0])
    wide = replace(data, info=replace(data.info, action_low=(-3.0,), action_high=(3.0,)))
    save_dataset(wide, tmp_path / "wide.hdf5")
    assert main(["ope", str(paths[0]), "--dataset", str(tmp_path / "wide.hdf5")]) == 2
    assert "dataset: expected actions in Box(-2.0, 2.0" in capsys.readouterr().err
    assert main(["ope", str(paths[0]), "--dataset", str(tmp_path / "none.hdf5")]) == 2


@pytest.mark.parametrize("env_id", [None, "Pendulum-v1", "gymnasium.envs:Pendulum-v1"])
def test_data_of_the_runs_environment_fit(pendulum, env_id):
    file, paths = pendulum
    data = load_dataset(file)
    candidates(paths, replace(data, info=replace(data.info, env_id=env_id)))


def test_data_of_another_environment_are_refused_and_of_another_version_warned_of(pendulum):
    """Though sizes and bounds are the same."""
    file, paths = pendulum
    data = load_dataset(file)
    older = replace(data, info=replace(data.info, env_id="Pendulum-v0"))
    with pytest.warns(UserWarning, match="dataset: it is of Pendulum-v0, the run of Pendulum-v1: values are those of"):
        candidates(paths[:1], older)
    other = replace(data, info=replace(data.info, env_id="Acrobot-v1"))
    with pytest.raises(ValueError, match=r"^dataset: expected one of Pendulum-v1, as the run is, got one of Acro"):
        candidates(paths, other)


def boundless(data):
    return replace(data, info=replace(data.info, env_id=None, action_low=None, action_high=None, actions=None))


def test_bounds_that_the_data_do_not_say_are_those_of_the_run(pendulum, tmp_path):
    """A run on such a file, with --env-id, is evaluated on that file, as a run that acted is."""
    file, paths = pendulum
    data = load_dataset(file)
    bare = save_dataset(boundless(data), tmp_path / "bare.hdf5")
    config = OfflineConfig(total_updates=2, batch_size=8, eval_every=0, checkpoint_every=2)
    learner = BehaviorCloningConfig(hidden=(4,))
    own = create_offline_run(tmp_path, bare, "bc", config, learner, seed=0, env_id="Pendulum-v1")
    train_run(own, progress=False)
    for one in candidates([*paths, own.path], load_dataset(bare)):
        assert one.agent.action_space.high.tolist() == [2.0]
        assert (one.data.info.action_low, one.data.info.action_high) == ((-2.0,), (2.0,))
        assert one.data.hash() == data.hash()
    command = ["ope", str(own.path), "--dataset", str(bare), "--updates", "20", "--discount", "0.9", "--no-model"]
    assert main(command) == 0
    with pytest.raises(DatasetError, match=r"actions: \d+ outside \[-2.0\] to \[2.0\], the first in episode 0"):
        candidates(paths, replace(boundless(data), actions=2 * data.actions))


def test_discrete_actions_that_the_data_do_not_show_are_those_of_the_run(tmp_path):
    """Data in which the last action was never taken."""
    env = make_env("CartPole-v1", discrete=True)
    config = OffPolicyConfig(total_timesteps=20, initial_steps=10, batch_size=8, eval_every=0, checkpoint_every=20)
    run = create_agent_run(tmp_path, "CartPole-v1", "dqn", config, DQNConfig(hidden=(8,)), seed=0)
    train_run(run, progress=False)
    data = boundless(from_buffer(collect(env, RandomPolicy(env.action_space), 60), DatasetInfo.of(env)))
    (one,) = candidates([run.path], replace(data, actions=0 * data.actions))
    assert one.data.info.actions == 2
    with pytest.raises(DatasetError, match="actions: 60 outside 0 to 1"):
        candidates([run.path], replace(data, actions=0 * data.actions + 2))


def candidates(paths, data):
    return load_candidates(paths, data, sampled=False, with_model=False, episodes=0)


def single(data):
    return data.select([0])


def nameless(data):
    return replace(data, info=replace(data.info, env_id=None))


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        (["nowhere"], None, "run: expected a run directory"),
        (["--episodes", "-1"], None, "episodes: expected 0 or more, got -1"),
        (["--episodes", "1"], nameless, "they can't be played, got 1: dataset: expected one that names its environm"),
        ([], single, "dataset: expected 2 episodes or more, for a bootstrap over them, got 1"),
    ],
)
def test_what_can_not_be_finished_is_not_begun(pendulum, tmp_path, capsys, options, change, message):
    """No model is fitted, no critics are, and no report is written."""
    file, paths = pendulum
    if change is not None:
        file = save_dataset(change(load_dataset(file)), tmp_path / "data.hdf5")
    report, cache = paths[0] / "ope.json", tmp_path / "models"
    report.unlink(missing_ok=True)
    command = ["ope", str(paths[0]), *options, "--dataset", str(file), "--updates", "20", "--discount", "0.9"]
    assert main([*command, "--model-cache", str(cache)]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""
    assert not report.exists()
    assert not cache.exists()


def test_what_is_not_used_is_not_fitted(pendulum, tmp_path, monkeypatch):
    """Penalties of a run with a model are calibrated in that one, and no other one is fitted to the dataset."""
    monkeypatch.setattr("mbrl.experiments.ope.mopo_preset", lambda env_id: MOPOPreset(TINY, SACConfig()))
    file, _ = pendulum
    small = {"rollout_every": 5, "rollout_starts": 20, "rollout_length": 1, "batch_size": 8, "eval_every": 0}
    config = replace(TINY, total_updates=5, checkpoint_every=5, **small)
    run = create_offline_run(tmp_path, file, "mopo", config, SACConfig(hidden=(8,)), seed=0)
    train_run(run, progress=False)
    cache = tmp_path / "models"
    command = ["ope", str(run.path), "--dataset", str(file), "--updates", "20", "--discount", "0.9"]
    assert main([*command, "--model-cache", str(cache), "--calibration", "--no-model"]) == 0
    report = json.loads((run.path / "ope.json").read_text())
    assert report["calibration"]["weight_units"] == "data"
    assert not cache.exists()
    assert main([*command, "--model-cache", str(cache)]) == 0
    assert len(list(cache.iterdir())) == 1


def test_the_model_of_a_run_is_of_its_own_data_and_on_the_cpu(pendulum, tmp_path, capsys):
    """Whether or not the dataset to evaluate on names an environment, and wherever the run was trained."""
    file, _ = pendulum
    data = load_dataset(file)
    bare = save_dataset(boundless(data), tmp_path / "bare.hdf5")
    small = {"rollout_every": 5, "rollout_starts": 20, "rollout_length": 1, "batch_size": 8, "eval_every": 0}
    config = replace(TINY, total_updates=5, checkpoint_every=5, reward="task", **small)
    for made_of, env_id in ((file, None), (bare, "Pendulum-v1")):
        run = create_offline_run(tmp_path, made_of, "mopo", config, SACConfig(hidden=(8,)), seed=0, env_id=env_id)
        train_run(run, progress=False)
        run.change({**run.config, "loop": {**run.config["loop"], "device": "cuda"}})
        run.keep_changes()
        for other in (file, bare):
            command = ["ope", str(run.path), "--dataset", str(other), "--updates", "20", "--discount", "0.9"]
            assert main([*command, "--calibration", "--no-model", "--episodes", "1"]) == 0
            assert "calibration of the run's own model" in capsys.readouterr().out
            report = json.loads((run.path / "ope.json").read_text())
            assert report["calibration"]["model"] == "the run's own model"


class Endless(gym.Env):
    """A reward of 1 in every step, and no end."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        assert self.steps < 1_000
        return np.zeros(2, np.float32), 1.0, False, False, {}


def test_an_environment_without_time_limit_is_played_to_the_horizon(monkeypatch):
    """0.9^44 < 0.01: 44 steps, which are worth (1 - 0.9^44) / (1 - 0.9)."""
    spec = gym.envs.registration.EnvSpec("OPEEndless-v0", entry_point=Endless)
    monkeypatch.setitem(gym.registry, "OPEEndless-v0", spec)
    env = gym.make("OPEEndless-v0")
    data = from_buffer(collect(env, RandomPolicy(env.action_space), 10), DatasetInfo.of(env))
    agent = SAC(*data.spaces(), seed=0, hidden=(4,))
    made = true_value(data, agent, OPEConfig(discount=0.9), sampled=False, episodes=1)
    assert made.score == 44
    assert made.value == pytest.approx((1 - 0.9**44) / 0.1)


def test_a_simulation_that_diverged_is_no_good_policy(monkeypatch):
    data, lost = pendulum_data(), iter([False, True])
    agent = SAC(*data.spaces(), seed=0, hidden=(4,))

    def some_diverge(*args, **kwargs):
        return play(*args, **kwargs)._replace(diverged=next(lost))

    monkeypatch.setattr("mbrl.experiments.ope_runs.play", some_diverge)
    made = true_value(data, agent, OPEConfig(discount=0.9), sampled=False, episodes=2)
    assert (made.score, made.value, made.diverged) == (-math.inf, -math.inf, 1)
