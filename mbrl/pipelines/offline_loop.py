"""What every training loop on stored transitions does: count, log, evaluate, save, and go on from what was saved.

The sibling of `mbrl.pipelines.loop.Loop` for training that takes no real steps; its x axis is the learner's updates.

    while loop.goes_on():
        updates.run(loop.until_due(), 0)      # as many updates as nothing else is due before
        count.updates = agent.updates
        loop.log_due(updates.metrics)
        loop.evaluate(agent)
        loop.checkpoint()

Random numbers come from generators seeded with counters (`mbrl.seeding`), so a checkpoint holds no random state, and a
run that goes on from one repeats what it would have done, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from mbrl.learners.fast import LARGEST
from mbrl.pipelines.bookkeeping import Bookkeeping, Counts, Part
from mbrl.pipelines.recorder import Recorder


class OfflineLoopConfig(Protocol):
    """The settings that every such loop has."""

    @property
    def total_updates(self) -> int: ...
    @property
    def log_every(self) -> int: ...
    @property
    def eval_every(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...


class UpdateCounts(Counts, Protocol):
    """Counters that know the learner's updates."""

    updates: int


Count = TypeVar("Count", bound=UpdateCounts)


class OfflineLoop(Generic[Count]):
    """The state of a training loop without real steps; where the recorder has a checkpoint, it goes on from there.

    Args:
        config: the settings.
        count: counters, a dataclass: those of a checkpoint are written into it.
        seed: stands in every checkpoint.
        columns: counters that stand in every row of metrics besides the updates: {metric: counter}.
        parts: what a checkpoint holds, by name: agent, updates, model, model rows. Data is not among it.
        settings: all that decides the outcome, flat, the dataset's hash among it; compared with the checkpoint's.
        recorder: takes metrics and checkpoints, and gives the checkpoint to go on from.
        evaluate: `evaluate(policy, updates)` -> metrics.
        stop: asked in every round; True ends the training with a checkpoint.

    Raises:
        ValueError: the checkpoint's settings are others and the recorder does not accept that, or they do not fit it;
            or there is none, and the learner has had as many updates as are asked for already.
    """

    def __init__(
        self,
        config: OfflineLoopConfig,
        count: Count,
        *,
        seed: int,
        columns: Mapping[str, str],
        parts: Mapping[str, Part],
        settings: Mapping[str, Any],
        recorder: Recorder,
        evaluate: Callable[[Any, int], dict[str, float]] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.config, self.count, self.recorder = config, count, recorder
        self._evaluate, self._stop, self._stopped = evaluate, stop, False
        self._books = Bookkeeping(
            count,
            seed=seed,
            columns={"train/n_updates": "updates", **columns},
            parts=parts,
            settings=settings,
            recorder=recorder,
        )
        restored = self._books.restore() is not None
        self._earlier = 0 if restored else count.updates  # whose seconds are not this run's
        if not restored and count.updates >= config.total_updates:
            raise ValueError(
                f"total_updates: expected more than the {count.updates} updates that the agent has had, which count, "
                f"got {config.total_updates}"
            )
        self._before = count.updates
        self._books.begin()

    def goes_on(self) -> bool:
        """Whether there is another update to run."""
        return self.count.updates < self.config.total_updates and not self._stopped

    def until_due(self, *every: int) -> int:
        """How many updates to run now: up to the next that something is due after, at most `LARGEST`.

        Args:
            every: updates between what else the pipeline does (a rollout, say), besides the loop's own settings; 0:
                never.
        """
        at, config = self.count.updates, self.config
        periods = (*every, config.log_every, config.eval_every, config.checkpoint_every)
        # From the counter alone, so that a resumed run is cut into the same blocks.
        return min(LARGEST - at % LARGEST, config.total_updates - at, *(n - at % n for n in periods if n > 0))

    def x(self) -> dict[str, float]:
        """What stands in every row of metrics: real steps (0 here), updates, and what they have cost so far."""
        return self._books.x()

    def seconds(self) -> float:
        """Wall-clock of the whole run so far, that before a resume included."""
        return self._books.seconds()

    def crossed(self, every: int) -> bool:
        """Whether this round's updates reached or passed a multiple of `every`; 0: never."""
        return every > 0 and self.count.updates // every > self._before // every

    def log(self, row: Mapping[str, float]) -> None:
        """Log metrics with the x axis."""
        self._books.log(row)

    def log_due(self, metrics: Callable[[], Mapping[str, float]]) -> None:
        """Log what `metrics()` gives, and the speed, where that is due."""
        if self.crossed(self.config.log_every):
            updates = self.count.updates - self._earlier
            self.log({**metrics(), "time/updates_per_second": updates / max(self.seconds(), 1e-9)})

    def evaluate(self, policy: Any) -> None:
        """Evaluate the policy where that is due: every so many updates, and after the last."""
        every, ends = self.config.eval_every, self.count.updates >= self.config.total_updates
        if self._evaluate is not None and every > 0 and (ends or self.crossed(every)):
            with self._books.uncounted():
                row = self._evaluate(policy, self.count.updates)
            self.log(row)

    def checkpoint(self) -> None:
        """End the round: save where that is due, at the end, and where `stop` says that it is one."""
        self._stopped = self._stop is not None and self._stop()
        self.recorder.advance(self.count.updates)
        if self.crossed(self.config.checkpoint_every) or not self.goes_on():
            self._books.save(self.count.updates)
        self._before = self.count.updates
