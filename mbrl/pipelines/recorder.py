"""What a pipeline asks of whoever records it."""

from collections.abc import Mapping
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
