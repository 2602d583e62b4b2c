"""What tests of training loops share: a recorder in memory, and the comparison of two checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


class Memory:
    """A recorder that keeps rows and checkpoints, and gives the newest checkpoint of another back."""

    def __init__(self, start: tuple[dict[str, Tensor], dict[str, Any]] | None = None, accept: bool = False) -> None:
        self.start, self.accept = start, accept
        self.rows: list[dict[str, float]] = []
        self.saved: list[tuple[dict[str, Tensor], dict[str, Any]]] = []
        self.kept: dict[str, dict[str, Tensor]] = {}

    def log(self, row: Mapping[str, float]) -> None:
        timing = {
            f"time/{name}"
            for name in ("wall_clock", "cpu_seconds", "fps", "updates_per_second", "fit_seconds", "rollout_seconds")
        }
        self.rows.append({key: value for key, value in row.items() if key not in timing})

    def advance(self, steps: int) -> None:
        pass

    def save(self, steps: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.saved.append(({name: tensor.clone() for name, tensor in tensors.items()}, meta))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.start

    def accepts(self, changed: Mapping[str, tuple[Any, Any]]) -> bool:
        return self.accept

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> Path:
        self.kept[name] = {key: value.clone() for key, value in tensors.items()}
        return Path(name)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bytes, since NaN, the log-probability of an unknown policy, does not equal itself."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert other[name].numpy().tobytes() == tensor.numpy().tobytes(), name
