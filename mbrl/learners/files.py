"""Learners on disk: one safetensors file, whose header holds the configuration as JSON. Nothing is unpickled."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from mbrl.learners.settings import plain

FORMAT = 1
ENDING = ".safetensors"


def save(path: str | Path, kind: str, config: dict[str, Any], tensors: Sequence[Tensor]) -> Path:
    """Write `config` and `tensors` so that a crash leaves the old file or the new one; returns the path written.

    Args:
        path: gets the ending .safetensors where it lacks it; folders above it are made.
        kind: name of the class, which `load` compares.
        config: what JSON can hold.
        tensors: in the order in which they are read again.
    """
    path = _with_ending(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {f"{i:04d}": t.detach().cpu().contiguous().clone() for i, t in enumerate(tensors)}
    header = {
        "format": str(FORMAT),
        "kind": kind,
        "torch": torch.__version__,
        "config": json.dumps(config, default=plain),
    }
    header["sha256"] = _checksum(header, named)
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(staged, "wb") as file:
            file.write(to_bytes(named, metadata=header))
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return path


def load(path: str | Path, kind: str) -> tuple[dict[str, Any], list[Tensor]]:
    """The configuration and the tensors, on the CPU.

    Raises:
        ValueError: no such file, or damaged, of another kind, or of a newer version.
    """
    path = _with_ending(path)
    if not path.is_file():
        raise ValueError(f"path: expected a file that `save` wrote, got {path}, which does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            named = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no iteration)
    except SafetensorError as error:
        raise ValueError(f"path: {path} is damaged ({error}); take a copy of it or learn again") from error
    version = header.get("format", "")
    if version.isdecimal() and int(version) > FORMAT:
        raise ValueError(f"path: {path} has format {version}, this version reads up to {FORMAT}; upgrade mbrl-planners")
    if header.get("kind") != kind:
        raise ValueError(f"path: expected a file of {kind}, got one of {header.get('kind', 'another program')}: {path}")
    if header.pop("sha256", None) != _checksum(header, named):
        raise ValueError(f"path: {path} is damaged (its checksum disagrees); take a copy of it or learn again")
    return json.loads(header["config"]), [named[name] for name in sorted(named)]


def copy_into(destination: Sequence[Tensor], source: Sequence[Tensor], path: str | Path) -> None:
    """Copy tensors read from `path` into those of a fresh state.

    Raises:
        ValueError: number or shapes disagree.
    """
    expected, got = ([list(t.shape) for t in tensors] for tensors in (destination, source))
    if len(expected) != len(got):
        raise ValueError(f"path: expected {len(expected)} tensors in {path}, got {len(got)}")
    for i, (shape, other) in enumerate(zip(expected, got, strict=True)):
        if shape != other:
            raise ValueError(f"path: expected tensor {i} of shape {shape} in {path}, got one of shape {other}")
    for to, tensor in zip(destination, source, strict=True):
        to.copy_(tensor)


def space_to_json(space: Any) -> dict[str, Any]:
    """A flat Box, or a Discrete from 0, as JSON; infinite bounds come as Python's `Infinity`."""
    if isinstance(space, gym.spaces.Discrete):
        return {"n": int(space.n)}
    return {"low": space.low.tolist(), "high": space.high.tolist(), "dtype": str(space.dtype)}


def space_from_json(stored: dict[str, Any]) -> gym.Space:
    """The space that `space_to_json` described."""
    if "n" in stored:
        return gym.spaces.Discrete(stored["n"])
    low, high = (np.array(stored[name], dtype=stored["dtype"]) for name in ("low", "high"))
    return gym.spaces.Box(low, high, dtype=np.dtype(stored["dtype"]).type)


def _with_ending(path: str | Path) -> Path:
    path = Path(path)
    return path if path.name.endswith(ENDING) else path.with_name(path.name + ENDING)


def _checksum(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype}".encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()
