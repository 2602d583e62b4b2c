"""Off-policy evaluation: estimates of a small MDP together, choices and regret, and the command from end to end."""

import json
import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl.cli import main
from mbrl.data.collect import RandomPolicy, collect
from mbrl.data.datasets import DatasetError, DatasetInfo, from_buffer, load_dataset, save_dataset
from mbrl.envs.make import make_env
from mbrl.experiments.agent_runs import create_agent_run
from mbrl.experiments.episode import play
from mbrl.experiments.offline_runs import create_offline_run
from mbrl.experiments.ope import (
    Choice,
    Estimate,
    OPEConfig,
    behaviour_value,
    choose,
    evaluate_policy,
    model_estimate,
    write_report,
)
from mbrl.experiments.ope_candidates import load_candidates
from mbrl.experiments.ope_runs import choices_text, true_value
from mbrl.experiments.runs import train_run
from mbrl.learners.behavior_cloning import BehaviorCloningConfig
from mbrl.learners.dqn import DQNConfig
from mbrl.learners.fqe import FQEConfig
from mbrl.learners.sac import SACConfig
from mbrl.learners.td3 import TD3Config
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.agents import DQN, SAC
from mbrl.pipelines.mopo_config import MOPOConfig, MOPOPreset
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from mbrl.pipelines.offline_config import OfflineConfig
from mbrl.pipelines.policy_evaluation import AgentPolicy, model_value
from mbrl.seeding import generator
from tests.mbrl.offline_cases import pendulum_data
from tests.mbrl.tabular_cases import BEHAVIOUR, DISCOUNT, Table, data_of, exact

FAST = OPEConfig(discount=DISCOUNT, fqe=FQEConfig((), 0.02, 0.2, 300, 256, 4))


def test_all_estimates_of_a_small_mdp_are_near_the_truth():
    found = {one.name: one for one in evaluate_policy(data_of(400, 0), Table(), FAST)}
    assert list(found) == ["data", "fqe", "per_decision", "weighted", "doubly_robust", "weighted_doubly_robust"]
    for name, one in found.items():
        truth = exact(BEHAVIOUR)[2] if name == "data" else exact()[2]
        assert one.low - 0.2 < truth < one.high + 0.2
        assert one.value == pytest.approx(truth, abs=0.35)
    assert "as good as" in found["weighted"].note


def test_unknown_behaviour_leaves_the_other_estimates():
    dataset = data_of(40, 0)
    unknown = type(dataset)(**{**vars(dataset), "log_probs": dataset.log_probs * np.nan})
    found = evaluate_policy(unknown, Table(), OPEConfig(discount=0.9, fqe=FQEConfig((), updates=5, members=2)))
    assert "too few updates, 5, for this discount: take 600" in found[1].note
    assert [one.name for one in found] == ["data", "fqe", "importance sampling"]
    assert math.isnan(found[-1].value)
    assert "got nan in episode 0, row 0" in str(found[-1])


class Still:
    draws = False

    def act(self, obs, generator):
        return obs.new_zeros(len(obs), 1)


def constant_ensemble(rewards) -> GaussianEnsemble:
    """Members that leave the state alone and promise a reward each, without noise."""
    ensemble = GaussianEnsemble(
        1, 1, members=len(rewards), hidden=(), deterministic=True, learned_reward=True, dtype=torch.float64
    )
    for tensor in (*ensemble.parameters.weights, *ensemble.parameters.biases):
        tensor.zero_()
    ensemble.parameters.biases[-1][..., 1] = torch.tensor(rewards, dtype=torch.float64).view(-1, 1)
    ensemble.version += 1
    return ensemble


def test_a_models_value_is_that_of_each_elite_for_the_whole_episode():
    """Members that promise 1, 2 and 9 a step, of which 9 is cut to the best of the data, 3."""
    dynamics = EnsembleDynamics(constant_ensemble([1.0, 2.0, 9.0]))
    made = model_value(
        dynamics,
        Still(),
        torch.zeros(700, 1, dtype=torch.float64),  # more rows than go through at once
        horizon=3,
        discount=0.5,
        reward_range=(0.0, 3.0),
        generator=generator(0),
    )
    assert made.members.tolist() == pytest.approx([1.75, 3.5, 5.25])
    assert made.starts.numpy() == pytest.approx([3.5] * 700)
    assert made.lost == 0
    own = EnsembleDynamics(dynamics.ensemble, reward=lambda obs, action, next_obs: obs[:, 0])
    starts = torch.arange(5, dtype=torch.float64)[:, None]
    told = model_value(own, Still(), starts, horizon=3, discount=0.5, reward_range=(0.0, 9.0), generator=generator(0))
    assert told.starts.numpy() == pytest.approx(1.75 * np.arange(5))
    loose, one = EnsembleDynamics(dynamics.ensemble, propagation="ts1"), torch.zeros(1, 1)
    with pytest.raises(ValueError, match="dynamics: expected propagation 'ts_inf'"):
        model_value(loose, Still(), one, horizon=1, discount=0.5, reward_range=(0, 1), generator=generator(0))


