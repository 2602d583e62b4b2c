"""Results of finished runs: what a comparison knows of each run directory, checked before anything is computed.

Whatever would make a figure silently wrong is either an error (the question makes no sense: two versions of one task,
two runs of one seed) or a warning that the report shows (an interrupted run, other library versions). A run that can't
be read is a failure with its reason, never a gap.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from mbrl.envs.make import make_env, task_options
from mbrl.envs.tasks import task
from mbrl.experiments.checkpoint import checkpoints
from mbrl.experiments.comparability import (
    check_distinct,
    check_versions,
    protocol_warnings,
    settings_warnings,
    software_warnings,
)
from mbrl.experiments.costs import Sizes, cost_curves
from mbrl.experiments.metrics import METRICS, STEP
from mbrl.experiments.provenance import DISTRIBUTION, unseal
from mbrl.experiments.run import Run
from mbrl.pipelines.bookkeeping import differences
from mbrl.seeding import derive

COSTS = ("steps", "minutes", "cpu_minutes", "gradient_steps", "model_steps", "flops")
"""What a run costs: real environment steps, wall-clock minutes with evaluations, minutes of the processor without,
gradient steps of learner and model together, steps in a learned model, and floating-point operations of networks (see
`mbrl.experiments.costs`)."""
FINAL = "evaluation.json"
"""The final evaluation in a run directory."""
FINAL_SEED = derive("final evaluation")
"""Of its episodes: all runs meet the same start states."""
MODEL_BASED = frozenset({"pets", "dyna", "mbpo", "mopo", "combo", "mobile"})
"""Values of a run's `algo` that learn a model of the dynamics."""


@dataclass(frozen=True)
class EvaluationProtocol:
    """What makes returns comparable. How often a run is evaluated is resolution, and is not part of it."""

    env_id: str
    env_kwargs: str
    """Options of the environment, as JSON text with sorted keys."""
    episodes: int
    """Per evaluation, whose actions are the policy's mode."""


@dataclass(frozen=True)
class Outcome:
    """What one run came to."""

    path: Path
    env_id: str
    algorithm: str
    """The label that the user gave, unique in a comparison."""
    algo: str
    """The run directory's own name of the algorithm."""
    seed: int
    steps: np.ndarray
    """[evaluations] real environment steps, rising."""
    returns: np.ndarray
    """[evaluations] mean return of deterministic episodes; -inf where the simulation diverged."""
    costs: dict[str, np.ndarray]
    """[evaluations] for each of `COSTS`, what was spent until then; NaN where that is not known."""
    final: dict[str, float | None]
    """Mean return of the "deterministic" and the "stochastic" final evaluation; None where there is none."""
    final_episodes: int | None
    """Of each of them."""
    settings: dict[str, Any]
    """The run's settings, as config.json has them."""
    protocol: EvaluationProtocol
    versions: dict[str, str]
    commit: str | None
    machine: str | None
    """What it was made on, in words; None: it is older than that is kept."""
    complete: bool
    """Whether the run reached all of its steps."""

    @property
    def model_based(self) -> bool:
        return self.algo in MODEL_BASED


@dataclass(frozen=True)
class Failure:
    """A run that is missing from the figures, and why."""

    env_id: str | None
    """None where not even this could be read."""
    algorithm: str
    seed: int | None
    path: Path | None
    reason: str


@dataclass(frozen=True)
class Results:
    """All outcomes of a comparison, with everything that a reader must know about them."""

    outcomes: tuple[Outcome, ...]
    warnings: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = field(default=())


def read_results(cells: Iterable[tuple[str, str | Path]], *, failures: Iterable[Failure] = ()) -> Results:
    """Read run directories, and check that they can be compared.

    Args:
        cells: (label, run directory) of every run; a label is one algorithm's name in the comparison.
        failures: runs that are known to be missing, which the report has to list.

    Raises:
        ValueError: two versions of one environment, two runs of one label, task and seed, one directory under two
            labels, a label for two algorithms, or no run that can be read.
    """
    cells = list(cells)
    check_versions(_env_ids(path for _, path in cells))
    outcomes, failed = [], list(failures)
    warnings: list[str] = []
    for label, path in cells:
        try:
            outcome, said = _read(label, Path(path))
        except KeyError as error:
            failed.append(_failure(label, Path(path), f"its settings lack {error}, which this version looks for"))
            continue
        except ValueError as error:
            failed.append(_failure(label, Path(path), str(error)))
            continue
        outcomes.append(outcome)
        warnings += said
    if not outcomes:
        reasons = "; ".join(f"{each.algorithm}: {each.reason}" for each in failed[:3])
        raise ValueError(f"runs: expected at least one that can be read, got {len(failed)} that can't ({reasons})")
    check_distinct(outcomes)
    warnings += [_missing(failure) for failure in failed]
    warnings += [*protocol_warnings(outcomes), *settings_warnings(outcomes), *software_warnings(outcomes)]
    return Results(tuple(outcomes), tuple(warnings), tuple(failed))


