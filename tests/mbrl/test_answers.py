"""Answers of a comparison: what runs with known returns decide, and what they leave undecided, with the reason."""

from mbrl.experiments.results import Failure, read_results
from mbrl.experiments.summary import summarise
from tests.mbrl.comparison_cases import find, write_run

TASK = "Pendulum-v1"


def test_overlapping_intervals_are_undecided(tmp_path):
    noise = [-500, -200, -350, -250, -300]
    cells = [("pets-like", write_run(tmp_path, "mbpo", seed, [noise[seed]])) for seed in range(5)]
    cells += [("sac", write_run(tmp_path, "sac", seed, [noise[seed] - 30])) for seed in range(5)]
    summary = summarise(read_results(cells), budgets={TASK: 100})
    worth = summary.answers[0]
    assert not worth.decided
    assert worth.answer.startswith("Undecided: ")
    assert "a rank test does not tell pets-like from sac (p = 0.69); so many runs show a difference of" in worth.answer
    assert "5 runs, true coverage 86 to 94 %)" in worth.answer
    assert "90% of the way" in summary.tasks[0].threshold_source


def test_a_model_that_does_worse_is_not_worth_it(tmp_path):
    cells = [("mbpo", write_run(tmp_path, "mbpo", seed, [-900 - seed])) for seed in range(5)]
    cells += [("sac", write_run(tmp_path, "sac", seed, [-200 - seed])) for seed in range(5)]
    answers = summarise(read_results(cells), budgets={TASK: 100}).answers
    assert all(answer.decided and answer.answer.startswith("No: ") for answer in answers)


def test_one_run_has_no_interval_and_decides_nothing(tmp_path):
    cells = [("mbpo", write_run(tmp_path, "mbpo", 0, [-200])), ("sac", write_run(tmp_path, "sac", 0, [-900]))]
    summary = summarise(read_results(cells), budgets={TASK: 100})
    assert summary.at_budget[0].iqm.low is None
    assert summary.curves[0].low is None
    assert not any(answer.decided for answer in summary.answers)
    assert "so few runs can't tell mbpo from sac at 5%" in summary.answers[0].answer
    assert summary.detectable[0].difference is None


def test_a_threshold_that_nobody_reached_is_told(tmp_path):
    cells = [("mbpo", write_run(tmp_path, "mbpo", seed, [-200])) for seed in range(2)]
    cells += [("sac", write_run(tmp_path, "sac", seed, [-900])) for seed in range(2)]
    summary = summarise(read_results(cells), budgets={TASK: 100}, thresholds={TASK: -1.0})
    assert all((row.reached, row.median) == (0, None) for row in summary.thresholds)
    assert any("no run reached the threshold of -1" in text for text in summary.warnings)
    assert "0 of 2 runs of mbpo got there within 100 real steps" in summary.answers[1].answer
    assert not summary.answers[1].decided


def test_a_label_that_is_watched_for_longer_is_no_straw_man(tmp_path):
    """sac gets there first, in four of five runs; ppo always, but late, and it is watched twenty times as long."""
    sac = [[-900, -200, -200, *[-200] * 9]] * 4 + [[-900] * 12]
    cells = [("sac", write_run(tmp_path, "sac", seed, sac[seed])) for seed in range(5)]
    cells += [("mbpo", write_run(tmp_path, "mbpo", seed, [-900, -500, -200])) for seed in range(5)]
    ppo = [-900] * 39 + [-200] * 21
    cells += [("ppo", write_run(tmp_path, "td3", seed, ppo)) for seed in range(5)]
    summary = summarise(read_results(cells), budgets={TASK: 300}, thresholds={TASK: -250.0})
    (answer,) = [a for a in summary.answers if a.question.startswith("Does a model save real steps")]
    assert not answer.answer.startswith("Yes")
    assert "4 of 5 runs of sac got there, the median after 200 real steps; 5 of 5 runs of mbpo" in answer.answer


def test_the_winner_has_to_beat_every_label_of_the_other_kind(tmp_path):
    cells = [("mbpo", write_run(tmp_path, "mbpo", seed, [-200 - seed])) for seed in range(5)]
    cells += [("sac", write_run(tmp_path, "sac", seed, [-200.5 - seed])) for seed in range(5)]
    cells += [("ppo", write_run(tmp_path, "td3", seed, [-900 - seed])) for seed in range(5)]
    worth = summarise(read_results(cells), budgets={TASK: 100}).answers[0]
    assert worth.answer.startswith("Undecided: ")
    assert "a rank test does not tell mbpo from sac (p = 0.69)" in worth.answer
    alone = summarise(read_results([cell for cell in cells if cell[0] != "sac"]), budgets={TASK: 100}).answers[0]
    assert alone.answer.startswith("Yes: ")
    assert "a rank test tells mbpo from ppo (p = 0.0079)" in alone.answer


