"""Row mbpo_step: MBPO's work for one real step at 20 updates a step, in milliseconds on average.

17 observations, 6 actions; updates of SAC with 2 x 256 on batches of 12 real and 244 model rows; every 250 steps the
fit of 7 networks of 4 x 200 to 5,000 transitions, in 10 epochs (early stopping takes as many or more), and 100,030
rollouts of one step by five elites. The parts are timed in turns and added: acting and 20 updates, and a 250th of the
others. The simulator's step is the same for everybody and not in it. The floor is the matrix products alone.

The peer's agent draws batches from one buffer or the other by a coin, and its updates read five numbers each.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks import model_rollout, sac_update
from benchmarks.ensemble_epoch import BATCH, MEMBERS
from benchmarks.harness import CORE_SHARE, Cost, Readings, alternate, timed
from benchmarks.peers.worker import mbrl_lib
from benchmarks.report import compare
from benchmarks.workload import ACT, OBS, Products, transitions
from mbrl.envs.tasks import task
from mbrl.models.fit import fit
from mbrl.pipelines.agents import SAC
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.imagined import Imagined
from mbrl.pipelines.learned_model import LearnedModel
from mbrl.pipelines.mbpo_config import MBPOConfig
from mbrl.pipelines.recorder import NullRecorder
from mbrl.pipelines.schedules import Ramp
from mbrl.pipelines.updates import Updates
from mbrl.seeding import generator

TARGET = 3.0
UPDATES, EVERY, EPOCHS = 20, 250, 10
SIZES = {"rows": 5_000, "starts": 100_030}
SMALL = {"rows": 1_000, "starts": 1_050}
PARTS = ("step", "fit", "rollout")


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row; `small`: with few transitions and rollouts, to see that it runs."""
    sizes = SMALL if small else SIZES
    contestants = {f"ours {name}": timed(part) for name, part in ours(**sizes).items()}
    contestants |= {f"floor {name}": timed(part) for name, part in floor(**sizes).items()}
    with (
        mbrl_lib("mbpo_step", {**sizes, "part": "step"}) as step,
        mbrl_lib("mbpo_step", {**sizes, "part": "fit"}) as fitted,
        mbrl_lib("mbpo_step", {**sizes, "part": "rollout"}) as rolled,
    ):
        workers = dict(zip(PARTS, (step, fitted, rolled), strict=True))
        contestants |= {f"peer {name}": worker for name, worker in workers.items() if worker is not None}
        readings = alternate(contestants, rounds=rounds, core_share=0.0 if small else CORE_SHARE)
    parts = {name: round(readings.wall(name).median * 1e3, 3) for name in contestants}
    return compare(
        "mbpo_step",
        Readings([_added(one) for one in readings.rounds], readings.dropped),
        unit="ms/step",
        scale=1e3,
        target=TARGET,
        peer_versions=step.versions if step else None,
        notes={"sizes": sizes, "epochs": EPOCHS, "updates": UPDATES, "parts_ms": parts},
    )


def ours(rows: int, starts: int) -> dict[str, Callable[[], None]]:
    """The parts, by what `train_mbpo` is made of."""
    env = _Spaces()
    config = MBPOConfig(rollout_starts=starts, rollout_length=Ramp(1, 1), termination="never", buffer_size=rows)
    agent = SAC(env.observation_space, env.action_space)
    model = LearnedModel(task(env), agent, config, seed=0)
    real = agent.experience(rows, 1)
    data = transitions(rows)
    real.extend_rows(data)
    imagined = Imagined(agent, model, real, config, 0, real_rows=config.real_rows)
    updates = Updates(agent, imagined.draw, seed=0, batch_size=config.batch_size, recorder=NullRecorder())
    count, obs = Counters(), np.zeros((1, OBS))

    def step() -> None:
        agent.explore(obs, generator(0, "act", 0, agent.updates))
        updates.run(UPDATES, 0)

    def learn() -> None:
        fit(model.ensemble, data, seed=count.fits, epochs=EPOCHS, holdout=0.2, patience=EPOCHS, elites=config.elites)
        count.fits += 1

    def roll() -> None:
        imagined.renew(count, count.model_steps, config.rollout_length.at(count.steps), 1)

    learn()
    roll()
    return {"step": step, "fit": learn, "rollout": roll}


def floor(rows: int, starts: int) -> dict[str, Callable[[], None]]:
    """Matrix products of the parts; of fits those of training alone, of rollouts those of the model."""
    update, batch = sac_update.Products(), Products(MEMBERS, BATCH, backward=True)

    def step() -> None:
        for _ in range(UPDATES):
            update()

    def learn() -> None:
        for _ in range(EPOCHS * -(-round(0.8 * rows) // BATCH)):
            batch()

    return {"step": step, "fit": learn, "rollout": model_rollout.floor(starts)}


def _added(one: dict[str, tuple[Cost, Cost]]) -> dict[str, tuple[Cost, Cost]]:
    """The parts of a round as one contestant each."""
    added = {}
    for who in ("ours", "floor", "peer"):
        if f"{who} step" in one:
            weights = {"step": 1.0, "fit": 1 / EVERY, "rollout": 1 / EVERY}
            added[who] = tuple(
                Cost(*(sum(w * one[f"{who} {name}"][i][field] for name, w in weights.items()) for field in (0, 1)))
                for i in (0, 1)
            )
    return added  # type: ignore[return-value]


class _Spaces(gym.Env):
    """Spaces, which is all of an environment that is looked at."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (ACT,), np.float32)
