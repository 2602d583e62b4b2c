"""`mbrl tune`: spaces, trials in run directories, pruning, and going on after a kill."""

import json
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from mbrl.cli import main
from mbrl.experiments import tune_trial, tune_workers
from mbrl.experiments.metrics import read_metrics
from mbrl.experiments.run import Run
from mbrl.experiments.tune import rows, tune
from mbrl.experiments.tune_commands import advice, table
from mbrl.experiments.tune_space import Range, contains, default_space, first_choice, get, options, parse, put, rounded
from mbrl.experiments.tune_trial import (
    JOURNAL,
    STUDY,
    Outcome,
    TuneStudy,
    _Reports,
    _Watch,
    open_storage,
    present_settings,
    preset_fits,
    work,
)
from mbrl.experiments.tune_workers import DEATHS, LocalWorkers, RayWorkers
from mbrl.pipelines.mbpo_config import PRESETS as MBPO_PRESETS
from mbrl.pipelines.off_policy_presets import off_policy_preset
from mbrl.pipelines.pets_config import PRESETS as PETS_PRESETS

PENDULUM = "Pendulum-v1"
SAC = present_settings("sac", PENDULUM, None)
MBPO = present_settings("mbpo", "Hopper-v5", None)
SPACE = ("lr=1e-4:1e-2:log", "batch_size=8:16", "hidden=8x8,16", "initial_steps=20:30")


def study(**change) -> TuneStudy:
    space = tuple(parse(text, SAC) for text in SPACE)
    return replace(TuneStudy("sac", PENDULUM, space, None, 60, 20, 1, 1, 0), **change)


