"""Comparisons: what is there counts, what is missing is made, what fails is tried again and never dropped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mbrl.cli import main
from mbrl.experiments import compare as module
from mbrl.experiments.cell_status import FILE
from mbrl.experiments.compare import Comparison, report_study, run_study
from mbrl.experiments.final_evaluation import EPISODES, final_evaluation, read_final
from mbrl.experiments.job import REASON
from mbrl.experiments.jobs import LOG, Ending, LocalJobs
from mbrl.experiments.live_table import LiveTable
from mbrl.experiments.lock import locked
from mbrl.experiments.run import Run
from mbrl.experiments.runs import train_run
from tests.mbrl.compare_cases import TINY, Inline, numbers


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs` of all cells, and `out`."""
    folder = tmp_path_factory.mktemp("study")
    run_study(prepared(folder), Inline())
    return folder


def prepared(folder: Path) -> Comparison:
    return Comparison.prepare(TINY, root=folder / "runs", out=folder / "out", oracle_episodes=0)


def copied(done: Path, to: Path, *, without: tuple[str, ...]) -> Path:
    """The runs of `done`, but for those of some algorithms."""
    subprocess.run(["cp", "-r", str(done / "runs"), str(to / "runs")], check=True)
    for path in (to / "runs").iterdir():
        if path.name.split("__")[1:2] and path.name.split("__")[1] in without:
            subprocess.run(["rm", "-r", str(path)], check=True)
    return to


def states(comparison: Comparison) -> list[str]:
    return [status.state for status in comparison.statuses]


def test_what_is_missing_is_made_and_what_is_there_counts(done, tmp_path):
    folder = copied(done, tmp_path, without=("sb3-td3",))
    comparison = prepared(folder)
    assert states(comparison) == ["done", "waiting", "done", "waiting"]
    jobs = Inline()
    run_study(comparison, jobs)
    assert states(comparison) == ["done"] * 4
    assert ["sb3-td3" in path.name for path in jobs.started] == [True, True]
    for first, second in zip(prepared(done).statuses, prepared(folder).statuses, strict=True):
        assert first.reused
        assert second.reused
        assert numbers(first.path) == numbers(second.path)  # same seeds, same numbers
        assert read_final(first.path) == read_final(second.path)


def test_a_failed_run_is_tried_again_and_one_that_fails_twice_is_reported(done, tmp_path):
    folder = copied(done, tmp_path, without=("sb3-td3",))
    failed = Ending("failed", "ValueError: a planted one")
    jobs = Inline({("sb3-td3", 0): [failed], ("sb3-td3", 1): [failed, failed]})
    comparison = prepared(folder)
    run_study(comparison, jobs)
    assert states(comparison) == ["done", "done", "done", "failed"]
    kept = json.loads((folder / "out" / FILE).read_text())
    assert [one["reason"] for one in kept["failures"]] == [failed.reason]
    assert [len(cell["attempts"]) for cell in kept["cells"]] == [0, 2, 0, 2]
    assert (kept["failures"][0]["label"], kept["failures"][0]["seed"]) == ("td3", 1)
    page = report_study(comparison).read_text()
    assert "a planted one" in page
    again = prepared(folder)  # once more by hand: it counts anew, and its history stays
    assert states(again) == ["done", "done", "done", "waiting"]
    run_study(again, Inline())
    assert states(again) == ["done"] * 4
    assert [one.outcome for one in again.statuses[3].attempts] == ["failed", "failed", "done"]


def test_a_lost_worker_is_not_the_runs_fault(done, tmp_path):
    folder = copied(done, tmp_path, without=("sb3-td3",))
    lost = Ending("lost", "its machine is gone")
    comparison = prepared(folder)
    run_study(comparison, Inline({("sb3-td3", 0): [lost] * 3, ("sb3-td3", 1): [lost] * 4}))
    assert states(comparison) == ["done", "done", "done", "failed"]


def test_an_evaluation_of_another_checkpoint_does_not_count(done, tmp_path):
    folder = copied(done, tmp_path, without=("sb3-td3",))
    (path,) = (folder / "runs").glob("*__sb3-a2c__0__*")
    (checkpoint,) = (path / "checkpoints").iterdir()
    checkpoint.rename(checkpoint.with_name("000009-step128"))  # as of a run that went on
    comparison = prepared(folder)
    assert states(comparison) == ["waiting", "waiting", "done", "waiting"]
    assert final_evaluation(Run.open(path)).checkpoint == "000009-step128"
    assert states(prepared(folder)) == ["done", "waiting", "done", "waiting"]


