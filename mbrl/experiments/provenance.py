"""What a result was made with, and files that are either wholly there or not at all."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

DISTRIBUTION = "mbrl-planners"
LIBRARIES = (DISTRIBUTION, "torch", "numpy", "gymnasium", "mujoco", "safetensors", "stable-baselines3", "sb3-contrib")


@cache
def versions() -> dict[str, str]:
    """Python's and the libraries' versions; what is not installed is left out. Nothing is imported for it."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def git_commit() -> str | None:
    """The commit of this library's own checkout, `-dirty` behind it if files were changed; None outside a checkout."""
    house = Path(__file__).resolve().parents[2]
    # An installed copy may lie inside another project's checkout, whose commit would be a lie.
    if not (house / ".git").exists():
        return None
    command = ["git", "-C", str(house), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def machine() -> dict[str, Any]:
    """The processor of this process's machine, its cores that the process may use, and the threads that torch takes;
    None where torch is not loaded."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch = sys.modules.get("torch")
    return {"processor": _processor(), "cores": cores, "threads": torch.get_num_threads() if torch else None}


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def seal(content: Mapping[str, Any]) -> str:
    """JSON text of `content` with the checksum of its canonical form as the field `sha256`.

    Raises ValueError where something is not representable in JSON.
    """
    try:
        plain = json.loads(json.dumps(content))
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected values that JSON can hold (numbers, strings, lists, dicts): {error}") from None
    return json.dumps({**plain, "sha256": _digest(plain)}, indent=1) + "\n"


class DamagedError(ValueError):
    """A file of a run directory, or all of its checkpoints, are not what was written."""


def unseal(text: bytes) -> dict[str, Any]:
    """The content of `seal`'s text. Raises ValueError where a byte was changed or the end is missing."""
    content = json.loads(text)
    if not isinstance(content, dict) or content.pop("sha256", None) != _digest(content):
        raise ValueError("the content does not match its checksum")
    return content


def _digest(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until the disk has a file's content, or a directory's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
