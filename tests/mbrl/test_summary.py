"""Summaries of runs with known returns: every table by hand, and the answers that follow."""

import math
from dataclasses import asdict

import numpy as np
import pytest

from mbrl.experiments.comparison import play_at_random, play_at_rest
from mbrl.experiments.decisions import detectable_shift
from mbrl.experiments.findings import Summary
from mbrl.experiments.provenance import seal
from mbrl.experiments.results import COSTS, FINAL, Failure, read_results
from mbrl.experiments.summary import summarise
from tests.mbrl.comparison_cases import find, write_run

TASK = "Pendulum-v1"
BUDGET = 300
MBPO = [[-900, -300, -200 - 10 * seed] for seed in range(5)]
SAC = [[-1200, -1100, -1000 - 10 * seed, -500, -150, -140] for seed in range(5)]


@pytest.fixture(scope="module")
def summary(tmp_path_factory) -> Summary:
    root = tmp_path_factory.mktemp("runs")
    cells = [("mbpo", write_run(root, "mbpo", seed, MBPO[seed], minutes=5)) for seed in range(5)]
    cells += [("sac", write_run(root, "sac", seed, SAC[seed], minutes=0.5)) for seed in range(5)]
    return summarise(read_results(cells), budgets={TASK: BUDGET}, thresholds={TASK: -250.0})


def test_returns_at_the_budget(summary):
    mbpo, sac = (find(summary.at_budget, label=label) for label in ("mbpo", "sac"))
    assert mbpo.returns == (-200, -210, -220, -230, -240)
    assert (mbpo.iqm.value, mbpo.mean.value, mbpo.iqm.n) == (-220, -220, 5)
    assert sac.iqm.value == -1020  # at 300 steps, not where it ended
    assert -240 <= mbpo.iqm.low < -220 < mbpo.iqm.high <= -200
    assert mbpo.iqm.coverage is not None


def test_scores_are_random_and_best(summary):
    task = summary.tasks[0]
    assert (task.best_label, task.best_return, task.threshold_source) == ("mbpo", -220, "given")
    assert -1500 < task.random_return < -1000
    assert find(summary.at_budget, label="mbpo").score.value == pytest.approx(1)
    expected = (-1020 - task.random_return) / (-220 - task.random_return)
    assert find(summary.at_budget, label="sac").score.value == pytest.approx(expected)
    assert find(summary.aggregates, label="sac").iqm == find(summary.at_budget, label="sac").score


def test_random_returns_differ_by_episode_and_follow_the_seed():
    """Of cart-pole, an episode of random actions lasts about 22 steps (and of always the same ones, about 9)."""
    assert play_at_random("CartPole-v1", "{}", 0) == play_at_random("CartPole-v1", "{}", 0)
    assert play_at_random("CartPole-v1", "{}", 0) != play_at_random("CartPole-v1", "{}", 1)
    assert 17 < np.mean(play_at_random("CartPole-v1", "{}", 0)) < 30


def test_a_threshold_stands_between_what_has_learned_nothing_and_the_best(tmp_path):
    """On Reacher-v5 random torques cost much, and none at all leave the arm where it is, as untrained networks do."""
    random, rest = (np.mean(play("Reacher-v5", "{}", 0)) for play in (play_at_random, play_at_rest))
    assert -50 < random < -35
    assert -16 < rest < -8
    cells = [("sac", write_run(tmp_path, "sac", seed, [-9, -5], env_id="Reacher-v5")) for seed in range(2)]
    (task,) = summarise(read_results(cells), budgets={"Reacher-v5": 200}).tasks
    assert task.random_return == random
    assert task.threshold == pytest.approx(rest + 0.9 * (-5 - rest))
    assert "from actions held at the middle of their range" in task.threshold_source
    assert play_at_rest("CartPole-v1", "{}", 0) == ()