def test_a_damaged_evaluation_is_made_again(done, tmp_path):
    folder = copied(done, tmp_path, without=("sb3-td3",))
    (path,) = (folder / "runs").glob("*__sb3-a2c__0__*")
    before = read_final(path)
    (path / "evaluation.json").write_text("{}")
    comparison = prepared(folder)
    assert states(comparison) == ["waiting", "waiting", "done", "waiting"]
    run_study(comparison, Inline())
    assert states(comparison) == ["done"] * 4
    assert read_final(path) == before


def test_a_finished_run_that_cannot_be_read_is_a_failure(done, tmp_path, capsys):
    root, out = copied(done, tmp_path, without=("sb3-td3",)) / "runs", tmp_path / "out"
    (path,) = root.glob("*__sb3-a2c__0__*")
    lines = (path / "metrics.jsonl").read_text().splitlines()
    (path / "metrics.jsonl").write_text("\n".join(["garbage", *lines[1:]]) + "\n")
    assert main([*COMMAND.split(), "--root", str(root), "--out", str(out)]) == 1
    reason = f"{path / 'metrics.jsonl'}, line 1: expected a JSON object"
    assert f"failed: sb3-a2c on InvertedPendulum-v5, seed 0: {reason}" in capsys.readouterr().err
    (failure,) = json.loads((out / FILE).read_text())["failures"]
    assert failure["reason"].startswith(reason)


def test_a_finished_run_whose_checkpoints_were_removed_keeps_its_metrics(done, tmp_path):
    folder = copied(done, tmp_path, without=("sb3-td3",))
    (path,) = (folder / "runs").glob("*__sb3-a2c__0__*")
    before = (path / "metrics.jsonl").read_bytes()
    subprocess.run(["rm", "-r", str(path / "checkpoints")], check=True)
    assert states(prepared(folder)) == ["done", "waiting", "done", "waiting"]
    with pytest.raises(ValueError, match=r"its metrics go to 128 of 128: its checkpoints were removed\. Restore them"):
        train_run(Run.open(path), progress=False)
    assert (path / "metrics.jsonl").read_bytes() == before
    assert (path / "evaluation.json").exists()


def test_attempts_are_known_by_whatever_name_a_run_has(done, tmp_path, monkeypatch):
    folder = copied(done, tmp_path, without=())
    (path,) = (folder / "runs").glob("*__sb3-a2c__0__*")
    (path / "evaluation.json").unlink()
    run_study(prepared(folder), Inline())
    monkeypatch.chdir(folder)
    kept = Comparison.prepare(TINY, root=Path("runs"), out=Path("out"), oracle_episodes=0)
    assert [one.outcome for one in kept.statuses[0].attempts] == ["done"]


