"""The commands `mbrl tune` and `mbrl oracle-gap`. Heavy imports stay inside them."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from mbrl.experiments.oracle_gap import OracleGap
    from mbrl.experiments.tune import Row
    from mbrl.experiments.tune_trial import TuneStudy

SHOWN = 10
"""Trials of the table."""
FRESH = 100
"""First of the seeds that no trial has seen."""


def tune(
    algorithm: tyro.conf.Positional[str],
    /,
    env_id: str,
    trials: int = 20,
    space: tuple[str, ...] = (),
    total_timesteps: int | None = None,
    eval_every: int | None = None,
    eval_episodes: int = 5,
    seeds: int = 1,
    preset: str | None = None,
    seed: int = 0,
    jobs: int = 1,
    minutes: float | None = None,
    ray: tuple[str, ...] | None = None,
    out: Path | None = None,
) -> int:
    """Search for settings of an algorithm on an environment, and print the command that trains with the best.

    Trial 0 has the preset's own settings. A trial is one run directory for each seed; its score is the mean of the last
    three evaluations. Trials below the median of the earlier ones end early. Stopped, or killed, the same command goes
    on; with a larger --trials it goes on from there. docs/tune.md says more.

    Args:
        algorithm: pets, mbpo, sac and the others that learn by acting.
        env_id: Gymnasium id.
        trials: How many in all.
        space: NAME=low:high, NAME=low:high:log or NAME=a,b,c: what may be chosen. pets, mbpo and sac have ranges of
            their own around the preset.
        total_timesteps: Real steps of a run; the preset's by default.
        eval_every: Real steps between evaluations; by default there are ten or eleven.
        eval_episodes: Episodes of each.
        seeds: Runs of a trial, of seeds 0, 1, ...: with one, luck is chosen too.
        preset: Name of a preset, where the environment has several.
        seed: Of the choice of settings.
        jobs: Trials at once, each with one thread.
        minutes: Begin no further trial after about as many.
        ray: Run trials as tasks on the Ray cluster at this address, or on one that is started here if none is given.
        out: Folder of the study; tune/ENV__ALGORITHM by default.
    """
    from mbrl.experiments import tune_workers as places
    from mbrl.experiments.ray_jobs import address_of
    from mbrl.experiments.runs import check_minutes
    from mbrl.experiments.tune import tune as search

    check_minutes(minutes)
    study = _study(algorithm, env_id, preset, space, total_timesteps, eval_every, eval_episodes, seeds, seed)
    folder = out or Path("tune") / f"{env_id.replace('/', '-')}__{algorithm}"
    _announce(study, folder)
    workers = places.LocalWorkers(jobs) if ray is None else places.RayWorkers(address_of(ray), jobs)
    try:
        rows = search(study, folder, workers, trials=trials, minutes=minutes, say=_say)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return _conclude(study, rows)


def _announce(study: TuneStudy, folder: Path) -> None:
    from mbrl.experiments.tune_trial import preset_fits

    print(f"study: {folder}; stopped, the same command goes on", flush=True)
    for span in study.space:
        print(f"  {span}")
    if not preset_fits(study):
        print("no trial has the preset's settings, which lie outside these ranges", flush=True)


def _conclude(study: TuneStudy, rows: list[Row]) -> int:
    """Print the table and what to do with it; returns the exit status."""
    print(table(rows))
    best = max((row for row in rows if row.state == "complete"), key=_score, default=None)
    if best is None:
        print("no trial came to its end, so there are no best settings", file=sys.stderr)
        return 1
    print(advice(study, rows, best))
    return 0


def oracle_gap(
    runs: tyro.conf.Positional[tuple[Path, ...]], /, episodes: int = 5, true_steps: int | None = None, threads: int = 1
) -> int:
    """Say how much of what runs of PETS miss is the planner's fault, and how much the model's.

    The run's planner plays the same episodes through the true dynamics, through the learned ones with the true reward,
    and through the learned ones with a learned reward; and, to see what the search itself misses, a wider one plays
    them through the true dynamics. It is kept as oracle_gap.json in the run directory. docs/compare.md says more.

    Args:
        runs: Run directories of pets.
        episodes: Of each way to plan.
        true_steps: Steps that planning may take in the true dynamics; where they do not suffice, there is no wider
            search, or episodes are cut.
        threads: CPU threads of torch.
    """
    from mbrl.experiments import oracle_gap as gaps
    from mbrl.experiments.runs import set_threads

    set_threads(threads)
    if not runs:
        raise ValueError("runs: expected at least one run directory of pets, got none: mbrl oracle-gap runs/*__pets__*")
    for path in runs:
        allowed = gaps.TRUE_STEPS if true_steps is None else true_steps
        print(describe(gaps.oracle_gap(path, episodes=episodes, true_steps=allowed)), flush=True)
    return 0


def table(rows: list[Row]) -> str:
    """The best trials, best first, and the preset's."""
    names = list(dict.fromkeys(name for row in rows for name in row.chosen))
    head = ["trial", "state", "score", *(name.partition(".")[2] for name in names)]
    ranked = sorted((row for row in rows if row.state == "complete"), key=_score, reverse=True)
    rest = [row for row in rows if row.state != "complete"]
    cells = [head]
    for row in [*ranked, *rest][:SHOWN]:
        score = "" if row.score is None else f"{row.score:.2f}"
        cells.append([str(row.number), row.state, score, *(str(row.chosen.get(name, "")) for name in names)])
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    left_out = len(rows) + 1 - len(cells)
    failed = [f"trial {row.number} failed: {row.reason}" for row in rows if row.state == "failed"]
    return "\n".join([*lines, *([f"and {left_out} more"] if left_out else []), *failed])


