"""What MPC reaches with the environment's own physics as the model, and how long a step takes. One thread.

`python -m benchmarks.mpc_returns [case ...]` appends one JSON line for each seed to results/mpc_returns.jsonl; seeds
that stand there already, with the same settings, are not run again. No comparison with a peer.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from mbrl.pipelines.mpc_config import MPCConfig, preset

RESULTS = Path(__file__).parent / "results" / "mpc_returns.jsonl"


class Case(NamedTuple):
    env_id: str
    planner: str
    steps: int
    seeds: int


CASES = {
    "pendulum": Case("Pendulum-v1", "icem", 200, 10),
    "half_cheetah": Case("HalfCheetah-v5", "icem", 1000, 3),
    "hopper": Case("Hopper-v5", "icem", 1000, 3),
}


def main() -> None:
    """Run the cases that are asked for, and print medians of what stands in the file for their settings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mpc_returns", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; none: all")
    chosen = parser.parse_args().cases or list(CASES)
    if unknown := set(chosen) - set(CASES):
        parser.error(f"cases: expected some of {', '.join(CASES)}, got {', '.join(sorted(unknown))}")
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

    import torch

    torch.set_num_threads(1)
    for name in chosen:
        case = CASES[name]
        config = preset(case.env_id, case.planner)
        wanted = _settings(asdict(config))
        rows = [row for row in stored() if row["env_id"] == case.env_id and _settings(row["config"]) == wanted]
        for seed in range(case.seeds):
            if all(row["seed"] != seed for row in rows):
                rows.append(measure(case, config, seed))
        summarise(name, rows)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """One particle is what None means for these models: older lines say 1."""
    return {**config, "particles": config.get("particles") or 1}


def measure(case: Case, config: MPCConfig, seed: int) -> dict[str, Any]:
    """Play one seed and keep its row."""
    from benchmarks.report import keep
    from mbrl.experiments.control import control

    cpu = time.process_time()
    with tempfile.TemporaryDirectory() as root:
        done = control(case.env_id, config, seed=seed, steps=case.steps, root=root)
    row = {
        "env_id": case.env_id,
        "config": asdict(config),
        "seed": seed,
        "return": round(done.ret, 2),
        "steps": done.steps,
        "plan_ms_p50": round(done.latency.p50_ms, 1),
        "plan_ms_p95": round(done.latency.p95_ms, 1),
        "cpu_ms_per_step": round(1e3 * (time.process_time() - cpu) / done.steps, 1),
    }
    keep("mpc_returns", row)
    print(f"{case.env_id} seed {seed}: return {done.ret:.1f} over {done.steps} steps", flush=True)
    return row


def stored() -> list[dict[str, Any]]:
    """The rows that were kept."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def summarise(name: str, rows: list[dict[str, Any]]) -> None:
    """Print what the seeds of a case come to."""
    returns = [row["return"] for row in rows]
    plan, cpu = (statistics.median(row[key] for row in rows) for key in ("plan_ms_p50", "cpu_ms_per_step"))
    print(
        f"{name}: {len(rows)} seeds, return median {statistics.median(returns):.1f}, "
        f"mean {statistics.mean(returns):.1f}, {min(returns):.1f} to {max(returns):.1f}; "
        f"{plan:.1f} ms a plan, {cpu:.1f} ms CPU a step"
    )


if __name__ == "__main__":
    main()