def test_curves_hold_the_last_evaluation(summary):
    steps = find(summary.curves, label="sac", axis="steps", statistic="iqm")
    assert steps.x == (100, 200, 300, 400, 500, 600)
    assert steps.value == (-1200, -1100, -1020, -500, -150, -140)
    minutes = find(summary.curves, label="mbpo", axis="minutes", statistic="mean")
    assert (minutes.x[0], minutes.x[-1]) == (5, 15)
    for x, value in zip(minutes.x, minutes.value, strict=True):
        assert value == pytest.approx(-900 if x < 10 else -300 if x < 15 else -220)
    assert not [curve for curve in summary.curves if curve.label == "sac" and curve.axis == "model_steps"]
    for curve in summary.curves:
        assert curve.n == 5
        assert all(low <= high for low, high in zip(curve.low, curve.high, strict=True))


def test_costs_at_the_budget(summary):
    assert find(summary.costs, label="mbpo", axis="minutes").median == 15
    assert find(summary.costs, label="sac", axis="minutes").median == 1.5
    assert find(summary.costs, label="mbpo", axis="gradient_steps").median == 45
    assert find(summary.costs, label="mbpo", axis="model_steps").median == 3000
    assert {cost.axis for cost in summary.costs} == set(COSTS)


def test_thresholds_count_censored_runs(summary):
    mbpo, sac = (find(summary.thresholds, label=label, axis="steps") for label in ("mbpo", "sac"))
    assert (mbpo.reached, mbpo.n, mbpo.median, mbpo.restricted_mean) == (5, 5, 300, 300)
    assert (sac.reached, sac.median, sac.horizon) == (5, 500, 300)
    assert sac.restricted_mean == 300  # none by then
    assert find(summary.thresholds, label="sac", axis="minutes").median == 2.5


def test_pairs(summary):
    better = find(summary.improvements, env_id=TASK)
    assert (better.first, better.second, better.probability.value) == ("mbpo", "sac", 1.0)
    assert 0.6 < better.probability.low < 1
    paired = summary.paired[0].difference
    assert paired.value == 800
    assert (paired.low, paired.high) == pytest.approx((800, 800))  # every pair differs by the same
    found = summary.detectable[0]
    assert found.observed == 800
    assert found.difference == pytest.approx(detectable_shift(5, 5) * np.sqrt(250))
    apart = find(summary.differences, env_id=TASK)
    assert apart.difference.value == 800
    assert 760 <= apart.difference.low < 800 < apart.difference.high <= 840
    assert apart.p == pytest.approx(2 / 252)
    assert summary.paired[0].correlation == pytest.approx(1)


def test_profiles_fall_from_one(summary):
    task = summary.tasks[0]
    for profile in summary.profiles:
        assert list(profile.share) == sorted(profile.share, reverse=True)
        assert all(
            low <= share <= high for low, share, high in zip(profile.low, profile.share, profile.high, strict=True)
        )
    sac = find(summary.profiles, label="sac")
    scores = [(row - task.random_return) / (-220 - task.random_return) for row in (-1000, -1010, -1020, -1030, -1040)]
    assert sac.share == tuple(np.mean([score > x for score in scores]) for x in sac.score)


def test_answers_say_what_the_numbers_say(summary):
    worth, steps, minutes, flops = summary.answers
    assert worth.decided
    assert worth.answer.startswith("Yes: at 300 real steps mbpo, the best with a model, has a return of -220 (")
    assert "12 CPU minutes against 1.2" in worth.answer
    assert steps.decided
    assert steps.answer.startswith("Yes: 5 of 5 runs of mbpo got there, the median after 300 real steps; 5 of 5")
    assert minutes.decided
    assert minutes.answer.startswith("No: ")
    assert "floating-point" in flops.question


def test_settings_versions_commits_and_runs(summary):
    total = find(summary.settings, name="loop.total_timesteps")
    assert total.values == (("mbpo", "300"), ("sac", "600"))
    assert find(summary.settings, name="loop.members").values == (("mbpo", "2"), ("sac", None))
    assert "torch" in summary.versions
    assert sum(summary.commits.values()) == 10
    run = find(summary.runs, label="sac", seed=3)
    assert (run.at_budget, run.returns, run.complete) == (-1030, tuple(SAC[3]), True)


