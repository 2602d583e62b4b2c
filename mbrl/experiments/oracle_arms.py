"""What the oracle gap plans through: one planner, with true and learned dynamics and rewards; and its episodes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Generator, Tensor

from mbrl.data.buffer import ReplayBuffer
from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.episode import play
from mbrl.experiments.pets_runs import loaded_agent, pets_config
from mbrl.experiments.run import Run
from mbrl.models.diagnostics import open_loop_report
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.bookkeeping import part
from mbrl.pipelines.mpc import as_policy, true_dynamics
from mbrl.pipelines.pets_agent import PETSAgent, make_planner
from mbrl.seeding import derive, generator
from mbrl.types import TransitionBatch
from planners import CEM, MPC, Box, FunctionDynamics, Problem, RandomShooting
from planners.dynamics import Reward, Step
from planners.env_copies import EnvCopies

WIDER, LONGER = 2, 2
"""Times the sequences of an iteration, and times the iterations, of the wider search."""
COPY_COST = 20
"""How many steps in MuJoCo a step of a Python copy of an environment counts as."""


class Arm(NamedTuple):
    """One way to plan."""

    problem: Problem
    planner: CEM | RandomShooting


class Played(NamedTuple):
    """What came of an arm's episodes."""

    returns: tuple[float, ...]
    """-inf where the simulation diverged."""
    batch: TransitionBatch
    """All transitions; only observations and actions are filled in."""
    episode_ids: Tensor
    """[rows] of the batch."""


class Learned(NamedTuple):
    """What a run of PETS has learned."""

    agent: PETSAgent
    buffer: ReplayBuffer
    """Its real transitions."""
    steps: int
    """How many real steps that took."""
    digest: str
    """Of the parameters of its model."""


def load_learned(run: Run, env: gym.Env) -> Learned:
    """What a run has learned, from its newest checkpoint, on the CPU.

    Raises:
        ValueError: the run is another algorithm's, or has no model yet, or its checkpoints are damaged.
    """
    config = pets_config(run)
    tensors, meta = load_checkpoint(run.path)
    if not meta["counters"]["fits"]:
        raise ValueError(
            f"run: expected a run that has fitted its model, got {run.path}; go on: mbrl resume {run.path}"
        )
    agent, parameters = loaded_agent(run, env, tensors), part(tensors, "ensemble")
    sizes = agent.ensemble.obs_dim, agent.ensemble.action_dim
    buffer = ReplayBuffer(config.total_timesteps + config.num_envs, *sizes, num_envs=config.num_envs)
    buffer.load_state_dict(part(tensors, "buffer"))
    digest = hashlib.sha256(b"".join(parameters[name].numpy().tobytes() for name in sorted(parameters)))
    return Learned(agent, buffer, meta["counters"]["steps"], digest.hexdigest())


def make_arms(agent: PETSAgent, buffer: ReplayBuffer, env: gym.Env) -> tuple[dict[str, Arm], dict[str, str]]:
    """The arms (`mbrl.experiments.oracle_gap.ARMS`) that there can be, and by name why others can't."""
    planner = make_planner(agent.config, Box.from_space(env.action_space))
    arms: dict[str, Arm] = {}
    missing: dict[str, str] = {}
    try:
        truth = true_problem(env, agent)
        arms |= {"stronger": Arm(truth, wider(planner)), "true": Arm(truth, planner)}
    except ValueError as error:
        missing |= dict.fromkeys(("stronger", "true"), f"the environment can't be its own model: {error}")
    own = Arm(agent.policy.problem, planner)
    if agent.ensemble.learned_reward:
        missing["learned"] = "the library knows no reward of observations for this environment"
        return {**arms, "learned_reward": own}, missing
    return {**arms, "learned": own, "learned_reward": Arm(learned_reward_problem(agent, buffer), planner)}, missing


