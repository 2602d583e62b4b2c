"""Reading runs for a comparison: known numbers, and bad input that is refused or told."""

import json

import numpy as np
import pytest

from mbrl.experiments.checkpoint import checkpoints
from mbrl.experiments.metrics import METRICS
from mbrl.experiments.provenance import seal
from mbrl.experiments.results import COSTS, FINAL, FINAL_SEED, Failure, read_results
from mbrl.experiments.run import CONFIG
from mbrl.experiments.summary import summarise
from tests.mbrl.comparison_cases import write_run


def test_an_outcome_has_what_the_run_logged(tmp_path):
    path = write_run(tmp_path, "mbpo", 3, [-900.0, -500.0], minutes=2)
    (outcome,) = read_results([("ours", path)]).outcomes
    assert (outcome.algorithm, outcome.algo, outcome.seed, outcome.model_based) == ("ours", "mbpo", 3, True)
    np.testing.assert_array_equal(outcome.steps, [100, 200])
    np.testing.assert_array_equal(outcome.returns, [-900, -500])
    assert set(outcome.costs) == set(COSTS)
    np.testing.assert_array_equal(outcome.costs["minutes"], [2, 4])
    np.testing.assert_array_equal(outcome.costs["gradient_steps"], [15, 30])
    np.testing.assert_array_equal(outcome.costs["model_steps"], [1000, 2000])
    assert outcome.costs["flops"][1] == 2 * outcome.costs["flops"][0] > 0
    assert outcome.complete
    assert outcome.final == {"deterministic": None, "stochastic": None}
    assert outcome.protocol.episodes == 5


def test_the_final_evaluation_is_read_with_diverged_episodes(tmp_path):
    path = write_run(tmp_path, "sac", 0, [1.0])
    content = {"deterministic": {"returns": [1.0, 3.0]}, "stochastic": {"returns": [2.0, None]}}
    (path / FINAL).write_text(seal(content))
    assert read_results([("sac", path)]).outcomes[0].final == {"deterministic": 2.0, "stochastic": -np.inf}
    (path / FINAL).write_text(seal({**content, "stochastic": None}))
    assert read_results([("sac", path)]).outcomes[0].final == {"deterministic": 2.0, "stochastic": None}
    (path / FINAL).write_text(seal(content).replace("3.0", "9.0"))
    other = write_run(tmp_path, "sac", 1, [1.0])
    results = read_results([("sac", path), ("sac", other)])
    assert "evaluation.json is damaged" in results.failures[0].reason


def test_a_half_written_line_is_left_out_and_told(tmp_path):
    path = write_run(tmp_path, "sac", 0, [1.0, 2.0])
    with (path / METRICS).open("a") as file:
        file.write('{"time/total_timesteps": 300, "eval/mean_re')
    results = read_results([("sac", path)])
    np.testing.assert_array_equal(results.outcomes[0].returns, [1, 2])
    assert any("sac on Pendulum-v1, seed 0: the last line" in text for text in results.warnings)


@pytest.mark.parametrize("damage", ["line", "config", "order", "none", "settings", "setting"])
def test_a_run_that_cannot_be_read_is_a_failure_with_a_reason(tmp_path, damage):
    good, bad = write_run(tmp_path, "sac", 0, [1.0]), write_run(tmp_path, "sac", 1, [1.0, 2.0])
    lines = (bad / METRICS).read_text().splitlines()
    if damage == "line":
        (bad / METRICS).write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]) + "\n")
    elif damage == "config":
        (bad / CONFIG).write_text((bad / CONFIG).read_text().replace('"seed": 1', '"seed": 7'))
    elif damage == "order":
        (bad / METRICS).write_text("\n".join(lines + lines[:2]) + "\n")
    elif damage == "none":
        (bad / METRICS).unlink()
    else:
        content = json.loads((bad / CONFIG).read_text())
        del content["sha256"]
        if damage == "settings":
            del content["config"]["loop"]
        else:
            del content["config"]["loop"]["batch_size"]
        (bad / CONFIG).write_text(seal(content))
    results = read_results([("sac", good), ("sac", bad)])
    assert [outcome.seed for outcome in results.outcomes] == [0]
    (failure,) = results.failures
    assert failure.path == bad
    assert any(failure.reason in text and "missing from every figure" in text for text in results.warnings)
    with pytest.raises(ValueError, match="expected at least one that can be read, got 1 that can't"):
        read_results([("sac", bad)])


