"""The settings of MPC from the command line, and those that suit known environments."""

from dataclasses import dataclass
from typing import Literal

from mbrl.learners.settings import check_numbers
from mbrl.pipelines.config_checks import check_options

PlannerName = Literal["random_shooting", "cem", "icem", "mppi", "predictive_sampling", "ilqr", "uct", "gumbel"]
TREES = ("uct", "gumbel")
"""Planners for discrete actions."""


@dataclass(frozen=True)
class MPCConfig:
    """MPC on a model that is given. Settings that a planner does not have are not read.

    Raises:
        ValueError: a number is out of range, or an option is unknown; the planners check their numbers.
    """

    planner: PlannerName = "icem"
    """How to plan: uct and gumbel for discrete actions, the others for bounded ones."""
    horizon: int = 30
    """Steps of a plan; depth of a tree."""
    population: int = 40
    """Sequences per iteration; simulations of a tree."""
    iterations: int = 3
    """Of sampling, or of iLQR, per plan."""
    elites: int = 10
    """Of cem and icem."""
    initial_std: float = 0.5
    """Of sampled actions, in units of the half range."""
    beta: float = 3.0
    """Colour of the noise of icem and mppi: 0 is white, 2 brown."""
    effective_samples: float = 10.0
    """Of mppi, which chooses its temperature for it."""
    knots: int = 0
    """How few values make a sequence of a sampling planner; 0: an action for each step."""
    order: Literal["zero", "linear", "cubic"] = "linear"
    """Interpolation between knots."""
    rollout: int = 20
    """Steps of random play that value a leaf of uct."""
    replan_every: int = 1
    """Steps executed of each plan; ilqr adds its feedback to them."""
    deadline_ms: float | None = None
    """Milliseconds per plan: the best so far is executed then."""
    delay: int = 0
    """Steps between the choice of an action and its execution."""
    discount: float = 1.0
    """Of planned rewards, per step."""
    terminal_value: bool = False
    """Add the task's value of a plan's last observation, where the library has one."""
    particles: int | None = None
    """Rollouts of each plan, for models that are uncertain; None: one, or as many as in the run that learned it."""

    def __post_init__(self) -> None:
        check_numbers(self)
        check_options(self)
        if self.knots < 0:
            raise ValueError(f"knots: expected 0 (none) or more, got {self.knots}")


DEFAULTS: dict[str, MPCConfig] = {
    "random_shooting": MPCConfig("random_shooting", population=500, iterations=1),
    "cem": MPCConfig("cem", population=100, iterations=5),
    "icem": MPCConfig("icem"),
    "mppi": MPCConfig("mppi", population=100, beta=1.0),
    "predictive_sampling": MPCConfig("predictive_sampling", population=100, iterations=1, initial_std=0.3, knots=6),
    "ilqr": MPCConfig("ilqr", iterations=10),
    "uct": MPCConfig("uct", population=100, horizon=50),
    "gumbel": MPCConfig("gumbel", population=100, horizon=50),
}
PRESETS: dict[tuple[str, str], MPCConfig] = {
    ("HalfCheetah-v5", "icem"): MPCConfig("icem", horizon=15, population=80, beta=0.25, terminal_value=True),
    ("Pendulum-v1", "icem"): MPCConfig("icem", population=100, iterations=4, beta=1.0),
    ("Hopper-v5", "icem"): MPCConfig("icem", horizon=40, beta=0.0, knots=5, replan_every=2, terminal_value=True),
    ("CartPole-v1", "uct"): MPCConfig("uct", population=100, horizon=50, rollout=20),
}
"""Settings by environment and planner; docs/results.md has what they reach."""


def preset(env_id: str, planner: str) -> MPCConfig:
    """The preset of an environment and a planner; the planner's defaults where there is none."""
    known = PRESETS.get((env_id.rpartition(":")[2], planner))
    return known or DEFAULTS.get(planner, MPCConfig())
