"""A comparison on a local Ray cluster of two workers, one of which is killed, comes to the numbers of a local one."""

import os
import re
import signal
from pathlib import Path

import pytest
import torch

from mbrl.experiments.compare import Comparison, report_study, run_study
from mbrl.experiments.final_evaluation import read_final
from mbrl.experiments.jobs import LocalJobs
from mbrl.experiments.live_table import LiveTable
from mbrl.experiments.lock import LOCK
from mbrl.experiments.ray_jobs import RayJobs
from mbrl.experiments.study import Entry, Study, Task
from tests.mbrl.compare_cases import numbers

STUDY = Study(
    "ray",
    (Task("InvertedPendulum-v5", budget=1_500, eval_every=250, eval_episodes=1),),
    (Entry("sac", "sac"), Entry("a2c", "sb3-a2c")),
    (0, 1),
)


class Killer(LiveTable):
    """Kills the Ray worker of the first run that has a checkpoint and is not done, with -9.

    Attributes:
        steps: how far that run was.
    """

    steps: int | None = None

    def show(self, statuses, parallel, *, force=False):
        for status in statuses:
            if self.steps is not None or status.state != "running" or status.path is None:
                continue
            if list((status.path / "checkpoints").glob("*-step1000")) and (lock := (status.path / LOCK).read_text()):
                worker = parent(int(re.findall(r"process (\d+)", lock)[0]))
                assert "ray::" in Path(f"/proc/{worker}/cmdline").read_text()
                os.kill(worker, signal.SIGKILL)
                self.steps = status.steps


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def cluster(gpu_share: float = 0.0) -> RayJobs:
    """Ray gives its own processes 30 s to start, which a busy machine may not."""
    for _ in range(3):
        try:
            return RayJobs(jobs=2, gpu_share=gpu_share, oracle_episodes=0)
        except ValueError as error:
            failure = error
            if str(error).startswith("gpu_share"):
                break
    raise failure


def compared(folder: Path, jobs: LocalJobs | RayJobs, table: LiveTable) -> Comparison:
    comparison = Comparison.prepare(STUDY, root=folder / "runs", out=folder / "out", oracle_episodes=0)
    run_study(comparison, jobs, table=table)
    return comparison


def test_numbers_that_would_wait_for_ever_are_refused():
    for numbers_, name in (({"jobs": 0}, "jobs"), ({"gpu_share": -0.5}, "gpu_share")):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            RayJobs(**numbers_, oracle_episodes=0)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the cluster has a GPU")
def test_a_share_of_a_gpu_that_is_not_there_is_refused():
    ray = pytest.importorskip("ray")
    with pytest.raises(ValueError, match=r"gpu_share: expected 0 on a cluster without a GPU, got 0.5"):
        cluster(gpu_share=0.5)
    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_comparison_on_ray_survives_the_loss_of_a_worker(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    local = compared(tmp_path / "local", LocalJobs(2, oracle_episodes=0), LiveTable())
    killer = Killer()
    try:
        jobs = cluster()
        assert jobs.parallel == 2
        remote = compared(tmp_path / "ray", jobs, killer)
    finally:
        ray.shutdown()
    assert killer.steps is not None
    outcomes = [[attempt.outcome for attempt in status.attempts] for status in remote.statuses]
    assert sorted(map(len, outcomes)) == [1, 1, 1, 2]
    assert ["lost", "done"] in outcomes
    for here, there in zip(local.statuses, remote.statuses, strict=True):
        assert (here.state, there.state) == ("done", "done")
        assert numbers(here.path) == numbers(there.path)
        assert read_final(here.path).deterministic == read_final(there.path).deterministic
        assert read_final(here.path).stochastic == read_final(there.path).stochastic
    assert report_study(remote).exists()