def test_three_runs_against_three_decide_nothing(tmp_path):
    cells = [("mbpo", write_run(tmp_path, "mbpo", seed, [-200 - seed])) for seed in range(3)]
    cells += [("sac", write_run(tmp_path, "sac", seed, [-900 - seed])) for seed in range(3)]
    answers = summarise(read_results(cells), budgets={TASK: 100}).answers
    assert not any(answer.decided for answer in answers)
    assert all("so few runs can't tell" in answer.answer for answer in answers)
    cells += [("ppo", write_run(tmp_path, "td3", seed, [-950 - seed])) for seed in range(3)]
    worth = summarise(read_results(cells), budgets={TASK: 100}).answers[0]
    assert "so few runs can't tell mbpo from sac and ppo at 5%;" in worth.answer  # once, not once a rival


def test_failed_runs_are_told_and_can_undo_an_answer(tmp_path):
    """Five against five decide; with two of the winner's runs lost, they do not."""
    cells = [("mbpo", write_run(tmp_path, "mbpo", seed, [-200 - seed])) for seed in range(5)]
    cells += [("sac", write_run(tmp_path, "sac", seed, [-900 - seed])) for seed in range(5)]
    lost = [Failure(TASK, "mbpo", 5 + seed, None, "lost") for seed in range(3)]
    fine = summarise(read_results(cells), budgets={TASK: 100}, thresholds={TASK: -300.0})
    assert all(answer.decided for answer in fine.answers[:2])
    summary = summarise(read_results(cells, failures=lost), budgets={TASK: 100}, thresholds={TASK: -300.0})
    worth, steps = summary.answers[:2]
    assert not worth.decided
    assert not steps.decided
    assert "with 3 more that failed or fell short" in worth.answer
    assert "mbpo would not be told from sac if runs that failed or fell short counted as the worst" in worth.answer
    assert "5 of 8 runs of mbpo got there (3 failed)" in steps.answer
    found = find(summary.thresholds, label="mbpo", axis="steps")
    assert (found.reached, found.n, found.failed, found.share.value) == (5, 8, 3, 5 / 8)
    loser = [Failure(TASK, "sac", 5, None, "lost")]  # a failure of the other takes nothing from the winner
    assert summarise(read_results(cells, failures=loser), budgets={TASK: 100}).answers[0].decided


def test_without_both_kinds_the_best_is_asked_for(tmp_path):
    cells = [("sac", write_run(tmp_path, "sac", seed, [-200 - seed])) for seed in range(5)]
    cells += [("td3", write_run(tmp_path, "td3", seed, [-900 - seed])) for seed in range(5)]
    best, steps = summarise(read_results(cells), budgets={TASK: 100}).answers[:2]
    assert best.question == "Which algorithm is best on Pendulum-v1, in real steps?"
    assert best.answer.startswith("sac: at 100 real steps sac has a return of -202 (")
    assert steps.question.startswith("Which algorithm takes the fewest real steps on Pendulum-v1")


def test_a_task_without_a_scale_is_left_out_of_the_answer_over_all(tmp_path):
    """On Reacher-v5 both are worse than random actions."""
    cells = []
    for algo, returns in (("sac", {"Pendulum-v1": -200, "InvertedPendulum-v5": 900, "Reacher-v5": -300}),
                          ("td3", {"Pendulum-v1": -900, "InvertedPendulum-v5": 100, "Reacher-v5": -400})):  # fmt: skip
        for env_id, ret in returns.items():
            cells += [(algo, write_run(tmp_path, algo, seed, [ret - seed], env_id=env_id)) for seed in range(5)]
    summary = summarise(
        read_results(cells), budgets=dict.fromkeys(("Pendulum-v1", "InvertedPendulum-v5", "Reacher-v5"), 100)
    )
    (overall,) = [a for a in summary.answers if a.question == "Which algorithm is best over all tasks?"]
    assert overall.decided
    assert overall.answer.startswith("sac: over 2 tasks at their budgets, sac has the highest score")
    assert "not counted: Reacher-v5 (nothing is better than random actions there)" in overall.answer
    reacher = find(summary.tasks, env_id="Reacher-v5")
    assert reacher.best_return < reacher.threshold < -5  # actions held at their middle
    assert "that of actions held at the middle of their range, than which none is better" in reacher.threshold_source