def test_the_same_runs_give_an_equal_summary(tmp_path):
    cells = [("sac", write_run(tmp_path, "sac", seed, SAC[seed])) for seed in range(3)]
    first, second = (summarise(read_results(order), budgets={TASK: BUDGET}) for order in (cells, cells[::-1]))
    assert repr(asdict(first)) == repr(asdict(second))


def test_runs_short_of_the_budget_and_diverged_ones_are_told(tmp_path):
    cells = [
        ("sac", write_run(tmp_path, "sac", 0, [-900, -800])),
        ("sac", write_run(tmp_path, "sac", 1, [-900], total=200)),
        ("sac", write_run(tmp_path, "sac", 2, [-900, None])),
        ("sac", write_run(tmp_path, "sac", 3, [-700], every=150, total=200)),
    ]
    failure = Failure(TASK, "mbpo", 0, None, "a loss was not finite")
    summary = summarise(read_results(cells, failures=[failure]), budgets={TASK: 200})
    assert summary.at_budget[0].seeds == (0, 2)
    worst = summary.tasks[0].random_return  # below all that was seen
    assert summary.at_budget[0].returns == (-800, worst)
    (curve,) = [c for c in summary.curves if (c.axis, c.statistic) == ("steps", "mean")]
    assert curve.value[-1] == pytest.approx((worst - 800) / 2)  # the same here
    for expected in ("sac on Pendulum-v1, seed 1 did not get as far as 200 steps", "1 of 2 runs diverged", "mbpo on"):
        assert any(expected in text for text in summary.warnings), expected
    assert summary.failures[0].label == "mbpo"
    assert find(summary.runs, seed=1).at_budget is None
    assert len(summary.runs) == 4


def test_an_evaluation_before_the_budget_counts_and_is_told(tmp_path):
    path = write_run(tmp_path, "sac", 0, [-700, -600], every=120, total=240)
    summary = summarise(read_results([("sac", path)]), budgets={TASK: 200})
    assert summary.at_budget[0].returns == (-700,)
    assert any("last evaluation within the budget is at 120 of 200" in text for text in summary.warnings)


def test_several_tasks_are_pooled_and_ranked(tmp_path):
    other = "InvertedPendulum-v5"
    cells = []
    for seed in range(3):
        cells += [("mbpo", write_run(tmp_path, "mbpo", seed, [-200 - seed], env_id=TASK))]
        cells += [("sac", write_run(tmp_path, "sac", seed, [-1000 - seed], env_id=TASK))]
        cells += [("mbpo", write_run(tmp_path, "mbpo", seed, [900 + seed], env_id=other))]
        cells += [("sac", write_run(tmp_path, "sac", seed, [100 + seed], env_id=other))]
    cells += [("td3", write_run(tmp_path, "td3", 0, [50.0], env_id=other))]
    summary = summarise(read_results(cells), budgets={TASK: 100, other: 100})
    assert [row.tasks for row in summary.aggregates] == [2, 2, 1]
    assert find(summary.aggregates, label="mbpo").iqm.value == pytest.approx(1, abs=0.01)
    assert find(summary.improvements, env_id=None).probability.value == 1
    assert summary.answers[0].question == "Which algorithm is best over all tasks?"
    assert summary.answers[0].answer.startswith("mbpo: over 2 tasks")
    assert any("td3 has no run at the budget on Pendulum-v1" in text for text in summary.warnings)


def test_unknown_operations_have_no_curve(tmp_path):
    path = write_run(tmp_path, "sac", 0, [-700], env_id="CartPole-v1")
    summary = summarise(read_results([("sac", path)]), budgets={"CartPole-v1": 100})
    assert find(summary.costs, axis="flops").median is None
    assert {curve.axis for curve in summary.curves} == {"steps", "minutes", "cpu_minutes", "gradient_steps"}
    assert any("nothing is better than random actions" in text for text in summary.warnings)
    assert math.isnan(summary.at_budget[0].score.value)


