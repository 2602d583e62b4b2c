"""Runs of agents (learners without planning) in run directories: start, go on, and load what was learned."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import gymnasium as gym

from mbrl.data.workers import WorkerError
from mbrl.envs.make import make_env
from mbrl.envs.vector import make_vector_env
from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.evaluate import evaluate
from mbrl.experiments.recorder import RunRecorder
from mbrl.experiments.run import Run
from mbrl.experiments.settings import dataclass_from
from mbrl.pipelines.agents import AGENTS, Agent
from mbrl.pipelines.bookkeeping import part
from mbrl.pipelines.combo import COMBO
from mbrl.pipelines.dyna import train_dyna
from mbrl.pipelines.dyna_config import PRESETS as DYNA_PRESETS
from mbrl.pipelines.dyna_config import DynaConfig, dyna_preset
from mbrl.pipelines.mbpo import train_mbpo
from mbrl.pipelines.mbpo_config import MBPOConfig, mbpo_preset
from mbrl.pipelines.off_policy import train_off_policy
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from mbrl.pipelines.off_policy_presets import DEFAULTS, off_policy_preset
from mbrl.pipelines.offline_agents import OFFLINE_AGENTS
from mbrl.pipelines.recorder import NullRecorder
from mbrl.pipelines.reinforce import ON_POLICY_AGENTS, train_reinforce
from mbrl.pipelines.reinforce_config import OnPolicyConfig, reinforce_preset
from mbrl.seeding import derive

KINDS: dict[str, type[Agent]] = {**AGENTS, **ON_POLICY_AGENTS, **OFFLINE_AGENTS, COMBO.__name__: COMBO}
"""All agents, by name."""


class Spaces(Protocol):
    """What an agent is made for: an environment, say."""

    @property
    def observation_space(self) -> gym.Space: ...
    @property
    def action_space(self) -> gym.Space: ...


class Algorithm(NamedTuple):
    """How an algorithm that trains an agent is run."""

    config: type
    """Settings of its loop."""
    train: Callable[..., Any]
    """`train(env, agent, config, *, seed, recorder, evaluate, stop)`."""
    preset: Callable[[str, str | None], Any]
    """`preset(env_id, name)` -> (config, learner's config, env_kwargs)."""


def _off_policy(name: str) -> Algorithm:
    return Algorithm(OffPolicyConfig, train_off_policy, functools.partial(off_policy_preset, name))


def _dyna(env_id: str, chosen: str | None) -> Any:
    """Where neither preset nor environment's id says which learner it is, its actions do."""
    if chosen is None and env_id and env_id.rpartition(":")[2] not in DYNA_PRESETS:
        chosen = "dqn" if _discrete(env_id) else None
    return dyna_preset(env_id, chosen)


def _reinforce(env_id: str, chosen: str | None) -> Any:
    if chosen is not None:
        raise ValueError(f"preset: expected none, for reinforce has one an environment, got {chosen!r}")
    return reinforce_preset(env_id, discrete=bool(env_id) and _discrete(env_id))


def _discrete(env_id: str) -> bool:
    env = environment(env_id, {})
    env.close()
    return isinstance(env.action_space, gym.spaces.Discrete)


ALGORITHMS: dict[str, Algorithm] = {
    **{name: _off_policy(name) for name in DEFAULTS},
    "dyna": Algorithm(DynaConfig, train_dyna, _dyna),
    "mbpo": Algorithm(MBPOConfig, train_mbpo, mbpo_preset),
    "reinforce": Algorithm(OnPolicyConfig, train_reinforce, _reinforce),
}


class AgentSettings(NamedTuple):
    """The settings of a run, read back."""

    config: Any
    learner: Any
    env_kwargs: dict[str, Any]


class Ready(Exception):
    """All that training checks before its first step has been checked."""


class UpToTheFirstStep(NullRecorder):
    """Ends training where it asks for a checkpoint: by then it has met everything that can't be."""

    def load(self) -> None:
        raise Ready


def create_agent_run(
    root: str | Path,
    env_id: str,
    algorithm: str,
    config: Any,
    learner: Any,
    *,
    seed: int,
    env_kwargs: Mapping[str, Any] | None = None,
    tensorboard: bool = False,
) -> Run:
    """A new run directory for an algorithm on `env_id`.

    Args:
        root: folder of run directories.
        env_id: Gymnasium id; the environment's options are as registered, but for `env_kwargs`.
        algorithm: one of `ALGORITHMS`.
        config: settings of its loop.
        learner: settings of its learner, which say which agent it is.
        seed: of everything random.
        env_kwargs: options of the environment.
        tensorboard: whether to write TensorBoard events, too.

    Raises:
        ValueError: the environment does not fit, or a setting is out of range: then there is no directory either.
        MemoryError: the device has no room for the buffers; likewise.
    """
    env = environment(env_id, env_kwargs or {})
    agent = make_agent(env, learner, seed, config.device)
    with contextlib.suppress(Ready):
        ALGORITHMS[algorithm].train(env, agent, config, seed=seed, recorder=UpToTheFirstStep())
    env.close()
    settings = {"loop": asdict(config), "agent": type(agent).__name__, "learner": asdict(learner)}
    settings["env_kwargs"] = dict(env_kwargs or {})
    return Run.create(root, env_id, algorithm, seed, settings, tensorboard=tensorboard)


def agent_settings(run: Run) -> AgentSettings:
    """The settings of a run.

    Raises:
        ValueError: the run is not one of an agent, or of a newer version.
    """
    if run.algo not in ALGORITHMS or "agent" not in run.config:
        raise ValueError(f"run: expected a run of {', '.join(ALGORITHMS)}, got one of {run.algo}: {run.path}")
    config: Any = dataclass_from(ALGORITHMS[run.algo].config, run.config["loop"], run.path)
    return AgentSettings(config, learner_settings(run), run.config["env_kwargs"])


def train_agent_run(
    run: Run, *, stop: Callable[[], bool] | None = None, progress: bool = True, accept_changes: bool = False
) -> Any:
    """Train a run from its newest checkpoint, or from the start where it has none, to its end or until `stop()`.

    Args:
        run: the run.
        stop: asked after every real step.
        progress: whether to show a bar.
        accept_changes: whether to go on although the checkpoint was made with other settings.

    Raises:
        ValueError: the settings are others, a loss was not finite, or the environment does not fit.
        MemoryError: the device is full.
    """
    config, learner, env_kwargs = agent_settings(run)
    eval_env = environment(run.env_id, env_kwargs)
    agent = make_agent(eval_env, learner, run.seed, config.device)

    def evaluate_now(policy: Agent, steps: int) -> dict[str, float]:
        seed = derive(run.seed, "evaluate", steps)
        return evaluate(policy, eval_env, episodes=config.eval_episodes, seed=seed).metrics()

    env: gym.Env | gym.vector.VectorEnv
    if config.num_envs == 1:
        env = environment(run.env_id, env_kwargs)
    else:
        options = {"as_registered": True, "discrete": True, **env_kwargs}
        env = make_vector_env(run.env_id, config.num_envs, kind=config.vector, **options)
    total = config.total_timesteps
    recorder = RunRecorder(run, total_timesteps=total, progress=progress, accept_changes=accept_changes)
    with closing(env), closing(eval_env), recorder:
        return ALGORITHMS[run.algo].train(
            env, agent, config, seed=run.seed, recorder=recorder, evaluate=evaluate_now, stop=stop
        )


@contextlib.contextmanager
def closing(env: gym.Env | gym.vector.VectorEnv) -> Iterator[None]:
    """Close an environment in the end; what ended the training is told rather than how its workers ended."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(WorkerError):
            env.close()
        raise
    env.close()


def agent_env(run: Run, *, render_mode: str | None = None) -> gym.Env:
    """The environment of a run."""
    return environment(run.env_id, agent_settings(run).env_kwargs, render_mode=render_mode)


def load_agent(run: Run, spaces: Spaces, device: str = "cpu") -> Agent:
    """The agent of a run's newest checkpoint.

    Args:
        run: of an agent, from real steps or from a dataset.
        spaces: its environment, or anything else with its observation and action space.
        device: where it is to live, wherever it was trained.

    Raises:
        ValueError: there is no checkpoint, it is damaged, or there is no such device.
    """
    tensors, _ = load_checkpoint(run.path)
    agent = make_agent(spaces, learner_settings(run), run.seed, device)
    agent.load_state_dict(part(tensors, "agent"))
    return agent


def learner_settings(run: Run) -> Any:
    """The settings of a run's learner. Raises ValueError where they are not what this version knows."""
    return dataclass_from(KINDS[run.config["agent"]].config_type, run.config["learner"], run.path)


def environment(env_id: str, env_kwargs: Mapping[str, Any], *, render_mode: str | None = None) -> gym.Env:
    """An environment of agents: with the options that are registered, but for `env_kwargs`."""
    return make_env(env_id, discrete=True, as_registered=True, render_mode=render_mode, **env_kwargs)


def make_agent(spaces: Spaces, learner: Any, seed: int, device: str) -> Agent:
    """The agent whose configuration `learner` is, of a run with that seed."""
    kind = next(kind for kind in KINDS.values() if kind.config_type is type(learner))
    return kind(spaces.observation_space, spaces.action_space, derive(seed, "agent"), device=device, config=learner)
