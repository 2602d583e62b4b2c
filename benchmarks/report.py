"""What is printed of a row, and the JSON line that is kept of it."""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Readings, Spread
from mbrl.experiments.provenance import git_commit, versions

RESULTS = Path(__file__).parent / "results"
NO_PEER = "not measured (set MBRL_LIB_PYTHON to the Python of an environment with mbrl-lib; see benchmarks/README.md)"


def machine() -> dict[str, Any]:
    """The processor and how much of it is used."""
    name = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def compare(
    row: str,
    readings: Readings,
    *,
    unit: str,
    scale: float,
    target: float,
    peer_versions: Mapping[str, str] | None,
    notes: Mapping[str, Any],
) -> dict[str, Any]:
    """Print a row of the contestants "ours", "floor" and, where it was measured, "peer"; return its record.

    Args:
        unit: of the figures.
        scale: figures are wall-clock seconds of a unit of work times this.
        target: the peer's time over ours that is asked for.
        peer_versions: None where the peer was not measured.
        notes: sizes and checks, to be kept with the figures.
    """
    share = readings.ratio("floor", "ours")
    record: dict[str, Any] = {
        "unit": unit,
        "ours": _scaled(readings.wall("ours"), scale),
        "floor": _scaled(readings.wall("floor"), scale),
        "share_of_floor": _spread(share),
        "noise": _spread(readings.noise("ours")),
        "rounds": len(readings.rounds),
        "dropped_rounds": readings.dropped,
        "target": target,
    }
    print(f"{row}: {_text(record['ours'])} {unit}; noise of two readings {_text(record['noise'])}")
    print(f"  floor: {_text(record['floor'])} {unit}, which is {share.median:.0%} of our time")
    if peer_versions is None:
        print(f"  peer: {NO_PEER}")
    else:
        record |= {
            "peer": _scaled(readings.wall("peer"), scale),
            "ratio": _spread(readings.ratio("peer", "ours")),
            "peer_versions": dict(peer_versions),
        }
        met = "met" if record["ratio"]["median"] >= target else "MISSED"
        print(f"  peer: {_text(record['peer'])} {unit}; ratio {_text(record['ratio'])}, target {target}: {met}")
    print(f"  rounds: {len(readings.rounds)}, dropped {readings.dropped}")
    return record | dict(notes)


def keep(row: str, record: Mapping[str, Any]) -> Path:
    """Append a record to the row's file, with when, where and with what it was measured."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{row}.jsonl"
    context = {
        "row": row,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "machine": machine(),
        "versions": versions(),
    }
    with path.open("a") as file:
        file.write(json.dumps({**context, **record}) + "\n")
    return path


def _spread(value: Spread, scale: float = 1.0) -> dict[str, float]:
    return {name: round(part * scale, 6) for name, part in value._asdict().items()}


def _scaled(value: Spread, scale: float) -> dict[str, float]:
    return _spread(value, scale)


def _text(value: Mapping[str, float]) -> str:
    return f"{value['median']:.4g} ({value['low']:.4g} to {value['high']:.4g})"
