"""What a pipeline asks of whoever records it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


class Recorder(Protocol):
    """Takes the metrics and the checkpoints of a training run."""

    def log(self, row: Mapping[str, float]) -> None:
        """Record one row of metrics; `time/total_timesteps` is the x axis."""

    def advance(self, steps: int) -> None:
        """Tell how many real environment steps have been taken."""

    def save(self, steps: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Store a checkpoint from which training goes on exactly."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The checkpoint to go on from; None where training starts."""

    def accepts(self, changed: Mapping[str, tuple[Any, Any]]) -> bool:
        """Whether training may go on from a checkpoint of other settings: {name: (those, these)}."""

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> Path | None:
        """Store tensors that someone will want to look at; where they are, or None where nothing is stored."""


class NullRecorder:
    """Records nothing."""

    def log(self, row: Mapping[str, float]) -> None:
        pass

    def advance(self, steps: int) -> None:
        pass

    def save(self, steps: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        pass

    def load(self) -> None:
        return None

    def accepts(self, changed: Mapping[str, tuple[Any, Any]]) -> bool:
        return False

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        return None
