"""A progress bar: how far, how long still, and the return of the last episode or evaluation."""

import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from tqdm import tqdm

QUIET_SECONDS = 15.0
"""Where the output is not a terminal, a line is written this often instead of a bar."""


class Progress:
    """A bar over real environment steps, or updates; use it in a `with` block.

    It begins with the first `advance`, whatever that says: what a resumed run did before counts as done, not as speed.

    Args:
        total: steps of the whole run.
        description: what stands before the bar.
        unit: what is counted.
        file: where it is drawn, the standard error by default. A terminal gets a bar, anything else plain lines.
    """

    def __init__(self, total: int, *, description: str = "", unit: str = "step", file: TextIO | None = None) -> None:
        self._total, self._description, self._unit = total, description, unit
        self._file = sys.stderr if file is None else file
        self._plain = not self._file.isatty()
        self._bar: Any = None
        self._spoke = time.monotonic()

    def advance(self, steps: int) -> None:
        """`steps` have been taken since the run began."""
        if self._bar is None:
            self._bar = self._begin(steps)
        self._bar.update(steps - self._bar.n)
        if self._plain and time.monotonic() - self._spoke >= QUIET_SECONDS:
            self._speak()

    def show(self, row: Mapping[str, Any]) -> None:
        """Take the return out of a row of metrics: of an episode, or of an evaluation where no steps are counted."""
        ret = row.get("rollout/ep_rew_mean", None if self._unit == "step" else row.get("eval/mean_reward"))
        if ret is not None and self._bar is not None:
            self._bar.set_postfix_str(f"return={ret:.1f}", refresh=not self._plain)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is None:
            return
        if self._plain:
            self._speak()
        self._bar.close()

    def _begin(self, steps: int) -> Any:
        return tqdm(
            total=self._total,
            initial=steps,
            desc=self._description,
            unit=self._unit,
            file=_Nowhere() if self._plain else self._file,
            # Some terminals (of containers, say) claim to have no columns, and would get an empty bar.
            dynamic_ncols=not self._plain and _columns(self._file) > 0,
            ncols=80,
        )

    def _speak(self) -> None:
        self._spoke = time.monotonic()
        print(tqdm.format_meter(**{**self._bar.format_dict, "ncols": 0}), file=self._file, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _columns(file: TextIO) -> int:
    try:
        return os.get_terminal_size(file.fileno()).columns
    except (OSError, ValueError):
        return 0


class _Nowhere:
    """tqdm keeps no count where it is disabled, so for plain lines it draws its bar into nothing."""

    def write(self, text: str) -> None:
        pass

    def flush(self) -> None:
        pass
