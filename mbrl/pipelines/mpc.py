"""MPC on a model that is given: the environment's own physics, or one that was learned before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from numpy.typing import ArrayLike
from torch import Tensor

from mbrl.envs.tasks import task, true_model
from mbrl.pipelines.mpc_config import TREES, MPCConfig
from mbrl.seeding import derive
from planners import CEM, ICEM, ILQR, MPC, MPPI, Box, Knots, PredictiveSampling, Problem, RandomShooting
from planners.dynamics import Dynamics
from planners.env_copies import EnvCopies
from planners.mpc import MPCState
from planners.planner import Planner


def make_planner(config: MPCConfig, action_space: gym.Space, *, stochastic: bool = False) -> Planner[Any]:
    """The planner of the settings, for the actions of an environment.

    Args:
        config: the settings.
        action_space: of the environment.
        stochastic: whether tree search has to reckon with several outcomes of an action.

    Raises:
        ValueError: a setting is out of range, or the planner is not for such actions.
    """
    if config.planner in TREES:
        return _tree_search(config, action_space, stochastic)
    box = Box.from_space(action_space)
    horizon, population, iterations = config.horizon, config.population, config.iterations
    knots = Knots(config.knots, config.order) if config.knots else None
    std, beta, elites = config.initial_std, config.beta, config.elites
    if config.planner == "random_shooting":
        return RandomShooting(box, horizon, population, iterations, knots)
    if config.planner == "cem":
        return CEM(box, horizon, population, elites, iterations, initial_std=std, knots=knots)
    if config.planner == "icem":
        return ICEM(box, horizon, population, elites, iterations, beta, initial_std=std, knots=knots)
    if config.planner == "mppi":
        size = config.effective_samples
        return MPPI(
            box, horizon, population, iterations, effective_samples=size, initial_std=std, beta=beta, knots=knots
        )
    if config.planner == "predictive_sampling":
        return PredictiveSampling(box, horizon, population, iterations, std, knots)
    return ILQR(box, horizon, iterations=iterations)


def _tree_search(config: MPCConfig, action_space: gym.Space, stochastic: bool) -> Planner[Any]:
    from planners.mcts import UCT, Gumbel, action_count

    actions, simulations, horizon = action_count(action_space), config.population, config.horizon
    kind = UCT if config.planner == "uct" else Gumbel
    return kind(actions, simulations, horizon=horizon, rollout=config.rollout, stochastic=stochastic)


def true_dynamics(env: gym.Env, *, threads: int = 1) -> Dynamics[Any]:
    """The environment itself as a model: its formula, its simulation in MuJoCo, or copies of it.

    Raises:
        ValueError: there is no way to do that; the message says what there is.
    """
    if task(env) is not None:
        return true_model(env, threads=threads)
    return EnvCopies(env)


@dataclass(frozen=True)
class ModelPolicy:
    """MPC as a policy for one environment, with stable-baselines3's `predict`.

    Args:
        mpc: the controller.
        start: the state that plans start from, for an observation; None: the one that the observation determines.
            For MuJoCo and for copies it is that of the environment as it stands.
    """

    mpc: MPC
    start: Callable[[ArrayLike], Any] | None = None

    def predict(
        self,
        observation: ArrayLike,
        state: MPCState | None = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, MPCState]:
        """The action for the environment as it stands, and the state for the next call."""
        if self.start is None:
            return self.mpc.predict(observation, state, episode_start)
        action, state = self.mpc.predict_from(self.start(observation), state, episode_start)
        return action[0].numpy()[()], state  # a discrete one is a number


def make_policy(env: gym.Env, dynamics: Dynamics[Any], config: MPCConfig, *, seed: int) -> ModelPolicy:
    """MPC on a model for an environment.

    Raises:
        ValueError: a setting is out of range, or the planner is not for such actions.
    """
    mpc = MPC(
        make_planner(config, env.action_space, stochastic=isinstance(dynamics, EnvCopies)),
        Problem(dynamics, config.discount, _terminal_value(env, config), particles=config.particles or 1),
        seed=derive(seed, "plan"),
        replan_every=config.replan_every,
        deadline_ms=config.deadline_ms,
        delay=config.delay,
    )
    return as_policy(mpc, env)


def as_policy(mpc: MPC, env: gym.Env) -> ModelPolicy:
    """MPC as a policy for an environment: plans start from its observation, or where that does not tell the model's
    state, from the environment as it stands."""
    model: Any = mpc.problem.dynamics
    if isinstance(model, EnvCopies):
        return ModelPolicy(mpc, lambda obs: model.state_of(env, obs))
    return ModelPolicy(mpc, (lambda obs: model.state_of(env)) if hasattr(model, "state_of") else None)


def _terminal_value(env: gym.Env, config: MPCConfig) -> Callable[[Tensor], Tensor] | None:
    if not config.terminal_value:
        return None
    known = task(env)
    if known is None or known.terminal_value is None:
        raise ValueError("terminal_value: expected False, for the library has none for this environment, got True")
    return known.terminal_value
