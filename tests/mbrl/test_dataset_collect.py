"""Datasets made by playing and out of replay buffers."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.stats import truncnorm

from mbrl.cli import main
from mbrl.data.datasets import DatasetInfo, load_dataset, save_dataset
from mbrl.experiments import runs
from mbrl.experiments.agent_runs import create_agent_run, train_agent_run
from mbrl.experiments.behaviours import Played, around
from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.collection import collect_dataset, replay_dataset
from mbrl.experiments.offline_data import same_info
from mbrl.experiments.ope_candidates import dataset_env
from mbrl.experiments.run import Run
from mbrl.experiments.runs import train_run
from mbrl.experiments.sb3_presets import SB3Config
from mbrl.experiments.sb3_runs import create_sb3_run
from mbrl.learners.reinforce import ReinforceConfig
from mbrl.learners.sac import SACConfig
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from mbrl.pipelines.reinforce_config import OnPolicyConfig

ENV = "InvertedPendulum-v5"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of SAC with 90 real steps, of which it stores the last 80."""
    config = OffPolicyConfig(
        total_timesteps=90, initial_steps=60, batch_size=8, eval_every=0, checkpoint_every=90, buffer_size=80
    )
    learner = SACConfig(hidden=(16,))
    made = create_agent_run(tmp_path_factory.mktemp("runs"), ENV, "sac", config, learner, seed=0)
    train_agent_run(made, progress=False)
    return made


def test_random_actions_have_the_density_of_the_box() -> None:
    dataset = collect_dataset("random", env_id=ENV, steps=40, seed=1)
    assert len(dataset) == 40
    assert np.abs(dataset.actions).max() <= 3
    np.testing.assert_allclose(dataset.log_probs, -math.log(6))
    assert dataset.info.env_id == ENV
    assert dataset.info.action_low == (-3.0,)
    assert dataset.observations.dtype == np.float64
    assert dataset.actions.dtype == np.float32
    again = collect_dataset("random", env_id=ENV, steps=40, seed=1)
    assert again.hash() == dataset.hash()
    assert collect_dataset("random", env_id=ENV, steps=40, seed=2).hash() != dataset.hash()


def test_the_rows_are_what_the_environment_does() -> None:
    """The first episode, played again: the same actions lead to the same observations, rewards and end."""
    dataset = collect_dataset("random", env_id="Hopper-v5", steps=60, seed=3)
    env = gym.make("Hopper-v5")
    obs, _ = env.reset(seed=3)
    for row in range(dataset.lengths[0]):
        np.testing.assert_array_equal(dataset.observations[row], obs)
        obs, reward, terminated, _, _ = env.step(dataset.actions[row])
        assert reward == dataset.rewards[row]
        assert terminated == dataset.terminated[row]
    np.testing.assert_array_equal(dataset.observations[dataset.lengths[0]], obs)
    assert dataset.terminated[dataset.ends[0]]
    assert dataset.truncated[-1] != dataset.terminated[-1]  # the last episode is cut where collection stopped


def test_a_replay_buffer_comes_back_whole_and_in_order(run: Run) -> None:
    """But for the rest of the oldest episode, whose beginning has given way."""
    dataset = replay_dataset(run)
    stored = load_checkpoint(run.path)[0]
    ids, head = stored["buffer/episode"][:, 0], int(stored["buffer/cursor"][1])
    assert head == 10
    gone = int((ids == ids[head]).sum())
    assert 0 < gone < 80
    assert len(dataset) == 80 - gone
    assert f"without {gone} rows of episodes whose beginning had given way" in dataset.info.description
    starts = dataset.observations[np.append(0, dataset.ends[:-1] + 1) + np.arange(dataset.episodes)]
    assert np.abs(starts).max() < 0.011  # where the environment begins
    assert np.isnan(dataset.log_probs).all()
    inner = np.delete(np.arange(len(dataset)), dataset.ends)
    batch = dataset.transitions()
    assert torch.equal(batch.next_obs[inner], batch.obs[inner + 1])
    assert dataset.info.origin["run_steps"] == 90
    assert collect_dataset("medium-replay", run=str(run.path), steps=30).hash() == dataset.head(30).hash()


def test_a_policy_that_draws_knows_how_likely_its_actions_were(run: Run) -> None:
    dataset = collect_dataset("medium", run=str(run.path), steps=30)
    env = runs.run_env(run)
    agent = runs.load_policy(run, env)
    batch = dataset.transitions(dtype=torch.float64)
    expected = agent.log_prob(batch.obs.numpy(), batch.action.numpy())  # type: ignore[attr-defined]
    np.testing.assert_allclose(dataset.log_probs, expected, rtol=1e-4, atol=1e-5)
    best = collect_dataset("expert", run=str(run.path), steps=5, deterministic=True)
    chosen, _ = agent.predict(best.observations[0], deterministic=True)
    np.testing.assert_allclose(best.actions[0], chosen, rtol=1e-6)
    assert np.isnan(best.log_probs).all()


