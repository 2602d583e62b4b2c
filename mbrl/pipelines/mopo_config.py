"""Settings of MOPO, and those that suit known environments."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mbrl.learners.sac import SACConfig
from mbrl.models.penalties import PenaltyKind, PenaltyUnits, check_penalty
from mbrl.pipelines.offline_model import check_offline_model


@dataclass(frozen=True)
class MOPOConfig:
    """Settings of `train_mopo`; those of the learner stand apart.

    Raises:
        ValueError: a number is out of range, or an option is unknown.
    """

    total_updates: int = 3_000_000
    """Updates of the learner in all."""
    batch_size: int = 256
    """Rows of an update's batch, real and model rows together."""
    real_fraction: float = 0.05
    """Share of real rows in every batch, by count: 12 of 256."""
    discount: float = 0.99
    """Of rewards, per step."""
    device: str = "cpu"
    """Where learner, model and all transitions live: cpu, cuda, cuda:1, ..."""
    updates: Literal["eager", "compile", "graph"] = "eager"
    """How updates are run: as they are written, compiled, or as a captured CUDA graph."""

    penalty: PenaltyKind = "pairwise"
    """What lowers the model's rewards: members' disagreement ("pairwise", "ensemble_std"), the noise that they expect
    ("aleatoric", the paper's), or nothing ("none")."""
    penalty_weight: float = 1.0
    """Of the penalty; the paper's lambda where its units are raw."""
    penalty_units: PenaltyUnits = "data"
    """Units of the penalty: the environment's ("raw", the paper's), or those of the data: a disagreement as large as
    the changes in the data costs `penalty_weight` usual rewards."""

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
    """Members, the best on the holdout, that rollouts use; penalties ask all."""
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
    """Updates between evaluations; 0: none."""
    eval_episodes: int = 10
    """Episodes per evaluation."""
    checkpoint_every: int = 50_000
    """Updates between checkpoints."""
    checkpoint_model_buffer: bool = True
    """Whether checkpoints hold the model rows. Without them, a run that goes on makes new ones first: it is then not
    bit for bit what it would have been."""

    def __post_init__(self) -> None:
        check_offline_model(self)
        check_penalty(self.penalty, self.penalty_weight, self.penalty_units)

    @property
    def real_rows(self) -> int:
        """Real rows of every batch, rounded down."""
        return int(self.real_fraction * self.batch_size + 1e-9)


class MOPOPreset(NamedTuple):
    """Settings for one environment."""

    config: MOPOConfig
    learner: SACConfig
    env_kwargs: Mapping[str, Any]
    """Options of the environment, as registered."""


_LEARNER = SACConfig(actor_lr=1e-4, max_temperature=1.0)
# One CPU core: a seed takes about a minute.
_SMALL = MOPOConfig(
    total_updates=10_000,
    rollout_every=250,
    rollout_starts=1_000,
    members=5,
    elites=4,
    model_hidden=(128, 128),
    model_max_steps=2_000,
    log_every=500,
    eval_every=1_000,
    checkpoint_every=5_000,
)
_SMALL_LEARNER = SACConfig(hidden=(64, 64), lr=1e-3)


def _runner(length: int, weight: float) -> MOPOConfig:
    """As OfflineRL-Kit runs D4RL's medium-replay sets: aleatoric noise in raw units."""
    return MOPOConfig(rollout_length=length, penalty="aleatoric", penalty_weight=weight, penalty_units="raw")


PRESETS: dict[str, dict[str, MOPOPreset]] = {
    "Pendulum-v1": {"small": MOPOPreset(_SMALL, _SMALL_LEARNER, {})},
    "InvertedPendulum-v5": {"small": MOPOPreset(_SMALL, _SMALL_LEARNER, {})},
    **{
        env_id: {
            "default": MOPOPreset(MOPOConfig(rollout_length=length), _LEARNER, {}),
            "published": MOPOPreset(_runner(length, weight), _LEARNER, {}),
        }
        for env_id, length, weight in (("HalfCheetah-v5", 5, 0.5), ("Hopper-v5", 5, 2.5), ("Walker2d-v5", 1, 2.5))
    },
}
"""By environment id and name; the first is the default. docs/mopo.md says where the numbers come from."""


def mopo_preset(env_id: str, name: str | None = None) -> MOPOPreset:
    """The preset of an environment: the first, or that of a name; the defaults where there is none.

    Raises:
        ValueError: there is no preset of that name.
    """
    return choose(PRESETS, env_id, name, MOPOPreset(MOPOConfig(), _LEARNER, {}))


def choose(presets: Mapping[str, Mapping[str, Any]], env_id: str, name: str | None, default: Any) -> Any:
    """A preset of an environment by name; the first without one, `default` where the environment has none.

    Raises:
        ValueError: there is no preset of that name.
    """
    known = presets.get(env_id.rpartition(":")[2], {"default": default})
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise ValueError(f"preset: expected one of {', '.join(known)} for {env_id or 'this dataset'}, got {name!r}")
    return known[name]
