"""One trial of `mbrl tune`, in a process of its own: `python -m mbrl.experiments.tune_trial FOLDER NUMBER`.

It trains the trial's settings with each seed, in run directories; what is there already is gone on with, so that a
trial that was killed comes to the result that it would have come to. After every evaluation the score so far is
reported, and the trial ends early where that is below the median of the others' at the same step.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mbrl.experiments.tune_space import Range, Value, as_json, contains, from_json, get, put

EVALUATION = "eval/mean_reward"
SCORED = 3
"""Last evaluations whose mean is a run's score: one alone is luck."""
STUDY, JOURNAL, TRIALS = "tune.json", "journal.log", "trials"
COMPLETE, COMPARED = 4, 3
"""Trials that are complete, and those of them with a score at the same step, before one is ended early."""


@dataclass(frozen=True)
class TuneStudy:
    """What is tuned, and how a trial is scored. Kept as `STUDY`; a study goes on with the same one only."""

    algorithm: str
    env_id: str
    space: tuple[Range, ...]
    preset: str | None
    total_timesteps: int
    """Real steps of a run."""
    eval_every: int
    eval_episodes: int
    seeds: int
    """Runs of a trial, with seeds 0, 1, ...: the same in all trials, so that they differ in settings alone."""
    seed: int
    """Of the choice of settings."""

    def settings(self, chosen: Mapping[str, Value] | None = None) -> dict[str, Any]:
        """The preset's settings with this study's budget and evaluations, and chosen ones in place, by name in
        config.json.

        Raises:
            ValueError: there is no such preset, a setting is out of range, or two disagree.
        """
        found = present_settings(self.algorithm, self.env_id, self.preset)
        loop = next(iter(found))
        budget = {f"{loop}.{name}": getattr(self, name) for name in ("total_timesteps", "eval_every", "eval_episodes")}
        return put(found, {**budget, **(chosen or {})})

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "space": as_json(self.space)}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> TuneStudy:
        return cls(**{**stored, "space": from_json(stored["space"])})


class Outcome(NamedTuple):
    """How a trial ended."""

    state: Literal["complete", "pruned", "failed"]
    score: float | None = None
    reason: str = ""


def present_settings(algorithm: str, env_id: str, preset: str | None) -> dict[str, Any]:
    """The settings of an algorithm's preset, by their name in config.json.

    Raises:
        ValueError: the algorithm can't be tuned, or there is no such preset.
    """
    from mbrl.experiments.agent_runs import ALGORITHMS
    from mbrl.experiments.runs import PETS
    from mbrl.pipelines.pets_config import preset as pets_preset

    if algorithm == PETS:
        if preset is not None:
            raise ValueError(f"preset: expected none, for pets has one an environment, got {preset!r}")
        return {"pets": pets_preset(env_id)}
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm: expected one of {', '.join((PETS, *ALGORITHMS))}, got {algorithm!r}")
    found = ALGORITHMS[algorithm].preset(env_id, preset)
    return {"loop": found.config, "learner": found.learner}


def preset_fits(study: TuneStudy) -> bool:
    """Whether the preset's own settings can be chosen: then they are trial 0."""
    preset = present_settings(study.algorithm, study.env_id, study.preset)
    return all(contains(span, get(preset, span.name)) for span in study.space)