def test_labels_without_a_known_cost_are_named(tmp_path):
    cells = [("mbpo", write_run(tmp_path, "mbpo", seed, [-200])) for seed in range(2)]
    cells += [("sac", write_run(tmp_path, "sac", seed, [-900])) for seed in range(2)]
    cells += [("reinforce", write_run(tmp_path, "reinforce", seed, [-900])) for seed in range(2)]
    answers = summarise(read_results(cells), budgets={TASK: 100}).answers
    assert answers[-1].answer.endswith("not counted: reinforce (floating-point operations not known).")


def test_runs_that_were_stopped_can_undo_an_answer(tmp_path):
    """A run that was stopped before it got there is no evidence that it would have."""
    cells = [("mbpo", write_run(tmp_path, "mbpo", seed, [-900, -200, -200], total=500)) for seed in range(5)]
    cells += [("sac", write_run(tmp_path, "sac", seed, [-900, -800, -700, -600, -200])) for seed in range(4)]
    fine = summarise(read_results(cells), budgets={TASK: 300}, thresholds={TASK: -250.0})
    assert fine.answers[1].answer.startswith("Yes: 5 of 5 runs of mbpo got there")
    cells += [("mbpo", write_run(tmp_path, "mbpo", 5 + seed, [-900], total=500)) for seed in range(4)]
    summary = summarise(read_results(cells), budgets={TASK: 300}, thresholds={TASK: -250.0})
    steps = summary.answers[1]
    assert not steps.decided
    assert "5 of 9 runs of mbpo got there (4 fell short of the budget)" in steps.answer
    assert "mbpo would not be told from sac if runs that failed or fell short counted as the worst" in steps.answer
    assert (find(summary.thresholds, label="mbpo", axis="steps").short, steps.env_id) == (4, TASK)
    cells += [("mbpo", write_run(tmp_path, "mbpo", 9, [-900, -200], total=500))]  # stopped, but it was there by then
    again = summarise(read_results(cells), budgets={TASK: 300}, thresholds={TASK: -250.0})
    assert find(again.thresholds, label="mbpo", axis="steps").short == 4


def test_a_run_that_is_evaluated_only_after_the_budget_counts_to_the_threshold(tmp_path):
    cells = [("mbpo", write_run(tmp_path, "mbpo", seed, [-900, -500, -200])) for seed in range(5)]
    cells += [("ppo", write_run(tmp_path, "td3", seed, [-900, -100], every=1000)) for seed in range(5)]
    lost = [Failure(TASK, "dqn", 0, None, "lost")]
    summary = summarise(read_results(cells, failures=lost), budgets={TASK: 300}, thresholds={TASK: -250.0})
    (told,) = [text for text in summary.warnings if text.startswith("ppo on Pendulum-v1, seed 0 ")]
    assert told.startswith("ppo on Pendulum-v1, seed 0 was first evaluated after 1,000 steps, beyond the budget of 300")
    assert not any("did not get as far" in text for text in summary.warnings)
    assert {row.label for row in summary.at_budget} == {"mbpo"}
    steps = next(answer for answer in summary.answers if "real steps on" in answer.question)
    assert "5 of 5 runs of ppo got there, the median after 2,000 real steps" in steps.answer
    assert steps.answer.endswith("not counted: dqn (all runs failed).")
    assert find(summary.thresholds, label="ppo", axis="steps").median == 2000


def test_what_counts_at_no_budget_is_told_with_its_reason(tmp_path):
    cells = [
        ("mbpo", write_run(tmp_path, "mbpo", 0, [-900, -500, -200])),
        ("sac", write_run(tmp_path, "sac", 0, [-900] * 3)),
    ]
    cells += [("ppo", write_run(tmp_path, "td3", 0, [-900], every=1000))]
    cells += [("ddpg", write_run(tmp_path, "ddpg", 0, [-900], total=300))]
    lost = [Failure(TASK, "dqn", 0, None, "lost")]
    worth = summarise(read_results(cells, failures=lost), budgets={TASK: 300}).answers[0]
    reasons = "ppo (evaluated only after the budget), ddpg (no run got to the budget), dqn (all runs failed)"
    assert worth.answer.endswith(f"not counted: {reasons}.")