def test_planning_on_the_true_model_makes_an_expert(run: Run) -> None:
    options = {"env_id": ENV, "steps": 6, "noise": 0.3, "planner": "mppi"}
    both = collect_dataset("medium-expert", run=str(run.path), expert="simulator", **options)  # type: ignore[arg-type]
    assert len(both) == 6
    expert = both.select([both.episodes - 1])
    assert len(expert) == 3
    assert np.isfinite(expert.log_probs).all()
    assert [one["policy"] for one in both.info.origin["parts"]] == ["sac", "mpc-mppi"]


def test_noise_is_a_normal_distribution_cut_to_the_bounds() -> None:
    space = gym.spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 4.0]), dtype=np.float64)
    center, stream = np.array([0.9, 4.0]), np.random.default_rng(0)
    drawn = [around(center, space, 0.5, stream) for _ in range(4_000)]
    actions = np.array([action for action, _ in drawn])
    laws = [truncnorm(-1.9 / 0.5, 0.1 / 0.5, 0.9, 0.5), truncnorm(-4.0, 0.0, 4.0, 1.0)]
    np.testing.assert_allclose(actions.mean(0), [law.mean() for law in laws], atol=0.03)
    expected = sum(law.logpdf(actions[:, i]) for i, law in enumerate(laws))
    np.testing.assert_allclose([log for _, log in drawn], expected, rtol=1e-9)


def test_a_share_of_discrete_actions_is_random() -> None:
    class Always:
        def predict(self, obs: object, state: object = None, start: object = None, best: bool = False, /) -> tuple:
            return np.array(2), state

    behaviour = Played(Always(), gym.spaces.Discrete(4), 0.4, 0)
    drawn = [behaviour.act(np.zeros(1), tick, tick == 0) for tick in range(2_000)]
    share = np.mean([action == 2 for action, _ in drawn])
    assert share == pytest.approx(0.7, abs=0.03)
    assert {round(math.exp(log), 9) for action, log in drawn if action == 2} == {0.7}
    assert {round(math.exp(log), 9) for action, log in drawn if action != 2} == {0.1}


def test_runs_of_stable_baselines3_are_sampled_as_in_training(tmp_path: Path) -> None:
    settings = {"policy_kwargs": {"net_arch": [8]}, "n_steps": 32, "batch_size": 32}
    config = SB3Config(total_timesteps=32, eval_every=0, hyperparameters=settings)
    made = create_sb3_run(tmp_path, ENV, "sb3-ppo", config, seed=0)
    train_run(made, progress=False)
    best, drawn = (
        collect_dataset("medium", run=str(made.path), steps=20, deterministic=chosen) for chosen in (True, False)
    )
    assert best.info.origin["deterministic"]
    assert not drawn.info.origin["deterministic"]
    assert np.abs(drawn.actions[:10]).mean() > 3 * np.abs(best.actions[:10]).mean()  # a new policy's mean is near 0


