"""Row start: seconds from starting Python to the end of an import, or of a first result, each in a fresh process.

The peer is `import stable_baselines3`, the floor `import torch`, both of this environment.
"""

import os
import subprocess
import sys
import time
from typing import Any

from benchmarks.harness import CORE_SHARE, Cost, Spread, Unit, alternate

TARGET = 1.0
COMMON = """
import torch
torch.set_num_threads(1)
"""
PLAN = """
import planners
dynamics = planners.FunctionDynamics(lambda x, u: x + 0.1 * u, lambda x, u, n: -n.square().sum(-1))
problem, planner = planners.Problem(dynamics), planners.CEM(planners.Box(-1, 1, 4), horizon=12)
generator = torch.Generator().manual_seed(0)
start = dynamics.reset(torch.ones(1, 4))
planner.plan(problem, start, planner.init(problem, start, generator=generator), generator=generator)
"""
UPDATE = """
from benchmarks.workload import ACT, OBS, transitions
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble
fit(GaussianEnsemble(OBS, ACT), transitions(256), seed=0, steps=1)
"""
PROGRAMS = {
    "import planners": "import planners",
    "import mbrl": "import mbrl",
    "import mbrl.pipelines.pets": "import mbrl.pipelines.pets",
    "first plan": COMMON + PLAN,
    "first update": COMMON + UPDATE,
    "import torch (floor)": "import torch",
    "import stable_baselines3 (peer)": "import stable_baselines3",
}
FLOOR, PEER = list(PROGRAMS)[-2:]


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row; `small`: however busy the machine is."""
    programs = {name: _fresh_process(program) for name, program in PROGRAMS.items()}
    readings = alternate(programs, rounds=rounds, core_share=0.0 if small else CORE_SHARE)
    figures: dict[str, Any] = {}
    print(f"start: seconds in a fresh process, {len(readings.rounds)} rounds, dropped {readings.dropped}")
    for name in PROGRAMS:
        wall, ratio, floor = readings.wall(name), readings.ratio(name, PEER), readings.ratio(FLOOR, name)
        figures[name] = {"s": _plain(wall), "times_peer": _plain(ratio), "share_of_floor": _plain(floor)}
        judged = name not in (FLOOR, PEER)
        verdict = f", target {TARGET}: {'met' if ratio.median <= TARGET else 'MISSED'}" if judged else ""
        print(f"  {name}: {wall.median:.2f} s, floor {floor.median:.0%} of it; {ratio.median:.2f} of the peer{verdict}")
    return {
        "unit": "s",
        "figures": figures,
        "noise": _plain(readings.noise(PEER)),
        "rounds": len(readings.rounds),
        "dropped_rounds": readings.dropped,
        "target": TARGET,
    }


def _fresh_process(program: str) -> Unit:
    def unit() -> Cost:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"})
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"a fresh process failed with status {process.returncode}; its error is above")
        return Cost(wall, used.ru_utime + used.ru_stime)

    return unit


def _plain(value: Spread) -> dict[str, float]:
    return {name: round(part, 4) for name, part in value._asdict().items()}
