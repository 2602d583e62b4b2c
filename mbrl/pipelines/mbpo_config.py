"""Settings of MBPO, and those of the paper and of its authors' code by environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from mbrl.learners.sac import SACConfig
from mbrl.pipelines.config_checks import check_horizons
from mbrl.pipelines.learned_model import check_model
from mbrl.pipelines.off_policy_config import check_off_policy
from mbrl.pipelines.schedules import Ramp


@dataclass(frozen=True)
class MBPOConfig:
    """Settings of `train_mbpo`; those of the learner stand apart. The defaults are the paper's for Hopper.

    Raises:
        ValueError: a number is out of range, or two disagree.
    """

    total_timesteps: int = 125_000
    """Real environment steps in all."""
    initial_steps: int = 5_000
    """Steps with uniformly random actions, before the first fit and the first update; 0: the agent has experience."""
    update_every: int = 1
    """Real steps between rounds of updates."""
    update_ratio: float = 20.0
    """Updates of the learner per real step."""
    batch_size: int = 256
    """Rows of an update's batch, real and model rows together."""
    real_fraction: float = 0.05
    """Share of real rows in every batch, by count: 12 of 256."""
    buffer_size: int = 1_000_000
    """Real transitions that are kept; the oldest give way."""
    discount: float = 0.99
    """Of rewards, per step."""
    num_envs: int = 1
    """Environments that are stepped together."""
    vector: Literal["sync", "async"] = "sync"
    """Several environments in this process, or in one process each; async can't be resumed bit for bit."""
    device: str = "cpu"
    """Where learner, model and all transitions live: cpu, cuda, cuda:1, ..."""
    updates: Literal["eager", "compile", "graph"] = "eager"
    """How updates are run: as they are written, compiled, or as a captured CUDA graph."""
    precision: Literal["full", "bfloat16"] = "full"
    """Of the products between hidden layers in updates: bfloat16 is faster where the processor has such products."""

    model_every: int = 250
    """Real steps between fits of the model, each of which is followed by rollouts."""
    rollout_starts: int = 100_000
    """Real states that rollouts start from after each fit, drawn with replacement."""
    rollout_length: Ramp = field(default_factory=lambda: Ramp(1, 15, start=20_000, end=100_000))
    """Steps of each rollout, over real steps."""
    retain_steps: int = 1_000
    """How many model rows are kept, in real steps: as many as the fits of so many steps, rounded up, make at most
    (fits * rollout_starts * the present length). Where rollouts end early, rows stay longer."""
    elite_sampling: Literal["ts1", "ts1_independent"] = "ts1_independent"
    """How rows of a rollout meet elites at each step: dealt in equal shares, or drawn independently, as the paper's."""
    reward: Literal["learned", "task"] = "learned"
    """The model's rewards: learned with the dynamics, or the task's own, verified on every real step."""
    termination: Literal["task", "learned", "never"] = "task"
    """The model's ends: the task's, verified on every real step; a classifier's; or none."""
    targets: Literal["td", "mve", "steve"] = "td"
    """What the critics learn: one-step targets, or model-based value expansion of them."""
    expansion_horizon: int = 3
    """Model steps of an expanded target."""

    members: int = 7
    """Networks of the ensemble."""
    elites: int = 5
    """Members, the best on the holdout, that rollouts use."""
    model_hidden: tuple[int, ...] = (200, 200, 200, 200)
    """Widths of the hidden layers of each network."""
    model_lr: float = 1e-3
    """Of Adam, for the ensemble."""
    model_batch_size: int = 256
    """Rows per gradient step and member."""
    model_max_steps: int | None = None
    """Gradient steps of a fit at most, for small machines; None: early stopping alone decides."""
    holdout: float = 0.2
    """Share of the real rows, at random, that early stopping and elites are decided by."""
    max_holdout: int = 5_000
    """Rows of the holdout at most."""
    patience: int = 5
    """Epochs without improvement after which a member stops."""
    diagnostic_horizons: tuple[int, ...] = (1, 2, 5, 10)
    """Steps ahead at which the model is scored, before each fit, on real steps that it has not seen; (): never."""

    eval_every: int = 1_000
    """Real steps between evaluations, whose episodes are not counted and not learned from; 0: none."""
    eval_episodes: int = 5
    """Episodes per evaluation."""
    checkpoint_every: int = 5_000
    """Real steps between checkpoints."""
    checkpoint_model_buffer: bool = True
    """Whether checkpoints hold the model rows. Without them, a run that goes on makes new ones first: it is then not
    bit for bit what it would have been."""

    def __post_init__(self) -> None:
        check_off_policy(self)  # type: ignore[arg-type]
        check_model(self, "model_every", "rollout_starts", "retain_steps", "expansion_horizon")
        check_horizons(self)
        if not isinstance(self.rollout_length, Ramp):
            n = self.rollout_length
            raise ValueError(f"rollout_length: expected a Ramp, such as Ramp(5, 5) for 5 steps throughout, got {n!r}")
        if not 0 <= self.real_fraction <= 1:
            raise ValueError(f"real_fraction: expected a share in [0, 1], got {self.real_fraction}")
        if self.retain_steps < self.model_every:
            raise ValueError(
                f"retain_steps: expected at least model_every ({self.model_every}), got {self.retain_steps}: rows "
                "would be gone before the next fit"
            )

    @property
    def n_step(self) -> int:
        """Rewards that a target sums up before it bootstraps: rows of the model stand alone."""
        return 1

    @property
    def real_rows(self) -> int:
        """Real rows of every batch, rounded down, as in the authors' code."""
        return int(self.real_fraction * self.batch_size + 1e-9)


