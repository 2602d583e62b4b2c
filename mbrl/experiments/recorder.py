"""A pipeline's recorder that writes a run directory and shows progress."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from mbrl.experiments.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from mbrl.experiments.metrics import STEP
from mbrl.experiments.progress import Progress
from mbrl.experiments.run import Run


def check_not_finished(run: Run, total: int) -> None:
    """Of a run without checkpoints: to start it again would throw away the metrics of one that is at its end.

    Raises:
        ValueError: the metrics go to `total`, on the run's x axis.
    """
    done = max((int(row.get(run.x) or 0) for row in run.metrics()), default=0)
    if done >= total:
        raise ValueError(
            f"run: expected a checkpoint in {run.path}, found none, and its metrics go to {done:,} of {total:,}: its "
            f"checkpoints were removed. Restore them; or, to train it once more, remove {run.metrics_path.name}, too"
        )


class RunRecorder:
    """Records into a run directory; a run that exists already is cut back to its newest checkpoint and goes on.

    Use it as a context manager: it closes the progress bar and the run.

    Args:
        run: where to.
        total_timesteps: of the whole run, for the progress bar; or updates, where those are its x axis.
        progress: whether there is one.
        accept_changes: whether the run may go on with other settings than those of its checkpoint.
    """

    def __init__(self, run: Run, *, total_timesteps: int, progress: bool = True, accept_changes: bool = False) -> None:
        self.run, self._total, self._accept_changes = run, total_timesteps, accept_changes
        unit = "step" if run.x == STEP else "update"
        self._progress = Progress(total_timesteps, unit=unit) if progress else None

    def log(self, row: Mapping[str, float]) -> None:
        self.run.log(row)
        if self._progress is not None:
            self._progress.show(row)

    def advance(self, steps: int) -> None:
        self.run.keep_changes()
        if self._progress is not None:
            self._progress.advance(steps)

    def save(self, steps: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        position = {"offset": self.run.offset, "digest": self.run.digest}
        save_checkpoint(self.run.path, tensors, {**meta, "metrics": position}, step=steps)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint, with the metrics cut back to it; None where there is none yet: from the start.

        Raises:
            ValueError: the run is at its end and its checkpoints were removed.
        """
        if not checkpoints(self.run.path):
            check_not_finished(self.run, self._total)
            self.run.truncate(0)
            return None
        tensors, meta = load_checkpoint(self.run.path)
        self.run.truncate(**meta["metrics"])
        return tensors, meta

    def accepts(self, changed: Mapping[str, tuple[Any, Any]]) -> bool:
        return self._accept_changes

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> Path:
        path = self.run.path / f"{name}.safetensors"
        owned = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        safetensors.torch.save_file(owned, path)
        return path

    def __enter__(self) -> "RunRecorder":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.close()
        self.run.close()