class Here:
    """A worker in this process."""

    jobs = 1

    def submit(self, folder: Path, number: int) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_result(work(folder, number))
        return future

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of one trial, and two more."""
    folder = tmp_path_factory.mktemp("whole")
    first = tune(study(), folder, Here(), trials=1)
    found = tune(study(), folder, Here(), trials=3)
    assert found[:1] == first
    return folder, found


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ("lr=1e-4:1e-2:log", SAC, Range("learner.lr", 1e-4, 1e-2, log=True)),
        ("learner.lr=0:1", SAC, Range("learner.lr", 0, 1)),
        ("batch-size=16:64", SAC, Range("loop.batch_size", 16, 64, whole=True)),
        ("actor_value=min,mean", SAC, Range("learner.actor_value", choices=("min", "mean"))),
        ("layer_norm=true,false", SAC, Range("learner.layer_norm", choices=(True, False))),
        ("hidden=64x64,256", SAC, Range("learner.hidden", choices=("64x64", "256"))),
        ("subset=1,2", SAC, Range("learner.subset", choices=(1, 2))),
        ("rollout_length.last=1:15", MBPO, Range("loop.rollout_length.last", 1, 15, whole=True)),
        ("model_max_steps=100:900:log", MBPO, Range("loop.model_max_steps", 100, 900, log=True, whole=True)),
    ],
)
def test_ranges_are_read_with_the_type_of_the_setting(text, settings, expected):
    assert parse(text, settings) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "NAME=low:high"),
        ("lr=1:2:exp", "NAME=low:high:log"),
        ("lr=a:b", "two numbers"),
        ("lr=2:1", "low < high"),
        ("lr=0:1:log", "above 0"),
        ("lr=nan:1", "low < high"),
        ("batch_size=1.5:3", "whole numbers"),
        ("actor_value=0:1", "choices"),
        ("layer_norm=1,2", "true and false"),
        ("batch_size=a,b", "numbers as choices"),
        ("learning_rate=1:2", "name of one setting"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text, SAC)


def test_own_ranges_hold_the_presets_and_fit_together():
    presets = [("pets", env_id, None) for env_id in PETS_PRESETS]
    presets += [("mbpo", env_id, name) for env_id, known in MBPO_PRESETS.items() for name in known]
    presets += [("sac", PENDULUM, None), ("sac", "Hopper-v5", None)]
    for algorithm, env_id, name in presets:
        settings = present_settings(algorithm, env_id, name)
        space = default_space(algorithm, settings)
        assert all(contains(span, get(settings, span.name)) for span in space)
        for corner in ("low", "high"):
            put(settings, {span.name: int(v) if span.whole else v for span in space for v in [getattr(span, corner)]})


def test_an_algorithm_without_ranges_asks_for_some():
    with pytest.raises(ValueError, match="--space"):
        default_space("td3", present_settings("td3", PENDULUM, None))
    with pytest.raises(ValueError, match="algorithm: expected one of"):
        present_settings("cql", PENDULUM, None)
    with pytest.raises(ValueError, match="preset: expected none"):
        present_settings("pets", PENDULUM, "small")


def test_chosen_values_reach_the_settings_and_the_command_alike():
    chosen = {"learner.lr": 0.01, "learner.hidden": "32x16", "loop.rollout_length.last": 7, "learner.layer_norm": True}
    changed = put(MBPO, chosen)
    assert changed["learner"].lr == 0.01
    assert changed["learner"].hidden == (32, 16)
    assert changed["loop"].rollout_length.last == 7
    assert changed["loop"].rollout_length.start == MBPO["loop"].rollout_length.start
    assert options(MBPO, chosen) == [
        *("--lr", "0.01", "--hidden", "32", "16", "--rollout-length.last", "7", "--layer-norm")
    ]
    assert options(SAC, {"learner.layer_norm": False}) == ["--no-layer-norm"]


def test_settings_that_depend_on_each_other_are_changed_at_once():
    changed = put(SAC, {"loop.total_timesteps": 50, "loop.initial_steps": 40})
    assert changed["loop"].initial_steps == 40
    with pytest.raises(ValueError, match="initial_steps"):
        put(SAC, {"loop.total_timesteps": 50})
    assert first_choice(study().space, SAC)["loop.initial_steps"] == 20


def test_proposals_have_few_digits_and_stay_in_their_range():
    assert rounded(0.00211347, Range("learner.lr", 1e-4, 1e-2, log=True)) == 0.002113
    discount = Range("learner.discount", 0.9, 0.99999)
    assert rounded(0.99996123, discount) == 0.99996
    assert rounded(0.999989, discount) == 0.99999
    narrow = Range("learner.discount", 0.99991, 0.99996, log=True)
    for value in (0.99991, 0.999923456, 0.99996):
        assert 0.99991 <= rounded(value, narrow) <= 0.99996
        assert rounded(value, narrow) == pytest.approx(value, abs=1e-8)
    assert rounded(0, Range("loop.batch_size", 0, 9, whole=True)) == 0
    assert rounded("8x8", Range("learner.hidden", choices=("8x8",))) == "8x8"


def test_every_trial_is_a_run_directory_with_its_settings(whole):
    folder, found = whole
    assert [row.number for row in found] == [0, 1, 2]
    assert all(row.state == "complete" for row in found)
    for row in found:
        (path,) = (folder / "trials" / f"{row.number:04d}").glob("*__sac__0__*")
        config = Run.open(path).config
        assert config["learner"]["lr"] == row.chosen["learner.lr"]
        assert "x".join(map(str, config["learner"]["hidden"])) == row.chosen["learner.hidden"]
        assert config["loop"]["total_timesteps"] == 60
        returns = [line["eval/mean_reward"] for line in read_metrics(path) if "eval/mean_reward" in line]
        assert row.score == pytest.approx(sum(returns[-3:]) / 3)
    assert len({row.chosen["learner.lr"] for row in found}) == 3


def test_stopped_in_the_middle_it_comes_to_the_same_trials(whole, tmp_path, monkeypatch):
    report = _Reports.add

    def stop(self, step, score):
        report(self, step, score)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_Reports, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            tune(study(), tmp_path, Here(), trials=3)
    assert [row.state for row in rows(tmp_path)] == ["running"]
    assert tune(study(), tmp_path, Here(), trials=3) == whole[1]
    assert len(list(tmp_path.glob("trials/0000/*__sac__0__*"))) == 1  # gone on with, not made anew


def test_the_journal_may_end_behind_any_line(whole, tmp_path):
    lines = (whole[0] / JOURNAL).read_bytes().splitlines(keepends=True)
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    for number in range(len(lines) + 1):
        (tmp_path / JOURNAL).write_bytes(b"".join(lines[:number]))
        assert tune(study(), tmp_path, Here(), trials=3, say=lambda line: None) == whole[1]
    assert len(list(tmp_path.glob("trials/*/*__sac__0__*"))) == 3


def test_a_lock_left_behind_by_a_killed_process_stops_nobody(whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path.parent)
    folder = Path(tmp_path.name)
    lock = folder / f"{JOURNAL}.lock"
    lock.symlink_to(folder / JOURNAL)  # relative to the working directory, so it leads nowhere
    assert not lock.exists()
    assert tune(study(), folder, Here(), trials=3) == whole[1]
    assert not lock.is_symlink()
    backend = open_storage(folder)._backend  # whose own lock must lead to the journal, for Optuna to take it over
    assert backend._lock.acquire()
    assert lock.exists()
    backend._lock.release()


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_killed_in_the_middle_it_comes_to_the_same_trials(whole, tmp_path):
    command = [
        sys.executable,
        "-m",
        "mbrl",
        "tune",
        "sac",
        "--env-id",
        PENDULUM,
        "--trials",
        "2",
        "--out",
        str(tmp_path),
    ]
    command += ["--total-timesteps", "60", "--eval-every", "20", "--eval-episodes", "1", "--space", *SPACE]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    metrics = []
    while not metrics and process.poll() is None:
        metrics = [path for path in tmp_path.glob("trials/*/*/metrics.jsonl") if path.stat().st_size]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert tune(study(), tmp_path, Here(), trials=3) == whole[1]
    assert len(list(tmp_path.glob("trials/0000/*__sac__0__*"))) == 1  # gone on with, not made anew


def test_a_study_that_has_its_trials_is_left_as_it_is(whole):
    before = (whole[0] / JOURNAL).read_bytes()
    assert tune(study(), whole[0], Here(), trials=2) == whole[1]
    assert (whole[0] / JOURNAL).read_bytes() == before


def test_a_journal_whose_last_line_was_cut_off_goes_on(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":4,"wor')
    assert tune(study(), tmp_path, Here(), trials=3) == whole[1]


def test_another_study_is_not_mixed_in(whole):
    with pytest.raises(ValueError, match=r"total_timesteps 60 -> 70"):
        tune(study(total_timesteps=70), whole[0], Here(), trials=4)


def test_the_preset_is_the_first_trial_where_it_can_be_chosen(tmp_path):
    wide = study(space=(parse("lr=1e-4:1e-2:log", SAC), parse("initial_steps=20:2000", SAC)))
    assert preset_fits(wide)
    assert not preset_fits(study())
    (row,) = tune(wide, tmp_path, Here(), trials=1)
    assert row.chosen == {"learner.lr": SAC["learner"].lr, "loop.initial_steps": SAC["loop"].initial_steps}
    assert row.state == "failed"  # 1,000 random steps of 60
    assert "initial_steps" in row.reason


def test_a_trial_below_the_median_of_the_others_ends_early(whole, tmp_path):
    import optuna

    tried = study(total_timesteps=60, seeds=2)
    (tmp_path / STUDY).write_text(json.dumps(tried.to_json()))
    storage = open_storage(tmp_path)
    opened = optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")
    for _ in range(4):
        trial = opened.ask()
        for step in (20, 40, 60, 80, 100, 120):
            trial.report(-100.0, step)
        opened.tell(trial, -100.0)
    good, bad = opened.ask().number, opened.ask().number
    reports = _Reports(tmp_path, tried, good)
    assert not any(reports.add(step, -50.0) for step in (20, 40, 60))
    assert reports.add(80, -150.0)  # it has been better before, which does not count
    reports = _Reports(tmp_path, tried, bad)
    assert not reports.add(19, -500.0)  # a third of the first run is left alone
    watch = _Watch(reports, before=[-300.0], offset=60)  # the second seed of the trial
    (path,) = (whole[0] / "trials" / "0000").glob("*__sac__0__*")
    watch.run = Run.open(path)
    assert watch()
    first = next(line["eval/mean_reward"] for line in read_metrics(path) if "eval/mean_reward" in line)
    assert watch.score == pytest.approx((-300 + first) / 2)  # where it lags first, though the run went on
    assert reports.trial.intermediate_values == {19: -500.0, 80: pytest.approx(watch.score)}


def test_the_command_says_how_to_train_with_the_best_and_that_it_is_hindsight(whole):
    _, found = whole
    best = max(found, key=lambda row: row.score)
    said = advice(study(), found, best)
    assert "hindsight" in said
    assert f"--lr {best.chosen['learner.lr']}" in said
    assert "for seed in 100 101" in said
    lines = table(found).splitlines()
    assert lines[0].split() == ["trial", "state", "score", "lr", "batch_size", "hidden", "initial_steps"]
    assert lines[1].split()[0] == str(best.number)


def test_whatever_a_trial_raises_is_its_failure_and_a_full_disk_is_not(whole, tmp_path, monkeypatch):
    def broken(*args):
        raise wrong

    monkeypatch.setattr(tune_trial, "_train", broken)
    wrong: Exception = RuntimeError("mat1 and mat2\nshapes")
    (row,) = tune(study(), tmp_path, Here(), trials=1)
    assert (row.state, row.reason) == ("failed", "mat1 and mat2 shapes")
    wrong = OSError("No space left on device")
    with pytest.raises(OSError, match="No space"):
        tune(study(), tmp_path, Here(), trials=2)
    assert [row.state for row in rows(tmp_path)] == ["failed", "running"]


def worker(folder: Path, monkeypatch, *lines: str) -> None:
    """Put a script in place of the trial's process."""
    script = folder / "worker.sh"
    script.write_text("\n".join(("#!/bin/sh", f"echo >> {folder}/started", *lines)) + "\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_a_trial_whose_process_is_killed_again_and_again_fails_alone(tmp_path, monkeypatch):
    worker(tmp_path, monkeypatch, '[ "$4" = 1 ] || kill -9 $$', """echo '["complete", 2.5]'""")
    (row, other) = tune(study(), tmp_path / "study", LocalWorkers(2), trials=2)
    assert row.state == "failed"
    assert "SIGKILL" in row.reason
    assert (other.state, other.score) == ("complete", 2.5)
    assert (tmp_path / "started").read_text().count("\n") == DEATHS + 1


def test_a_process_that_cannot_work_ends_the_study_and_nothing_is_started_behind_it(tmp_path, monkeypatch):
    worker(tmp_path, monkeypatch, "exit 3")
    workers = LocalWorkers(1)
    with pytest.raises(OSError, match="status 3"):
        tune(study(), tmp_path / "study", workers, trials=2)
    with pytest.raises(OSError, match="was stopped"):
        workers._work(tmp_path / "study", 1)
    assert (tmp_path / "started").read_text() == "\n"


def test_workers_have_one_thread_and_end_when_they_are_closed(tmp_path, monkeypatch):
    worker(tmp_path, monkeypatch, f"echo $OMP_NUM_THREADS $MKL_NUM_THREADS > {tmp_path}/threads", "exec sleep 600")
    workers = LocalWorkers(1)
    futures = [workers.submit(tmp_path, number) for number in range(2)]
    while not (tmp_path / "threads").exists() or not (tmp_path / "threads").stat().st_size:
        time.sleep(0.01)
    workers.close()
    assert (tmp_path / "threads").read_text() == "1 1\n"
    assert isinstance(futures[0].exception(), OSError)
    assert futures[1].cancelled()


def test_the_command_fails_where_no_trial_came_to_its_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tune_workers, "LocalWorkers", lambda jobs: Here())
    arguments = ["tune", "sac", "--env-id", PENDULUM, "--trials", "1", "--eval-every", "20", "--eval-episodes", "1"]
    arguments += ["--total-timesteps", "60", "--out", str(tmp_path / "study")]
    assert main([*arguments, "--space", "lr=1e-3:1e-2", "initial_steps=50:59", "discount=0.5:500"]) == 1
    printed = capsys.readouterr()
    assert "no trial has the preset's settings" in printed.out
    assert "discount: expected a number in [0, 1]" in printed.out
    assert main([*arguments, "--space", "lr=1e-3:1e-2", "lr=1:2"]) == 2
    assert "once" in capsys.readouterr().err
    assert main([*arguments, "--minutes", "0"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pets", "--env-id", "NoSuch-v0"], "env_id: "),
        (["sac", "--env-id", "CartPole-v1"], "for continuous actions"),
        (["sac", "--env-id", PENDULUM, "--total-timesteps", "60", "--eval-every", "61"], "eval_every: expected at mos"),
        (["sac", "--env-id", PENDULUM, "--ray", "one", "two"], "ray: expected one address"),
    ],
)
def test_what_does_not_fit_is_told_before_the_first_trial(words, message, tmp_path, capsys):
    assert main(["tune", *words, "--out", str(tmp_path / "study")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("study/trials/*"))


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_processes_come_to_the_trials_of_one_process(whole, tmp_path):
    assert tune(study(), tmp_path, LocalWorkers(1), trials=3) == whole[1]
    assert rows(tmp_path) == whole[1]


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_comes_to_the_trials_of_one_process(whole, tmp_path):
    assert tune(study(), tmp_path, RayWorkers(None, 1), trials=3) == whole[1]


def test_presets_of_sac_are_found():
    assert off_policy_preset("sac", PENDULUM).config == SAC["loop"]
