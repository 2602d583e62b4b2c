"""Settings of PETS and the presets for the tasks that come with the library."""

from dataclasses import dataclass, replace
from typing import Literal

from mbrl.pipelines.config_checks import check_at_least_1, check_horizons, check_initial_steps, check_options


@dataclass(frozen=True)
class PETSConfig:
    """Settings of `train_pets`. The defaults are those of the paper's code for HalfCheetah, sized for a GPU.

    Raises:
        ValueError: a number is out of range, or an option is unknown; the planners check their numbers.
    """

    total_timesteps: int = 10_000
    """Real environment steps in all."""
    initial_steps: int = 200
    """Steps with uniformly random actions before the first fit."""
    fit_every: int = 200
    """Real steps between fits. As many as are left after `initial_steps`: the model is fitted once."""
    num_envs: int = 1
    """Environments that are stepped together."""
    device: str = "cpu"
    """Where ensemble, plans and transitions live: cpu, cuda, cuda:1, ..."""

    members: int = 5
    """Networks of the ensemble; 1: a single probabilistic network."""
    hidden: tuple[int, ...] = (200, 200, 200, 200)
    """Widths of the hidden layers of each network."""
    deterministic: bool = False
    """Predict no variance and train on the squared error."""
    propagation: Literal["ts_inf", "ts1", "expectation"] = "ts_inf"
    """How particles meet members: one for the whole plan, a new one each step, or the mean of all."""
    precision: Literal["full", "bfloat16"] = "full"
    """Of the products between hidden layers while planning: bfloat16 is faster for wide networks, where the processor
    has such products."""

    learning_rate: float = 1e-3
    """Of Adam, for the ensemble."""
    batch_size: int = 256
    """Rows per gradient step and member."""
    fit_steps: int | None = None
    """Gradient steps of each fit; None: epochs with a holdout and early stopping."""
    max_epochs: int = 100
    """Epochs of a fit at most, where `fit_steps` is not given."""
    holdout: float = 0.2
    """Share of the rows at most that is kept out of training for early stopping, where `fit_steps` is not given: whole
    episodes before the present one, or random rows where these are too long."""
    patience: int = 5
    """Epochs without improvement after which a member stops."""

    planner: Literal["cem", "random_shooting"] = "cem"
    """Which sampling planner."""
    horizon: int = 30
    """Steps planned ahead."""
    population: int = 500
    """Action sequences per iteration."""
    elites: int = 50
    """Best sequences that CEM fits its Gaussian to."""
    iterations: int = 5
    """Iterations of the planner per plan."""
    initial_std: float = 0.5
    """Standard deviation of CEM's first samples, in units of the half range of the actions."""
    particles: int = 20
    """Rollouts per action sequence, spread over the members."""
    replan_every: int = 1
    """Steps executed of each plan: more than one executes open loop in between."""
    risk: Literal["mean", "worst", "cvar"] = "mean"
    """What is made of the particles' returns; cvar is the mean of the worst quarter."""
    objective: bool = False
    """Plan with the task's shaped objective instead of its reward. Scores are the environment's all the same."""
    discount: float = 1.0
    """Of planned rewards, per step."""

    eval_every: int = 0
    """Real steps between evaluation episodes, which are not counted and not learned from; 0: none."""
    eval_episodes: int = 1
    """Episodes per evaluation."""
    checkpoint_every: int = 200
    """Real steps between checkpoints."""
    diagnostic_horizons: tuple[int, ...] = (1, 5, 10, 25)
    """Steps ahead at which the model's open-loop error and coverage are logged."""

    def __post_init__(self) -> None:
        positive = ("total_timesteps", "initial_steps", "fit_every", "num_envs", "checkpoint_every", "eval_episodes")
        check_at_least_1(self, *positive, "members", "batch_size", "max_epochs", "patience", "particles")
        check_options(self)
        check_initial_steps(self)
        if self.eval_every < 0:
            raise ValueError(f"eval_every: expected 0 (never) or more, got {self.eval_every}")
        if self.fit_steps is not None and self.fit_steps < 1:
            raise ValueError(f"fit_steps: expected at least 1, or None for epochs, got {self.fit_steps}")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout: expected a share in (0, 1), which decides when to stop, got {self.holdout}")
        check_horizons(self)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected a positive step size, got {self.learning_rate}")


_SMALL = PETSConfig(
    hidden=(128, 128, 128),
    batch_size=128,
    fit_steps=600,
    horizon=25,
    population=60,
    elites=8,
    iterations=3,
    particles=5,
)
"""Fits one CPU core: tens of milliseconds a plan."""

PRESETS: dict[str, PETSConfig] = {
    "mbrl/CartPoleSwingUp-v0": replace(
        _SMALL, total_timesteps=2_000, initial_steps=100, fit_every=25, fit_steps=150, iterations=2
    ),
    "Pendulum-v1": replace(_SMALL, total_timesteps=5_000, initial_steps=200, fit_every=50, fit_steps=200),
    "InvertedPendulum-v5": replace(
        _SMALL,
        total_timesteps=2_000,
        hidden=(64, 64),
        initial_steps=100,
        fit_every=50,
        fit_steps=200,
        horizon=15,
        population=30,
        elites=5,
        iterations=2,
        initial_std=0.2,  # balancing takes small actions; wider samples shake the cart to the end of its rail
        objective=True,  # the reward, 1 while the pole is up, ties all plans that keep it up
        eval_every=250,
    ),
    "Reacher-v5": replace(_SMALL, total_timesteps=5_000, initial_steps=500, fit_every=250, fit_steps=800),
    "HalfCheetah-v5": replace(
        PETSConfig(),
        total_timesteps=100_000,
        initial_steps=1_000,
        fit_every=1_000,
        fit_steps=5_000,
        checkpoint_every=1_000,
    ),
    "Hopper-v5": replace(
        PETSConfig(), total_timesteps=100_000, initial_steps=1_000, fit_every=500, fit_steps=2_500, checkpoint_every=500
    ),
}
"""Settings by environment id: where they come from is in docs/pets.md."""


def preset(env_id: str) -> PETSConfig:
    """The preset of an environment; the defaults where there is none."""
    return PRESETS.get(env_id.rpartition(":")[2], PETSConfig())
