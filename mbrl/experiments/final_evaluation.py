"""The final evaluation of a run: what it has learned plays episodes that are the same for every run of its task.

Every policy meets the same start states, whatever its algorithm and seed, once with its best actions and once with
actions sampled as in training. Planning is a function of its inputs, and TD3's policy is, too: they have no second
entry. Planners, whose episodes are dear, play the first of them, as many as each of their evaluations had. The returns
stand in evaluation.json in the run directory.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbrl.experiments import runs
from mbrl.experiments.checkpoint import newest_whole
from mbrl.experiments.evaluate import Evaluation, evaluate, evaluate_together
from mbrl.experiments.pets_runs import pets_config
from mbrl.experiments.provenance import DamagedError, seal, sync, unseal, write_durably
from mbrl.experiments.results import FINAL, FINAL_SEED
from mbrl.experiments.run import Run

FORMAT = 1
EPISODES = 20


@dataclass(frozen=True)
class Played:
    """Episodes of one kind."""

    returns: tuple[float, ...]
    """-inf where the simulation diverged."""
    lengths: tuple[int, ...]
    """Steps of each."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))


@dataclass(frozen=True)
class FinalEvaluation:
    """What evaluation.json holds."""

    checkpoint: str
    """Name of the checkpoint that was evaluated: the newest that is whole."""
    deterministic: Played
    stochastic: Played | None
    """None: the policy samples nothing."""


def final_evaluation(run: Run) -> FinalEvaluation:
    """Evaluate a run's newest checkpoint, and keep the result in its directory; a result that is there is read.

    A damaged result is made again.

    Raises:
        ValueError: the run has no checkpoint, or it is damaged.
    """
    known, newest = final_or_none(run.path), newest_whole(run.path)
    if known is not None and newest is not None and known.checkpoint == newest.name:
        return known
    best, sampled = _plan(run) if run.algo == runs.PETS else _act(run)
    assert newest is not None  # it was loaded
    result = FinalEvaluation(newest.name, _played(best), None if sampled is None else _played(sampled))
    _write(run.path / FINAL, result)
    return result


def _plan(run: Run) -> tuple[Evaluation, None]:
    """Of a planner, whose best action is its only one; its episodes go side by side, which is far cheaper."""
    episodes = pets_config(run).eval_episodes
    with contextlib.ExitStack() as stack:
        envs = [stack.enter_context(contextlib.closing(runs.run_env(run))) for _ in range(episodes)]
        return evaluate_together(runs.load_policy(run, envs[0]), envs, seed=FINAL_SEED), None


def _act(run: Run) -> tuple[Evaluation, Evaluation | None]:
    """Of a policy, with its best actions and with sampled ones."""
    with contextlib.closing(runs.run_env(run)) as env:
        policy = runs.load_policy(run, env)
        best = evaluate(policy, env, episodes=EPISODES, seed=FINAL_SEED)
        if not getattr(policy, "samples", True):
            return best, None
        return best, evaluate(policy, env, episodes=EPISODES, seed=FINAL_SEED, deterministic=False)


def read_final(run_path: str | Path) -> FinalEvaluation | None:
    """The final evaluation in a run directory; None where there is none.

    Raises:
        DamagedError: the file is damaged.
        ValueError: it is of a newer version.
    """
    file = Path(run_path) / FINAL
    try:
        content = unseal(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedError(f"{file} is damaged ({error}); delete it, and mbrl compare makes it again") from None
    if content["format"] > FORMAT:
        raise ValueError(f"{file} has format {content['format']}; this version reads up to {FORMAT}: upgrade it")
    return FinalEvaluation(
        content["checkpoint"], _from_json(content["deterministic"]), _optional(content["stochastic"])
    )


def final_or_none(run_path: str | Path) -> FinalEvaluation | None:
    """The same; None where it is damaged, too."""
    try:
        return read_final(run_path)
    except DamagedError:
        return None


def _played(result: Evaluation) -> Played:
    return Played(tuple(float(x) for x in result.returns), tuple(int(x) for x in result.lengths))


def _write(file: Path, result: FinalEvaluation) -> None:
    content: dict[str, Any] = json.loads(json.dumps(asdict(result)), parse_constant=lambda _: None)  # -inf is null
    staged = file.with_name(f".{file.name}")
    staged.unlink(missing_ok=True)  # of a process that was killed
    write_durably(staged, seal({"format": FORMAT, "seed": FINAL_SEED, **content}).encode())
    staged.rename(file)
    sync(file.parent)


def _from_json(content: dict[str, Any]) -> Played:
    returns = (-math.inf if x is None else x for x in content["returns"])
    return Played(tuple(returns), tuple(content["lengths"]))


def _optional(content: dict[str, Any] | None) -> Played | None:
    return None if content is None else _from_json(content)
