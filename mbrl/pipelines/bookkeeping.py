"""What every training loop keeps of itself: how far it has come, what that cost, and how it goes on from a checkpoint.

`Loop`, which steps environments, and `OfflineLoop`, which does not, hold a `Bookkeeping` each.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from mbrl.learners.settings import plain
from mbrl.pipelines.recorder import Recorder
from mbrl.seeding import whole

Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and what JSON holds of the rest."""


@dataclass
class Counters:
    """How far training has come. Part of every checkpoint; counters that a loop does not use stay 0."""

    steps: int = 0
    """Real environment steps."""
    updates: int = 0
    """Of the learner."""
    fits: int = 0
    """Of the model."""
    model_gradient_steps: int = 0
    """Of those fits."""
    model_steps: int = 0
    """Steps taken in the model."""
    seconds: float = 0.0
    """Of wall-clock before the present process."""
    cpu_seconds: float = 0.0
    """Of the processor before the present process, without evaluations."""


class Counts(Protocol):
    """A dataclass of numbers with at least these."""

    steps: int
    seconds: float
    cpu_seconds: float


class Part(Protocol):
    """Something that a checkpoint has to hold."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> Any: ...


Count = TypeVar("Count", bound=Counts)


class Bookkeeping(Generic[Count]):
    """Counters, rows of metrics and checkpoints of a training loop.

    Args:
        count: counters, a dataclass: those of a checkpoint are written into it.
        seed: compared with that of the checkpoint, as settings are.
        columns: counters that stand in every row of metrics: {metric: counter}.
        parts: what a checkpoint holds, by name.
        settings: all that decides the outcome, flat; compared with those of the checkpoint.
        recorder: takes metrics and checkpoints, and gives the checkpoint to go on from.
    """

    def __init__(
        self,
        count: Count,
        *,
        seed: int,
        columns: Mapping[str, str],
        parts: Mapping[str, Part],
        settings: Mapping[str, Any],
        recorder: Recorder,
    ) -> None:
        self.count, self.recorder = count, recorder
        self._seed, self._columns, self._parts = whole(seed), columns, parts
        self._settings = _plain(settings)
        self.begin()

    def restore(self) -> Checkpoint | None:
        """Put the checkpoint that there is into counters and parts; None where there is none.

        Raises:
            ValueError: its seed or settings are others and the recorder does not accept that, or they do not fit it.
        """
        checkpoint = self.recorder.load()
        if checkpoint is None:
            return None
        tensors, meta = checkpoint
        stored = {"seed": meta.get("seed", self._seed), **meta.get("settings", {})}
        changed = differences(stored, {"seed": self._seed, **self._settings})
        if changed and not self.recorder.accepts(changed):
            raise ValueError(
                f"settings: expected those of the checkpoint, got others ({describe(changed)}): the results would be "
                "those of neither; start a new run, or accept the changes (mbrl resume RUN --accept-changes)"
            )
        for name, value in {"cpu_seconds": math.nan, **meta["counters"]}.items():  # unknown to older checkpoints
            setattr(self.count, name, value)
        for name, held in self._parts.items():
            try:
                held.load_state_dict(part(tensors, name))
            except (ValueError, RuntimeError, KeyError) as error:
                if not changed:
                    raise
                raise ValueError(
                    f"settings: expected those with which the {name} of the checkpoint was made, or ones that leave "
                    f"its sizes alone, got others ({describe(changed)}): {error}"
                ) from error
        return checkpoint

    def begin(self) -> None:
        """Time counts from here: what was made ready before does not."""
        self._started, self._cpu_started = time.perf_counter(), time.process_time()

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """What runs inside, an evaluation, costs the run no processor time."""
        started = time.process_time()
        yield
        self._cpu_started += time.process_time() - started

    def cpu_seconds(self) -> float:
        """Of the processor, in all threads of this process: those of the whole run so far, without evaluations."""
        return self.count.cpu_seconds + time.process_time() - self._cpu_started

    def seconds(self) -> float:
        """Wall-clock of the whole run so far, that before a resume included."""
        return self.count.seconds + time.perf_counter() - self._started

    def x(self) -> dict[str, float]:
        """What stands in every row of metrics: real steps, and what they have cost so far."""
        counters = {metric: getattr(self.count, name) for metric, name in self._columns.items()}
        spent = {"time/wall_clock": self.seconds(), "time/cpu_seconds": self.cpu_seconds()}
        return {"time/total_timesteps": self.count.steps, **counters, **spent}

    def log(self, row: Mapping[str, float]) -> None:
        """Log metrics with the x axis."""
        self.recorder.log({**self.x(), **row})

    def save(self, number: int, tensors: Mapping[str, Tensor] | None = None, **more: Any) -> None:
        """Save everything that training goes on from.

        Args:
            number: of the checkpoint, by which they are ordered.
            tensors: what the checkpoint holds besides the parts.
            more: likewise, for JSON.
        """
        held = dict(tensors or {})
        for name, one in self._parts.items():
            held |= {f"{name}/{key}": value for key, value in one.state_dict().items()}
        spent = {"seconds": self.seconds(), "cpu_seconds": self.cpu_seconds()}
        counters = asdict(self.count) | spent  # type: ignore[call-overload]
        self.recorder.save(number, held, {"seed": self._seed, "settings": self._settings, **more, "counters": counters})


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors stored under `name/`, without the prefix."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


Changes = dict[str, tuple[Any, Any]]
"""Settings by name: what they were, and what they are now."""


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """The settings that both have and that differ; one that only a newer version knows is no difference."""
    present = _plain(now)
    return {name: (was, present[name]) for name, was in stored.items() if name in present and present[name] != was}


def describe(changed: Changes) -> str:
    """For people: "lr: 0.0003 -> 0.0001, ..."."""
    return ", ".join(f"{name}: {was} -> {now}" for name, (was, now) in changed.items())


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back, tuples as lists, so that stored ones compare equal."""
    return json.loads(json.dumps(settings, default=plain))
