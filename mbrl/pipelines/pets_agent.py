"""The parts of PETS for one environment: ensemble, learned model, planner, MPC."""

from dataclasses import dataclass, field

import gymnasium as gym

from mbrl.envs.make import check_spaces
from mbrl.envs.tasks import Task, stated, task
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.agent_checks import device_of
from mbrl.pipelines.pets_config import PETSConfig
from mbrl.seeding import derive
from planners import CEM, MPC, Box, Problem, RandomShooting
from planners.dynamics import Reward, Termination
from planners.risk import Risk, cvar, mean, worst

RISKS: dict[str, Risk] = {"mean": mean, "worst": worst, "cvar": cvar(0.25)}


@dataclass
class PETSAgent:
    """The parts of PETS for one environment: ensemble, model, and MPC through it.

    Args:
        env: one environment, or a vector of them.
        config: the settings.
        seed: of the ensemble's initial weights and of all planning.
        reward: `reward(obs, action, next_obs)`; None: the task's, or, where the library has none, learned.
        termination: likewise; where the library has none, episodes of the model never end.

    Attributes:
        task: what the library knows of the environment; None: nothing.
        stated: what `train_pets` verifies on every real step: the given functions, or the task's; not the objective,
            which is no reward of the environment's.
        ensemble: what predicts.
        policy: MPC through it.

    Raises:
        ValueError: the environment's spaces are not supported, a setting is out of range, or the device is not here.
    """

    env: gym.Env | gym.vector.VectorEnv
    config: PETSConfig
    seed: int
    reward: Reward | None = None
    termination: Termination | None = None
    task: Task | None = field(init=False)
    stated: Task = field(init=False)
    ensemble: GaussianEnsemble = field(init=False)
    policy: MPC = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        observation_space, action_space = single_spaces(self.env)
        self.task = task(self.env)
        reward, termination = self._objective()
        self.ensemble = GaussianEnsemble(
            observation_space.shape[0],
            action_space.shape[0],
            members=config.members,
            hidden=config.hidden,
            deterministic=config.deterministic,
            learned_reward=reward is None,
            ignored_inputs=self.task.ignored_inputs if self.task else (),
            seed=derive(self.seed, "ensemble"),
            device=device_of(config.device),
        )
        dynamics = EnsembleDynamics(
            self.ensemble,
            propagation=config.propagation,
            reward=reward,
            termination=termination,
            precision=config.precision,
        )
        self.dynamics = dynamics
        problem = Problem(dynamics, config.discount, particles=config.particles, risk=RISKS[config.risk])
        planner = make_planner(config, Box.from_space(action_space))
        self.policy = MPC(planner, problem, seed=derive(self.seed, "plan"), replan_every=config.replan_every)

    def evaluation_policy(self, steps: int) -> MPC:
        """The same MPC with random streams of its own: evaluation does not disturb training."""
        return MPC(
            self.policy.planner,
            self.policy.problem,
            seed=derive(self.seed, "evaluate", steps),
            replan_every=self.config.replan_every,
        )

    def _objective(self) -> tuple[Reward | None, Termination | None]:
        known = self.task
        reward, termination, shaped = self.reward, self.termination, None
        if known is not None:
            shaped = known.objective if self.config.objective and reward is None else None
            reward = reward or known.reward
            termination = termination or known.termination
        self.stated = stated(known, reward, termination, any_end=known is None and termination is None)
        if self.config.objective and (known is None or known.objective is None):
            raise ValueError("objective: expected False, for this environment has no shaped objective, got True")
        return shaped or reward, termination


def make_planner(config: PETSConfig, box: Box) -> CEM | RandomShooting:
    """The planner of the settings.

    Raises:
        ValueError: a setting is out of range.
    """
    if config.planner == "random_shooting":
        return RandomShooting(box, config.horizon, config.population, config.iterations)
    return CEM(box, config.horizon, config.population, config.elites, config.iterations, initial_std=config.initial_std)


def single_spaces(env: gym.Env | gym.vector.VectorEnv) -> tuple[gym.spaces.Box, gym.spaces.Box]:
    """Observation and action space of one environment, checked to be supported."""
    check_spaces(env)
    if isinstance(env, gym.vector.VectorEnv):
        return env.single_observation_space, env.single_action_space  # type: ignore[return-value]
    return env.observation_space, env.action_space  # type: ignore[return-value]
