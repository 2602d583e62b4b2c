"""Checkpoints that a crash cannot destroy: safetensors for the numbers, JSON for the rest, nothing unpickled.

A checkpoint is a directory `checkpoints/{serial}-step{step}/` with `tensors.safetensors` and `manifest.json` (format,
versions, git commit, the SHA-256 of the tensors, `meta`, and a SHA-256 of all that). It is written under a hidden name,
flushed to the disk and then renamed: a reader meets all of it or nothing. The newest two are kept, so that one damaged
checkpoint is not the end of a run. Every later format keeps the fields `format` and `sha256` as they are.
"""

import contextlib
import hashlib
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from mbrl.experiments.metrics import METRICS
from mbrl.experiments.provenance import DamagedError, git_commit, seal, sync, unseal, versions, write_durably

FORMAT = 1
KEPT = 2
FOLDER, TENSORS, MANIFEST = "checkpoints", "tensors.safetensors", "manifest.json"
STAGING = ".staging-"


def save_checkpoint(run_path: str | Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], *, step: int) -> Path:
    """Write a checkpoint and return its directory; older ones than the newest two are removed.

    `tensors` may share storage and live on any device; `meta` is anything that JSON holds (floats come back exactly).
    Raises ValueError where one of them can't be stored, OSError where the disk is full: the checkpoints before it
    are then untouched.
    """
    folder = Path(run_path) / FOLDER
    data = _encode(tensors)
    manifest = {
        "format": FORMAT,
        "step": step,
        "versions": versions(),
        "git_commit": git_commit(),
        "files": {TENSORS: hashlib.sha256(data).hexdigest()},
        "meta": dict(meta),
    }
    try:
        text = seal(manifest).encode()
    except ValueError as error:
        raise ValueError(f"meta: {error}") from None
    try:
        target = _write(folder, data, text, step)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write the checkpoint of step {step} to {folder}: {error.strerror}. Earlier checkpoints are "
            f"untouched; free at least {3 * len(data) / 1e6:.1f} MB and continue with: mbrl resume {run_path}",
        ) from error
    _prune(folder)
    return target


def load_checkpoint(run_path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and `meta` of the newest checkpoint that is whole.

    A damaged one is passed over with a warning that names it. Raises ValueError where there is none, where all are
    damaged (`DamagedError`), and where the newest was written by a newer version.
    """
    paths = checkpoints(run_path)
    if not paths:
        raise ValueError(
            f"run: expected a checkpoint in {Path(run_path) / FOLDER}, found none: the run ended before its first one "
            f"was saved. Start it again with `mbrl train`."
        )
    damages = []
    for path in paths:
        try:
            tensors, meta = _read(path)
        except _Damaged as damage:
            damages.append(f"{path}: {damage}")
            continue
        for damage_text in damages:
            warnings.warn(f"passing over a damaged checkpoint, {damage_text}; using {path.name}", stacklevel=2)
        return tensors, meta
    raise DamagedError(
        "run: every checkpoint is damaged, so the run cannot go on; restore one from a copy or start again with "
        "`mbrl train`.\n  " + "\n  ".join(damages)
    )


def checkpoints(run_path: str | Path) -> list[Path]:
    """The checkpoint directories of a run, newest first, whole or not."""
    found = (path for path in (Path(run_path) / FOLDER).glob("*-step*") if path.name.split("-")[0].isdigit())
    return sorted(found, key=_serial, reverse=True)


def newest_whole(run_path: str | Path) -> Path | None:
    """The directory of the checkpoint that `load_checkpoint` reads; None where none is whole."""
    return next((path for path in checkpoints(run_path) if _is_whole(path)), None)


class _Damaged(Exception):
    """A checkpoint is not what was written."""


def _serial(path: Path) -> int:
    # Steps don't order checkpoints: a run that fell back to an older one saves the same step again.
    return int(path.name.split("-")[0])


def _encode(tensors: Mapping[str, Tensor]) -> bytes:
    """safetensors wants contiguous tensors, each with a storage of its own."""
    owned: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.is_sparse:
            raise ValueError(f"tensors[{name!r}]: expected a dense Tensor, got {type(tensor).__name__}")
        plain = tensor.detach().cpu().contiguous()
        address = plain.untyped_storage().data_ptr()
        owned[name] = plain.clone() if address in seen else plain
        seen.add(address)
    return safetensors.torch.save(owned)


def _write(folder: Path, data: bytes, text: bytes, step: int) -> Path:
    """Stage, flush, rename. Whatever goes wrong, no half of it stays under a name that a reader looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(f"{STAGING}*"):  # of a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    serial = max((_serial(path) for path in checkpoints(folder.parent)), default=0) + 1
    staging, target = folder / f"{STAGING}{os.getpid()}", folder / f"{serial:06d}-step{step}"
    metrics = folder.parent / METRICS
    if metrics.exists():  # `meta` may hold an offset into it: it must not be shorter after a power cut
        sync(metrics)
    try:
        staging.mkdir()
        write_durably(staging / TENSORS, data)
        write_durably(staging / MANIFEST, text)
        sync(staging)
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync(folder)
    sync(folder.parent)
    return target


def _prune(folder: Path) -> None:
    """Keep the newest two that are whole: a damaged one must not push out the last good one."""
    whole = 0
    for path in checkpoints(folder.parent):
        if whole < KEPT and _is_whole(path):
            whole += 1
            continue
        # Without its manifest a half-removed checkpoint counts as damaged, never as good.
        with contextlib.suppress(OSError):
            (path / MANIFEST).unlink()
        shutil.rmtree(path, ignore_errors=True)


def _is_whole(path: Path) -> bool:
    try:
        manifest = _manifest(path)
        with (path / TENSORS).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == manifest["files"][TENSORS]
    except (_Damaged, OSError):
        return False
    except ValueError:  # a newer version's: not ours to remove
        return True


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = unseal((path / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise _Damaged(f"{MANIFEST} can't be read ({error})") from None
    if manifest["format"] > FORMAT:
        raise ValueError(
            f"checkpoint: {path} has format {manifest['format']}, written by mbrl-planners "
            f"{manifest.get('versions', {}).get('mbrl-planners', '?')}; this version reads formats up to {FORMAT}. "
            f"Upgrade: git pull; pip install ."
        )
    return manifest


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    manifest = _manifest(path)
    try:
        data = (path / TENSORS).read_bytes()
    except OSError as error:
        raise _Damaged(f"{TENSORS} can't be read ({error})") from None
    if hashlib.sha256(data).hexdigest() != manifest["files"][TENSORS]:
        raise _Damaged(f"{TENSORS} does not match its checksum")
    try:
        loaded = safetensors.torch.load(data)
    except SafetensorError as error:
        raise _Damaged(f"{TENSORS} is not readable ({error})") from None
    # Loaded tensors are not aligned as torch allocates them, which costs speed and may change rounding.
    return {name: tensor.clone() for name, tensor in loaded.items()}, manifest["meta"]