def _env_ids(paths: Iterable[str | Path]) -> Iterator[str]:
    """Of the runs that can be opened."""
    for path in paths:
        with contextlib.suppress(ValueError):
            yield Run.open(path).env_id


def _read(label: str, path: Path) -> tuple[Outcome, list[str]]:
    """One run, and what a reader must know about it. Raises ValueError where it can't be read."""
    run = Run.open(path)
    if run.x != STEP:
        raise ValueError(f"{path} learns from a dataset and takes no real steps: there is nothing to compare them by")
    rows = run.metrics()
    said = []
    if run.metrics_path.exists() and run.offset < run.metrics_path.stat().st_size:
        said.append(f"{_name(label, run)}: the last line of {METRICS} is unfinished, and is left out")
    at = [number for number, row in enumerate(rows) if "eval/mean_reward" in row]
    evaluations = [rows[number] for number in at]
    if not evaluations:
        raise ValueError(f"{path} has no evaluation yet; runs are evaluated where eval_every is not 0")
    config = loop_settings(run.config)
    env = _environment(run)
    costs = {axis: spent[at] for axis, spent in cost_curves(run.algo, run.config, rows, _sizes(*env)).items()}
    said += [f"{_name(label, run)}: {text}" for text in _check(costs, path)]
    returns, unusable = _returns(evaluations)
    if unusable:
        said.append(f"{_name(label, run)}: the simulation diverged in {unusable} of {len(returns)} evaluations")
    complete = _steps_done(run, rows) >= config["total_timesteps"]
    if not complete:
        said.append(
            f"{_name(label, run)} is not complete: it took {_steps_done(run, rows):,} of "
            f"{config['total_timesteps']:,} steps"
        )
    if len(software := run.header.get("software", [])) > 1:
        found = ", ".join(sorted({_software(one) for one in software}))
        said.append(f"{_name(label, run)} was made and trained with several versions of this library: {found}")
    if changed := _changed(run.header):
        said.append(
            f"{_name(label, run)} went on with other settings ({', '.join(changed)}; mbrl resume --settings): those "
            "that are shown are the last, and the curve is that of several"
        )
    final, told = _final(run)
    said += [f"{_name(label, run)}: {text}" for text in told]
    outcome = Outcome(
        path=path,
        env_id=run.env_id,
        algorithm=label,
        algo=run.algo,
        seed=run.seed,
        steps=costs["steps"].astype(int),
        returns=returns,
        costs=costs,
        final=final.returns,
        final_episodes=final.episodes,
        settings=run.config,
        protocol=EvaluationProtocol(run.env_id, env[1], int(config["eval_episodes"])),
        versions=run.header.get("versions", {}),
        commit=run.header.get("git_commit"),
        machine=_machines(run.header),
        complete=complete,
    )
    return outcome, said


def _software(noted: Mapping[str, Any]) -> str:
    commit = noted.get("git_commit")
    return f"{(noted.get('versions') or {}).get(DISTRIBUTION, 'unknown')}" + (f" at {commit[:12]}" if commit else "")


def _changed(header: Mapping[str, Any]) -> list[str]:
    """Names of settings that were changed on the way; more steps alone are no other settings."""
    found = set()
    for change in header.get("changes", []):
        for part, before in change["config"].items():
            now = header["config"].get(part)
            found |= set(differences(before, now)) if isinstance(before, dict) and isinstance(now, dict) else set()
    return sorted(found - {"total_timesteps"})


def _check(costs: dict[str, np.ndarray], path: Path) -> list[str]:
    """Make costs that fall unknown, and say so. Raises ValueError where steps do not rise."""
    if not (np.diff(costs["steps"], prepend=-1) > 0).all():
        raise ValueError(f"{path / METRICS} is damaged: real steps of its evaluations do not rise")
    falling = [axis for axis, spent in costs.items() if (np.diff(spent) < 0).any()]
    costs |= {axis: np.full(len(costs[axis]), math.nan) for axis in falling}
    return [f"its {axis} fall in {METRICS}, which is damaged; they count as unknown" for axis in falling]


