"""The oracle gap of PETS: how much of what a run misses is the planner's fault, and how much the model's.

One planner plays the same episodes with what it plans through exchanged, part by part:

    stronger  -- planner -->  true  -- model -->  learned  -- reward -->  learned_reward
    true dynamics,            true dynamics,      learned dynamics,       learned dynamics,
    wider search              the run's planner   true reward             learned reward

Each arrow is a gap, the mean difference of returns from the same start states: what is lost to too narrow a search, to
the model's dynamics, and to its rewards. The episodes are the environment's, and so are the returns.

The comparison with planning through the true dynamics is that of Chua et al. (2018), https://arxiv.org/abs/1805.12114,
and of Wang et al. (2019), https://arxiv.org/abs/1907.02057, section 4.3.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from scipy import stats

from mbrl.data.buffer import ReplayBuffer
from mbrl.envs.make import make_env
from mbrl.experiments.oracle_arms import Learned, Played, affordable, load_learned, make_arms, model_errors, play_arm
from mbrl.experiments.pets_runs import pets_config
from mbrl.experiments.provenance import DamagedError, seal, sync, unseal, write_durably
from mbrl.experiments.run import Run
from mbrl.pipelines.pets_agent import PETSAgent
from mbrl.seeding import derive

FILE = "oracle_gap.json"
"""Where a run directory keeps it."""
FORMAT = 1
TRUE_STEPS = 10_000_000
"""Minutes of MuJoCo on one core, where bodies are few: 20 to 50 microseconds each."""
ARMS = {
    "stronger": "true dynamics, wider search",
    "true": "true dynamics",
    "learned": "learned dynamics, true reward",
    "learned_reward": "learned dynamics, learned reward",
}
"""What is planned through, and how a report calls it."""
GAPS = {"planner": ("stronger", "true"), "model": ("true", "learned"), "reward": ("learned", "learned_reward")}
"""Each gap is the first arm's return minus the second's: positive where the exchange costs return."""


@dataclass(frozen=True)
class Difference:
    """A mean with its 95 % interval (Student's t)."""

    value: float
    low: float | None
    """None: fewer than two numbers, or one that is not finite."""
    high: float | None
    n: int
    """Numbers behind it: episodes of one run, or runs."""


@dataclass(frozen=True)
class HorizonError:
    """How far the model is off, open loop, on real trajectories."""

    horizon: int
    """Steps ahead."""
    rmse: float
    """Of the particles' mean, in standard deviations of the observations of the run's real steps: all up to the
    checkpoint, or, as logged, up to the fit."""
    coverage90: float
    """Share of real values in the particles' central 90 % interval."""


@dataclass(frozen=True)
class OracleGap:
    """What one run of PETS loses to its planner and to its model."""

    run: str
    """Name of the run directory."""
    env_id: str
    seed: int
    """Of the run."""
    steps: int
    """Real steps that the model has learned from."""
    checkpoint: str
    """Digest of the model's parameters."""
    episodes: int
    """Of each arm, from the same start states."""
    true_steps: int
    """Steps that planning was allowed to take in the true dynamics, over all episodes."""
    max_steps: int | None
    """Where episodes were cut to keep to that; None: they are whole."""
    objective: bool
    """Whether plans maximise the task's shaped objective in place of its reward, as in the run; returns never do."""
    reward: str
    """What the run itself planned with: "task", a function that is given, or "learned"."""
    returns: dict[str, tuple[float, ...]]
    """[episodes] by arm (`ARMS`); an arm that can't be played is missing. -inf where the simulation diverged."""
    missing: dict[str, str]
    """Why, by arm."""
    logged: tuple[HorizonError, ...]
    """On the real steps since the last fit but one, as the run's metrics have it: the model had not seen them."""
    visited: tuple[HorizonError, ...]
    """On the episodes of `learned`, or of `learned_reward` where there is none: where planning takes the model."""
    oracle: tuple[HorizonError, ...]
    """On the episodes of `true`: where a model without error would be."""
    label: str = field(default="", compare=False)
    """Of the runs that it is pooled with, which whoever reports them gives; not kept in the run directory."""

    @property
    def own(self) -> str:
        """The arm that is the run's own policy."""
        return "learned" if self.reward == "task" else "learned_reward"

    def gap(self, name: str) -> Difference | None:
        """A gap of `GAPS`, paired by episode; None where one of its arms is missing."""
        better, worse = (self.returns.get(arm) for arm in GAPS[name])
        with np.errstate(invalid="ignore"):  # the simulation diverged in both
            return None if better is None or worse is None else difference(np.subtract(better, worse))


@dataclass(frozen=True)
class PooledGap:
    """The gaps of one task over runs with different seeds: each run counts once."""

    env_id: str
    label: str
    runs: int
    returns: dict[str, Difference]
    """Mean return by arm."""
    gaps: dict[str, Difference]
    """By name, of `GAPS`."""
    missing: dict[str, str]
    """Why an arm is not there, by arm."""


def oracle_gap(run: Run | str | Path, *, episodes: int = 5, true_steps: int = TRUE_STEPS) -> OracleGap:
    """Measure what a run of PETS loses to its planner and to its model, and keep it in the run directory.

    What is kept there already is returned where it was measured with the same model and the same arguments; what is
    damaged is measured again. The same run gives the same numbers.

    Args:
        run: of PETS, with a checkpoint behind its first fit.
        episodes: of each arm.
        true_steps: steps that planning may take in the true dynamics. Where they do not suffice, episodes are cut to a
            half at most, else the wider search is left out, then episodes are cut further, and where not even a
            horizon is left, nothing is planned through the truth.

    Raises:
        ValueError: the run is another algorithm's, has no fitted model, or a number is out of range.
    """
    if episodes < 1 or true_steps < 1:
        raise ValueError(f"episodes, true_steps: expected at least 1 each, got {episodes} and {true_steps}")
    run = run if isinstance(run, Run) else Run.open(run)
    pets_config(run)
    env = make_env(run.env_id)
    try:
        learned = load_learned(run, env)
        found = load_or_none(run.path)
        if found and (found.checkpoint, found.episodes, found.true_steps) == (learned.digest, episodes, true_steps):
            return found
        gap = _measure(run, learned, env, episodes, true_steps)
    finally:
        env.close()
    save(gap, run.path)
    return gap


def _measure(run: Run, learned: Learned, env: gym.Env, episodes: int, true_steps: int) -> OracleGap:
    agent, buffer, steps, digest = learned
    played, missing, cut = _play(agent, buffer, env, episodes, true_steps)
    scale = buffer.all().obs.std(0, correction=0)

    def errors(arm: str) -> tuple[HorizonError, ...]:
        seed = derive(agent.seed, "oracle gap", arm)
        rows = model_errors(agent, played[arm], scale, seed=seed) if arm in played else []
        return tuple(HorizonError(*row) for row in rows)

    return OracleGap(
        run=run.path.name,
        env_id=run.env_id,
        seed=run.seed,
        steps=steps,
        checkpoint=digest,
        episodes=episodes,
        true_steps=true_steps,
        max_steps=cut,
        objective=agent.config.objective,
        reward="learned" if agent.ensemble.learned_reward else "task",
        returns={arm: played[arm].returns for arm in ARMS if arm in played},
        missing=missing,
        logged=_logged(run, agent.config.diagnostic_horizons),
        visited=errors("learned_reward" if agent.ensemble.learned_reward else "learned"),
        oracle=errors("true"),
    )


def _play(
    agent: PETSAgent, buffer: ReplayBuffer, env: gym.Env, episodes: int, true_steps: int
) -> tuple[dict[str, Played], dict[str, str], int | None]:
    """Episodes by arm, why others are missing, and where episodes were cut."""
    arms, missing = make_arms(agent, buffer, env)
    longest = None if env.spec is None else env.spec.max_episode_steps
    arms, dear, cut = affordable(arms, episodes, true_steps, longest=longest, replan_every=agent.config.replan_every)
    how = {"seed": derive(agent.seed, "oracle gap"), "replan_every": agent.config.replan_every}
    played = {name: play_arm(arm, env, episodes=episodes, max_steps=cut, **how) for name, arm in arms.items()}
    return played, missing | dear, cut


def _logged(run: Run, horizons: tuple[int, ...]) -> tuple[HorizonError, ...]:
    """The model's errors of the last row of metrics that has them."""
    rows = [row for row in run.metrics() if row.get(f"model/rmse_{horizons[0]}") is not None] if horizons else []
    keys = [h for h in horizons if rows and rows[-1].get(f"model/rmse_{h}") is not None]
    return tuple(HorizonError(h, rows[-1][f"model/rmse_{h}"], rows[-1][f"model/coverage90_{h}"]) for h in keys)


def oracle_titles(gaps: Sequence[OracleGap]) -> dict[str, str]:
    """What stands behind the environment in captions, by label: the label, where there are several."""
    labels = dict.fromkeys(gap.label for gap in gaps)
    return {label: f", {label}" if len(labels) > 1 else "" for label in labels}


def groups(gaps: Sequence[OracleGap]) -> list[list[OracleGap]]:
    """Those that can be pooled: of one environment, label, length of episodes and objective."""
    found: dict[tuple, list[OracleGap]] = defaultdict(list)
    for gap in gaps:
        found[gap.env_id, gap.label, gap.max_steps, gap.objective].append(gap)
    return list(found.values())


def pool(gaps: Sequence[OracleGap]) -> PooledGap:
    """The gaps of one task over its runs. An arm counts where all runs have it.

    Raises:
        ValueError: there is no run, or they are of several kinds; see `groups`.
    """
    if len(kinds := groups(gaps)) != 1:
        raise ValueError(
            "gaps: expected runs of one environment and label with episodes of one length and one objective, got "
            f"{len(kinds)} kinds"
        )
    arms = [arm for arm in ARMS if all(arm in gap.returns for gap in gaps)]
    means = {arm: np.array([np.mean(gap.returns[arm]) for gap in gaps]) for arm in arms}
    return PooledGap(
        gaps[0].env_id,
        gaps[0].label,
        len(gaps),
        {arm: difference(values) for arm, values in means.items()},
        {
            name: difference(np.subtract(means[better], means[worse]))
            for name, (better, worse) in GAPS.items()
            if better in means and worse in means
        },
        {arm: reason for gap in gaps for arm, reason in gap.missing.items()},
    )


def difference(values: Any) -> Difference:
    """The mean of independent numbers [n], with Student's t interval."""
    values = np.asarray(values, dtype=float)
    n, mean = len(values), float(np.mean(values)) if len(values) else math.nan
    if n < 2 or not np.isfinite(values).all():
        return Difference(mean, None, None, n)
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Difference(mean, mean - half, mean + half, n)


def save(gap: OracleGap, run_path: Path) -> Path:
    """Write it into its run directory, in place of the one before. JSON has no -inf: a diverged episode is null."""
    path, staged = run_path / FILE, run_path / f".{FILE}"
    staged.unlink(missing_ok=True)  # of a process that was killed
    returns = {arm: [ret if math.isfinite(ret) else None for ret in played] for arm, played in gap.returns.items()}
    content = asdict(gap)
    del content["label"]
    write_durably(staged, seal({"format": FORMAT, **content, "returns": returns}).encode())
    staged.replace(path)
    sync(run_path)
    return path


def load(run_path: str | Path) -> OracleGap | None:
    """What a run directory has; None where there is none.

    Raises:
        DamagedError: the file is damaged.
        ValueError: it is of a newer version.
    """
    path = Path(run_path) / FILE
    try:
        content = unseal(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedError(
            f"{path} is damaged ({error}); remove it, and measure again: mbrl oracle-gap {run_path}"
        ) from None
    if content.pop("format") > FORMAT:
        raise ValueError(f"{path} was written by a newer version; upgrade: git pull; pip install .")
    errors = {name: _errors(content[name]) for name in ("logged", "visited", "oracle")}
    returns = {
        arm: tuple(-math.inf if ret is None else ret for ret in stored) for arm, stored in content["returns"].items()
    }
    return OracleGap(**{**content, **errors, "returns": returns})


def load_or_none(run_path: str | Path) -> OracleGap | None:
    """The same; None where it is damaged, too."""
    try:
        return load(run_path)
    except DamagedError:
        return None


def _errors(rows: Sequence[Mapping[str, Any]]) -> tuple[HorizonError, ...]:
    return tuple(HorizonError(**row) for row in rows)
