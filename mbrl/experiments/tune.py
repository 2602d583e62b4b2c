"""Search for settings: Optuna proposes, run directories are trained, and bad ones end early.

A study is a folder with `tune.json` (what is tuned), `journal.log` (Optuna's trials) and run directories in `trials/`.
Trial 0 has the preset's own settings, to compare with. Whatever was going on when a study was stopped or killed goes on
from its checkpoints when it is started again. With one job, the same seed proposes the same settings, interrupted or
not; with several, proposals depend on which trials have ended first.

Settings are proposed by the tree-structured Parzen estimator (Bergstra et al. 2011,
https://papers.nips.cc/paper/4443), after ten at random; the median rule that ends trials is that of Golovin et al.
(2017), https://research.google/pubs/pub46180.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mbrl.experiments.lock import locked
from mbrl.experiments.ray_jobs import connect
from mbrl.experiments.tune_space import Range, Value, as_choice, get, rounded
from mbrl.experiments.tune_trial import (
    JOURNAL,
    STUDY,
    TRIALS,
    Outcome,
    TuneStudy,
    open_storage,
    present_settings,
    preset_fits,
    work,
)
from mbrl.seeding import derive

REASON = "reason"


class Row(NamedTuple):
    """A trial as the table shows it."""

    number: int
    state: str
    """complete, pruned, failed or running."""
    score: float | None
    """Of a pruned one: what it was when it ended."""
    chosen: dict[str, Value]
    reason: str
    """Why it failed."""


class Workers(Protocol):
    """Where trials are worked on."""

    jobs: int
    """At once."""

    def submit(self, folder: Path, number: int) -> Future[Outcome]: ...

    def close(self) -> None:
        """End what is going on."""


def tune(
    study: TuneStudy,
    folder: Path,
    workers: Workers,
    *,
    trials: int,
    minutes: float | None = None,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Run trials until the study has so many, those of earlier calls included; returns all, in their order.

    Args:
        study: what is tuned.
        folder: of the study, made where there is none.
        workers: who does the trials.
        trials: how many in all.
        minutes: begin no further trial after about as many.
        say: takes a line for every trial that ends.

    Raises:
        ValueError: the folder has another study, another process works on it (`BusyError`), or Optuna is not installed.
        OSError: a worker was killed.
    """
    if trials < 1:
        raise ValueError(f"trials: expected at least 1, got {trials}")
    folder.mkdir(parents=True, exist_ok=True)
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    with locked(folder):
        _keep(study, folder)
        opened = _open(study, folder)
        there = opened.get_trials(deepcopy=False)
        stopped = [trial.number for trial in there if trial.state.name == "RUNNING"]
        going: dict[Future[Outcome], int] = {}
        try:
            while True:
                while len(going) < workers.jobs and (number := _next(opened, study, stopped, trials, end)) is not None:
                    going[workers.submit(folder, number)] = number
                if not going:
                    return rows(folder)
                for future in wait(going, return_when=FIRST_COMPLETED).done:
                    say(_tell(opened, going.pop(future), future.result()))
        finally:
            workers.close()


def rows(folder: Path) -> list[Row]:
    """The trials of a study. Raises ValueError where Optuna is not installed."""
    import optuna

    storage = open_storage(folder)
    found = optuna.load_study(study_name=STUDY, storage=storage).get_trials(deepcopy=False)
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
    return [
        Row(
            trial.number,
            names[trial.state.name],
            trial.value if trial.state.name != "FAIL" else None,
            {name: rounded(value) for name, value in trial.params.items()},
            trial.user_attrs.get(REASON, ""),
        )
        for trial in found
        if trial.state.name in names
    ]


class LocalWorkers:
    """Processes on this machine, one torch thread each.

    Raises:
        ValueError: `jobs` is below 1.
    """

    def __init__(self, jobs: int) -> None:
        if jobs < 1:
            raise ValueError(f"jobs: expected at least 1, got {jobs}")
        self.jobs = jobs
        self._threads = ThreadPoolExecutor(jobs)
        self._running: set[subprocess.Popen[bytes]] = set()

    def submit(self, folder: Path, number: int) -> Future[Outcome]:
        return self._threads.submit(self._work, folder, number)

    def close(self) -> None:
        for process in list(self._running):
            process.kill()
        self._threads.shutdown()

    def _work(self, folder: Path, number: int) -> Outcome:
        log = folder / TRIALS / f"{number:04d}" / "trial.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mbrl.experiments.tune_trial", str(folder), str(number)]
        with (
            log.open("ab") as errors,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # which closes when this process ends: then the trial does, too
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for this process, which ends the others
            ) as process,
        ):
            self._running.add(process)
            assert process.stdout is not None
            said = process.stdout.read().decode().strip().splitlines()
            status = process.wait()
            self._running.discard(process)
        if status:
            raise OSError(f"trial {number} ended with status {status}, see {log}; the same command goes on with it")
        return Outcome(*json.loads(said[-1]))