def loop_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's settings that says how long it is and how it is evaluated.

    Raises:
        ValueError: there is none.
    """
    for part in config.values():
        if isinstance(part, dict) and "total_timesteps" in part:
            return part
    raise ValueError(f"config: expected settings with total_timesteps, got {', '.join(config)}")


def _environment(run: Run) -> tuple[str, str]:
    """Id, and options as JSON text: PETS has the library's own, all others Gymnasium's and those of their settings."""
    kwargs = task_options(run.env_id) if run.algo == "pets" else run.config.get("env_kwargs", {})
    return run.env_id, json.dumps(kwargs, sort_keys=True)


@cache
def _sizes(env_id: str, env_kwargs: str) -> Sizes:
    env = make_env(env_id, discrete=True, check=False, as_registered=True, **json.loads(env_kwargs))
    observations, actions = env.observation_space, env.action_space
    known = task(env)
    env.close()
    discrete = isinstance(actions, gym.spaces.Discrete)
    act = int(actions.n) if isinstance(actions, gym.spaces.Discrete) else math.prod(actions.shape or ())
    return Sizes(math.prod(observations.shape or ()), act, discrete, known)


def _returns(evaluations: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, int]:
    """[evaluations] with -inf for what metrics.jsonl has as null, and how many there are of these."""
    returns = [row["eval/mean_reward"] for row in evaluations]
    return np.array([-math.inf if x is None else float(x) for x in returns]), sum(x is None for x in returns)


def _steps_done(run: Run, rows: Sequence[Mapping[str, Any]]) -> int:
    """Real steps, by its metrics or its newest checkpoint: the last step need not be one that is logged."""
    logged = max((int(row.get(STEP) or 0) for row in rows), default=0)
    saved = [int(found[0]) for path in checkpoints(run.path)[:1] if (found := re.findall(r"-step(\d+)$", path.name))]
    return max(logged, *saved, 0)


class _Final(NamedTuple):
    """The final evaluation of a run."""

    returns: dict[str, float | None]
    episodes: int | None


def _final(run: Run) -> tuple[_Final, list[str]]:
    """The final evaluation, and what a reader must know of it. Raises ValueError where the file is damaged."""
    file, kinds = run.path / FINAL, ("deterministic", "stochastic")
    said: list[str] = []
    if not file.exists():
        return _Final(dict.fromkeys(kinds), None), said
    try:
        content = unseal(file.read_bytes())
        found = _Final({kind: _mean_return(content[kind]) for kind in kinds}, len(content["deterministic"]["returns"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); delete it, and mbrl compare makes it again") from None
    newest = [path.name for path in checkpoints(run.path)[:1]]
    if newest and content.get("checkpoint") not in newest:
        said.append(f"its final evaluation is of {content.get('checkpoint')}, and not of its newest checkpoint")
    if content.get("seed", FINAL_SEED) != FINAL_SEED:
        said.append("its final evaluation has other start states than this version's: they are not the others'")
    return found, said


def _mean_return(played: Mapping[str, Any] | None) -> float | None:
    if played is None:
        return None
    return float(np.mean([-math.inf if ret is None else ret for ret in played["returns"]]))


def _machines(header: Mapping[str, Any]) -> str | None:
    """Those that a run was trained on; what was not noted there was where its directory was made."""
    made = header.get("machine")
    noted = header.get("machines") or ([made] if made else [])
    return ", then ".join(_machine(found) for found in noted) or None


def _machine(found: Mapping[str, Any]) -> str:
    threads = "" if found["threads"] is None else f", {found['threads']} threads"
    return f"{found['processor']}, {found['cores']} cores{threads}"


def _failure(label: str, path: Path, reason: str) -> Failure:
    try:
        run = Run.open(path)
    except ValueError:
        return Failure(None, label, None, path, reason)
    return Failure(run.env_id, label, run.seed, path, reason)


def _name(label: str, run: Run | Outcome) -> str:
    return f"{label} on {run.env_id}, seed {run.seed}"


def _missing(failure: Failure) -> str:
    where = f" on {failure.env_id}" if failure.env_id else ""
    seed = "" if failure.seed is None else f", seed {failure.seed}"
    return f"{failure.algorithm}{where}{seed} is missing from every figure: {failure.reason}"
