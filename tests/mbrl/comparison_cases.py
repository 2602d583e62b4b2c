"""Run directories with known returns, for tests of comparisons."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mbrl.experiments.run import Run

LOOP = {"batch_size": 64, "eval_episodes": 5}
LEARNER = {"hidden": [8], "critics": 2, "actor_every": 1, "lr": 3e-4}


def write_run(
    root: Path,
    algo: str,
    seed: int,
    returns: Sequence[float | None],
    *,
    env_id: str = "Pendulum-v1",
    every: int = 100,
    total: int | None = None,
    minutes: float = 1.0,
    loop: dict[str, Any] | None = None,
) -> Path:
    """A run that was evaluated every so many steps, in equal times; None: its simulation diverged there."""
    config = {**LOOP, "total_timesteps": total or every * len(returns), "eval_every": every, **(loop or {})}
    settings: dict[str, Any] = {"loop": config, "agent": "SAC", "learner": LEARNER, "env_kwargs": {}}
    if algo == "mbpo":
        config |= {"members": 2, "model_hidden": [8], "model_batch_size": 8, "reward": "learned"}
    run = Run.create(root, env_id, algo, seed, settings)
    for number, ret in enumerate(returns, start=1):
        spent = {"train/n_updates": 10 * number, "time/wall_clock": 60 * minutes * number}
        spent["time/cpu_seconds"] = 0.8 * spent["time/wall_clock"]
        if algo == "mbpo":
            spent |= {"model/steps": 1000 * number, "model/gradient_steps": 5 * number}
        run.log({"time/total_timesteps": every * number - 1, "rollout/ep_rew_mean": 0.0})
        run.log({"time/total_timesteps": every * number, **spent, "eval/mean_reward": ret})
    return run.path


def find(rows: Iterable[Any], **what: Any) -> Any:
    """The one row whose attributes are these."""
    (found,) = [row for row in rows if all(getattr(row, name) == value for name, value in what.items())]
    return found
