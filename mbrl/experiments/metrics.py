"""metrics.jsonl of a run directory: one JSON object a line.

A line is appended with a single write, so that a killed process leaves at most one unfinished line, at the end; readers
skip it and the next writer removes it.
"""

import json
import math
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from mbrl.experiments.provenance import sync

METRICS = "metrics.jsonl"
STEP = "time/total_timesteps"
"""The metric that is the x axis of runs that act: real environment steps."""
UPDATE = "train/n_updates"
"""The metric that is the x axis of runs that do not: updates of the learner."""


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a run directory's metrics.jsonl; none where there is no such file yet.

    A last line without its end is being written, or was cut off by a kill, and is left out. Raises ValueError that
    names the line where a complete one is not a JSON object.
    """
    file = Path(path) / METRICS
    rows = []
    for number, line in enumerate(_complete(file).splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number}: expected a JSON object, got {line[:80]!r}: the file is damaged")
        rows.append(row)
    return rows


def append_metrics(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append one line to a run directory's metrics.jsonl; a non-finite number is written as null (JSON has none).

    Raises OSError on a full disk, and ValueError for what JSON can't hold.
    """
    file = Path(path) / METRICS
    line = json.dumps({key: _plain(value, key) for key, value in row.items()}, allow_nan=False) + "\n"
    end = _end(file)
    try:
        with file.open("ab", buffering=0) as opened:
            if opened.tell() != end:  # the unfinished line of a killed writer
                opened.truncate(end)
            _write_all(opened.fileno(), line.encode(), end)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write to {file}: {error.strerror}. What was logged before is intact; free "
            f"some space and continue with: mbrl resume {path}",
        ) from error


def cut_metrics(path: str | Path, offset: int, digest: str | None = None) -> None:
    """Cut a run directory's metrics.jsonl back to `offset` bytes.

    Raises ValueError where fewer bytes are there, or where they do not have the SHA-256 `digest`.
    """
    file = Path(path) / METRICS
    data = _complete(file)
    if offset > len(data) or offset < 0:
        raise ValueError(
            f"offset: expected at most the {len(data)} bytes of {file}, got {offset}: the metrics "
            f"are older than the checkpoint. Restore the file from a copy."
        )
    if offset and data[offset - 1 : offset] != b"\n":
        raise ValueError(f"offset: expected the end of a line of {file}, got {offset}")
    if digest is not None and sha256(data[:offset]).hexdigest() != digest:
        raise ValueError(
            f"{file} is damaged: its first {offset} bytes are not those that were there when the "
            f"checkpoint was saved. Restore the file from a copy."
        )
    if file.exists():
        os.truncate(file, offset)
        sync(file)


def metrics_end(path: str | Path) -> int:
    """Bytes of complete lines in a run directory's metrics.jsonl."""
    return _end(Path(path) / METRICS)


def metrics_digest(path: str | Path) -> str:
    """SHA-256 of those bytes."""
    return sha256(_complete(Path(path) / METRICS)).hexdigest()


def _complete(file: Path) -> bytes:
    """The bytes up to the last end of a line."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]


def _end(file: Path) -> int:
    """The length of `_complete`, from the last bytes alone: it is asked for before every line."""
    try:
        with file.open("rb") as opened:
            end = opened.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - 4096)
                opened.seek(start)
                last = opened.read(end - start).rfind(b"\n")
                if last >= 0:
                    return start + last + 1
                end = start
    except FileNotFoundError:
        pass
    return 0


def _write_all(descriptor: int, data: bytes, end: int) -> None:
    """One write, which a nearly full disk may cut short: then nothing of it stays."""
    try:
        written = os.write(descriptor, data)
        if written < len(data):
            os.write(descriptor, data[written:])  # raises, and says why
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def _plain(value: Any, key: str) -> Any:
    """A number or string that JSON can hold, out of a Python, numpy or torch scalar."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item, key) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    raise ValueError(f"row[{key!r}]: expected a number, a string or a list of them, got {type(value).__name__}")
