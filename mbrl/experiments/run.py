"""The run directory: `{env_id}__{algo}__{seed}__{time}/` with config.json and metrics.jsonl.

`config.json` says what was asked for and with which versions; it carries a checksum, since a changed seed would pass
for another experiment. For `metrics.jsonl` see `metrics`.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from mbrl.experiments.metrics import (
    METRICS,
    STEP,
    append_metrics,
    cut_metrics,
    metrics_digest,
    metrics_end,
    read_metrics,
)
from mbrl.experiments.provenance import git_commit, machine, seal, sync, unseal, versions, write_durably

FORMAT = 1
CONFIG = "config.json"
X_AXIS = "x_axis"
"""Where config.json says which; without it, it is `STEP`."""


class Run:
    """One training run on disk: made by `Run.create`, found again by `Run.open`.

    Attributes: `path`, `env_id`, `algo`, `seed`, `config` (as it comes back from JSON: tuples are lists), `header`
    (everything in config.json, versions, git commit and machine among it) and `x` (the metric that is its x axis).
    """

    def __init__(self, path: Path, header: dict[str, Any], *, tensorboard: bool = False) -> None:
        self.path = path
        self.header = header
        self.env_id: str = header["env_id"]
        self.algo: str = header["algo"]
        self.seed: int = header["seed"]
        self.config: dict[str, Any] = header["config"]
        self.x: str = self.config.get(X_AXIS, STEP)
        self._unwritten: bytes | None = None
        self._mirror = _TensorBoard(path, self.x) if tensorboard else None

    @classmethod
    def create(
        cls,
        root: str | Path,
        env_id: str,
        algo: str,
        seed: int,
        config: Mapping[str, Any],
        *,
        tensorboard: bool = False,
    ) -> Self:
        """A new directory under `root`. Raises ValueError where `config` is not representable in JSON."""
        header = {
            "format": FORMAT,
            "env_id": env_id,
            "algo": algo,
            "seed": seed,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": versions(),
            "git_commit": git_commit(),
            "machine": machine(),
            "config": dict(config),
        }
        try:
            text = seal(header).encode()
        except ValueError as error:
            raise ValueError(f"config: {error}") from None
        path = _new_directory(Path(root), f"{file_name(env_id)}__{file_name(algo)}__{seed}")
        _write_header(path, text)
        sync(path.parent)
        return cls(path, unseal(text), tensorboard=tensorboard)

    @classmethod
    def open(cls, path: str | Path, *, tensorboard: bool = False) -> Self:
        """An existing directory. Raises ValueError where it is missing, damaged or of a newer version."""
        path = Path(path)
        file = path / CONFIG
        try:
            text = file.read_bytes()
        except OSError as error:
            raise ValueError(
                f"run: expected a run directory with a {CONFIG}, got {str(path)!r} ({error.strerror}). Run directories "
                f"are made by `mbrl train` and look like runs/ENV__ALGO__SEED__TIME; one without a {CONFIG} was "
                f"killed while it started and can be deleted."
            ) from None
        try:
            header = unseal(text)
        except ValueError as error:
            raise ValueError(
                f"run: {file} is damaged ({error}). Restore it from a copy; the metrics beside it can still be read, "
                f"but a run cannot go on with settings that are not known."
            ) from None
        if header["format"] > FORMAT:
            raise ValueError(
                f"run: {file} has format {header['format']}, written by mbrl-planners "
                f"{header.get('versions', {}).get('mbrl-planners', '?')}; this version reads formats up to {FORMAT}. "
                f"Upgrade: git pull; pip install ."
            )
        return cls(path, header, tensorboard=tensorboard)

    def change(self, config: Mapping[str, Any]) -> None:
        """Go on with another `config`; the one before joins the list `changes` of config.json, with the time.

        It is written by `keep_changes`, when the run has gone on with it: one that does not fit what has been learned
        leaves config.json as it was.
        """
        before = {"until": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "config": self.config}
        header = {**self.header, "config": dict(config), "changes": [*self.header.get("changes", []), before]}
        self._unwritten = seal(header).encode()
        self.header = unseal(self._unwritten)
        self.config = self.header["config"]

    def note_process(self) -> None:
        """Add this process's machine and threads to the list `machines` of config.json, and its versions and commit to
        `software`, where they are not yet in it.

        A run may be trained elsewhere than where its directory was made (`machine`, `versions`, `git_commit`), and in
        pieces on several machines, with a library that was updated in between.
        """
        made = {name: self.header.get(name) for name in ("versions", "git_commit")}
        software = self.header.get("software", [made])
        ours = {"versions": versions(), "git_commit": git_commit()}
        noted, here = self.header.get("machines", []), machine()
        if here in noted and ours in software:
            return
        self.header = {
            **self.header,
            "machines": noted if here in noted else [*noted, here],
            "software": software if ours in software else [*software, ours],
        }
        text = seal(self.header).encode()
        if self._unwritten is None:
            _write_header(self.path, text)
        else:
            self._unwritten = text

    def keep_changes(self) -> None:
        """Write config.json where `change` has been called since it was written."""
        if self._unwritten is not None:
            _write_header(self.path, self._unwritten)
            self._unwritten = None

    @property
    def metrics_path(self) -> Path:
        return self.path / METRICS

    @property
    def offset(self) -> int:
        """Bytes of complete lines in metrics.jsonl: what a checkpoint keeps and `truncate` goes back to."""
        return metrics_end(self.path)

    @property
    def digest(self) -> str:
        """SHA-256 of those bytes."""
        return metrics_digest(self.path)

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one line; a non-finite number is written as null (JSON has none). Raises OSError on a full disk."""
        append_metrics(self.path, row)
        if self._mirror is not None:
            self._mirror.add(row)

    def truncate(self, offset: int, digest: str | None = None) -> None:
        """Cut metrics.jsonl back to `offset` bytes, as a resumed run does with what its checkpoint had seen.

        Raises ValueError where fewer bytes are there, or where they do not have the SHA-256 `digest`.
        """
        cut_metrics(self.path, offset, digest)
        if self._mirror is not None:
            self._mirror.restart(self.metrics())

    def metrics(self) -> list[dict[str, Any]]:
        """All complete lines, oldest first."""
        return read_metrics(self.path)

    def close(self) -> None:
        """Close what is open: only the TensorBoard mirror is."""
        if self._mirror is not None:
            self._mirror.close()


