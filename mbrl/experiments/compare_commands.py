"""The command `mbrl compare`. Heavy imports stay inside it."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mbrl.experiments.compare import Comparison
    from mbrl.experiments.jobs import Jobs
    from mbrl.experiments.study import Study

ORACLE_EPISODES = 3
DIVISIONS = range(20, 4, -1)
"""Evaluations of a budget, the best number first."""


def compare(
    env_id: tuple[str, ...] = (),
    algorithms: tuple[str, ...] = (),
    study: Literal["smoke", "small"] | None = None,
    total_timesteps: int | None = None,
    seeds: int | None = None,
    eval_every: int | None = None,
    eval_episodes: int | None = None,
    times: tuple[str, ...] = (),
    eval_times: tuple[str, ...] = (),
    threshold: tuple[str, ...] = (),
    root: Path = Path("runs"),
    out: Path = Path("comparison"),
    jobs: int | None = None,
    ray: tuple[str, ...] | None = None,
    gpu_share: float = 0.0,
    device: str = "cpu",
    oracle_episodes: int = ORACLE_EPISODES,
) -> int:
    """Compare algorithms on environments, with and without a model, and write a report to send.

    Runs what is missing, each with the library's settings for its environment; run directories in --root that were
    made with the same settings count, by whatever command. A run that fails is tried once more, and then reported.
    Stopped, or killed, the same command goes on. The exit status is 1 if a run failed. docs/compare.md says more.

    Args:
        env_id: Gymnasium ids.
        algorithms: As in mbrl train, such as pets mbpo sac redq sb3-ppo; ALGORITHM:PRESET for settings by name.
        study: In place of --env-id and --algorithms. smoke: minutes, to see that all works; small: hours.
        total_timesteps: Real steps that every algorithm has on every environment, where they are compared.
        seeds: How many: 0, 1, ... 5 by default.
        eval_every: Real steps between evaluations, a divisor of --total-timesteps; by default 20 of them, at least 5.
        eval_episodes: Episodes of each. 5 by default.
        times: ALGORITHM=N: its runs last N times as long, to see when it gets where others got.
        eval_times: ALGORITHM=N: its evaluations are N times as far apart, for long runs.
        threshold: ENV_ID=RETURN: the return whose cost is asked for.
        root: Folder of run directories.
        out: Folder of the report, study.json, tables and figures.
        jobs: Runs at once, each with one thread; by default as many as there are cores. A cluster at an address has as
            many as it has room for.
        ray: Run them as tasks on the Ray cluster at this address, or on one that is started here if none is given.
        gpu_share: Of a GPU for each run on Ray.
        device: Where networks live: cpu, cuda, ...; with --study, too.
        oracle_episodes: Episodes with which PETS's planner is set apart from its model; 0: none.
    """
    chosen = _study(study, env_id, algorithms, total_timesteps, seeds, eval_every, eval_episodes, times, eval_times)
    chosen = replace(chosen, entries=tuple(replace(entry, device=device) for entry in chosen.entries))
    thresholds = _numbers("threshold", threshold, [task.env_id for task in chosen.tasks])
    again = _command(study, chosen, threshold, oracle_episodes)
    import torch

    from mbrl.experiments.cell_status import LOCK
    from mbrl.experiments.compare import Comparison
    from mbrl.experiments.lock import locked
    from planners.cores import effective_cores

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, file_name=LOCK, argument="out"):
        comparison = Comparison.prepare(chosen, root=root, out=out, oracle_episodes=oracle_episodes, command=again)
        where = _jobs(ray, effective_cores() if jobs is None else jobs, gpu_share, oracle_episodes)
        return _work(comparison, where, thresholds)


def _work(comparison: Comparison, where: Jobs, thresholds: Mapping[str, float]) -> int:
    """Run what is missing, and report; returns the exit status."""
    from mbrl.experiments.compare import report_study, run_study

    runs = len(comparison.statuses)
    there = sum(status.state == "done" for status in comparison.statuses)
    print(f"{runs} runs, {there} of which are there and finished; stopped, the same command goes on", flush=True)
    try:
        run_study(comparison, where)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    report = report_study(comparison, thresholds=thresholds)
    failed = [status for status in comparison.statuses if status.state == "failed"]
    for status in failed:
        print(f"failed: {status.cell}: {status.reason}", file=sys.stderr)
    print(f"report: {report}")
    return 1 if failed else 0


def _study(
    name: str | None,
    env_ids: tuple[str, ...],
    algorithms: tuple[str, ...],
    budget: int | None,
    seeds: int | None,
    eval_every: int | None,
    eval_episodes: int | None,
    times: tuple[str, ...],
    eval_times: tuple[str, ...],
) -> Study:
    """The study that is asked for, by name or by its parts."""
    from mbrl.experiments.study import STUDIES, Entry, Study, Task

    if name is not None:
        numbers = (budget, seeds, eval_every, eval_episodes)
        if any((env_ids, algorithms, times, eval_times)) or any(number is not None for number in numbers):
            raise ValueError(f"study: expected no settings of a study beside it, for {name} has its own, got some")
        return STUDIES[name]
    if not env_ids or not algorithms or budget is None:
        raise ValueError(
            "study: expected --env-id, --algorithms and --total-timesteps, or --study smoke, got neither: say mbrl "
            "compare --env-id Pendulum-v1 --algorithms pets sac --total-timesteps 2000"
        )
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds: expected at least 1, got {seeds}")
    if budget < 1:
        raise ValueError(f"total_timesteps: expected at least 1, got {budget}")
    every = _default_every(budget, _together(algorithms, env_ids)) if eval_every is None else eval_every
    longer, apart = _numbers("times", times, algorithms), _numbers("eval_times", eval_times, algorithms)
    entries = []
    for label in algorithms:
        algorithm, _, preset = label.partition(":")
        entries.append(Entry(label, algorithm, preset or None, int(longer.get(label, 1)), int(apart.get(label, 1))))
    tasks = tuple(Task(env_id, budget, every, 5 if eval_episodes is None else eval_episodes) for env_id in env_ids)
    return Study("", tasks, tuple(entries), tuple(range(5 if seeds is None else seeds)))


def _together(algorithms: Sequence[str], env_ids: Sequence[str]) -> int:
    """Evaluations are after a multiple of so many steps, which presets take at once in several environments."""
    from mbrl.experiments.sb3_presets import SB3, sb3_preset

    return math.lcm(
        *(sb3_preset(one, env_id).config.num_envs for one in algorithms if one in SB3 for env_id in env_ids)
    )


def _default_every(budget: int, together: int) -> int:
    """Real steps between evaluations; where `together` can't be kept to, whatever number of steps says so itself."""
    for count in (*(one for one in DIVISIONS if budget % (one * together) == 0), *DIVISIONS):
        if budget % count == 0:
            return budget // count
    raise ValueError(
        f"eval_every: expected it to be given, a divisor of the {budget} steps, for they can't be cut into "
        f"{DIVISIONS[-1]} to {DIVISIONS[0]} equal parts; or give a rounder --total-timesteps"
    )


