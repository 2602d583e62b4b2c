"""Row pets_solve: balancing CartPole with a continuous force by PETS, from nothing to a return of 200 of 200.

Wall-clock seconds and real steps to the end of the first episode that lasts, random steps included, for seeds 0 to 4.
The peer is mbrl-lib's PETS with the settings it ships for this task, of which a full run is stored here: it takes too
long to repeat every time (benchmarks/README.md says how to).
"""

import statistics
import time
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.balance import STEPS, ContinuousCartPole, check_physics, reward, termination
from mbrl.data.buffer import ReplayBuffer
from mbrl.data.collect import Episode
from mbrl.pipelines.pets import train_pets
from mbrl.pipelines.pets_config import PETSConfig

SEEDS = range(5)
CONFIG = PETSConfig(
    total_timesteps=1_000,
    initial_steps=100,
    fit_every=50,
    hidden=(64, 64),
    batch_size=64,
    fit_steps=400,
    horizon=15,
    population=50,
    elites=6,
    iterations=3,
    particles=5,
    checkpoint_every=1_000,
)
PEER: dict[str, Any] = {
    "library": "mbrl-lib 0.2.0, its settings for this task",
    "steps_after_random": 438,
    "random_steps": 200,
    "seconds": 1484.0,
    "measured": "stored: one run, seed 0, one core of another machine (AVX-512)",
}
FASTER = 10.0


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row; `rounds` does not apply. `small`: one seed and at most two fits."""
    torch.set_num_threads(1)
    check_physics()
    solved = [_solve(seed, small) for seed in (SEEDS[:1] if small else SEEDS)]
    print(f"pets_solve: to a return of {STEPS}, one thread")
    for seed, one in enumerate(solved):
        print(
            f"  seed {seed}: {one['seconds']:.1f} s, {one['steps']} real steps ({one['random_steps']} of them random), "
            f"last return {one['return']:.0f}, {one['core_share']:.0%} of a core"
        )
    seconds = statistics.median(one["seconds"] for one in solved)
    steps = statistics.median(one["steps"] for one in solved)
    peer_steps = PEER["steps_after_random"] + PEER["random_steps"]
    all_solved = all(one["return"] >= STEPS for one in solved)
    print(f"  median {seconds:.1f} s, {steps:.0f} steps; all solved: {'yes' if all_solved else 'NO'}")
    print(f"  peer: {PEER['seconds']:.0f} s, {peer_steps} steps ({PEER['random_steps']} random); {PEER['measured']}")
    met = all_solved and PEER["seconds"] / seconds >= FASTER and steps <= peer_steps
    print(
        f"  wall-clock ratio {PEER['seconds'] / seconds:.1f}, target {FASTER}; steps {steps / peer_steps:.2f} of the "
        f"peer's, target at most 1: {'met' if met else 'MISSED'}"
    )
    return {"unit": "s and real steps", "seeds": solved, "peer": PEER, "target": FASTER, "config": asdict(CONFIG)}


def _solve(seed: int, small: bool) -> dict[str, Any]:
    last: list[Episode] = []

    def stop(episode: Episode, buffer: ReplayBuffer) -> bool:
        last.append(episode)
        return episode.ret >= STEPS or (small and sum(e.length for e in last) > CONFIG.initial_steps + CONFIG.fit_every)

    wall, cpu = time.perf_counter(), time.process_time()
    result = train_pets(ContinuousCartPole(), CONFIG, seed=seed, reward=reward, termination=termination, stop=stop)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "seconds": round(wall, 2),
        "core_share": round(cpu / wall, 3),
        "steps": result.steps,
        "random_steps": min(CONFIG.initial_steps, result.steps),
        "episodes": len(last),
        "return": last[-1].ret if last else 0.0,
    }