def test_a_run_that_another_process_works_on_is_waited_for(done, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.1)
    folder = copied(done, tmp_path, without=())
    comparison = prepared(folder)
    (first, *_) = comparison.statuses
    assert first.path is not None
    (first.path / "evaluation.json").unlink()
    comparison = prepared(folder)
    hold = (
        f"import sys; from mbrl.experiments.lock import locked\nwith locked({str(first.path)!r}): print(flush=True); "
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold + "sys.stdin.readline()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    other.stdout.readline()
    seen = []

    class Table(LiveTable):
        def show(self, statuses, parallel, *, force=False):
            seen.append(statuses[0].state)
            if seen.count("elsewhere") == 3 and other.poll() is None:
                other.communicate(b"\n")

    jobs = Inline()
    run_study(comparison, jobs, table=Table())
    assert seen[:3] == ["elsewhere"] * 3
    assert jobs.started == [first.path]  # it was not evaluated elsewhere: that is done here
    assert read_final(first.path) is not None


def test_ctrl_c_stops_the_jobs_and_keeps_the_record(done, tmp_path):
    folder = copied(done, tmp_path, without=("sb3-a2c",))

    class Interrupted(Inline):
        def start(self, path: Path) -> None:
            super().start(path)
            raise KeyboardInterrupt

    jobs = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        run_study(prepared(folder), jobs)
    assert jobs.stopped
    kept = json.loads((folder / "out" / FILE).read_text())
    assert [cell["state"] for cell in kept["cells"]] == ["done", "done", "waiting", "done"]


def some(done: Path, to: Path, count: int) -> list[Path]:
    runs = copied(done, to, without=()) / "runs"
    return sorted(path for path in runs.iterdir() if path.is_dir())[:count]


@pytest.mark.slow
def test_workers_end_well_and_find_a_run_busy(done, tmp_path):
    good, busy = some(done, tmp_path, 2)
    (good / "evaluation.json").unlink()
    jobs = LocalJobs(2, oracle_episodes=0)
    with locked(busy):
        for path in (good, busy):
            jobs.start(path)
        assert not jobs.room()
        endings = dict(_wait(jobs, 2))
    assert endings == {good: Ending("done"), busy: Ending("busy")}
    assert read_final(good) is not None


def test_workers_end_badly_by_a_kill_and_with_their_parent(done, tmp_path):
    broken, killed = some(done, tmp_path, 2)
    (broken / "config.json").write_text("{}")
    jobs = LocalJobs(2, oracle_episodes=0)
    for path in (broken, killed):
        jobs.start(path)
    jobs._running[killed].kill()
    endings = dict(_wait(jobs, 2))
    assert endings[killed].outcome == "lost"
    assert "SIGKILL" in endings[killed].reason
    assert endings[broken].outcome == "failed"
    assert "ValueError: run: " in endings[broken].reason
    assert "is damaged" in endings[broken].reason
    assert REASON in (broken / LOG).read_text()

    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(killed)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 30
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(worker)


def test_jobs_that_are_stopped_twice_have_ended(tmp_path, monkeypatch):
    jobs = LocalJobs(1, oracle_episodes=0)
    deaf = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE, preexec_fn=_hear_nothing)
    jobs._running[tmp_path] = deaf
    wait, asked = subprocess.Popen.wait, []

    def second_time(self, timeout=None):
        asked.append(self)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", second_time)
    jobs.stop()
    assert jobs.finished() == [(tmp_path, Ending("stopped"))]


def _hear_nothing() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


PARENT = """
import sys, time
from pathlib import Path
from mbrl.experiments.jobs import LocalJobs
jobs = LocalJobs(1, oracle_episodes=0)
jobs.start(Path(sys.argv[1]))
print(next(iter(jobs._running.values())).pid, flush=True)
time.sleep(60)
"""


def _wait(jobs: LocalJobs, count: int) -> list[tuple[Path, Ending]]:
    ended: list[tuple[Path, Ending]] = []
    while len(ended) < count:
        ended += jobs.finished()
        time.sleep(0.02)
    return ended