def _command(name: str | None, study: Study, threshold: tuple[str, ...], oracle_episodes: int) -> str:
    """What asks for the same study again; where it runs is left to who does."""
    words = ["mbrl", "compare"]
    if name is not None:
        words += ["--study", name]
    else:
        task, entries = study.tasks[0], study.entries
        times = [f"{entry.label}={entry.times}" for entry in entries if entry.times > 1]
        eval_times = [f"{entry.label}={entry.eval_times}" for entry in entries if entry.eval_times > 1]
        words += ["--env-id", *(task.env_id for task in study.tasks)]
        words += ["--algorithms", *(entry.label for entry in entries)]
        words += ["--seeds", str(len(study.seeds)), "--total-timesteps", str(task.budget)]
        words += ["--eval-every", str(task.eval_every), "--eval-episodes", str(task.eval_episodes)]
        words += ["--times", *times] if times else []
        words += ["--eval-times", *eval_times] if eval_times else []
    words += ["--threshold", *threshold] if threshold else []
    words += ["--device", study.entries[0].device] if study.entries[0].device != "cpu" else []
    words += ["--oracle-episodes", str(oracle_episodes)] if oracle_episodes != ORACLE_EPISODES else []
    return shlex.join(words)


def _numbers(option: str, given: Iterable[str], names: Iterable[str]) -> dict[str, float]:
    """`NAME=NUMBER`, each once."""
    names, found = tuple(names), {}
    for one in given:
        name, _, number = one.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        whole = option == "threshold" or value == int(value) if math.isfinite(value) else False
        if name not in names or name in found or not whole:
            raise ValueError(
                f"{option}: expected NAME=NUMBER, with each of {', '.join(names)} at most once, got {one!r}"
            )
        found[name] = value
    return found


def _jobs(ray: tuple[str, ...] | None, jobs: int, gpu_share: float, oracle_episodes: int) -> Jobs:
    """Where runs are worked on."""
    from mbrl.experiments.jobs import LocalJobs
    from mbrl.experiments.ray_jobs import RayJobs, address_of

    if ray is None:
        if gpu_share:
            raise ValueError(f"gpu_share: expected --ray beside it, for it is told to Ray, got {gpu_share} without")
        return LocalJobs(jobs, oracle_episodes=oracle_episodes)
    return RayJobs(address_of(ray), jobs=jobs, gpu_share=gpu_share, oracle_episodes=oracle_episodes)
