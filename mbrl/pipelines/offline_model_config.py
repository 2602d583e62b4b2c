"""Settings of training on a dataset with a model that is fitted once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mbrl.pipelines.learned_model import check_model


@dataclass(frozen=True)
class OfflineModelConfig:
    """Settings that MOPO, COMBO and MOBILE share; each has a dataclass of its own, which adds some.

    Raises:
        ValueError: a number is out of range, or an option is unknown.
    """

    total_updates: int = 3_000_000
    """Updates of the learner in all."""
    batch_size: int = 256
    """Rows of an update's batch, real and model rows together."""
    discount: float = 0.99
    """Of rewards, per step."""
    device: str = "cpu"
    """Where learner, model and all transitions live: cpu, cuda, cuda:1, ..."""
    updates: Literal["eager", "compile", "graph"] = "eager"
    """How updates are run: as they are written, compiled, or as a captured CUDA graph."""
    precision: Literal["full", "bfloat16"] = "full"
    """Of the products between hidden layers in updates: bfloat16 is faster where the processor has such products."""

    rollout_every: int = 1_000
    """Updates between rounds of rollouts; the first is before the first update."""
    rollout_starts: int = 50_000
    """States of the dataset that a round's rollouts start from, drawn with replacement."""
    rollout_length: int = 5
    """Steps of each rollout, h."""
    retain_rounds: int = 5
    """Rounds whose rows are kept. Where rollouts end early, rows stay longer."""
    elite_sampling: Literal["ts1", "ts1_independent"] = "ts1_independent"
    """How rows of a rollout meet elites at each step: dealt in equal shares, or drawn independently, as the paper's."""
    reward: Literal["learned", "task"] = "learned"
    """The model's rewards: learned with the dynamics, or the task's own, verified on the data."""
    termination: Literal["task", "learned", "never"] = "task"
    """The model's ends: the task's, verified on the data (learned where the library does not know the task); a
    classifier's; or none."""

    members: int = 7
    """Networks of the ensemble."""
    elites: int = 5
    """Members, the best on the holdout, that rollouts and MOBILE's penalty use; MOPO's asks all."""
    model_hidden: tuple[int, ...] = (200, 200, 200, 200)
    """Widths of the hidden layers of each network."""
    model_lr: float = 1e-3
    """Of Adam, for the ensemble."""
    model_batch_size: int = 256
    """Rows per gradient step and member."""
    model_max_steps: int | None = None
    """Gradient steps of the fit at most, for small machines; None: early stopping alone decides."""
    holdout: float = 0.2
    """Share of the rows, at random, that early stopping and elites are decided by."""
    max_holdout: int = 1_000
    """Rows of the holdout at most."""
    patience: int = 5
    """Epochs without improvement after which a member stops."""
    model_seed: int | None = None
    """Seed of the model; None: the run's. Runs with the same one share a cached model."""
    model_cache: str | None = None
    """Folder of fitted models, found again by dataset, settings and seed; None: every run fits its own."""

    log_every: int = 1_000
    """Updates between rows of what the learner reports."""
    eval_every: int = 10_000
    """Updates between evaluations, of which there is one more at the end; 0: none."""
    eval_episodes: int = 10
    """Episodes per evaluation."""
    checkpoint_every: int = 50_000
    """Updates between checkpoints."""
    checkpoint_model_buffer: bool = True
    """Whether checkpoints hold the model rows. Without them, a run that goes on makes new ones first: it is then not
    bit for bit what it would have been."""

    def __post_init__(self) -> None:
        counts = ("total_updates", "batch_size", "rollout_every", "rollout_starts", "rollout_length", "retain_rounds")
        check_model(self, *counts, "log_every", "eval_episodes", "checkpoint_every")
        if self.eval_every < 0:
            raise ValueError(f"eval_every: expected 0 (none) or more, got {self.eval_every}")
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount: expected a number in [0, 1], got {self.discount}")


def real_rows(share: float, batch_size: int) -> int:
    """Real rows of every batch, rounded down.

    Raises:
        ValueError: `share` leaves no room for rows of the model.
    """
    if not 0 <= share < 1:
        raise ValueError(
            f"real_fraction: expected a share in [0, 1), got {share}; without model rows, use a learner that needs no "
            "model (mbrl train cql)"
        )
    return int(share * batch_size + 1e-9)


SMALL: dict[str, Any] = {
    "total_updates": 10_000,
    "rollout_every": 125,
    "rollout_starts": 200,
    "rollout_length": 25,  # few long rollouts: values of states that rollouts only ever end in run away
    "members": 5,
    "elites": 4,
    "model_hidden": (128, 128),
    "model_batch_size": 64,
    "model_max_steps": 2_000,
    "log_every": 500,
    "eval_every": 1_000,
    "checkpoint_every": 5_000,
}
"""Settings of the presets for small tasks: one CPU core, about a minute a seed, one and a half with MOBILE."""
SMALL_POLE: dict[str, Any] = {
    **SMALL,
    "total_updates": 20_000,
    "rollout_starts": 50,
    "rollout_length": 100,  # the model is right far from the data, where no penalty is: shorter ones leave no anchor
    "reward": "task",
}
"""Those for a pole that falls: two minutes and a half a seed, more with COMBO. Its rewards are 1, and 0 at the fall: a
regression on a few falls only blurs that step, and its error, which is larger than all others, decides when the fit
stops."""


def choose(presets: Mapping[str, Mapping[str, Any]], env_id: str | None, name: str | None, default: Any) -> Any:
    """A preset of an environment by name; the first without one, `default` where the environment has none.

    Raises:
        ValueError: there is no preset of that name.
    """
    known = presets.get((env_id or "").rpartition(":")[2], {"default": default})
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise ValueError(f"preset: expected one of {', '.join(known)} for {env_id or 'this dataset'}, got {name!r}")
    return known[name]
