"""Baselines of stable-baselines3 and sb3-contrib: trained as those libraries do it, kept as all runs are."""

import functools
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl.cli import main
from mbrl.experiments import runs
from mbrl.experiments.agent_runs import environment
from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.evaluate import evaluate
from mbrl.experiments.run import Run
from mbrl.experiments.sb3_models import CLASSES, load_model, make_model, policy_of, seeded, tensors_of
from mbrl.experiments.sb3_presets import DEFAULTS, PRESETS, SB3, SB3Config, sb3_preset
from mbrl.experiments.sb3_runs import create_sb3_run, train_sb3_run
from mbrl.pipelines.bookkeeping import part
from mbrl.seeding import derive

STEPS = 48
NET = {"policy_kwargs": {"net_arch": [8]}}
ON_POLICY: dict[str, Any] = {"n_steps": 8, "policy_kwargs": {"net_arch": {"pi": [8], "vf": [8]}}}
OFF_POLICY: dict[str, Any] = {**NET, "batch_size": 4, "learning_starts": 10, "buffer_size": 100}
TINY: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    # hyperparameters, settings of the loop, and how many gradient steps they make of 48 steps
    "sb3-ppo": ({**ON_POLICY, "batch_size": 4, "n_epochs": 3}, {"num_envs": 2, "normalize": True}, 3 * 3 * 4),
    "sb3-a2c": ({**ON_POLICY}, {"normalize": True}, 6),
    "sb3-trpo": ({**ON_POLICY, "batch_size": 4, "n_critic_updates": 5}, {}, 6 * (5 * 2 + 1)),
    "sb3-sac": (OFF_POLICY, {}, STEPS - 10),
    "sb3-td3": ({**OFF_POLICY, "train_freq": 4, "gradient_steps": 2}, {"action_noise": 0.1}, 2 * 10),
    "sb3-dqn": ({**OFF_POLICY, "train_freq": 8}, {"num_envs": 1}, 5),
    "sb3-crossq": (OFF_POLICY, {}, STEPS - 10),
}
ALL = pytest.mark.parametrize("algorithm", SB3)


def env_of(algorithm: str) -> str:
    return "CartPole-v1" if algorithm == "sb3-dqn" else "InvertedPendulum-v5"


def tiny(algorithm: str, **changes: Any) -> SB3Config:
    hyperparameters, loop, _ = TINY[algorithm]
    settings = {"total_timesteps": STEPS, "eval_every": 16, "eval_episodes": 1, **loop, **changes}
    return SB3Config(**settings, hyperparameters=hyperparameters)