def affordable(
    arms: dict[str, Arm], episodes: int, true_steps: int, *, longest: int | None, replan_every: int
) -> tuple[dict[str, Arm], dict[str, str], int | None]:
    """The arms that `true_steps` steps in the true dynamics suffice for, why others are left out, and where to cut.

    Episodes are cut to a half at most before the wider search is left out.

    Args:
        arms: of `make_arms`.
        episodes: of each.
        true_steps: to be spent.
        longest: steps of an episode; None: without a limit, so they are cut.
        replan_every: steps executed of a plan.
    """
    cost = {name: steps_per_plan(arm) / replan_every for name, arm in arms.items() if name in ("true", "stronger")}
    if not cost:
        return arms, {}, None
    everything = int(true_steps / (episodes * sum(cost.values())))
    if longest is not None and 2 * everything >= longest:
        return arms, {}, None if everything >= longest else everything
    needed = "as long as it takes" if longest is None else f"{episodes * longest * sum(cost.values()):.0f}"
    left_out = {"stronger": f"it and the true dynamics take {needed} steps in the true model, {true_steps} are allowed"}
    rest = {name: arm for name, arm in arms.items() if name != "stronger"}
    possible = int(true_steps / (episodes * cost["true"]))
    if longest is not None and possible >= longest:
        return rest, left_out, None
    if possible >= arms["true"].planner.horizon:
        return rest, left_out, possible
    left_out["true"] = f"an episode takes more than the {true_steps} steps in the true model that are allowed"
    return {name: arm for name, arm in rest.items() if name != "true"}, left_out, None


def true_problem(env: gym.Env, agent: PETSAgent) -> Problem:
    """The agent's problem with the environment itself as the model; it has one outcome, so one particle is enough.

    Raises:
        ValueError: the environment can't be its own model.
    """
    dynamics: Any = true_dynamics(env)
    if agent.config.objective:
        assert agent.task is not None
        assert agent.task.objective is not None
        if isinstance(dynamics, FunctionDynamics):
            dynamics = FunctionDynamics(dynamics.transition, agent.task.objective, dynamics.termination)
        else:
            dynamics = _Rewarded(dynamics, agent.task.objective)
    return replace(agent.policy.problem, dynamics=dynamics, particles=1)


def wider(planner: CEM | RandomShooting) -> CEM | RandomShooting:
    """A planner that searches wider: more sequences, the same share of elites, and more iterations."""
    population, iterations = WIDER * planner.population, LONGER * planner.iterations
    if isinstance(planner, CEM):
        return replace(planner, population=population, iterations=iterations, elites=WIDER * planner.elites)
    return replace(planner, population=population, iterations=iterations)


def steps_per_plan(arm: Arm) -> int:
    """Steps that an arm takes in its model for one action, counting a Python copy's as `COPY_COST`."""
    planner = arm.planner
    steps = planner.iterations * planner.population * planner.horizon * arm.problem.particles
    return steps * (COPY_COST if isinstance(arm.problem.dynamics, EnvCopies) else 1)


def fit_reward(agent: PETSAgent, buffer: ReplayBuffer) -> Reward:
    """What a run would have learned of the reward that it was given: the mean of one network as wide as the ensemble's,
    fitted to the run's transitions."""
    ensemble, config, rows = agent.ensemble, agent.config, buffer.all()
    assert agent.dynamics.reward is not None
    rows = rows._replace(reward=agent.dynamics.reward(rows.obs, rows.action, rows.next_obs))
    network = GaussianEnsemble(
        ensemble.obs_dim,
        ensemble.action_dim,
        members=1,
        hidden=config.hidden,
        deterministic=True,
        learned_reward=True,
        ignored_inputs=agent.task.ignored_inputs if agent.task else (),
        seed=derive(agent.seed, "oracle reward"),
    )
    fit(
        network,
        rows,
        seed=derive(agent.seed, "fit oracle reward"),
        lr=config.learning_rate,
        batch_size=config.batch_size,
        epochs=config.max_epochs,
        holdout=0.2,
        patience=config.patience,
    )

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        with torch.no_grad():
            return network.predict(obs, action).mean[0, :, -1]

    return reward