def test_bad_arguments_are_refused(tmp_path):
    results = read_results([("sac", write_run(tmp_path, "sac", 0, [-700]))])
    with pytest.raises(ValueError, match="budgets: expected one for every task, got none for Pendulum-v1"):
        summarise(results, budgets={})
    with pytest.raises(ValueError, match="thresholds: expected tasks of the comparison"):
        summarise(results, budgets={TASK: 100}, thresholds={"Hopper-v5": 1.0})
    with pytest.raises(ValueError, match="budgets: expected one that a run reached"):
        summarise(results, budgets={TASK: 1_000})


def test_tasks_with_more_runs_do_not_weigh_more(tmp_path):
    other = "InvertedPendulum-v5"
    cells = [("sac", write_run(tmp_path, "sac", seed, [-200.0])) for seed in range(8)]
    cells += [("sac", write_run(tmp_path, "sac", seed, [100.0], env_id=other)) for seed in range(2)]
    cells += [("mbpo", write_run(tmp_path, "mbpo", seed, [1000.0], env_id=other)) for seed in range(2)]
    summary = summarise(read_results(cells), budgets={TASK: 100, other: 100})
    low = find(summary.at_budget, env_id=other, label="sac").score.value
    assert find(summary.aggregates, label="sac").iqm.value == pytest.approx((1 + low) / 2)
    assert any("different numbers of runs (8 on Pendulum-v1, 2 on Inv" in text for text in summary.warnings)


def test_final_evaluations_that_diverged_or_are_missing_are_told(tmp_path):
    paths = [write_run(tmp_path, "sac", seed, [-700.0 - seed]) for seed in range(3)]
    for path, returns in zip(paths, ([-300.0, -100.0], [-500.0, None]), strict=False):
        played = {"returns": returns}
        (path / FINAL).write_text(seal({"deterministic": played, "stochastic": None}))
    summary = summarise(read_results([("sac", path) for path in paths]), budgets={TASK: 100})
    (final,) = summary.finals
    assert (final.runs, final.missing, final.diverged, final.episodes) == (3, 1, 1, (2,))
    assert final.deterministic.value == pytest.approx((-200 + summary.tasks[0].random_return) / 2)
    for expected in ("diverged in the final evaluation of 1 of 3 runs", "1 of 3 runs have no final evaluation"):
        assert any(expected in text for text in summary.warnings), expected


def test_curves_of_other_costs_are_at_what_the_runs_had_spent(tmp_path):
    paths = [write_run(tmp_path, "sac", seed, [-900, -500, -200], minutes=1 + seed) for seed in range(2)]
    summary = summarise(read_results([("sac", path) for path in paths]), budgets={TASK: 300})
    curve = find(summary.curves, axis="minutes", statistic="mean")
    assert curve.x == (2, 3)  # from where both were evaluated to where the first ends: 1, 2, 3 and 2, 4, 6
    assert curve.value == (-700, -550)


def test_scores_that_rest_on_noise_are_told(tmp_path):
    """Over 20 episodes, random actions in Pendulum-v1 have a mean return that is known to some sixty."""
    random = np.array(play_at_random(TASK, "{}", 0))
    error = random.std(ddof=1) / np.sqrt(20)
    for errors, noisy in ((2.0, True), (4.0, False)):
        path = write_run(tmp_path / str(noisy), "sac", 0, [random.mean() + errors * error])
        warnings = summarise(read_results([("sac", path)]), budgets={TASK: 100}).warnings
        assert any("its scores rest on noise" in text for text in warnings) == noisy
    path = write_run(tmp_path / "worse", "sac", 0, [random.mean() - 1])
    warnings = summarise(read_results([("sac", path)]), budgets={TASK: 100}).warnings
    assert any("nothing is better than random actions" in text for text in warnings)


def test_a_threshold_of_a_task_of_which_all_runs_failed_is_no_error(tmp_path):
    results = read_results(
        [("sac", write_run(tmp_path, "sac", 0, [-700]))], failures=[Failure("Reacher-v5", "sac", 0, None, "lost")]
    )
    thresholds = {TASK: -300.0, "Reacher-v5": -10.0}
    assert [task.env_id for task in summarise(results, budgets={TASK: 100}, thresholds=thresholds).tasks] == [TASK]