def train(root: Path, algorithm: str, **changes: Any) -> Run:
    run = create_sb3_run(root, env_of(algorithm), algorithm, tiny(algorithm, **changes), seed=3)
    train_sb3_run(run, progress=False)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Finished runs by algorithm, made when they are first asked for."""
    made: dict[str, Run] = {}

    def run(algorithm: str) -> Run:
        if algorithm not in made:
            made[algorithm] = train(tmp_path_factory.mktemp(algorithm), algorithm)
        return made[algorithm]

    return run


def rows(run: Run) -> list[dict[str, Any]]:
    """The metrics without their timings."""
    timings = ("time/wall_clock", "time/cpu_seconds", "time/fps")
    return [{k: v for k, v in row.items() if k not in timings} for row in run.metrics()]


@ALL
def test_steps_and_gradient_steps_are_counted_exactly(trained, algorithm):
    run = trained(algorithm)
    evaluated = [row for row in run.metrics() if "eval/mean_reward" in row]
    assert [row["time/total_timesteps"] for row in evaluated] == [16, 32, 48]
    assert evaluated[-1]["train/n_updates"] == TINY[algorithm][2]
    assert all({"time/wall_clock", "train/n_updates"} <= set(row) for row in run.metrics())
    assert load_checkpoint(run.path)[1]["counters"]["steps"] == runs.total(run) == STEPS
    lengths = [row["rollout/ep_len_mean"] for row in run.metrics() if "rollout/ep_len_mean" in row]
    assert 0 < sum(lengths) <= STEPS


@ALL
def test_same_seed_same_numbers(trained, algorithm, tmp_path):
    again = train(tmp_path, algorithm)
    assert rows(again) == rows(trained(algorithm))
    first, second = (load_checkpoint(run.path)[0] for run in (trained(algorithm), again))
    assert {k: v.numpy().tobytes() for k, v in first.items()} == {k: v.numpy().tobytes() for k, v in second.items()}


@ALL
def test_the_last_evaluation_comes_again_from_what_was_stored(trained, algorithm):
    run = trained(algorithm)
    env = runs.run_env(run)
    policy = runs.load_policy(run, env)
    again = evaluate(policy, env, episodes=1, seed=derive(run.seed, "evaluate", STEPS))
    assert again.mean == [row for row in run.metrics() if "eval/mean_reward" in row][-1]["eval/mean_reward"]
    obs, _ = env.reset(seed=0)
    best = policy.predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(best, policy.predict(obs, deterministic=True)[0])
    sampled = [runs.load_policy(run, env).predict(obs, deterministic=False)[0] for _ in range(2)]
    np.testing.assert_array_equal(*sampled)
    draws = np.array([policy.predict(obs, deterministic=False)[0] for _ in range(60)])
    assert (len(np.unique(draws)) > 1) == policy.samples == (algorithm != "sb3-td3")  # whose policy draws nothing
    env.close()


def test_training_is_what_the_library_does(tmp_path):
    """The same numbers as stable-baselines3 alone, at every evaluation: after the update of the round that ended."""
    run = train(tmp_path, "sb3-ppo", total_timesteps=32)
    hyperparameters, seed = TINY["sb3-ppo"][0], derive(3, "sb3") % 2**31

    def plain(steps: int) -> tuple[PPO, VecNormalize]:
        envs = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("InvertedPendulum-v5"))] * 2))
        with seeded(seed):
            model = PPO("MlpPolicy", envs, seed=seed, device="cpu", **hyperparameters)
        with seeded(seed):
            model.learn(steps)
        return model, envs

    for steps in (16, 32):
        model, envs = plain(steps)

        class Scaled:
            def predict(self, obs: Any, *rest: Any, m: PPO = model, e: VecNormalize = envs) -> Any:
                return m.predict(e.normalize_obs(obs), deterministic=True)

        env = environment("InvertedPendulum-v5", {})
        expected = evaluate(Scaled(), env, episodes=1, seed=derive(3, "evaluate", steps)).mean
        found = [row["eval/mean_reward"] for row in run.metrics() if row["time/total_timesteps"] == steps][-1]
        assert found == expected
    stored = part(load_checkpoint(run.path)[0], "policy")
    for name, value in model.policy.state_dict().items():
        assert torch.equal(stored[name], value), name


def test_evaluations_change_nothing_in_training(trained, tmp_path):
    for algorithm in ("sb3-ppo", "sb3-sac"):
        other = train(tmp_path / algorithm, algorithm, eval_every=8, eval_episodes=2)
        first, second = (load_checkpoint(run.path)[0] for run in (trained(algorithm), other))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_other_random_numbers_stay_as_they_were(tmp_path):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = random.random(), np.random.rand(), torch.rand(())  # noqa: NPY002
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    run = train(tmp_path, "sb3-dqn")
    env = runs.run_env(run)
    runs.load_policy(run, env).predict(env.reset(seed=0)[0], deterministic=False)
    assert (random.random(), np.random.rand(), torch.rand(())) == expected  # noqa: NPY002


def test_stored_statistics_scale_observations_as_in_training_and_rewards_stay_true(trained):
    run = trained("sb3-ppo")
    config = tiny("sb3-ppo")
    model = make_model("sb3-ppo", config, lambda: environment(run.env_id, {}), 0)
    envs = model.get_vec_normalize_env()
    assert envs is not None
    envs.obs_rms.update(np.random.default_rng(0).normal(3.0, 2.0, (50, 4)))  # type: ignore[union-attr]
    spaces = environment(run.env_id, {})
    loaded = load_model("sb3-ppo", config, spaces, tensors_of(model), 0.0, 0)
    for obs in np.random.default_rng(1).normal(3.0, 40.0, (20, 4)):  # some of which are clipped
        np.testing.assert_array_equal(
            loaded.predict(obs, deterministic=True)[0], policy_of(model, 0).predict(obs, deterministic=True)[0]
        )
    # This task pays 1 a step and nothing for the one that ends it.
    ended = [row for row in run.metrics() if "eval/mean_reward" in row]
    assert all(row["eval/mean_reward"] == row["eval/mean_ep_length"] - 1 for row in ended)


@pytest.mark.parametrize(("often", "n_steps"), [({"sde_sample_freq": 3}, 8), ({}, 3)])
def test_exploration_that_depends_on_the_state_is_drawn_anew_at_starts_and_in_between(often, n_steps):
    """gSDE: noise is a function of the observation until its matrix is drawn again, here every third step."""
    hyperparameters = {**ON_POLICY, "use_sde": True, **often, "batch_size": n_steps, "n_steps": n_steps}
    env = gym.make("Pendulum-v1")
    model = make_model("sb3-ppo", SB3Config(hyperparameters=hyperparameters), lambda: gym.make("Pendulum-v1"), 0)
    policy, obs = policy_of(model, 0), env.reset(seed=0)[0]
    actions, state = [], None
    for _ in range(6):
        action, state = policy.predict(obs, state, None, False)
        actions.append(float(action[0]))
    assert actions[0] == actions[1] == actions[2] != actions[3] == actions[4] == actions[5]
    assert float(policy.predict(obs, None, None, False)[0][0]) != actions[3]


def test_an_interrupted_run_starts_anew_and_a_finished_one_stays(trained, tmp_path):
    whole = trained("sb3-sac")
    run = create_sb3_run(tmp_path, "InvertedPendulum-v5", "sb3-sac", tiny("sb3-sac"), seed=3)
    asked: list[int] = []

    def after_twenty() -> bool:
        asked.append(1)
        return len(asked) >= 20

    assert train_sb3_run(run, stop=after_twenty, progress=False) == 20
    env = runs.run_env(run)
    runs.load_policy(run, env)  # what there is can be evaluated
    assert max(row["time/total_timesteps"] for row in run.metrics()) <= 20
    (run.path / "evaluation.json").write_text("of what there was")
    with pytest.warns(UserWarning, match="starts anew"):
        assert runs.train_run(run, progress=False) == STEPS
    assert rows(run) == rows(whole)
    assert not (run.path / "evaluation.json").exists()
    before = run.metrics_path.read_bytes()
    assert runs.train_run(run, progress=False) == STEPS
    assert run.metrics_path.read_bytes() == before


def test_a_stop_after_the_last_step_leaves_out_no_update(trained, tmp_path):
    run = create_sb3_run(tmp_path, "InvertedPendulum-v5", "sb3-ppo", tiny("sb3-ppo"), seed=3)
    asked: list[int] = []

    def late() -> bool:
        asked.append(1)
        return len(asked) >= STEPS // 2  # two environments

    assert train_sb3_run(run, stop=late, progress=False) == STEPS
    assert rows(run) == rows(trained("sb3-ppo"))


def test_a_run_whose_checkpoint_is_damaged_starts_anew(trained, tmp_path):
    run = train(tmp_path, "sb3-a2c")
    (tensors,) = run.path.glob("checkpoints/*/tensors.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="starts anew"):
        assert train_sb3_run(run, progress=False) == STEPS
    assert rows(run) == rows(trained("sb3-a2c"))
    load_checkpoint(run.path)


def test_settings_that_do_not_fit_leave_what_was_learned(tmp_path):
    run = train(tmp_path, "sb3-a2c")
    before = run.metrics_path.read_bytes()
    run.change({"sb3": {**run.config["sb3"], "hyperparameters": {"learning_rate": -1.0}}})
    with pytest.raises(ValueError, match="learning rate"):
        train_sb3_run(run, progress=False)
    assert run.metrics_path.read_bytes() == before
    load_checkpoint(run.path)


def test_the_end_is_exact_where_a_round_is_cut_short(tmp_path):
    run = train(tmp_path, "sb3-ppo", total_timesteps=40, eval_every=10)
    steps = [row["time/total_timesteps"] for row in run.metrics() if "eval/mean_reward" in row]
    assert steps == [10, 20, 30, 40]
    assert load_checkpoint(run.path)[1]["counters"] | {"seconds": 0} == {"steps": 40, "updates": 24, "seconds": 0}


def test_every_preset_is_one_of_its_algorithm():
    for (algorithm, env_id), config in PRESETS.items():
        assert sb3_preset(algorithm, env_id).config is config
        assert set(DEFAULTS[algorithm]) <= set(config.hyperparameters)  # what costs are counted from
        small: dict[str, Any] = {"buffer_size": 10} if "buffer_size" in config.hyperparameters else {}
        # CrossQ's wide critics take a while to make.
        if "qf" in str(config.hyperparameters):
            small["policy_kwargs"] = {"net_arch": {"pi": [8], "qf": [8]}}
        made = SB3Config(num_envs=config.num_envs, hyperparameters={**config.hyperparameters, **small})
        model = make_model(algorithm, made, functools.partial(environment, env_id, {}), 0)
        assert isinstance(model, CLASSES[algorithm])
        if hasattr(model, "rollout_buffer") and hasattr(model, "batch_size"):
            assert model.n_steps * config.num_envs % model.batch_size == 0
        envs = model.get_env()
        assert envs is not None
        envs.close()
    assert sb3_preset("sb3-td3", "Swimmer-v5").config.action_noise == 0.1
    assert {algorithm for algorithm, _ in PRESETS} == set(SB3) == set(CLASSES)


def test_from_the_command_line(tmp_path, capsys):
    root = ["--root", str(tmp_path)]
    settings = "--total-timesteps 32 --num-envs 1 --eval-every 16 --eval-episodes 1 --hyperparameters.n-steps 16"
    more = "--hyperparameters.batch-size 16 --hyperparameters.policy-kwargs.net-arch.pi 8"
    assert main(["train", "sb3-ppo", "--env-id", "Pendulum-v1", *root, *settings.split(), *more.split()]) == 0
    (path,) = tmp_path.iterdir()
    run = Run.open(path)
    expected = sb3_preset("sb3-ppo", "Pendulum-v1").config.hyperparameters
    assert run.config["sb3"]["hyperparameters"]["learning_rate"] == expected["learning_rate"] == 1e-3
    assert run.config["sb3"]["hyperparameters"]["policy_kwargs"]["net_arch"] == {"pi": [8], "vf": [64, 64]}
    assert {"stable-baselines3", "sb3-contrib"} <= set(run.header["versions"])
    assert main(["evaluate", str(path), "--episodes", "1"]) == 0
    assert main(["resume", str(path)]) == 0  # it is at its end
    assert main(["resume", str(path), "--settings", "hyperparameters.learning_rate=1e-4"]) == 2
    assert "accept-changes" in capsys.readouterr().err


def test_a_number_takes_the_place_of_a_step_size_that_falls(tmp_path):
    given = {**tiny("sb3-ppo").hyperparameters, "learning_rate": "1e-3", "clip_range": "lin_0.2"}
    config = replace(tiny("sb3-ppo"), hyperparameters=given)
    model = make_model("sb3-ppo", config, lambda: gym.make("InvertedPendulum-v5"), seed=0)
    assert [model.lr_schedule(left) for left in (1.0, 0.1)] == [1e-3, 1e-3]
    assert [round(model.clip_range(left), 9) for left in (1.0, 0.1)] == [0.2, 0.02]


@pytest.mark.parametrize(
    ("algorithm", "env_id", "changes", "message"),
    [
        ("sb3-ppo", "Pendulum-v1", {"hyperparameters": {"steps": 3}}, "hyperparameters: .*PPO.*n_steps.*got steps"),
        ("sb3-sac", "CartPole-v1", {}, "sb3-sac refuses .*Discrete"),
        ("sb3-ppo", "Pendulum-v1", {"hyperparameters": {"learning_rate": "fast"}}, "learning_rate: .*lin_NUMBER.*fast"),
        (
            "sb3-ppo",
            "Pendulum-v1",
            {"hyperparameters": {"learning_rate": "nan"}},
            "learning_rate: expected a num",
        ),
        ("sb3-ppo", "Pendulum-v1", {"action_noise": 0.1}, "action_noise: expected 0, for sb3-ppo"),
        ("sb3-ppo", "Pendulum-v2", {}, "did you mean"),
        ("sb3-ppo", "Pendulum-v1", {"device": "bogus"}, "device: expected one that is here, such as cpu, got 'bogus'"),
        (
            "sb3-ppo",
            "Pendulum-v1",
            {"hyperparameters": {"policy_kwargs": {"activation_fn": "Tan"}}},
            "activation_fn.*Tan",
        ),
    ],
)
def test_bad_input_leaves_no_directory(tmp_path, algorithm, env_id, changes, message):
    with pytest.raises(ValueError, match=message):
        create_sb3_run(tmp_path / "runs", env_id, algorithm, SB3Config(**changes), seed=0)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("total_timesteps", 0), ("num_envs", 0), ("eval_every", -1), ("action_noise", -0.1)]
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected .*{value}"):
        SB3Config(**{name: value})


def test_what_to_install_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    for name in ("sb3_models", "sb3_training"):
        monkeypatch.delitem(sys.modules, f"mbrl.experiments.{name}", raising=False)
        monkeypatch.delattr(f"mbrl.experiments.{name}", raising=False)
    with pytest.raises(ValueError, match=r"\.\[sb3\]"):
        create_sb3_run(tmp_path, "Pendulum-v1", "sb3-ppo", SB3Config(), seed=0)


def test_a_run_that_was_killed_has_nothing_to_evaluate(tmp_path):
    run = create_sb3_run(tmp_path, "Pendulum-v1", "sb3-ppo", SB3Config(hyperparameters={}), seed=0)
    with pytest.raises(ValueError, match="mbrl resume"):
        runs.load_policy(run, runs.run_env(run))
