"""MPC on a model that is given: the environment's own physics, or one that was learned before."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from numpy.typing import ArrayLike

from mbrl.envs.tasks import task, true_model
from mbrl.pipelines.mpc_config import MPCConfig
from mbrl.seeding import derive
from planners import CEM, ICEM, ILQR, MPC, MPPI, Box, Knots, PredictiveSampling, Problem, RandomShooting
from planners.dynamics import Dynamics
from planners.mpc import MPCState
from planners.planner import Planner


def make_planner(config: MPCConfig, action_space: gym.Space) -> Planner[Any]:
    """The planner of the settings, for the actions of an environment.

    Raises:
        ValueError: a setting is out of range, or the planner is not for such actions.
    """
    if config.planner in ("uct", "gumbel"):
        return _tree_search(config, action_space)
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


def _tree_search(config: MPCConfig, action_space: gym.Space) -> Planner[Any]:
    from planners.mcts import UCT, Gumbel, action_count

    actions = action_count(action_space)
    kind = UCT if config.planner == "uct" else Gumbel
    return kind(actions, simulations=config.population, horizon=config.horizon, rollout=config.rollout)


def true_dynamics(env: gym.Env, *, threads: int = 1) -> Dynamics[Any]:
    """The environment itself as a model: its formula, its simulation in MuJoCo, or copies of it.

    Raises:
        ValueError: there is no way to do that; the message says what there is.
    """
    if task(env) is not None:
        return true_model(env, threads=threads)
    from planners.env_copies import EnvCopies

    return EnvCopies(env)


@dataclass(frozen=True)
class ModelPolicy:
    """MPC as a policy for one environment, with stable-baselines3's `predict`.

    Where plans start from the state of the environment and not from its observation (MuJoCo, copies), the observation
    that `predict` gets is left aside.

    Args:
        mpc: the controller.
        env: the environment that is being played.
    """

    mpc: MPC
    env: gym.Env

    def predict(
        self,
        observation: ArrayLike,
        state: MPCState | None = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, MPCState]:
        """The action [act] for the environment as it stands, and the state for the next call."""
        model: Any = self.mpc.problem.dynamics
        if not hasattr(model, "state_of"):
            return self.mpc.predict(observation, state, episode_start)
        action, state = self.mpc.predict_from(model.state_of(self.env), state, episode_start)
        return action[0].numpy(), state


def make_policy(env: gym.Env, dynamics: Dynamics[Any], config: MPCConfig, *, seed: int) -> ModelPolicy:
    """MPC on a model for an environment.

    Raises:
        ValueError: a setting is out of range, or the planner is not for such actions.
    """
    planner = make_planner(config, env.action_space)
    problem = Problem(dynamics, config.discount, particles=config.particles)
    mpc = MPC(
        planner,
        problem,
        seed=derive(seed, "plan"),
        replan_every=config.replan_every,
        deadline_ms=config.deadline_ms,
        delay=config.delay,
    )
    return ModelPolicy(mpc, env)
