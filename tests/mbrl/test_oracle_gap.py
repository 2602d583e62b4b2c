"""The oracle gap: no gap where the model is the truth, a gap of the model where it is wrong, and where it is kept."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats

from mbrl.cli import main
from mbrl.data.buffer import ReplayBuffer
from mbrl.data.collect import Collector, RandomPolicy
from mbrl.envs.make import make_env
from mbrl.experiments import oracle_gap as gaps
from mbrl.experiments.agent_runs import create_agent_run
from mbrl.experiments.oracle_arms import (
    LONGER,
    WIDER,
    Arm,
    affordable,
    fit_reward,
    make_arms,
    play_arm,
    true_problem,
    wider,
)
from mbrl.experiments.oracle_gap import FILE, OracleGap, difference, groups, load, oracle_gap, pool, save
from mbrl.experiments.pets_runs import create_pets_run, train_pets_run
from mbrl.experiments.run import Run
from mbrl.pipelines.off_policy_presets import off_policy_preset
from mbrl.pipelines.pets_agent import PETSAgent, make_planner
from mbrl.pipelines.pets_config import PETSConfig
from planners import MPC, Box, FunctionDynamics

TINY = PETSConfig(
    total_timesteps=80,
    initial_steps=30,
    fit_every=25,
    hidden=(16, 16),
    batch_size=32,
    fit_steps=20,
    max_epochs=2,
    horizon=5,
    population=10,
    elites=4,
    iterations=2,
    particles=5,
    diagnostic_horizons=(1, 5),
)
PLANS = replace(TINY, horizon=12, population=40, elites=6, iterations=1)
PENDULUM = "Pendulum-v1"


def measured(**change) -> OracleGap:
    found = OracleGap(
        run="a",
        env_id=PENDULUM,
        seed=0,
        steps=80,
        checkpoint="0",
        episodes=3,
        true_steps=10,
        max_steps=None,
        objective=False,
        reward="task",
        returns={"stronger": (9.0, 8.0, 10.0), "true": (7.0, 8.0, 9.0), "learned": (1.0, 4.0, 4.0)},
        missing={"learned_reward": "because"},
        logged=(gaps.HorizonError(1, 0.1, 0.9),),
        visited=(),
        oracle=(),
    )
    return replace(found, **change)


@pytest.fixture(scope="module")
def pendulum() -> gym.Env:
    return gym.wrappers.TimeLimit(make_env(PENDULUM), 40)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    made = create_pets_run(tmp_path_factory.mktemp("trained"), PENDULUM, TINY, seed=3)
    train_pets_run(made, progress=False)
    return made


@pytest.fixture
def run(trained, tmp_path) -> Run:
    """A copy, which a test may go on with."""
    return Run.open(shutil.copytree(trained.path, tmp_path / trained.path.name))


def test_a_model_that_is_the_truth_leaves_no_gap(pendulum):
    agent = PETSAgent(pendulum, TINY, seed=0)
    agent.policy = MPC(agent.policy.planner, true_problem(pendulum, agent), seed=1)
    arms, missing = make_arms(agent, collected(pendulum, 60), pendulum)
    assert not missing
    played = {
        name: play_arm(arms[name], pendulum, episodes=2, seed=0, replan_every=1, max_steps=15).returns
        for name in ("true", "learned")
    }
    found = measured(returns=played).gap("model")
    assert found == gaps.Difference(0.0, 0.0, 0.0, 2)


def test_a_biased_model_gives_a_model_gap_and_no_planner_gap(pendulum):
    agent = PETSAgent(pendulum, PLANS, seed=0)
    problem, planner = true_problem(pendulum, agent), make_planner(PLANS, Box.from_space(pendulum.action_space))
    truth = problem.dynamics
    assert isinstance(truth, FunctionDynamics)
    biased = FunctionDynamics(lambda obs, action: truth.transition(obs, -action), truth.reward)
    arms = {
        "stronger": Arm(problem, wider(planner)),
        "true": Arm(problem, planner),
        "learned": Arm(replace(problem, dynamics=biased), planner),
    }
    how = {"episodes": 2, "seed": 0, "replan_every": 1}
    returns = {name: play_arm(arm, pendulum, **how).returns for name, arm in arms.items()}
    found = measured(returns=returns)
    model, search = found.gap("model"), found.gap("planner")
    assert model is not None
    assert search is not None
    assert model.value > 100
    assert abs(search.value) < 0.1 * model.value
    assert found.gap("reward") is None


def test_every_arm_starts_from_the_same_states():
    pendulum = gym.wrappers.TimeLimit(make_env(PENDULUM), 8)
    agent = PETSAgent(pendulum, TINY, seed=0)
    arms, _ = make_arms(agent, collected(pendulum, 60), pendulum)
    starts = []
    for arm in arms.values():
        played = play_arm(arm, pendulum, episodes=2, seed=4, replan_every=1)
        first = [int((played.episode_ids == i).nonzero()[0, 0]) for i in range(2)]
        starts.append(played.batch.obs[first])
        assert torch.equal(played.batch.obs[1:8], played.batch.next_obs[:7])
        assert len(played.batch.obs) == len(played.batch.action) == 16
    assert all(torch.equal(start, starts[0]) for start in starts)


def test_a_run_is_measured_once(run, monkeypatch):
    first = oracle_gap(run, episodes=2, true_steps=2_000)
    assert set(first.returns) == {"true", "learned", "learned_reward"}
    assert first.max_steps == 10  # 2,000 steps / (2 episodes x 100 a plan)
    assert first.own == "learned"
    assert [error.horizon for error in first.visited] == [error.horizon for error in first.logged] == [1, 5]
    assert first == load(run.path)
    with monkeypatch.context() as patched:
        patched.setattr(gaps, "play_arm", None)  # which nothing may call
        assert oracle_gap(run.path, episodes=2, true_steps=2_000) == first
    (run.path / FILE).unlink()
    assert oracle_gap(run, episodes=2, true_steps=2_000) == first


def test_another_model_or_number_of_episodes_is_measured_anew(run):
    first = oracle_gap(run, episodes=2, true_steps=1_000)
    assert "stronger" in first.missing
    assert len(oracle_gap(run, episodes=1, true_steps=500).returns["true"]) == 1
    run.change({**run.config, "pets": {**run.config["pets"], "total_timesteps": 110}})
    train_pets_run(run, progress=False, accept_changes=True)
    later = oracle_gap(run, episodes=2, true_steps=1_000)
    assert later.steps == 110
    assert later.checkpoint != first.checkpoint


def test_the_command_prints_gaps(run, capsys):
    assert main(["oracle-gap", str(run.path), "--episodes", "2", "--true-steps", "1000"]) == 0
    printed = capsys.readouterr().out
    assert "lost to the model" in printed
    assert "wider search" in printed
    assert "1000 are allowed" in printed
    assert main(["oracle-gap", str(run.path), "--threads", "0"]) == 2
    assert "threads: expected at least 1, got 0" in capsys.readouterr().err
    assert main(["oracle-gap"]) == 2
    assert "runs: expected at least one run directory of pets, got none" in capsys.readouterr().err


def test_other_runs_and_runs_without_a_model_are_refused(tmp_path):
    config, learner, _ = off_policy_preset("sac", PENDULUM)
    with pytest.raises(ValueError, match="expected a run of pets"):
        oracle_gap(create_agent_run(tmp_path, PENDULUM, "sac", config, learner, seed=0))
    early = create_pets_run(tmp_path, PENDULUM, replace(TINY, checkpoint_every=10), seed=0)
    train_pets_run(early, progress=False, stop_now=lambda: True)
    with pytest.raises(ValueError, match="has fitted its model"):
        oracle_gap(early)
    with pytest.raises(ValueError, match="episodes, true_steps"):
        oracle_gap(early, episodes=0)


@pytest.mark.parametrize(
    ("true_steps", "longest", "left", "cut"),
    [
        (500 * 500 * 2, 500, {"true", "stronger", "learned"}, None),
        (500 * 500 * 2 - 1, 500, {"true", "stronger", "learned"}, 499),
        (500 * 250 * 2 - 1, 500, {"true", "learned"}, None),
        (500 * 100 * 2, 500, {"true", "learned"}, None),
        (500 * 100 * 2 - 1, 500, {"true", "learned"}, 499),
        (100 * 5 * 2, 500, {"true", "learned"}, 5),
        (100 * 5 * 2 - 1, 500, {"learned"}, None),
        (10**9, None, {"true", "learned"}, 5 * 10**6),
    ],
)
def test_the_true_dynamics_are_planned_through_as_far_as_they_are_affordable(true_steps, longest, left, cut, pendulum):
    agent = PETSAgent(pendulum, TINY, seed=0)  # 2 x 10 x 5 = 100 steps a plan, and four times as many in a wider search
    arms, _ = make_arms(agent, collected(pendulum, 60), pendulum)
    arms = {name: arms[name] for name in ("stronger", "true", "learned")}
    assert WIDER * LONGER == 4
    found, missing, at = affordable(arms, 2, true_steps, longest=longest, replan_every=1)
    assert set(found) == left
    assert set(missing) == set(arms) - left
    assert at == cut


def test_the_objective_of_the_run_is_planned_for_in_the_truth_too():
    env = make_env("InvertedPendulum-v5")
    obs, _ = env.reset(seed=0)
    agent = PETSAgent(env, replace(TINY, objective=True), seed=0)
    dynamics = true_problem(env, agent).dynamics
    _, step = dynamics.step(dynamics.state_of(env), torch.tensor([[0.3]]))
    assert agent.task is not None
    assert agent.task.objective is not None
    before = torch.from_numpy(obs)[None]
    assert torch.equal(step.reward, agent.task.objective(before, torch.tensor([[0.3]]), step.obs))
    assert 0 < step.reward < 1  # the task's own is 1
    next_obs = env.step(np.array([0.3], dtype=np.float32))[0]
    assert torch.allclose(step.obs, torch.from_numpy(next_obs)[None], atol=1e-6)


def test_a_learned_reward_comes_close_to_the_given_one(pendulum):
    config = replace(TINY, hidden=(64, 64), max_epochs=60, patience=60)
    agent, buffer = PETSAgent(pendulum, config, seed=0), collected(pendulum, 500)
    rows = buffer.all()
    learned = fit_reward(agent, buffer)(rows.obs, rows.action, rows.next_obs)
    assert agent.dynamics.reward is not None
    given = agent.dynamics.reward(rows.obs, rows.action, rows.next_obs)
    assert (learned - given).square().mean() < 0.02 * given.var()


@pytest.mark.parametrize(
    ("env_id", "true_steps"), [("InvertedPendulum-v5", 3_000), ("MountainCarContinuous-v0", 20_000)]
)
def test_simulations_and_copies_play_cut_episodes_from_where_the_environment_stands(env_id, true_steps):
    env = make_env(env_id)
    env.reset(seed=0)
    agent, steps = PETSAgent(env, TINY, seed=0), {}
    played, _, cut = gaps._play(agent, collected(env, 30), env, 2, true_steps)
    assert cut is not None
    for name, arm in played.items():
        steps[name] = arm.episode_ids.bincount().tolist()
        assert all(np.isfinite(arm.returns))
    assert max(map(max, steps.values())) == cut
    assert steps["true"] == [cut, cut]


def test_where_the_reward_had_to_be_learned_there_is_no_arm_with_the_true_one():
    env = make_env("MountainCarContinuous-v0")
    env.reset(seed=0)
    agent = PETSAgent(env, TINY, seed=0)
    arms, missing = make_arms(agent, collected(env, 30), env)
    assert set(arms) == {"stronger", "true", "learned_reward"}
    assert "no reward" in missing["learned"]
    assert measured(reward="learned").own == "learned_reward"


def test_gaps_are_paired_and_their_intervals_are_students():
    found = measured().gap("model")
    assert found is not None
    assert found.value == pytest.approx(5.0)
    reference = stats.ttest_rel([7.0, 8.0, 9.0], [1.0, 4.0, 4.0]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    assert difference([1.0]) == gaps.Difference(1.0, None, None, 1)
    assert difference([1.0, -math.inf]).low is None


def test_runs_are_pooled_each_counting_once():
    other = measured(run="b", seed=1, returns={"true": (10.0, 12.0), "learned": (11.0, 7.0)}, episodes=2)
    found = pool([measured(), other])
    assert found.returns["true"].value == pytest.approx((8 + 11) / 2)
    assert found.gaps["model"].value == pytest.approx((5 + 2) / 2)
    assert found.gaps["model"].n == 2
    assert "planner" not in found.gaps  # one run has no wider search
    with pytest.raises(ValueError, match="one environment"):
        pool([measured(), measured(env_id="Reacher-v5")])
    with pytest.raises(ValueError, match="one environment"):
        pool([])


def test_what_differs_is_not_pooled():
    """Labels of a report, objectives and lengths: each by itself."""
    kinds = [measured(label="narrow"), measured(label="wide"), measured(objective=True), measured(max_steps=5)]
    again = [replace(gap, run="b", seed=1) for gap in kinds]
    assert groups([*kinds, *again]) == [[gap, other] for gap, other in zip(kinds, again, strict=True)]
    assert pool([kinds[1], again[1]]).label == "wide"


@pytest.mark.filterwarnings("error")
def test_an_episode_that_diverged_both_ways_has_no_gap():
    lost = measured(returns={"true": (-math.inf, 2.0), "learned": (-math.inf, 1.0)})
    assert math.isnan(lost.gap("model").value)


def test_it_is_kept_as_it_is_and_damage_is_told(tmp_path):
    kept = measured(returns={"true": (1.5, -math.inf)})
    path = save(kept, tmp_path)
    assert load(tmp_path) == kept
    assert "Infinity" not in path.read_text()  # which is no JSON
    assert load(tmp_path / "nowhere") is None
    path.write_bytes(path.read_bytes().replace(b"1.5", b"2.5"))
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path)


def collected(env: gym.Env, steps: int) -> ReplayBuffer:
    """Random steps."""
    collector, policy = Collector(env, seed=0), RandomPolicy(env.action_space, seed=0)
    buffer = ReplayBuffer(steps, env.observation_space.shape[0], env.action_space.shape[0])
    for tick in range(steps):
        taken = collector.step(policy.predict(collector.obs, tick)[0])
        buffer.extend(taken.batch, taken.valid)
    return buffer


def test_nothing_is_left_behind_by_a_writer_that_was_killed(tmp_path: Path):
    (tmp_path / f".{FILE}").write_bytes(b"half")
    save(measured(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