def test_a_models_interval_is_one_for_a_further_model():
    """Student's t of 2 degrees of freedom, 4.303, times the spread of three elites, sqrt(1 + 1/3) of it."""
    dynamics = EnsembleDynamics(constant_ensemble([0.0, 0.1, 0.2]))
    config, data = OPEConfig(discount=0.5), data_of(30, 0)
    one_dim = type(data)(**{**vars(data), "observations": data.observations[:, :1].copy()})
    made = model_estimate(one_dim, Still(), dynamics, config)
    total = 2 - 2 * 0.5**7  # 7 steps: 0.5^7 < 0.01
    assert config.horizon == 7
    assert made.value == pytest.approx(0.1 * total)
    assert made.high - made.value == pytest.approx(4.3027 * 0.1 * total * math.sqrt(4 / 3), rel=1e-3)


def test_a_model_that_breaks_down_is_told():
    dynamics = EnsembleDynamics(constant_ensemble([1.0, math.inf]))
    made = model_value(
        dynamics,
        Still(),
        torch.zeros(4, 1, dtype=torch.float64),
        horizon=2,
        discount=0.5,
        reward_range=(0, 1),
        generator=generator(0),
    )
    assert made.lost == 0.5


def test_weights_that_are_all_0_say_nothing():
    """A policy that never does what was done is worth NaN by importance sampling, not 0.00."""

    class Never(Table):
        def log_prob(self, obs, action):
            return torch.full((len(obs),), -math.inf, dtype=torch.float64)

    config = OPEConfig(discount=0.9, fqe=FQEConfig((), updates=5, members=2))
    for one in evaluate_policy(data_of(20, 0), Never(), config)[2:]:
        assert math.isnan(one.value)
        assert "all weights are 0" in str(one)


def said(value, low=None):
    return [Estimate("data", 0, 0, 0), Estimate("fqe", value, value - 1 if low is None else low, value + 1)]


def test_choices_and_their_regret():
    """By value a is chosen, whose lower end is below b's; the truth favours c."""
    estimates = {"a": said(3.0, low=0.0), "b": said(2.0, low=1.5), "c": said(1.0, low=0.5)}
    by_value, by_low = choose(estimates, {"a": 10.0, "b": 20.0, "c": 50.0})
    assert by_value == Choice("fqe", "value", "a", 40.0, -1.0)
    assert by_low == Choice("fqe", "low", "b", 30.0, pytest.approx(0.5))
    unknown = choose(estimates)[0]
    assert unknown.chosen == "a"
    assert math.isnan(unknown.regret)
    assert choose({"a": said(math.nan)}) == []
    with pytest.raises(ValueError, match="estimates: expected one candidate"):
        choose({})


def test_a_choice_by_an_estimator_that_is_not_to_be_believed_is_marked():
    doubted = {"a": said(3.0), "b": [*said(2.0)[:1], said(2.0)[1]._replace(doubtful=True)]}
    assert all(one.doubtful for one in choose(doubted))
    assert "fqe (value) ! " in choices_text(choose(doubted))
    assert "! says itself of one run" in choices_text(choose(doubted))
    assert "!" not in choices_text(choose({"a": said(3.0), "b": said(2.0)}))


@pytest.mark.parametrize(("discount", "note"), [(0.99, ": 61% of a value comes behind"), (0.9, None)])
def test_what_lies_behind_the_cuts_of_the_data_is_told(discount, note):
    """Episodes of 50 steps: 0.99^50 = 0.605, and 0.9^50 = 0.005."""
    one = behaviour_value(pendulum_data(episodes=2, steps=50), OPEConfig(discount=discount))
    assert one.note.endswith(f"cut{note}" if note else "of whoever collected them")


def test_policies_of_agents():
    """Deterministic ones of discrete actions have probabilities of 0 and 1; of continuous ones no density."""
    box = make_env("Pendulum-v1").observation_space
    agent = DQN(box, make_env("CartPole-v1", discrete=True).action_space, hidden=(8,))
    policy, obs = AgentPolicy(agent), torch.randn(6, 3, generator=generator(0))
    action = policy.act(obs, generator(0))
    assert policy.log_prob(obs, action).tolist() == [0.0] * 6
    assert policy.log_prob(obs, 1 - action).tolist() == [-math.inf] * 6
    continuous = SAC(box, make_env("Pendulum-v1").action_space, hidden=(8,))
    with pytest.raises(ValueError, match="policy: expected one that draws its actions"):
        AgentPolicy(continuous).log_prob(obs, obs[:, :1])
    drawn = AgentPolicy(continuous, sampled=True)
    assert not torch.equal(drawn.act(obs, generator(0)), drawn.act(obs, generator(1)))
    assert drawn.log_prob(obs, obs[:, :1]).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"discount": 1.0}, "discount"), ({"confidence": 1.0}, "confidence"), ({"starts": 1}, "starts")],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=f"^{message}: expected"):
        OPEConfig(**settings)


def test_reports_hold_no_numbers_that_json_lacks(tmp_path):
    write_report(tmp_path / "x.json", {"a": (math.nan, 1.0), "b": Estimate("e", math.inf, 0.0, 1.0)})
    read = json.loads((tmp_path / "x.json").read_text())
    assert read == {
        "a": [None, 1.0],
        "b": {"name": "e", "value": None, "low": 0.0, "high": 1.0, "note": "", "doubtful": False},
    }


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