def _alive(pid: int) -> bool:
    """Whether a process goes on: one that nobody has waited for yet does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_the_final_evaluation_is_the_same_for_all_runs_of_a_task_and_made_once(done):
    paths = [path for path in sorted((done / "runs").iterdir()) if path.is_dir()]
    finals = [read_final(path) for path in paths]
    for path, final in zip(paths, finals, strict=True):
        assert final is not None
        assert len(final.deterministic.returns) == EPISODES
        assert (final.stochastic is None) == ("sb3-td3" in path.name)  # whose policy draws nothing
        assert final.deterministic.mean == pytest.approx(sum(final.deterministic.returns) / EPISODES)
    before = (paths[0] / "evaluation.json").stat().st_mtime_ns
    assert final_evaluation(Run.open(paths[0])) == finals[0]
    assert (paths[0] / "evaluation.json").stat().st_mtime_ns == before
    (paths[0] / "evaluation.json").unlink()
    assert final_evaluation(Run.open(paths[0])) == finals[0]  # it is a function of the run
    (paths[0] / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match=r"evaluation.json is damaged .*; delete it"):
        read_final(paths[0])
    (paths[0] / "evaluation.json").unlink()
    final_evaluation(Run.open(paths[0]))


def test_the_final_evaluation_depends_on_what_was_learned_alone(done, tmp_path):
    runs = copied(done, tmp_path, without=("sb3-td3",)) / "runs"
    first, second = sorted(path for path in runs.iterdir() if path.is_dir())
    before = read_final(first)
    assert read_final(second) != before
    for path in (first, second):
        (path / "evaluation.json").unlink()
    subprocess.run(["rm", "-r", str(second / "checkpoints")], check=True)
    subprocess.run(["cp", "-r", str(first / "checkpoints"), str(second)], check=True)
    for path in (first, second):  # another seed, the same policy: the same start states, and so the same returns
        assert final_evaluation(Run.open(path)).deterministic == before.deterministic


COMMAND = "compare --env-id InvertedPendulum-v5 --algorithms sb3-a2c --seeds 2 --total-timesteps 128 --eval-every 64"
COMMAND += " --eval-episodes 1"


@pytest.mark.slow
def test_the_command_compares_and_reports_and_finds_its_runs_again(tmp_path, capsys):
    places = ["--root", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--jobs", "3"]
    asked = [*COMMAND.split(), "--threshold", "InvertedPendulum-v5=20", *places]
    assert main(asked) == 0
    said = capsys.readouterr()
    assert "2 runs, 0 of which are there" in said.out
    assert said.err.count("started: sb3-a2c on InvertedPendulum-v5, seed ") == 2
    report = tmp_path / "out" / "report.html"
    first = report.read_bytes()
    assert main(asked) == 0
    assert "2 runs, 2 of which are there" in capsys.readouterr().out
    assert report.read_bytes() == first


def test_the_command_finds_what_is_there_and_reports(done, tmp_path, capsys):
    root, out = copied(done, tmp_path, without=("sb3-td3",)) / "runs", tmp_path / "out"
    asked = [*COMMAND.split(), "--oracle-episodes", "2", "--root", str(root), "--out", str(out)]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "2 runs, 2 of which are there" in said
    assert f"report: {out / 'report.html'}" in said
    assert f"mbrl {COMMAND} --oracle-episodes 2" in (out / "report.html").read_text()


def test_two_comparisons_do_not_share_a_report(tmp_path, capsys):
    hold = "import sys; from mbrl.experiments.lock import locked\nfrom mbrl.experiments.cell_status import LOCK\n"
    hold += "with locked(sys.argv[1], file_name=LOCK): print(flush=True); sys.stdin.readline()"
    out = tmp_path / "out"
    out.mkdir()
    asked = [*COMMAND.split(), "--root", str(tmp_path / "runs"), "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert main(asked) == 2
        assert f"out: expected {out} to be free, but process {other.pid}" in capsys.readouterr().err
        other.communicate(b"\n")
    assert not (out / FILE).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare", "expected --env-id, --algorithms and --total-timesteps, or --study smoke"),
        ("compare --study smoke --seeds 2", "study: expected no settings of a study beside it"),
        ("compare --env-id A-v1 --algorithms sac sac --total-timesteps 10", "algorithms: expected each one once"),
        (
            "compare --env-id Hopper-v4 Hopper-v5 --algorithms sac --total-timesteps 10",
            "expected one version of each environment, got Hopper-v4 and Hopper-v5",
        ),
        ("compare --env-id A-v1 --algorithms sac --total-timesteps 10 --times pets=2", "times: expected NAME=NUMBER"),
        ("compare --env-id A-v1 --algorithms sac --total-timesteps 10 --times sac=1.5", "got 'sac=1.5'"),
        ("compare --env-id A-v1 --algorithms sac --total-timesteps 10 --threshold B-v1=3", "threshold: expected NAME="),
        (
            "compare --env-id A-v1 --algorithms sac --total-timesteps 10 --eval-every 3",
            "eval_every: expected a divisor",
        ),
        ("compare --env-id A-v1 --algorithms sac --total-timesteps 0", "total_timesteps: expected at least 1, got 0"),
        ("compare --env-id A-v1 --algorithms sac --total-timesteps 10 --seeds 0", "seeds: expected at least 1, got 0"),
        ("compare --study smoke --gpu-share 0.5", "gpu_share: expected --ray beside it"),
        ("compare --study smoke --ray one two", "ray: expected one address"),
        ("compare --study smoke --seeds 0", "study: expected no settings of a study beside it"),
        ("compare --study smoke --eval-every 0", "study: expected no settings of a study beside it"),
        ("compare --env-id A-v1 --algorithms sac --total-timesteps 10007", "eval_every: expected it to be given"),
        (
            "compare --env-id A-v1 --algorithms sac --total-timesteps 10 --eval-every 0",
            "eval_every: expected at least 1 for A-v1, got 0",
        ),
        (
            "compare --env-id Pendulum-v1 --algorithms sb3-ppo --total-timesteps 250",
            "total_timesteps: expected a multiple of 4",
        ),
    ],
)
def test_bad_input_is_named(words, message, capsys, tmp_path):
    places = ["--root", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main([*words.split(), *places]) == 2
    assert message in capsys.readouterr().err
