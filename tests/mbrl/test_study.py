"""Studies: what they refuse, the settings of their cells, and which run directories are theirs."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mbrl.cli import main
from mbrl.experiments.pets_runs import pets_config
from mbrl.experiments.reuse import check_configs, create, find_runs, wanted_configs
from mbrl.experiments.run import Run
from mbrl.experiments.study import (
    SMALL,
    SMOKE,
    STUDIES,
    Cell,
    Entry,
    Study,
    Task,
    cell_settings,
    cells,
    study_record,
)
from mbrl.pipelines.mbpo_config import mbpo_preset
from mbrl.pipelines.off_policy_presets import PRESETS, off_policy_preset

POLE = Task("InvertedPendulum-v5", budget=600, eval_every=300, eval_episodes=2)
SAC = Entry("sac", "sac")


def study(**changes: Any) -> Study:
    return replace(Study("", (POLE,), (SAC, Entry("pets", "pets")), (0, 1)), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entries": (SAC, Entry("sac", "td3"))}, "algorithms: expected each one once, got 'sac' twice"),
        ({"entries": (SAC, Entry("mine", "sac"))}, "which are both sac with the same settings"),
        ({"tasks": (POLE, POLE)}, "env_id: expected each one once"),
        (
            {"tasks": (POLE, replace(POLE, env_id="InvertedPendulum-v4"))},
            "expected one version of each environment, got InvertedPendulum-v5 and InvertedPendulum-v4",
        ),
        ({"seeds": (0, 1, 0)}, "seeds: expected each one once, got 0 twice"),
        ({"seeds": ()}, "seeds: expected at least one, got none"),
        ({"tasks": (replace(POLE, eval_every=250),)}, r"eval_every: expected a divisor of the budget \(600\)"),
        ({"entries": (replace(SAC, eval_times=3),)}, "got 900 for sac"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        study(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Task("Pendulum-v1", 0, 1, 1), "budget: expected at least 1 for Pendulum-v1, got 0"),
        (lambda: Entry("sac", "sac", times=0), "times: expected at least 1 for sac, got 0"),
    ],
)
def test_numbers_of_a_study_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_cells_come_seed_by_seed():
    assert [str(cell) for cell in cells(study())] == [
        f"{label} on InvertedPendulum-v5, seed {seed}" for seed in (0, 1) for label in ("sac", "pets")
    ]


def test_settings_are_the_preset_but_for_length_and_evaluations():
    preset = PRESETS["sac", POLE.env_id]
    made = cell_settings(Cell(POLE, replace(SAC, times=3, eval_times=2), seed=0))
    assert made.learner == preset.learner
    changed = {name for name, value in asdict(made.config).items() if value != asdict(preset.config)[name]}
    assert changed == {"total_timesteps", "eval_every", "eval_episodes"}
    assert (made.config.total_timesteps, made.config.eval_every, made.config.eval_episodes) == (1_800, 600, 2)


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "mbrl/CartPoleSwingUp-v0", "HalfCheetah-v5", "Ant-v5"])
def test_sac_has_mbpos_settings_where_that_is_asked_for(env_id):
    control, mbpo = off_policy_preset("sac", env_id, "mbpo"), mbpo_preset(env_id)
    assert control.learner == mbpo.learner
    assert control.env_kwargs == mbpo.env_kwargs
    other = {name for name, value in asdict(control.config).items() if value != getattr(mbpo.config, name)}
    assert not other
    assert control.config.update_ratio >= 10 > off_policy_preset("sac", env_id).config.update_ratio


def test_networks_live_where_the_entry_says():
    for algorithm in ("pets", "sac", "mbpo", "dyna", "reinforce", "sb3-ppo"):
        made = [cell_settings(Cell(POLE, Entry("x", algorithm, device=device), seed=0)) for device in ("cpu", "cuda:1")]
        assert [one.config.device for one in made] == ["cpu", "cuda:1"]
        assert replace(made[1].config, device="cpu") == made[0].config
        assert made[1].learner == made[0].learner


@pytest.mark.parametrize(
    ("entry", "budget", "message"),
    [
        (Entry("sac", "sac"), 300, "sac on InvertedPendulum-v5: initial_steps: expected fewer than total_timesteps"),
        (Entry("x", "nothing"), 600, "expected those of mbrl train --help, got 'nothing'"),
        (Entry("x", "cql"), 600, "got cql, which learns from a dataset"),
        (Entry("x", "mbpo", preset="large"), 600, "preset: expected one of small, paper"),
        (Entry("x", "sac", preset="large"), 600, "preset: expected mbpo or none for InvertedPendulum-v5, got 'large'"),
        (Entry("x", "td3", preset="mbpo"), 600, "preset: expected none, for td3 has one an environment, got 'mbpo'"),
        (Entry("dqn", "dqn"), 2_000, "dqn on InvertedPendulum-v5: .*use SAC"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_runs(entry, budget, message):
    task = replace(POLE, budget=budget, eval_every=budget)
    with pytest.raises(ValueError, match=message):
        wanted_configs([Cell(task, entry, 0)])


@pytest.mark.parametrize("named", STUDIES.values(), ids=STUDIES)
def test_the_named_studies_pass_the_checks_before_their_first_run(named):
    check_configs(wanted_configs(cells(named)))


def test_the_named_studies_are_what_their_reports_say():
    budgets = {task.env_id: (task.budget, task.eval_every, task.eval_episodes) for task in SMALL.tasks}
    assert budgets == {
        "Pendulum-v1": (3_000, 500, 5),
        "InvertedPendulum-v5": (2_000, 250, 5),
        "mbrl/CartPoleSwingUp-v0": (3_000, 500, 5),
        "Reacher-v5": (3_000, 500, 5),
    }
    times = {entry.label: (entry.times, entry.eval_times) for entry in SMALL.entries}
    assert times == {
        "pets": (1, 1),
        "mbpo": (1, 1),
        "sac": (4, 1),
        "sac:mbpo": (2, 1),
        "sb3-sac": (4, 1),
        "sb3-ppo": (20, 1),
    }
    assert len(list(cells(SMALL))) == 120
    assert len(list(cells(SMOKE))) == 16
    assert study_record(SMOKE)["tasks"][0]["env_id"] == "Pendulum-v1"


@pytest.mark.parametrize("algorithm", ["sac", "pets", "mbpo", "sb3-sac"])
def test_a_run_that_train_made_is_a_cells(tmp_path, capsys, algorithm):
    command = f"train {algorithm} --env-id {POLE.env_id} --total-timesteps 600 --eval-every 300 --eval-episodes 2"
    assert main([*command.split(), "--seed", "4", "--minutes", "0.00001", "--root", str(tmp_path)]) == 0
    capsys.readouterr()
    (made,) = tmp_path.glob("*/")
    cell = Cell(POLE, Entry("mine", algorithm), seed=4)
    wanted = wanted_configs([cell])
    assert find_runs(tmp_path, wanted).paths == {cell: made}
    other = replace(cell, seed=5)
    assert find_runs(tmp_path, {other: wanted[cell]}).paths == {}


def changed(path: Path, **changes: Any) -> None:
    """Another config.json, as another `mbrl train` would have written it."""
    run = Run.open(path)
    run.change({**run.config, "loop": {**run.config["loop"], **changes}})
    run.header.pop("changes")
    (path / "config.json").unlink()
    fresh = Run.create(path.parent, run.env_id, run.algo, run.seed, run.config)
    shutil.move(fresh.path / "config.json", path / "config.json")
    fresh.path.rmdir()


def test_runs_with_other_settings_and_broken_ones_are_no_cells(tmp_path):
    cell = Cell(POLE, SAC, seed=0)
    wanted = wanted_configs([cell])
    other = create(cell, tmp_path).path
    changed(other, checkpoint_every=17)
    assert find_runs(tmp_path, wanted).paths == {}
    resumed = create(cell, tmp_path)
    resumed.change({**resumed.config, "distill": True})
    resumed.change(wanted[cell])
    resumed.keep_changes()
    broken = create(cell, tmp_path).path
    (broken / "config.json").write_text("{")
    found = find_runs(tmp_path, wanted)
    assert found.paths == {}
    assert len(found.notes) == 3
    assert any(f"{other} has other settings than {cell} wants (loop.checkpoint_every: 17 -> " in x for x in found.notes)
    assert any("began with other settings" in note for note in found.notes)
    assert any("is damaged" in note for note in found.notes)


def test_a_run_of_a_version_that_knew_fewer_settings_is_a_cells(tmp_path):
    cell = Cell(POLE, Entry("pets", "pets"), seed=0)
    wanted = wanted_configs([cell])
    made = create(cell, tmp_path)
    older = {name: value for name, value in made.config["pets"].items() if name != "device"}
    shutil.rmtree(made.path)
    made = Run.create(tmp_path, POLE.env_id, "pets", 0, {**made.config, "pets": older})
    assert find_runs(tmp_path, wanted).paths == {cell: made.path}
    assert pets_config(made).device == "cpu"
    shutil.rmtree(made.path)
    Run.create(tmp_path, POLE.env_id, "pets", 0, {**made.config, "pets": {**older, "device": "cuda"}})
    assert find_runs(tmp_path, wanted).paths == {}


def test_a_run_of_another_cell_is_no_note(tmp_path):
    short, long = Cell(POLE, SAC, 0), Cell(POLE, replace(SAC, times=2), 0)
    made = create(short, tmp_path).path
    wanted = wanted_configs([short, long])
    assert find_runs(tmp_path, wanted).notes == ()
    (note,) = find_runs(tmp_path, {long: wanted[long]}).notes
    assert note.startswith(f"{made} has other settings")
    assert "loop.total_timesteps: 600 -> 1200" in note


def test_two_names_of_the_same_settings_are_refused():
    entries = Entry("dyna", "dyna"), Entry("dyna:sac", "dyna", "sac")
    twice = Study("", (Task("Pendulum-v1", 1_000, 500, 1),), entries, (0,))
    with pytest.raises(ValueError, match="'dyna' and 'dyna:sac', whose settings on Pendulum-v1 are equal"):
        check_configs(wanted_configs(cells(twice)))
    check_configs(wanted_configs(cells(replace(twice, entries=entries[:1]))))


@pytest.mark.parametrize(("budget", "every", "name"), [(2_500, 500, "total_timesteps"), (2_000, 100, "eval_every")])
def test_environments_that_are_stepped_together_come_to_the_budget_exactly(budget, every, name):
    task = Task("CartPole-v1", budget, every, 1)
    with pytest.raises(ValueError, match=f"{name}: expected a multiple of 8, for sb3-ppo steps"):
        check_configs(wanted_configs([Cell(task, Entry("sb3-ppo", "sb3-ppo"), 0)]))
    check_configs(wanted_configs([Cell(replace(task, budget=2_000, eval_every=200), Entry("p", "sb3-ppo"), 0)]))


def test_of_two_runs_of_a_cell_the_one_further_on_is_taken(tmp_path):
    cell = Cell(POLE, SAC, seed=0)
    first, second = create(cell, tmp_path), create(cell, tmp_path)
    first.log({"time/total_timesteps": 100})
    second.log({"time/total_timesteps": 300})
    found = find_runs(tmp_path, wanted_configs([cell]))
    assert found.paths == {cell: second.path}
    assert found.notes == (f"{first.path} is a second run of {cell}, and is not used",)
    (first.path / "metrics.jsonl").write_text(json.dumps({"time/total_timesteps": 600}) + "\n")
    assert find_runs(tmp_path, wanted_configs([cell])).paths == {cell: first.path}
