"""`mbrl mpc`: an episode under MPC with the true model, or with one that a run has learned."""

import json
import re

import pytest

from mbrl.cli import main
from mbrl.envs import make_env
from mbrl.experiments.control import control
from mbrl.pipelines.mpc import make_policy, true_dynamics
from mbrl.pipelines.mpc_config import DEFAULTS, MPCConfig, preset

TINY = ["--population", "20", "--iterations", "2", "--elites", "4", "--horizon", "8"]
LAST = re.compile(r"^return: (-?\d+\.\d) over (\d+) steps, p50 (\d+\.\d) ms$")


def run(capsys, tmp_path, *arguments):
    status = main(["mpc", "--root", str(tmp_path), *arguments])
    captured = capsys.readouterr()
    return status, captured.out.strip().splitlines(), captured.err


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "Pendulum-v1"])
@pytest.mark.parametrize("planner", ["cem", "icem", "mppi", "predictive_sampling", "random_shooting"])
def test_the_last_line_tells_return_steps_and_latency(env_id, planner, capsys, tmp_path):
    chosen = ["--env-id", env_id, "--planner", planner, "--steps", "6", "--seed", "3"]
    status, lines, _ = run(capsys, tmp_path, *chosen, *TINY)
    assert status == 0
    found = LAST.match(lines[-1])
    assert found
    assert int(found[2]) == 6
    (path,) = tmp_path.iterdir()
    assert f"mpc-{planner}__3__" in path.name
    row = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["time/total_timesteps"] == 6
    assert row["rollout/ep_rew_mean"] == pytest.approx(float(found[1]), abs=0.06)
    assert row["plan/ms_p50"] <= row["plan/ms_p95"] <= row["plan/ms_p99"]


def test_the_same_seed_gives_the_same_return_and_another_one_another(tmp_path):
    config = MPCConfig("icem", horizon=8, population=20, elites=4)
    returns = [
        control("mbrl/CartPoleSwingUp-v0", config, seed=seed, steps=8, root=tmp_path / str(i)).ret
        for i, seed in enumerate((1, 1, 2))
    ]
    assert returns[0] == returns[1] != returns[2]


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own
def test_ilqr_balances_the_pendulum_with_its_feedback(tmp_path):
    config = MPCConfig("ilqr", horizon=20, iterations=5, replan_every=4)
    assert control("Pendulum-v1", config, steps=40, root=tmp_path).steps == 40


@pytest.mark.parametrize("planner", ["uct", "gumbel"])
def test_tree_search_controls_discrete_actions(planner, capsys, tmp_path):
    chosen = ["--env-id", "CartPole-v1", "--planner", planner, "--steps", "15", "--population", "20"]
    status, lines, _ = run(capsys, tmp_path, *chosen)
    assert status == 0
    assert lines[-1].startswith("return: 15.0 over 15 steps")


def test_an_environment_without_a_task_is_its_own_model(capsys, tmp_path):
    chosen = ["--env-id", "Acrobot-v1", "--planner", "uct", "--steps", "3", "--population", "8", "--rollout", "3"]
    status, lines, _ = run(capsys, tmp_path, *chosen)
    assert status == 0
    assert lines[-1].startswith("return: -3.0 over 3 steps")


def test_copies_take_discrete_observations_too(capsys, tmp_path):
    chosen = ["--env-id", "FrozenLake-v1", "--planner", "uct", "--steps", "3", "--population", "10", "--rollout", "5"]
    status, lines, _ = run(capsys, tmp_path, *chosen)
    assert status == 0
    assert LAST.match(lines[-1])


def test_a_deadline_is_kept_or_counted(tmp_path):
    config = MPCConfig("cem", horizon=8, population=20, elites=4, iterations=10_000, deadline_ms=40.0)
    done = control("Pendulum-v1", config, steps=6, root=tmp_path)
    assert done.latency.plans == 6
    assert done.latency.p50_ms < 80  # ten thousand iterations take minutes


def test_the_simulators_plan_comes_true():
    """Deterministic physics: what the plan predicts for the steps it covers is what the environment pays."""
    env = make_env("InvertedPendulum-v5")
    obs, _ = env.reset(seed=0)
    policy = make_policy(env, true_dynamics(env), MPCConfig("icem", horizon=10, population=20, replan_every=10), seed=0)
    action, state = policy.predict(obs)
    predicted, total = float(state.plan.value), 0.0
    for _ in range(10):
        obs, reward, _, _, _ = env.step(action)
        total += float(reward)
        action, state = policy.predict(obs, state)
    assert total == pytest.approx(predicted, abs=1e-10)
    env.close()


def test_a_learned_model_controls_too(capsys, tmp_path):
    from dataclasses import replace

    from mbrl.experiments.pets_runs import create_pets_run, train_pets_run
    from mbrl.pipelines.pets_config import preset as pets_preset

    config = replace(pets_preset("InvertedPendulum-v5"), total_timesteps=102, fit_steps=20, hidden=(8,))
    trained = create_pets_run(tmp_path / "pets", "InvertedPendulum-v5", config, seed=0)
    train_pets_run(trained, progress=False)
    chosen = ["--env-id", "InvertedPendulum-v5", "--planner", "cem", "--steps", "3"]
    status, lines, _ = run(capsys, tmp_path / "mpc", *chosen, "--model", str(trained.path), *TINY)
    assert status == 0
    assert LAST.match(lines[-1])
    (path,) = (tmp_path / "mpc").iterdir()
    settings = json.loads((path / "config.json").read_text())["config"]
    assert settings["mpc"]["particles"] == config.particles == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env-id", "InvertedPendulum-v5", "--model", "nowhere"], "nowhere"),
        (["--env-id", "InvertedPendulum-v5", "--steps", "0"], "steps: expected at least 1, got 0"),
        (["--env-id", "InvertedPendulum-v5", "--knots", "-1"], "knots: expected 0"),
        (["--env-id", "CartPole-v1"], "and for tree search: planners.mcts"),
        (["--env-id", "Pendulum-v1", "--planner", "uct"], "tree search needs discrete actions"),
        (["--env-id", "Pendulum-v1", "--terminal-value"], "terminal_value: expected False"),
        (["--env-id", "Pendulum-v1", "--deadline-ms", "0"], "deadline_ms: expected a positive"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(arguments, message, capsys, tmp_path):
    status, _, errors = run(capsys, tmp_path, *arguments)
    assert status == 2
    assert errors.startswith("error: ")
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"planner": "random-shooting"}, "planner: expected one of random_shooting, cem, .* got 'random-shooting'"),
        ({"order": "quadratic"}, "order: expected one of zero, linear, cubic, got 'quadratic'"),
    ],
)
def test_a_misspelled_option_runs_nothing_else(changed, message):
    with pytest.raises(ValueError, match=message):
        MPCConfig(**changed)


def test_every_planner_has_defaults_of_its_own_name():
    for name, config in DEFAULTS.items():
        assert config.planner == name
        assert preset("Unknown-v0", name) == config
    assert preset("HalfCheetah-v5", "icem").horizon == 15
