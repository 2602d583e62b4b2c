"""Transitions that a model made, kept for as long as its rollouts are fresh."""

from collections.abc import Callable, Mapping

from torch import Tensor

from mbrl.data.buffer import ReplayBuffer
from mbrl.types import TransitionBatch


class ModelRows:
    """A buffer of model rows whose size may change: the newest rows stay.

    Args:
        make: makes an empty buffer of a capacity.
        stored: whether `state_dict` holds the rows.
    """

    def __init__(self, make: Callable[[int], ReplayBuffer], *, stored: bool) -> None:
        self._make, self._stored = make, stored
        self.buffer: ReplayBuffer | None = None

    def extend(self, rows: TransitionBatch, capacity: int) -> None:
        """Add rows to a buffer of this capacity."""
        if self.buffer is None or self.buffer.capacity != capacity:
            old, self.buffer = self.buffer, self._make(capacity)
            if old is not None and len(old):
                self.buffer.extend_rows(old.all())
        self.buffer.extend_rows(rows)

    def __len__(self) -> int:
        return 0 if self.buffer is None else len(self.buffer)

    def state_dict(self) -> dict[str, Tensor]:
        """The rows, where they are to be stored."""
        return self.buffer.state_dict() if self._stored and self.buffer is not None else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; nothing, where the rows were not stored."""
        if state:
            self.buffer = self._make(int(state["cursor"][0]))
            self.buffer.load_state_dict(state)
