"""Learners with the interface of stable-baselines3: `learn`, `predict`, `save`, `load`.

An agent is a learner, a state with one run, and the counts of what it has been through; loops train it in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from torch import Generator, Tensor

from mbrl.data.buffer import ReplayBuffer
from mbrl.envs.make import check_spaces
from mbrl.learners import files
from mbrl.learners.ddpg import DDPGConfig, DDPGLearner
from mbrl.learners.discrete_sac import DiscreteSACConfig, DiscreteSACLearner
from mbrl.learners.dqn import DQNConfig, DQNLearner
from mbrl.learners.sac import SACConfig, SACLearner
from mbrl.learners.td3 import TD3Config, TD3Learner
from mbrl.pipelines.agent_checks import Spaces, arguments, check_actions, check_learn, device_of, with_fields
from mbrl.pipelines.recorder import Recorder
from mbrl.seeding import derive, generator, whole
from planners.rows import leaves

UPDATES, PREDICTIONS = "updates", "predictions"
_FOR_VECTORS = "use SAC, TD3 or DDPG (mbrl train sac)"


class Agent:
    """What all agents share; use one of the classes below.

    Args:
        observation_space: a flat Box.
        action_space: a flat Box with finite bounds, or a Discrete from 0: each agent has one kind.
        seed: of the initial parameters, and of what `predict` samples.
        device: where the parameters live, and the experience.
        config: hyperparameters; None: the learner's defaults.
        hyperparameters: fields of the learner's configuration, in place of those in `config`.

    Attributes:
        learner: the algorithm, without memory.
        state: its parameters and optimisers; updated in place.
        updates: how many updates the state has had.
        steps: real environment steps that it was trained on since it was made or loaded, before a resume included.
        buffer: their transitions; None before the first.

    Raises:
        ValueError: a space of another kind, a device that is not there, a configuration of another learner, or a
            hyperparameter unknown or out of range.
    """

    learner_type: ClassVar[type]
    config_type: ClassVar[type]
    discrete: ClassVar[bool] = False
    instead: ClassVar[str] = "use DQN or DiscreteSAC (mbrl train dqn)"
    """For messages: what to do about actions of the other kind."""
    samples: ClassVar[bool] = True
    """Whether the policy itself draws actions; a deterministic one gets noise in training only."""
    on_policy: ClassVar[bool] = False
    """Whether it learns from the episodes of its policy of the moment, and from no others."""

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        seed: int = 0,
        *,
        device: torch.device | str = "cpu",
        config: Any = None,
        **hyperparameters: Any,
    ) -> None:
        check_actions(type(self).__name__, action_space, discrete=self.discrete, instead=self.instead)
        check_spaces(Spaces(observation_space, action_space), discrete=self.discrete)  # type: ignore[arg-type]
        if config is not None and type(config) is not self.config_type:
            own = self.config_type.__name__
            raise ValueError(f"config: expected a {own}, got {config!r}; settings of the training are for `learn`")
        self.observation_space, self.action_space = observation_space, action_space
        self.device, self.seed = device_of(device), whole(seed)
        self.config = with_fields(
            config or self.config_type(), hyperparameters, f"hyperparameters of {type(self).__name__}"
        )
        self.learner = self.learner_type(*arguments(observation_space, action_space), config=self.config)
        self.state = self.learner.init([generator(seed, "init", 0, device=self.device)])
        self.updates = self.steps = 0
        self._learning_seed = self.seed
        self.buffer: ReplayBuffer | None = None
        self._predictions = 0

    @property
    def sizes(self) -> tuple[int, int | None]:
        """Length of observations, and of actions: None where those are discrete."""
        return self.observation_space.shape[0], None if self.discrete else self.action_space.shape[0]  # type: ignore[index]

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """The policy's action; what it samples does not disturb training.

        Args:
            observation: [obs], or [n, obs].
            state: handed back as it is: the policy has no memory.
            episode_start: not used.
            deterministic: whether to take the best action instead of sampling as in training. TD3 and DDPG always do,
                as in stable-baselines3: the noise of their training is `explore`'s.

        Returns:
            The action, [act] or [n, act] (a number, or [n], where actions are discrete), and `state`.

        Raises:
            ValueError: an observation of another size, or not finite.
        """
        obs, size = np.asarray(observation), self.sizes[0]
        if obs.ndim not in (1, 2) or obs.shape[-1] != size:
            raise ValueError(f"observation: expected shape [{size}] or [n, {size}], got {list(obs.shape)}")
        if not np.isfinite(obs).all():
            raise ValueError(f"observation: expected finite numbers, got {obs.tolist()}")
        rows = obs.reshape(-1, size)
        if deterministic or not self.samples:
            action = self._act(rows, None)
        else:
            action = self.explore(rows, generator(self.seed, "predict", self._predictions, device=self.device))
            self._predictions += 1
        return (action[0] if obs.ndim == 1 else action), state

    def explore(self, obs: np.ndarray, generator: Generator) -> np.ndarray:
        """Actions [rows, act] or [rows] as in training, for observations [rows, obs]: sampled, or with noise."""
        return self._act(obs, self.learner.act_noise(len(obs), [generator]))

    def log_prob(self, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Log-probabilities of actions under the policy of `explore`: of densities where actions are continuous.

        Args:
            obs: [rows, obs].
            action: [rows, act] in the environment's units, or whole numbers [rows].

        Returns:
            [rows], in units of the environment's actions.

        Raises:
            ValueError: the policy has no density: its actions are a function of observations, or are cut to the bounds.
        """
        if not hasattr(self.learner, "log_prob"):
            why = "cuts its draws off at the bounds, where they have no density" if self.samples else "is deterministic"
            raise ValueError(
                f"policy: expected one that draws its actions and knows how likely they are, such as SAC's, got "
                f"{type(self).__name__}, whose policy {why}"
            )
        rows = torch.as_tensor(obs, dtype=self.learner.dtype, device=self.device)
        kind = torch.int64 if self.discrete else self.learner.dtype
        taken = torch.as_tensor(action, dtype=kind, device=self.device)
        logs: np.ndarray = self.learner.log_prob(self.state, rows[None], taken[None])[0].cpu().numpy()
        return logs

    def save(self, path: str | Path) -> Path:
        """Write parameters, optimisers and hyperparameters to `path`, whose ending .safetensors is added.

        The write is atomic: a crash leaves the old file or the new one. The buffer is not written.
        """
        spaces = {"observation_space": self.observation_space, "action_space": self.action_space}
        config: dict[str, Any] = {name: files.space_to_json(space) for name, space in spaces.items()}
        config |= {"seed": self.seed, "config": asdict(self.config), UPDATES: self.updates}
        return files.save(path, type(self).__name__, config, leaves(self.state))

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu") -> Self:
        """Read what `save` wrote.

        Learning goes on from the parameters, with an empty buffer, so random actions come first; none of its episodes,
        actions and noise are those that `learn` has drawn before.

        Raises:
            ValueError: no such file, or damaged, of another agent, or of a newer version.
        """
        stored, tensors = files.load(path, cls.__name__)
        obs_space, action_space = (
            files.space_from_json(stored[name]) for name in ("observation_space", "action_space")
        )
        config = cls.config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored["config"].items()})
        loaded = cls(obs_space, action_space, stored["seed"], device=device, config=config)
        files.copy_into(leaves(loaded.state), tensors, path)
        loaded.updates = stored[UPDATES]
        if loaded.updates:
            loaded._learning_seed = derive(loaded.seed, "learn", loaded.updates)
        return loaded

    def experience(self, capacity: int, num_envs: int) -> ReplayBuffer:
        """The buffer of what it is trained on, made where there is none yet, or an empty one.

        Raises:
            ValueError: there is one, of another size.
        """
        if self.buffer is None or not len(self.buffer):
            obs_dim, action_dim = self.sizes
            self.buffer = ReplayBuffer(
                capacity, obs_dim, action_dim, num_envs=num_envs, device=self.device, dtype=self.learner.dtype
            )
        slots = -(-capacity // num_envs)
        if (self.buffer.capacity, self.buffer.num_envs) != (slots * num_envs, num_envs):
            raise ValueError(
                f"buffer_size, num_envs: expected {self.buffer.capacity} and {self.buffer.num_envs}, as the agent has "
                f"been trained with, got {capacity} and {num_envs}; set agent.buffer = None to forget its experience"
            )
        return self.buffer

    def settings(self) -> dict[str, Any]:
        """What training depends on: the kind of learner, and its hyperparameters."""
        return {"learner": type(self.learner).__name__, **asdict(self.config)}

    def state_dict(self) -> dict[str, Tensor]:
        """The state's tensors, which later updates write into, and the counts of updates and of draws of `predict`."""
        stored = {f"{i:04d}": tensor for i, tensor in enumerate(leaves(self.state))}
        return {**stored, UPDATES: torch.tensor(self.updates), PREDICTIONS: torch.tensor(self._predictions)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy what `state_dict` gave into the state.

        Raises:
            ValueError: the tensors are of another learner.
        """
        tensors = [state[name] for name in sorted(set(state) - {UPDATES, PREDICTIONS})]
        files.copy_into(leaves(self.state), tensors, "the checkpoint")
        self.updates = int(state[UPDATES])
        self._predictions = int(state.get(PREDICTIONS, 0))  # unknown to older checkpoints

    def _act(self, obs: np.ndarray, noise: Any) -> np.ndarray:
        rows = torch.as_tensor(obs, dtype=self.learner.dtype, device=self.device)
        action = self.learner.act(self.state, rows[None], noise)[0].cpu().numpy()
        space = self.action_space
        if isinstance(space, gym.spaces.Box):
            # Rounding may lead beyond a bound. (np.clip takes several times as long.)
            return np.minimum(np.maximum(action, space.low), space.high).astype(space.dtype, copy=False)
        return action


class _Online(Agent):
    """An agent that learns by acting."""

    def learn(
        self,
        total_timesteps: int,
        env: gym.Env | gym.vector.VectorEnv,
        *,
        recorder: Recorder | None = None,
        evaluate: Callable[[Agent, int], dict[str, float]] | None = None,
        stop: Callable[[], bool] | None = None,
        **settings: Any,
    ) -> Self:
        """Train on `total_timesteps` more real steps.

        A second call goes on: with the same buffer, counts and parameters, and new episodes. Settings that are not
        given are those of `mbrl train` without a preset (`off_policy_presets.DEFAULTS`), for SAC of the algorithm whose
        hyperparameters are nearest: with `config=REDQ` or `DROQ` 20 updates a step, after 5,000 random steps.

        Args:
            total_timesteps: how many more.
            env: the environment, or a vector of `num_envs` of them.
            recorder: see `train_off_policy`.
            evaluate: see `train_off_policy`.
            stop: see `train_off_policy`.
            settings: fields of `OffPolicyConfig`.

        Raises:
            ValueError: there is no such setting, or see `train_off_policy`.
        """
        from mbrl.pipelines.off_policy import train_off_policy  # which knows agents
        from mbrl.pipelines.off_policy_presets import loop_defaults

        check_learn(total_timesteps, env)
        envs = env.num_envs if isinstance(env, gym.vector.VectorEnv) else 1
        given = {"device": str(self.device), "num_envs": envs, **settings}
        given |= {"total_timesteps": self.steps + total_timesteps}
        config = with_fields(loop_defaults(self.config), given, "settings of learn")
        seed = self._learning_seed
        train_off_policy(env, self, config, seed=seed, recorder=recorder, evaluate=evaluate, stop=stop)
        return self


class SAC(_Online):
    """Soft actor-critic; with `config=REDQ` or `config=DROQ` (`mbrl.learners.sac`) its kin."""

    learner_type, config_type = SACLearner, SACConfig


class TD3(_Online):
    """Twin delayed DDPG."""

    learner_type, config_type, samples = TD3Learner, TD3Config, False


class DDPG(_Online):
    """Deep deterministic policy gradient."""

    learner_type, config_type, samples = DDPGLearner, DDPGConfig, False


class DQN(_Online):
    """Deep Q-learning: double, with n-step targets where the loop has them."""

    learner_type, config_type, discrete, instead = DQNLearner, DQNConfig, True, _FOR_VECTORS


class DiscreteSAC(_Online):
    """Soft actor-critic for discrete actions."""

    learner_type, config_type, discrete, instead = DiscreteSACLearner, DiscreteSACConfig, True, _FOR_VECTORS


AGENTS: dict[str, type[Agent]] = {kind.__name__: kind for kind in (SAC, TD3, DDPG, DQN, DiscreteSAC)}
"""By name, as files and run directories have it."""


def check_match(env: gym.Env | gym.vector.VectorEnv, agent: Agent, device: str) -> None:
    """Check that an agent is for an environment's spaces, and lives where training is to be.

    Raises:
        ValueError: it is not, or does not.
    """
    vector = isinstance(env, gym.vector.VectorEnv)
    for kind in ("action_space", "observation_space"):
        space, own = getattr(env, f"single_{kind}" if vector else kind), getattr(agent, kind)
        if kind == "action_space":
            check_actions(type(agent).__name__, space, discrete=agent.discrete, instead=agent.instead)
        if not _same(space, own, bounds=kind == "action_space"):
            raise ValueError(f"env: expected {kind} {own}, as the agent was made for, got {space}")
    if device_of(device) != agent.device:
        raise ValueError(f"device: expected {agent.device}, where the agent lives, got {device}")


def _same(space: Any, other: Any, *, bounds: bool) -> bool:
    if space.shape != other.shape or getattr(space, "n", None) != getattr(other, "n", None):
        return False
    boxes = isinstance(space, gym.spaces.Box) and isinstance(other, gym.spaces.Box)
    return not (bounds and boxes) or all(np.array_equal(getattr(space, x), getattr(other, x)) for x in ("low", "high"))