def learned_reward_problem(agent: PETSAgent, buffer: ReplayBuffer) -> Problem:
    """The agent's problem, on its learned dynamics, with a reward that is learned too."""
    own = agent.dynamics
    dynamics = EnsembleDynamics(
        agent.ensemble,
        propagation=own.propagation,
        reward=fit_reward(agent, buffer),
        termination=own.termination,
        precision=own.precision,
    )
    return replace(agent.policy.problem, dynamics=dynamics)


def play_arm(
    arm: Arm, env: gym.Env, *, episodes: int, seed: int, replan_every: int, max_steps: int | None = None
) -> Played:
    """Play episodes; episode i starts from the same state in every arm, and all arms plan with the same seed.

    Args:
        arm: one way to plan.
        env: as it was when the arm was made, with the same wrappers.
        episodes: how many.
        seed: of the start states and of planning.
        replan_every: steps executed of a plan.
        max_steps: where episodes are cut; None: they are whole.
    """
    mpc = MPC(arm.planner, arm.problem, seed=derive(seed, "plan"), replan_every=replan_every)
    limited = env if max_steps is None else gym.wrappers.TimeLimit(env, max_steps)
    returns: list[float] = []
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for number in range(episodes):
        trace = _Trace(as_policy(mpc, env))  # from the environment itself: copies are of it, not of a limit around it
        episode = play(trace, limited, seed=derive(seed, "episode", number) % 2**31, watch=trace.watch)
        returns.append(episode.ret)
        rows.append(trace.rows())
    obs, action, next_obs = (torch.from_numpy(np.concatenate(column)) for column in zip(*rows, strict=True))
    none = torch.zeros(len(obs))
    batch = TransitionBatch(obs, action, none, next_obs, none.bool(), none.bool(), none, none)
    lengths = torch.tensor([len(row[0]) for row in rows])
    return Played(tuple(returns), batch, torch.arange(episodes).repeat_interleave(lengths))


def model_errors(agent: PETSAgent, played: Played, scale: Tensor, *, seed: int) -> list[tuple[int, float, float]]:
    """Open-loop error of the learned model on an arm's episodes: (horizon, rmse, coverage90), where one is long enough.

    Args:
        agent: whose model it is.
        played: the episodes.
        scale: [obs] what errors are divided by.
        seed: of the particles.
    """
    if not agent.config.diagnostic_horizons:
        return []
    members = agent.config.members
    report = open_loop_report(
        agent.dynamics,
        played.batch,
        played.episode_ids,
        horizons=agent.config.diagnostic_horizons,
        particles=members * -(-20 // members),  # every member as often
        generator=generator(seed, "model errors"),
        scale=scale,
    )
    rows = zip(report.horizons, report.rmse.tolist(), report.coverage90.tolist(), strict=True)
    return [row for row in rows if np.isfinite(row[1])]


class _Trace:
    """A policy whose observations and actions are kept."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self._obs: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False, /
    ) -> tuple[Any, Any]:
        action, state = self._policy.predict(observation, state, episode_start, deterministic)
        self._actions.append(np.array(action))
        return action, state

    def watch(self, obs: Any, reward: float) -> None:
        self._obs.append(np.array(obs))

    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations, actions, next observations; a last step that diverged led nowhere, and is left out."""
        obs = np.stack(self._obs)
        return obs[:-1], np.stack(self._actions)[: len(obs) - 1], obs[1:]


class _Rewarded:
    """A simulation with another reward."""

    def __init__(self, dynamics: Any, reward: Reward) -> None:
        self._dynamics, self._reward = dynamics, reward
        self.reset, self.observe, self.assign = dynamics.reset, dynamics.observe, dynamics.assign
        self.state_of = dynamics.state_of

    def step(self, state: Any, action: Tensor, *, generator: Generator | None = None) -> tuple[Any, Step]:
        before = self._dynamics.observe(state)
        state, step = self._dynamics.step(state, action, generator=generator)
        reward = self._reward(before, action.to(before), step.obs)
        return state, step._replace(reward=torch.where(step.reward.isfinite(), reward, torch.nan))