def open_storage(folder: Path) -> Any:
    """The journal of a study, which processes and machines share.

    Raises:
        ValueError: Optuna is not installed.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise ValueError('tune: expected Optuna to be installed; pip install ".[tune]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Absolute: Optuna's lock is a link to the journal's name, and where that leads nowhere, the lock of a process that
    # was killed is waited for without end.
    return JournalStorage(JournalFileBackend(str(folder.resolve() / JOURNAL)))


def work(folder: str | Path, number: int) -> Outcome:
    """Do a trial, or go on with it; what goes wrong with its settings is an outcome too.

    Raises:
        OSError: the machine is at fault, not the settings: its disk is full, say.
    """
    folder = Path(folder)
    study = TuneStudy.from_json(json.loads((folder / STUDY).read_text()))
    reports = _Reports(folder, study, number)
    scores: list[float] = []
    try:
        for seed in range(study.seeds):
            watch = _Watch(reports, scores, seed * study.total_timesteps)
            watch.run = _train(folder / TRIALS / f"{number:04d}", study, reports.trial.params, seed, watch)
            if watch.pruned:
                return Outcome("pruned", watch.score)
            scores.append(watch.final())
    except OSError:
        raise
    except Exception as error:  # settings that don't fit, or that training diverged with, or ran out of memory
        traceback.print_exc()
        return Outcome("failed", reason=" ".join((f"{error}" or type(error).__name__).split()))
    return Outcome("complete", sum(scores) / len(scores))


def _train(root: Path, study: TuneStudy, chosen: dict[str, Value], seed: int, watch: _Watch) -> Any:
    """Train a seed to its end, or until `watch` ends it; returns its run."""
    from mbrl.experiments import runs
    from mbrl.experiments.lock import locked
    from mbrl.experiments.run import Run

    there = sorted(root.glob(f"*__{seed}__*/config.json"))
    watch.run = run = Run.open(there[-1].parent) if there else new_run(study, chosen, seed=seed, root=root)
    with locked(run.path, wait=True):  # a worker whose study was killed takes a moment to end
        runs.train_run(run, progress=False, stop=watch)
    return run


def new_run(study: TuneStudy, chosen: dict[str, Value], *, seed: int, root: Path) -> Any:
    """A run directory of a trial's settings.

    Raises:
        ValueError: they do not fit the environment, or there is none of that id.
    """
    from mbrl.experiments.start import start_run

    config, *learner = study.settings(chosen).values()
    return start_run(
        study.algorithm,
        root=root,
        env_id=study.env_id,
        dataset=None,
        config=config,
        learner=learner[0] if learner else None,
        preset=study.preset,
        seed=seed,
        distill=False,
        tensorboard=False,
    )


class _Reports:
    """The trial in the journal: its settings, and the scores that it has reported."""

    def __init__(self, folder: Path, study: TuneStudy, number: int) -> None:
        import optuna

        self._storage = open_storage(folder)
        self._study = optuna.load_study(study_name=STUDY, storage=self._storage)
        self._warm_up = study.total_timesteps // 3
        self._number = number

    @property
    def trial(self) -> Any:
        return self._study.get_trials(deepcopy=False)[self._number]

    def add(self, step: int, score: float) -> bool:
        """Report a score; whether the trial is to end. One that goes on after a kill has reported some before."""
        trial = self.trial
        if step not in trial.intermediate_values:
            self._storage.set_trial_intermediate_value(trial._trial_id, step, score)
        return step >= self._warm_up and self._lags(step, score)

    def _lags(self, step: int, score: float) -> bool:
        """Whether a score is below the median of the complete trials' at the same step. Optuna's `MedianPruner` would
        compare the trial's best score so far, which one lucky evaluation keeps up."""
        complete = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
        others = [trial.intermediate_values[step] for trial in complete if step in trial.intermediate_values]
        return len(complete) >= COMPLETE and len(others) >= COMPARED and score < statistics.median(others)


class _Watch:
    """Asked after every real step whether a run is to end: looks for new evaluations in its metrics.

    Args:
        reports: takes scores.
        before: scores of the trial's runs before this one.
        offset: steps of those runs.
    """

    def __init__(self, reports: _Reports, before: list[float], offset: int) -> None:
        self._reports, self._before, self._offset = reports, before, offset
        self.run: Any = None
        self.pruned = False
        self.score: float | None = None
        self._size = -1

    def __call__(self) -> bool:
        from mbrl.experiments.metrics import STEP

        size = self.run.offset
        if size == self._size or self.pruned:
            return self.pruned
        self._size = size
        rows = self._evaluations()
        for end, row in enumerate(rows, start=1):  # all: a kill may have come between an evaluation and its report
            self.score = (sum(self._before) + _last(rows[:end])) / (len(self._before) + 1)
            self.pruned = self._reports.add(self._offset + int(row[STEP]), self.score)
            if self.pruned:
                break
        return self.pruned

    def final(self) -> float:
        """The score of a run that has ended.

        Raises:
            ValueError: it was never evaluated.
        """
        rows = self._evaluations()
        if not rows:
            raise ValueError("eval_every: expected evaluations behind the first update, got none")
        return _last(rows)

    def _evaluations(self) -> list[dict[str, Any]]:
        return [row for row in self.run.metrics() if EVALUATION in row]


def _last(rows: list[dict[str, Any]]) -> float:
    values = [row[EVALUATION] for row in rows[-SCORED:]]
    if None in values:
        raise ValueError("the simulation diverged in an evaluation")
    return float(sum(values) / len(values))


def main(args: list[str]) -> int:
    """Do a trial; the last line of the output is its outcome."""
    folder, number = args
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    print(json.dumps(work(folder, int(number))), flush=True)
    return 0


def _end_with_parent() -> None:
    """The parent holds the other end of standard input and never writes: it ends when the parent does, killed or not,
    so that whoever starts the study again does not meet workers of the one before."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