def test_a_run_that_keeps_no_replay_buffer_says_so(tmp_path: Path) -> None:
    config = OnPolicyConfig(total_timesteps=400, batch_steps=200, eval_every=0, checkpoint_every=400)
    made = create_agent_run(tmp_path, "Pendulum-v1", "reinforce", config, ReinforceConfig(hidden=(8,)), seed=0)
    train_agent_run(made, progress=False)
    with pytest.raises(ValueError, match="run: expected one that keeps real steps in a buffer, got one of reinforce"):
        collect_dataset("medium-replay", run=str(made.path), steps=None)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("random", {"steps": 5}, "env_id: expected one for random"),
        ("random", {"env_id": ENV}, "steps: expected a number for random"),
        ("medium", {"env_id": ENV, "steps": 5}, "run: expected a run directory or simulator for medium, got none"),
        ("expert", {"run": "simulator", "steps": 5}, "env_id: expected one with simulator"),
        ("medium-replay", {"run": "simulator"}, "run: expected a run directory for medium-replay"),
        ("medium-expert", {"run": "simulator", "env_id": ENV, "steps": 5}, "expert: expected it with medium-expert"),
        ("expert", {"run": "simulator", "env_id": ENV, "steps": 5, "noise": -1}, "noise: expected a number from 0"),
        ("expert", {"run": "nowhere", "steps": 5}, "run: expected a run directory"),
        ("random", {"env_id": ENV, "steps": 5, "noise": 0.1}, "noise: expected none, as it has no effect on random"),
        ("random", {"env_id": ENV, "steps": 5, "deterministic": True}, "deterministic: expected none"),
        ("random", {"env_id": ENV, "steps": 5, "planner": "cem"}, "planner: expected none"),
        ("medium", {"run": "nowhere", "steps": 5, "planner": "cem"}, "planner: expected none"),
        ("medium-replay", {"run": "nowhere", "seed": 3}, "seed: expected none"),
        ("medium-replay", {"run": "nowhere", "env_id": ENV}, "env_id: expected none"),
        ("random", {"env_id": ENV, "steps": 0}, "steps: expected at least 1"),
        ("random", {"env_id": ENV, "steps": 5, "seed": -1}, "seed: expected 0 or more, got -1"),
    ],
)
def test_wrong_arguments_say_what_is_expected(kind: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect_dataset(kind, **{"steps": None, **arguments})  # type: ignore[arg-type]


def test_halves_of_two_environments_are_refused_before_they_are_played(run: Run, tmp_path: Path) -> None:
    config, learner = OffPolicyConfig(), SACConfig(hidden=(16,))
    other = create_agent_run(tmp_path, ENV, "sac", config, learner, seed=0, env_kwargs={"reset_noise_scale": 0.1})
    with pytest.raises(ValueError, match="expert: expected one in the environment of run"):
        collect_dataset("medium-expert", run=str(run.path), expert=str(other.path), steps=10**9)


def test_another_environment_than_the_run_has_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="env_id: expected InvertedPendulum-v5, which"):
        collect_dataset("medium", run=str(run.path), env_id="Hopper-v5", steps=5)
    with pytest.raises(ValueError, match=r"rows: expected a number from 1 to \d+, got 81"):
        replay_dataset(run, 81)


def test_a_place_that_can_not_be_written_to_is_told_before_anything_is_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    arguments = ["dataset", "collect", "random", "--env-id", ENV, "--steps", "20"]
    assert main([*arguments, "--out", str(tmp_path / "file" / "data.hdf5")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.out == ""
    assert main([*arguments, "--out", str(tmp_path / "new" / "folder" / "data.hdf5")]) == 0
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["data.hdf5"]


def test_options_that_can_not_be_written_are_told_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = "gymnasium.envs.classic_control:PendulumEnv"
    spec = gym.envs.registration.EnvSpec("NoJson-v0", entry, max_episode_steps=5, kwargs={"g": np.array(9.0)})
    monkeypatch.setitem(gym.registry, "NoJson-v0", spec)
    monkeypatch.setattr("mbrl.experiments.collection.play_dataset", None)
    command = ["dataset", "collect", "random", "--env-id", "NoJson-v0", "--steps", "20"]
    assert main([*command, "--out", str(tmp_path / "data.hdf5")]) == 2
    assert "info: expected values that JSON can hold" in capsys.readouterr().err


MODULE = """
import gymnasium as gym
gym.register("CollectTest-v0", entry_point="gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=20)
"""


def test_an_environment_with_a_module_is_found_by_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By those that learn, verify, import and go on with what was collected."""
    name = "module_of_dataset_collect_test"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    out, bare, again = (tmp_path / f"{file}.hdf5" for file in ("out", "bare", "again"))

    def fresh(arguments: list[str]) -> int:
        """Without what commands before have imported, as in a process of its own."""
        sys.modules.pop(name, None)
        gym.registry.pop("CollectTest-v0", None)
        return main(arguments)

    env_id = f"{name}:CollectTest-v0"
    assert fresh(["dataset", "collect", "random", "--env-id", env_id, "--steps", "40", "--out", str(out)]) == 0
    data = load_dataset(out)
    assert data.info.env_id == env_id
    assert fresh(["dataset", "verify", str(out)]) == 0
    save_dataset(replace(data, info=DatasetInfo()), bare)
    assert fresh(["dataset", "import", str(bare), "--env-id", env_id, "--out", str(again)]) == 0
    assert load_dataset(again).info.env_id == env_id
    plain = replace(data, info=replace(data.info, env_id="CollectTest-v0"))
    assert data.concatenate(plain).episodes == 4
    assert same_info(plain.info, data.info, out) == plain.info
    dataset_env(data).close()
    sys.modules.pop(name)
    gym.registry.pop("CollectTest-v0")


def test_the_command_writes_a_new_file_once(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data" / "replay.hdf5"
    arguments = ["dataset", "collect", "medium-replay", "--run", str(run.path), "--out", str(out)]
    assert main(arguments) == 0
    assert f"{len(replay_dataset(run))} rows in" in capsys.readouterr().out
    assert load_dataset(out).hash() == replay_dataset(run).hash()
    before = out.read_bytes()
    assert main(arguments) == 2
    assert "datasets are not overwritten" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["replay.hdf5"]
