"""Row memory: the most bytes of tensors alive at once while SAC and MBPO train, over those that must be held.

What must be held is what a checkpoint would store: parameters, targets, optimisers and the buffers as they are
allocated; of MBPO the ensemble and its optimiser too. The rest is activations, gradients, batches, fits and rollouts.

Every operation is watched: its results' storages count from then until they are freed. What a kernel takes and gives
back inside is not seen, so the growth of the process stands beside it: its resident set at its peak, which Linux
resets on request, over what it was after the imports and a first update of other networks. Buffers are filled first, as
memory that was never written to is not resident.
"""

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.workload import transitions
from mbrl.data.buffer import ReplayBuffer, buffer_bytes
from mbrl.learners.sac import SACConfig
from mbrl.pipelines.agents import SAC
from mbrl.pipelines.mbpo import train_mbpo
from mbrl.pipelines.mbpo_config import mbpo_preset
from mbrl.pipelines.off_policy import train_off_policy
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from mbrl.pipelines.schedules import Ramp
from planners.rows import leaves

TARGET = 1.25
ENV = "HalfCheetah-v5"


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row, each algorithm in a process of its own; the figures don't vary, so `rounds` is not used."""
    figures = {}
    for name in PIECES:
        answer = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", name, *["--small"] * small],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        figures[name] = json.loads(answer.stdout.splitlines()[-1])
        held, ratio = figures[name]["held_bytes"] / 1e6, figures[name]["tensors_over_held"]
        met = "met" if ratio <= TARGET else "MISSED"
        print(f"memory: {name}: {ratio:.3f} of the {held:.1f} MB that must be held, target {TARGET}: {met}")
        print(f"  growth of the process: {figures[name]['growth_over_held']:.3f} of them")
    return {"unit": "bytes over those that must be held", "figures": figures, "target": TARGET}


class Live(TorchDispatchMode):
    """Counts the bytes of storages that operations make, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._seen: set[int] = set()

    def count(self, tensors: Iterable[Any]) -> None:
        """Take storages in that are not counted yet."""
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._seen:
                continue
            self._seen.add(key)
            self.bytes += size
            weakref.finalize(storage, self._freed, key, size)
        self.peak = max(self.peak, self.bytes)

    def begin(self) -> None:
        """What is to come decides the peaks, of tensors and of the process."""
        self.peak = self.bytes
        Path("/proc/self/clear_refs").write_text("5")

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count(tree_leaves(result))
        return result


def sac(small: bool) -> tuple[int, Live]:
    """SAC with its default buffer of a million transitions, which is full, for 200 updates."""
    config = OffPolicyConfig(total_timesteps=120 if small else 300, eval_every=0, checkpoint_every=10**9)
    with Live() as live:
        agent, env = _filled(ENV, 10_000 if small else config.buffer_size, config.buffer_size)
        live.begin()
        train_off_policy(env, agent, config)
    return _bytes(agent.state) + _buffer_bytes(agent.buffer), live


def mbpo(small: bool) -> tuple[int, Live]:
    """MBPO with the settings of HalfCheetah after 100,000 steps: five times a step, a fit, rollouts and 40 updates.

    Fits end after 500 gradient steps: more need no more memory.
    """
    return _mbpo("HalfCheetah-v5", small)


def mbpo_long(small: bool) -> tuple[int, Live]:
    """MBPO with the settings of Hopper after 100,000 steps, whose rollouts are 15 steps long."""
    return _mbpo("Hopper-v5", small)


def _mbpo(env_id: str, small: bool) -> tuple[int, Live]:
    steps, preset = 1_000 if small else 100_000, mbpo_preset(env_id)
    config = replace(
        preset.config,
        total_timesteps=steps + 5,
        initial_steps=1,
        model_max_steps=5 if small else 500,
        diagnostic_horizons=(),
        termination="never",  # made-up transitions would not end where the task's do
        eval_every=0,
        checkpoint_every=10**9,
    )
    if small:
        config = replace(config, rollout_starts=1_000, rollout_length=Ramp(1, 2))
    with Live() as live:
        agent, env = _filled(env_id, steps, config.buffer_size, preset.learner)
        agent.steps = steps
        live.begin()
        result = train_mbpo(env, agent, config)
    held = _bytes(agent.state) + 3 * _bytes(result.ensemble.parameters)  # and the means of Adam
    return held + _buffer_bytes(result.buffer) + _buffer_bytes(result.model_buffer), live


PIECES: dict[str, Callable[[bool], tuple[int, Live]]] = {"sac": sac, "mbpo": mbpo, "mbpo_long": mbpo_long}
"""Pieces of training, by name: the bytes that must be held, and the bytes that were alive."""


def _filled(env_id: str, rows: int, capacity: int, config: SACConfig | None = None) -> tuple[SAC, gym.Env]:
    """An agent for the environment with a buffer that has so many made-up transitions, and the environment."""
    env = gym.make(env_id)
    agent = SAC(env.observation_space, env.action_space, config=config)
    buffer = agent.experience(capacity, 1)
    obs, act = buffer.obs_dim, buffer.action_dim
    for seed, first in enumerate(range(0, rows, 100_000)):
        made = transitions(min(100_000, rows - first), seed=seed)
        made = made._replace(obs=made.obs[:, :obs], next_obs=made.next_obs[:, :obs], action=made.action[:, :act])
        buffer.extend_rows(made)
    return agent, env


def _bytes(state: Any) -> int:
    return sum(x.nbytes for x in leaves(state))


def _buffer_bytes(buffer: ReplayBuffer | None) -> int:
    return 0 if buffer is None else buffer_bytes(buffer.capacity, buffer.obs_dim, buffer.action_dim)


def _resident(peak: bool) -> int:
    """Bytes of the process that are in memory, or were at most since `Live.begin`."""
    name = "VmHWM" if peak else "VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    """Measure one piece, and print a JSON line."""
    torch.set_num_threads(1)
    _mbpo("InvertedPendulum-v5", True)  # what libraries take once
    before = _resident(peak=False)
    held, live = PIECES[sys.argv[1]]("--small" in sys.argv)
    figures = {
        "held_bytes": held,
        "tensors_over_held": live.peak / held,
        "growth_over_held": (_resident(peak=True) - before) / held,
    }
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
