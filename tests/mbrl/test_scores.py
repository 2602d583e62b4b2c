"""Normalised scores by D4RL's table, and what evaluations come to: never the best alone."""

import pytest

from mbrl.experiments.metrics import STEP, UPDATE
from mbrl.experiments.scores import normalized_score, reference_label, summarize


@pytest.mark.parametrize(
    ("env_id", "random", "expert"),
    [("HalfCheetah-v5", -280.178953, 12135.0), ("Hopper-v2", -20.272305, 3234.3), ("Walker2d-v4", 1.629008, 4592.3)],
)
def test_random_scores_0_and_expert_100(env_id, random, expert):
    assert normalized_score(env_id, random) == pytest.approx(0, abs=1e-12)
    assert normalized_score(env_id, expert) == pytest.approx(100)
    assert normalized_score(env_id, (random + expert) / 2) == pytest.approx(50)


def test_tasks_without_references_have_no_score():
    assert normalized_score("Pendulum-v1", -200.0) is None
    assert normalized_score("HopperLike-v5", 1.0) is None
    assert normalized_score("", 1.0) is None


def test_other_versions_are_labelled():
    assert reference_label("Hopper-v2") == "D4RL score"
    assert reference_label("Hopper-v5") == "D4RL refs on v5"
    assert reference_label("module:Hopper-v5") == "D4RL refs on v5"
    assert normalized_score("module:Hopper-v5", 3234.3) == pytest.approx(100)


def rows(returns, x=UPDATE):
    return [
        {STEP: 0, x: 100 * i, **({} if ret is None else {"eval/mean_reward": ret})}
        for i, ret in enumerate(returns, start=1)
    ]


def test_the_last_ten_and_the_best_are_told_together():
    summary = summarize(rows([900.0, None, *range(12)]), "Pendulum-v1", UPDATE)
    assert summary.evaluations == 13
    assert summary.last == pytest.approx(sum(range(2, 12)) / 10)
    assert (summary.best, summary.best_at) == (900.0, 100)
    assert str(summary) == (
        "last 10 evaluations: mean return 6.5; best of 13: 900.0 at 100, which is chosen with hindsight"
    )


def test_scores_stand_beside_returns():
    summary = summarize(rows([3234.3, -20.272305], STEP), "Hopper-v5", STEP)
    assert str(summary) == (
        "last 2 evaluations: mean return 1607.0 (score 50.0, D4RL refs on v5); best of 2: 3234.3 (score 100.0, D4RL "
        "refs on v5) at 100, which is chosen with hindsight"
    )


def test_evaluations_that_diverged_are_told_and_have_no_mean():
    diverged = [
        {UPDATE: 100 * i, "eval/mean_reward": ret} for i, ret in enumerate([900.0, 800.0] + [None] * 9, start=1)
    ]
    summary = summarize(diverged, "Pendulum-v1", UPDATE)
    assert (summary.evaluations, summary.diverged, summary.last, summary.best) == (11, 9, None, 900.0)
    assert str(summary) == (
        "last 10 evaluations: no mean return, for the simulation diverged in 9 of them; best of 11: 900.0 at 100, "
        "which is chosen with hindsight"
    )
    summary = summarize(diverged[2:], "Pendulum-v1", UPDATE)
    assert str(summary) == "last 9 evaluations: no mean return, for the simulation diverged in 9 of them"
    summary = summarize(diverged[2:4] + 10 * diverged[:1], "Pendulum-v1", UPDATE)  # long ago
    assert (summary.diverged, summary.last) == (0, 900.0)


def test_without_an_evaluation_there_is_no_summary():
    assert summarize(rows([None, None]), "Pendulum-v1", UPDATE) is None