def _write_header(path: Path, text: bytes) -> None:
    staged = path / f".{CONFIG}"
    staged.unlink(missing_ok=True)  # of a process that was killed
    write_durably(staged, text)
    staged.rename(path / CONFIG)
    sync(path)


def file_name(text: str) -> str:
    """An environment's or algorithm's name as the names of run directories have it."""
    return "".join(character if character.isalnum() or character in "-_." else "-" for character in text)


def _new_directory(root: Path, stem: str) -> Path:
    """Two runs of one second get different names: the directory is made by whoever comes first."""
    root.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for attempt in range(1, 1000):
        path = root / (f"{stem}__{stamp}" if attempt == 1 else f"{stem}__{stamp}-{attempt}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise ValueError(f"root: expected room for a new run directory in {root}, but {path.name} and all before it exist")


class _TensorBoard:
    """The numbers of metrics.jsonl once more as TensorBoard events; the file stays the truth."""

    def __init__(self, path: Path, x: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError(
                'tensorboard: expected the optional extra to be installed; pip install ".[tensorboard]"'
            ) from None
        self._open, self._path, self._x = SummaryWriter, path / "tensorboard", x
        self._writer: Any = None

    def add(self, row: Mapping[str, Any]) -> None:
        if self._writer is None:
            self._writer = self._open(str(self._path))
        step = int(row.get(self._x, 0))
        for key, value in row.items():
            if isinstance(value, (int, float)) and key != self._x:
                self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def restart(self, rows: list[dict[str, Any]]) -> None:
        """Hide the events after the last row that was kept."""
        self.close()
        last = max((int(row.get(self._x, 0)) for row in rows), default=0)
        self._writer = self._open(str(self._path), purge_step=last + 1)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