def test_known_failures_are_kept(tmp_path):
    failure = Failure("Pendulum-v1", "mbpo", 1, None, "a loss was not finite")
    results = read_results([("sac", write_run(tmp_path, "sac", 0, [1.0]))], failures=[failure])
    assert results.failures == (failure,)
    assert any("mbpo on Pendulum-v1, seed 1 is missing" in text for text in results.warnings)


def test_an_interrupted_run_is_told(tmp_path):
    results = read_results([("sac", write_run(tmp_path, "sac", 0, [1.0], total=500))])
    assert not results.outcomes[0].complete
    assert any("took 100 of 500 steps" in text for text in results.warnings)


def test_diverged_evaluations_are_minus_infinity_and_told(tmp_path):
    results = read_results([("sac", write_run(tmp_path, "sac", 0, [1.0, None]))])
    assert results.outcomes[0].returns[1] == -np.inf
    assert any("diverged in 1 of 2 evaluations" in text for text in results.warnings)


def test_what_makes_no_sense_is_refused(tmp_path):
    one, same = write_run(tmp_path, "sac", 0, [1.0]), write_run(tmp_path, "sac", 0, [2.0])
    with pytest.raises(ValueError, match="expected one run of sac on Pendulum-v1 with seed 0"):
        read_results([("sac", one), ("sac", same)])
    with pytest.raises(ValueError, match="expected every run once"):
        read_results([("sac", one), ("sac-2", one)])
    other = write_run(tmp_path, "td3", 1, [1.0])
    with pytest.raises(ValueError, match=r"expected one algorithm a label, got 'sac' for sac .* and for td3"):
        read_results([("sac", one), ("sac", other)])
    five = write_run(tmp_path, "sac", 0, [1.0], env_id="Hopper-v5")
    four = write_run(tmp_path, "sac", 1, [1.0], env_id="Hopper-v4")
    with pytest.raises(ValueError, match="got Hopper-v5 and Hopper-v4, whose returns are not comparable"):
        read_results([("sac", five), ("sac", four)])


def test_different_protocols_settings_and_software_are_told(tmp_path):
    one = write_run(tmp_path, "sac", 0, [1.0])
    other = write_run(tmp_path, "sac", 1, [1.0], loop={"batch_size": 128, "eval_episodes": 1})
    content = json.loads((other / CONFIG).read_text())
    del content["sha256"]
    content["versions"]["torch"], content["git_commit"] = "1.0", "abc-dirty"
    (other / CONFIG).write_text(seal(content))
    warnings = read_results([("sac", one), ("sac", other)]).warnings
    for expected in (
        "different protocols, episodes per evaluation: 5 (sac); 1 (sac)",
        "sac on Pendulum-v1: its runs have different settings (loop.batch_size)",
        "different versions of torch: 1.0, ",
        "2 different commits",
        "changes that no commit has",
        "fewer than 10 seeds for sac (2)",
    ):
        assert any(expected in text for text in warnings), expected


def test_different_seeds_are_told(tmp_path):
    cells = [("sac", write_run(tmp_path, "sac", 0, [1.0])), ("mbpo", write_run(tmp_path, "mbpo", 1, [1.0]))]
    results = read_results(cells)
    assert any("different seeds (sac: 0; mbpo: 1)" in text for text in results.warnings)
    assert any("only one seed for sac, mbpo" in text for text in results.warnings)
    assert summarise(results, budgets={"Pendulum-v1": 100}).paired == ()


