"""Making datasets: by playing, or out of what a run has been through."""

from dataclasses import replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from tqdm import tqdm

from mbrl.data.buffer import ReplayBuffer
from mbrl.data.collect import Collector
from mbrl.data.dataset_info import info_text, plain_id
from mbrl.data.datasets import Dataset, DatasetInfo, from_buffer
from mbrl.envs.make import make_env
from mbrl.experiments import runs
from mbrl.experiments.behaviours import Behaviour, Explored, Played, Uniform
from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.provenance import versions
from mbrl.experiments.run import Run
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.bookkeeping import part
from mbrl.pipelines.mpc import make_policy, true_dynamics
from mbrl.pipelines.mpc_config import PlannerName
from mbrl.pipelines.mpc_config import preset as mpc_preset

Kind = Literal["random", "medium", "medium-replay", "expert", "medium-expert"]
SIMULATOR = "simulator"


def collect_dataset(
    kind: Kind,
    *,
    steps: int | None,
    run: str | None = None,
    expert: str | None = None,
    env_id: str | None = None,
    seed: int = 0,
    deterministic: bool = False,
    noise: float = 0.0,
    planner: PlannerName = "icem",
) -> Dataset:
    """A dataset of one of D4RL's kinds (Fu et al., 2020, section 5).

    Args:
        kind: random: uniform actions; medium, expert: the policy of `run` plays, and how good it is decides which of
            the two it deserves to be called; medium-replay: what `run` has in its replay buffer; medium-expert: half
            of the steps by `run`, behind them half by `expert`.
        steps: how many rows; of a replay buffer the oldest, None: all.
        run: a run directory, whose newest checkpoint counts; or "simulator": MPC on the true model of `env_id`.
        expert: likewise.
        env_id: Gymnasium id, with the registered options; None: the environment of `run`.
        seed: of the environment and of what is drawn.
        deterministic: the policies' best actions, instead of drawing them as in training.
        noise: around the best actions, which implies `deterministic`: see `mbrl.experiments.behaviours.Played`.
        planner: of MPC, with its settings for `env_id`.

    Raises:
        ValueError: an argument is missing, does not fit the others or would be ignored, the two halves are of several
            environments, or the run has nothing to collect with.
    """
    _check(kind, run, expert, env_id, steps, seed)
    _check_ignored(kind, run, expert, env_id, seed=seed, deterministic=deterministic, noise=noise, planner=planner)
    if kind == "medium-replay":
        assert run is not None
        return replay_dataset(Run.open(run), steps)
    assert steps is not None
    options: dict[str, Any] = {"env_id": env_id, "seed": seed, "planner": planner}
    options |= {"deterministic": deterministic or noise != 0, "noise": noise}
    if kind != "medium-expert":
        return _play(kind, run, steps, **options)
    _check_halves(str(run), str(expert), env_id)
    medium = _play("medium", run, steps // 2, **options)
    best = _play("expert", expert, steps - steps // 2, **{**options, "seed": seed + 1})
    origin = {"kind": kind, "parts": [medium.info.origin, best.info.origin]}
    text = f"{medium.info.description}; {best.info.description}"
    return medium.concatenate(best, info=replace(medium.info, origin=origin, description=text))


def replay_dataset(run: Run, steps: int | None = None) -> Dataset:
    """What a run has in its replay buffer, as its newest checkpoint has it; the oldest `steps` rows, or all.

    Where the buffer has begun to give way, what is left of the oldest episode of each environment is left out: episodes
    of datasets begin where real ones begin.

    Raises:
        ValueError: the run has no checkpoint, stores no real steps in it, or no episode from its beginning.
    """
    tensors, meta = load_checkpoint(run.path)
    stored = part(tensors, "buffer")
    if "cursor" not in stored:  # REINFORCE keeps its last episodes there
        raise ValueError(f"run: expected one that keeps real steps in a buffer, got one of {run.algo}: {run.path}")
    env = runs.run_env(run)
    real = meta["counters"]["steps"]
    origin = {"kind": "medium-replay", "run": run.path.resolve().name, "algo": run.algo, "run_steps": real}
    text = f"replay buffer of {run.algo} after {real} steps, seed {run.seed}"
    info = DatasetInfo.of(env, made_by=run.env_id, versions=run.header["versions"], description=text, origin=origin)
    buffer = _stored_buffer(stored, env)
    env.close()
    dataset = from_buffer(buffer, info)
    headless = _headless(buffer, stored, real)
    if len(headless):
        kept = [n for n, i in enumerate(buffer.episode_ids().unique().tolist()) if i not in headless]
        if not kept:
            raise ValueError(f"run: expected a buffer with an episode from its beginning, got none: {run.path}")
        whole, dataset = dataset, dataset.select(kept)
        text += f"; without {len(whole) - len(dataset)} rows of episodes whose beginning had given way"
        dataset = replace(dataset, info=replace(info, description=text))
    return dataset if steps is None else dataset.head(steps)


def play_dataset(env: gym.Env, behaviour: Behaviour, steps: int, *, seed: int, info: DatasetInfo) -> Dataset:
    """Play `steps` steps and keep them, with log-probabilities, as precise as the environment gives them.

    Raises:
        ValueError: see `mbrl.data.Collector`.
    """
    collector = Collector(env, seed=seed)
    action_dim = None if info.actions is not None else env.action_space.shape[0]  # type: ignore[index]
    buffer = ReplayBuffer(steps, collector.obs.shape[1], action_dim, dtype=torch.float64)
    for tick in tqdm(range(steps), unit="step", disable=None):
        action, log_prob = behaviour.act(collector.obs[0], tick, bool(collector.episode_start[0]))
        collected = collector.step(np.asarray(action)[None])
        logged = torch.tensor([log_prob], dtype=torch.float64)
        buffer.extend(collected.batch._replace(log_prob=logged), collected.valid)
    dataset = from_buffer(buffer, info)
    types = {"observations": env.observation_space.dtype, "actions": env.action_space.dtype}
    arrays = {name: getattr(dataset, name).astype(kind) for name, kind in types.items()}
    return replace(dataset, **arrays)  # float64 held them all exactly


def _play(
    kind: str,
    run: str | None,
    steps: int,
    *,
    env_id: str | None,
    seed: int,
    planner: PlannerName,
    deterministic: bool,
    noise: float,
) -> Dataset:
    opened = None if run in (None, SIMULATOR) else Run.open(str(run))
    if opened is None:
        assert env_id is not None
        env = make_env(env_id, discrete=True, as_registered=True)
    else:
        env = runs.run_env(opened)
        if env_id is not None and plain_id(env_id) != plain_id(opened.env_id):
            raise ValueError(f"env_id: expected {opened.env_id}, which {run} was trained on, or none, got {env_id}")
    origin: dict[str, Any] = {"kind": kind, "seed": seed}
    if kind == "random" or opened is None:
        origin |= {"policy": "uniform"} if kind == "random" else {"policy": f"mpc-{planner}", "noise": noise}
    else:
        origin |= {"policy": opened.algo, "run": opened.path.resolve().name, "noise": noise}
        origin |= {"deterministic": deterministic}
    behaviour = _behaviour(kind, opened, env, seed=seed, planner=planner, deterministic=deterministic, noise=noise)
    text = f"{kind}: {steps} steps by {origin['policy']}"
    made_by = env_id if opened is None else opened.env_id
    info = DatasetInfo.of(env, made_by=made_by, versions=versions(), description=text, origin=origin)
    info_text(info)  # what can't be written is told before there is anything to lose
    dataset = play_dataset(env, behaviour, steps, seed=seed, info=info)
    env.close()
    return dataset


def _behaviour(
    kind: str, run: Run | None, env: gym.Env, *, seed: int, planner: PlannerName, deterministic: bool, noise: float
) -> Behaviour:
    if kind == "random":
        return Uniform(env.action_space, seed)
    if run is None:
        assert env.spec is not None
        config = mpc_preset(env.spec.id, planner)
        policy = make_policy(env, true_dynamics(env), config, seed=seed)
        return Played(policy, env.action_space, noise, seed)
    learned = runs.load_policy(run, env)
    if isinstance(learned, Agent) and not deterministic:
        return Explored(learned, seed)
    return Played(learned, env.action_space, noise, seed, deterministic=deterministic)


def _stored_buffer(stored: dict[str, torch.Tensor], env: gym.Env) -> ReplayBuffer:
    slots, rows = int(stored["cursor"][0]), stored["transitions"]
    shape = env.action_space.shape or ()
    sizes = env.observation_space.shape[0], shape[0] if shape else None  # type: ignore[index]
    buffer = ReplayBuffer(slots * rows.shape[1], *sizes, num_envs=rows.shape[1], dtype=rows.dtype)
    buffer.load_state_dict(stored)
    return buffer


def _headless(buffer: ReplayBuffer, stored: dict[str, torch.Tensor], real: int) -> set[int]:
    """Episodes of which the oldest rows, and with them maybe their first, gave way to newer ones."""
    slots, head, filled = stored["cursor"][:3].tolist()
    if filled < slots or (head == 0 and real <= len(buffer)):
        return set()
    return set(stored["episode"][head].tolist())


def _check_halves(run: str, expert: str, env_id: str | None) -> None:
    """Before hours are spent on what can't be joined."""
    own = [None if place == SIMULATOR else Run.open(place) for place in (run, expert)]
    made = []
    for opened in own:
        env = runs.run_env(opened) if opened else make_env(str(env_id), discrete=True, as_registered=True)
        made.append(DatasetInfo.of(env))
        env.close()
    if made[0] != made[1]:
        raise ValueError(
            f"expert: expected one in the environment of run, with its options and bounds ({made[0]}), got {made[1]}"
        )


def _check_ignored(kind: Kind, run: str | None, expert: str | None, env_id: str | None, **given: Any) -> None:
    """Raises ValueError where an option would have no effect."""
    ignored = []
    if kind == "medium-replay":
        ignored = ["seed", "deterministic", "noise", "planner"]
        if env_id is not None:
            raise ValueError(f"env_id: expected none for {kind}, which is of the run's environment, got {env_id}")
    elif kind == "random":
        ignored = ["deterministic", "noise", "planner"]
    elif SIMULATOR not in (run, expert):
        ignored = ["planner"]
    defaults = {"seed": 0, "deterministic": False, "noise": 0.0, "planner": "icem"}
    for name in ignored:
        if given[name] != defaults[name]:
            raise ValueError(f"{name}: expected none, as it has no effect on {kind} of {run}, got {given[name]}")


def _check(kind: Kind, run: str | None, expert: str | None, env_id: str | None, steps: int | None, seed: int) -> None:
    if seed < 0:  # Gymnasium's reset takes no other
        raise ValueError(f"seed: expected 0 or more, got {seed}")
    if steps is not None and steps < (2 if kind == "medium-expert" else 1):
        raise ValueError(f"steps: expected at least 1, for medium-expert 2, got {steps}")
    if steps is None and kind != "medium-replay":
        raise ValueError(f"steps: expected a number for {kind}; only medium-replay takes all that there is without")
    if kind == "random":
        if run is None and env_id is None:
            raise ValueError("env_id: expected one for random, or the run whose environment it is to be, got neither")
        if run == SIMULATOR:
            raise ValueError("run: expected none or a run directory for random, got simulator")
    elif run is None:
        raise ValueError(f"run: expected a run directory or simulator for {kind}, got none")
    if kind == "medium-replay" and run == SIMULATOR:
        raise ValueError("run: expected a run directory for medium-replay, whose buffer is taken, got simulator")
    if (kind == "medium-expert") != (expert is not None):
        raise ValueError(f"expert: expected it with medium-expert and with nothing else, got {expert} for {kind}")
    if SIMULATOR in (run, expert) and env_id is None:
        raise ValueError("env_id: expected one with simulator, got none")