def advice(study: TuneStudy, rows: list[Row], best: Row) -> str:
    """The command that trains with the best settings, and how far to believe their score."""
    from mbrl.experiments.tune_space import options
    from mbrl.experiments.tune_trial import present_settings

    chosen = options(present_settings(study.algorithm, study.env_id, study.preset), best.chosen)
    command = ["mbrl", "train", study.algorithm, "--env-id", study.env_id]
    command += ["--preset", study.preset] if study.preset else []
    for name in ("total_timesteps", "eval_every", "eval_episodes"):
        command += ["--" + name.replace("_", "-"), str(getattr(study, name))]
    complete = sum(row.state == "complete" for row in rows)
    seeds = " ".join(str(FRESH + i) for i in range(5))
    return (
        f"best: trial {best.number} with {best.score:.2f}, the highest of {complete}, so chosen with hindsight and too "
        f"high. What its settings are worth, fresh seeds tell:\n"
        f"for seed in {seeds}; do {shlex.join([*command, *chosen])} --seed $seed; done"
    )


def describe(gap: OracleGap) -> str:
    """An oracle gap as lines of text."""
    from mbrl.experiments.oracle_gap import ARMS, GAPS, difference

    cut = "" if gap.max_steps is None else f", cut at {gap.max_steps} steps"
    lines = [f"{gap.run}: {gap.episodes} episodes{cut}, model of {gap.steps} real steps"]
    width = max(map(len, ARMS.values()))
    for arm, label in ARMS.items():
        if arm in gap.returns:
            own = "  <- the run" if arm == gap.own else ""
            lines.append(f"  {label:<{width}}  {difference(gap.returns[arm]).value:10.2f}{own}")
        elif arm in gap.missing:
            lines.append(f"  {label:<{width}}  {'':>10}  not played: {gap.missing[arm]}")
    for name in GAPS:
        if found := gap.gap(name):
            span = "" if found.low is None else f"  [{found.low:.2f}, {found.high:.2f}]"
            lines.append(f"  lost to the {name:<{width - 12}}  {found.value:10.2f}{span}")
    for where, errors in (("run's metrics", gap.logged), ("visited", gap.visited), ("true dynamics", gap.oracle)):
        shown = ", ".join(f"{e.horizon}: {e.rmse:.3g} ({100 * e.coverage90:.0f} %)" for e in errors)
        lines.append(f"  model error by horizon (coverage of 90 %), {where}: {shown or 'none'}")
    return "\n".join(lines)


def _study(
    algorithm: str,
    env_id: str,
    preset: str | None,
    space: tuple[str, ...],
    total_timesteps: int | None,
    eval_every: int | None,
    eval_episodes: int,
    seeds: int,
    seed: int,
) -> TuneStudy:
    from mbrl.experiments.tune_space import default_space, first_choice, parse
    from mbrl.experiments.tune_trial import TuneStudy, new_run, present_settings

    settings = present_settings(algorithm, env_id, preset)
    ranges = tuple(parse(text, settings) for text in space) or default_space(algorithm, settings)
    if twice := [span.name for i, span in enumerate(ranges) if span.name in [other.name for other in ranges[:i]]]:
        raise ValueError(f"space: expected every setting once, got {', '.join(twice)} twice")
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1, got {seeds}")
    steps = next(iter(settings.values())).total_timesteps if total_timesteps is None else total_timesteps
    every = max(1, steps // 10) if eval_every is None else eval_every
    if every < 1:
        raise ValueError(f"eval_every: expected at least 1, for evaluations are what is scored, got {every}")
    if every > steps:
        raise ValueError(
            f"eval_every: expected at most total_timesteps ({steps}), for a score to choose by, got {every}"
        )
    study = TuneStudy(algorithm, env_id, ranges, preset, steps, every, eval_episodes, seeds, seed)
    with tempfile.TemporaryDirectory(prefix="mbrl-") as aside:  # what does not fit is told before the first trial
        new_run(study, first_choice(ranges, settings), seed=0, root=Path(aside))
    return study


def _score(row: Row) -> float:
    assert row.score is not None
    return row.score


def _say(line: str) -> None:
    print(line, flush=True)