class MBPOPreset(NamedTuple):
    """Settings for one environment."""

    config: MBPOConfig
    learner: SACConfig
    env_kwargs: Mapping[str, Any]
    """Options of the environment, as registered: observations of Ant and Humanoid leave out contact forces."""


_SHORT = MBPOConfig(
    total_timesteps=20_000,
    initial_steps=500,
    update_ratio=10,
    rollout_length=Ramp(1, 1),
    retain_steps=250,
    eval_every=250,
    checkpoint_every=1_000,
)
_FLAT = MBPOConfig(total_timesteps=300_000, rollout_length=Ramp(1, 1))
_ANT = {"include_cfrc_ext_in_observation": False}
_HUMANOID = {
    "include_cinert_in_observation": False,
    "include_cvel_in_observation": False,
    "include_qfrc_actuator_in_observation": False,
    "include_cfrc_ext_in_observation": False,
}
_ANT_RUN = replace(_FLAT, rollout_length=Ramp(1, 25, start=20_000, end=100_000))
_HUMANOID_RUN = replace(
    _FLAT,
    rollout_length=Ramp(1, 25, start=20_000, end=300_000),
    model_hidden=(400, 400, 400, 400),
    model_every=1_000,
    retain_steps=5_000,
)
# A working point on one CPU core: docs/results.md has what was measured with it.
_SMALL = MBPOConfig(
    total_timesteps=2_500,
    initial_steps=250,
    update_ratio=10,
    batch_size=128,
    model_every=125,
    rollout_starts=2_000,
    rollout_length=Ramp(1, 5, start=250, end=1_500),
    retain_steps=500,
    reward="task",  # 1 while the pole is up, 0 at its fall: a step that a regression on a few falls only blurs
    model_hidden=(128, 128, 128),
    model_batch_size=64,
    model_max_steps=1_000,
    eval_every=250,
    checkpoint_every=250,
)

_SMALL_SAC = SACConfig(hidden=(128, 128), lr=1e-3, tau=0.02)
_SMALL_LONG = replace(_SMALL, total_timesteps=5_000, rollout_length=Ramp(1, 5, start=500, end=3_000), eval_every=500)

PRESETS: dict[str, dict[str, MBPOPreset]] = {
    "Pendulum-v1": {"small": MBPOPreset(_SMALL_LONG, replace(_SMALL_SAC, tau=0.005), {})},
    "mbrl/CartPoleSwingUp-v0": {"small": MBPOPreset(_SMALL_LONG, replace(_SMALL_SAC, tau=0.005), {})},
    "Reacher-v5": {"small": MBPOPreset(_SMALL_LONG, replace(_SMALL_SAC, tau=0.005), {})},
    "InvertedPendulum-v5": {
        "small": MBPOPreset(_SMALL, _SMALL_SAC, {}),
        "paper": MBPOPreset(_SHORT, SACConfig(target_entropy=-0.05), {}),
    },
    "InvertedDoublePendulum-v5": {"paper": MBPOPreset(_SHORT, SACConfig(target_entropy=-0.05), {})},
    "Hopper-v5": {
        "paper": MBPOPreset(MBPOConfig(), SACConfig(target_entropy=-1.0), {}),
        "reference": MBPOPreset(
            MBPOConfig(rollout_length=Ramp(1, 15, start=20_000, end=150_000)), SACConfig(target_entropy=-1.0), {}
        ),
    },
    "Walker2d-v5": {"paper": MBPOPreset(_FLAT, SACConfig(target_entropy=-3.0), {})},
    "HalfCheetah-v5": {
        "paper": MBPOPreset(
            replace(_FLAT, total_timesteps=400_000, update_ratio=40), SACConfig(target_entropy=-3.0), {}
        )
    },
    "Ant-v5": {"paper": MBPOPreset(_ANT_RUN, SACConfig(target_entropy=-4.0), _ANT)},
    "Humanoid-v5": {"paper": MBPOPreset(_HUMANOID_RUN, SACConfig(target_entropy=-2.0), _HUMANOID)},
}
"""By environment id and name: "paper", "reference" (the authors' code) where it differs, and "small" for one core. The
first is the default. Where the numbers come from is in docs/mbpo.md."""


def mbpo_preset(env_id: str, name: str | None = None) -> MBPOPreset:
    """The preset of an environment: the first, or that of a name; the defaults where there is none.

    Raises:
        ValueError: there is no preset of that name.
    """
    known = PRESETS.get(env_id.rpartition(":")[2], {"default": MBPOPreset(MBPOConfig(), SACConfig(), {})})
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise ValueError(f"preset: expected one of {', '.join(known)} for {env_id}, got {name!r}")
    return known[name]
