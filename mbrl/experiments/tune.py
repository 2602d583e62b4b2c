"""Search for settings: Optuna proposes, run directories are trained, and bad ones end early.

A study is a folder with `tune.json` (what is tuned), `journal.log` (Optuna's trials) and run directories in `trials/`.
Trial 0 has the preset's own settings, to compare with. Whatever was going on when a study was stopped or killed goes on
from its checkpoints when it is started again. With one job, the same seed proposes the same settings, interrupted or
not; with several, proposals depend on which trials have ended first.

Settings are proposed by the tree-structured Parzen estimator (Bergstra et al. 2011,
https://papers.nips.cc/paper/4443), after ten at random; the median rule that ends trials is that of Golovin et al.
(2017), https://research.google/pubs/pub46180, but for what it compares, which is the score so far.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, NamedTuple

from mbrl.experiments.lock import locked
from mbrl.experiments.tune_space import Range, Value, as_choice, get, rounded
from mbrl.experiments.tune_trial import (
    JOURNAL,
    STUDY,
    Outcome,
    TuneStudy,
    open_storage,
    present_settings,
    preset_fits,
)
from mbrl.experiments.tune_workers import Workers
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
        OSError: a worker could not do its work, because a disk is full, say.
    """
    if trials < 1:
        raise ValueError(f"trials: expected at least 1, got {trials}")
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _keep(study, folder)
        opened = _open(study, folder)
        stopped = [row.number for row in rows(folder) if row.state == "running"]
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
            trial.params,
            trial.user_attrs.get(REASON, ""),
        )
        for trial in found
        if trial.state.name in names
    ]


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
    """The study in the journal."""
    _mend(folder / JOURNAL)
    storage = open_storage(folder)
    import optuna

    try:  # creating one that exists writes a line, too
        return optuna.load_study(study_name=STUDY, storage=storage)
    except KeyError:
        return optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")


def _mend(journal: Path) -> None:
    """Take away what a process that was killed left behind: its lock of the journal, which nobody else has while the
    study is locked, and its unfinished line, behind which nothing could be read."""
    for left in journal.parent.glob(f"{journal.name}.lock*"):
        left.unlink(missing_ok=True)
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
    number = len(opened.get_trials(deepcopy=False))
    if number >= trials:
        return None
    from optuna.trial import TrialState, create_trial

    distributions = {span.name: _distribution(span) for span in study.space}
    chosen = _preset(study) if number == 0 and preset_fits(study) else _proposed(opened, study, distributions)
    # At once, in one line of the journal. `ask` takes a line for each setting, and a kill between two leaves half.
    opened.add_trial(create_trial(state=TrialState.RUNNING, params=chosen, distributions=distributions))
    return number


def _preset(study: TuneStudy) -> dict[str, Value]:
    settings = present_settings(study.algorithm, study.env_id, study.preset)
    return {span.name: as_choice(get(settings, span.name)) for span in study.space}


def _proposed(opened: Any, study: TuneStudy, distributions: dict[str, Any]) -> dict[str, Value]:
    """Settings of the next trial, asked of a copy of the study in memory.

    The sampler is a new one for each trial: what it proposes depends on the trials before, and on no stream that a kill
    cuts off.
    """
    import optuna

    there = opened.get_trials(deepcopy=False)
    sampler = optuna.samplers.TPESampler(seed=derive(study.seed, "tune", len(there)) % 2**32)
    copy = optuna.create_study(direction="maximize", sampler=sampler)
    copy.add_trials(there)
    params = copy.ask(distributions).params
    return {span.name: rounded(params[span.name], span) for span in study.space}


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