class RayWorkers:
    """Tasks on a Ray cluster, whose machines share the study's folder under one path. A lost task is done again, and
    goes on from its checkpoint.

    Args:
        address: of the cluster; None: one is started on this machine.
        jobs: at once; cores of a cluster that is started here.

    Raises:
        ValueError: Ray is not installed, there is no cluster at `address`, or `jobs` is below 1.
    """

    def __init__(self, address: str | None, jobs: int) -> None:
        if jobs < 1:
            raise ValueError(f"jobs: expected at least 1, got {jobs}")
        self.jobs = jobs
        self._ray: Any = connect(address, jobs=jobs)
        self._task = self._ray.remote(num_cpus=1, max_retries=3)(_single_threaded)

    def submit(self, folder: Path, number: int) -> Future[Outcome]:
        future: Future[Outcome] = self._task.remote(folder.resolve(), number).future()
        return future

    def close(self) -> None:
        self._ray.shutdown()


def _single_threaded(folder: Path, number: int) -> Outcome:
    import torch

    torch.set_num_threads(1)
    return work(folder, number)


def _keep(study: TuneStudy, folder: Path) -> None:
    """Write the study into its folder, or compare with the one that is there."""
    path = folder / STUDY
    wanted = study.to_json()
    if not path.exists():
        staged = folder / f".{STUDY}"
        staged.write_text(json.dumps(wanted, indent=1) + "\n")
        staged.replace(path)
        return
    stored = json.loads(path.read_text())
    plain = json.loads(json.dumps(wanted))
    if changed := [f"{key} {stored.get(key)} -> {plain[key]}" for key in plain if stored.get(key) != plain[key]]:
        raise ValueError(
            f"out: expected a folder with this study, or a new one, got {folder}, whose study differs: "
            f"{'; '.join(changed)}"
        )


def _open(study: TuneStudy, folder: Path) -> Any:
    """The study in the journal, with the preset as its first trial where there is none yet."""
    _mend(folder / JOURNAL)
    storage = open_storage(folder)
    import optuna

    opened = optuna.create_study(study_name=STUDY, storage=storage, direction="maximize", load_if_exists=True)
    if not opened.get_trials(deepcopy=False) and preset_fits(study):
        preset = present_settings(study.algorithm, study.env_id, study.preset)
        opened.enqueue_trial({span.name: as_choice(get(preset, span.name)) for span in study.space})
    return opened


def _mend(journal: Path) -> None:
    """Cut off the unfinished line of a process that was killed, behind which nothing could be read."""
    if journal.exists():
        data = journal.read_bytes()
        if not data.endswith(b"\n"):
            os.truncate(journal, data.rfind(b"\n") + 1)


def _next(opened: Any, study: TuneStudy, stopped: list[int], trials: int, end: float) -> int | None:
    """The number of the trial to begin, or to go on with; None: there is none."""
    if time.monotonic() >= end:
        return None
    if stopped:
        return stopped.pop(0)
    begun = sum(trial.state.name != "WAITING" for trial in opened.get_trials(deepcopy=False))
    if begun >= trials:
        return None
    from optuna.samplers import TPESampler

    # A sampler for each trial: what it proposes depends on the trials before, and on no stream that a kill cuts off.
    opened.sampler = TPESampler(seed=derive(study.seed, "tune", begun) % 2**32)
    number: int = opened.ask({span.name: _distribution(span) for span in study.space}).number
    return number


def _distribution(span: Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if span.choices:
        return CategoricalDistribution(span.choices)
    assert span.low is not None
    assert span.high is not None
    if span.whole:
        return IntDistribution(int(span.low), int(span.high), log=span.log)
    return FloatDistribution(span.low, span.high, log=span.log)


def _tell(opened: Any, number: int, outcome: Outcome) -> str:
    """Write down how a trial ended; a line that says it."""
    from optuna.trial import TrialState

    if outcome.state == "complete":
        opened.tell(number, outcome.score)
        return f"trial {number}: score {outcome.score:.2f}"
    if outcome.state == "pruned":
        opened.tell(number, state=TrialState.PRUNED)
        return f"trial {number}: ended early at {outcome.score:.2f}"
    trial = opened.get_trials(deepcopy=False)[number]
    opened._storage.set_trial_user_attr(trial._trial_id, REASON, outcome.reason)
    opened.tell(number, state=TrialState.FAIL)
    return f"trial {number}: failed: {outcome.reason}"