def test_runs_from_datasets_are_failures(tmp_path):
    good = write_run(tmp_path, "sac", 0, [1.0])
    bad = write_run(tmp_path, "cql", 1, [1.0])
    content = json.loads((bad / CONFIG).read_text())
    del content["sha256"]
    content["config"]["x_axis"] = "train/n_updates"
    (bad / CONFIG).write_text(seal(content))
    assert "takes no real steps" in read_results([("sac", good), ("cql", bad)]).failures[0].reason


def test_the_machine_of_the_runs_is_told(tmp_path):
    one, other = write_run(tmp_path, "sac", 0, [1.0]), write_run(tmp_path, "sac", 1, [1.0])
    old = write_run(tmp_path, "sac", 2, [1.0])  # of a version that does not say
    for path, machine in ((other, {"processor": "Another", "cores": 64, "threads": 8}), (old, None)):
        content = json.loads((path / CONFIG).read_text())
        del content["sha256"], content["machine"]
        (path / CONFIG).write_text(seal(content if machine is None else {**content, "machine": machine}))
    results = read_results([("sac", path) for path in (one, other, old)])
    assert "cores" in results.outcomes[0].machine
    assert results.outcomes[1].machine == "Another, 64 cores, 8 threads"
    assert results.outcomes[2].machine is None
    assert any("runs were made on 2 machines" in text for text in results.warnings)
    machines = summarise(results, budgets={"Pendulum-v1": 100}).machines
    assert (machines["Another, 64 cores, 8 threads"], machines["unknown"]) == (1, 1)


def test_a_run_was_made_where_it_was_trained(tmp_path):
    """Not where its directory was made: on Ray, that is where the command runs."""
    paths = [write_run(tmp_path, "sac", seed, [1.0]) for seed in range(2)]
    big, small = ({"processor": name, "cores": 8, "threads": 1} for name in ("Big", "Small"))
    for path, machines in zip(paths, ([big], [big, small]), strict=True):
        content = json.loads((path / CONFIG).read_text())
        del content["sha256"]
        (path / CONFIG).write_text(seal({**content, "machines": machines}))
    results = read_results([("sac", path) for path in paths])
    told = [outcome.machine for outcome in results.outcomes]
    assert told == ["Big, 8 cores, 1 threads", "Big, 8 cores, 1 threads, then Small, 8 cores, 1 threads"]
    assert any("runs were made on 2 machines" in text for text in results.warnings)


def test_a_final_evaluation_of_something_else_is_told(tmp_path):
    path = write_run(tmp_path, "sac", 0, [1.0])
    (path / "checkpoints" / "0002-step100").mkdir(parents=True)
    played = {"deterministic": {"returns": [1.0]}, "stochastic": None}
    (newest,) = (each.name for each in checkpoints(path))
    (path / FINAL).write_text(seal({**played, "checkpoint": "0001-step50", "seed": 1}))
    said = read_results([("sac", path)]).warnings
    assert any("is of 0001-step50, and not of its newest checkpoint" in text for text in said)
    assert any("has other start states than this version's" in text for text in said)
    (path / FINAL).write_text(seal({**played, "checkpoint": newest, "seed": FINAL_SEED}))
    assert not any("final evaluation" in text for text in read_results([("sac", path)]).warnings)


def test_costs_that_fall_are_damage_and_gaps_are_carried_on(tmp_path):
    path = write_run(tmp_path, "mbpo", 0, [1.0, 2.0, 3.0])
    rows = [json.loads(line) for line in (path / METRICS).read_text().splitlines()]
    rows[1].pop("model/steps")  # before the first: none yet
    rows[3].pop("model/gradient_steps")
    rows[5]["time/wall_clock"] = 1.0
    (path / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = read_results([("mbpo", path)])
    costs = results.outcomes[0].costs
    np.testing.assert_array_equal(costs["model_steps"], [0, 2000, 3000])
    np.testing.assert_array_equal(costs["gradient_steps"], [15, 25, 45])  # 20 updates and the 5 of before
    assert np.isnan(costs["minutes"]).all()
    assert any("its minutes fall in metrics.jsonl" in text for text in results.warnings)
