"""Behaviour cloning: a policy without planning, fitted to what a controller (MPC, say) did.

    minimise over theta   E_{(s, a) ~ data} | tanh(f_theta((s - mean) / std)) - (a - center) / scale |^2 / |A|

where center +- scale are the action bounds and |A| is the number of action dimensions: every action dimension counts
alike, whatever its units. Errors of a cloned policy add up along a trajectory (Ross and Bagnell 2010): demonstrations
of a controller that is disturbed or still learning visit more of the states that the clone will meet than as many along
one path.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mbrl.data.buffer import ReplayBuffer
from mbrl.data.normalizer import fit_runs
from mbrl.learners import files
from mbrl.learners.networks import MLP, Adam, adam_update, differentiable, gradients, init_adam, init_mlp, mlp
from mbrl.learners.settings import check_network
from mbrl.seeding import generator
from mbrl.types import Metrics, TransitionBatch
from planners.box import Box
from planners.rows import leaves


@dataclass(frozen=True)
class BehaviorCloningConfig:
    """Settings of behaviour cloning."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers (ReLU)."""
    lr: float = 1e-3
    """Step size of Adam."""

    def __post_init__(self) -> None:
        check_network(self)


class BehaviorCloningState(NamedTuple):
    """Everything that learning goes on from."""

    policy: MLP
    adam: Adam
    mean: Float[Tensor, "runs 1 obs"]
    """Of the demonstrated observations; 0 until `fit_normalizer`."""
    std: Float[Tensor, "runs 1 obs"]
    """Likewise; 1 until `fit_normalizer`, and where an observation does not vary."""
    center: Float[Tensor, "runs 1 act"]
    """Middle of the action bounds: here and not in the learner so that it is on the right device."""
    scale: Float[Tensor, "runs 1 act"]
    """Half the distance of the action bounds."""


@dataclass(frozen=True)
class BehaviorCloningLearner:
    """Mean squared error between tanh policy and demonstrated action; a `mbrl.types.Learner`.

    Args:
        obs_dim: size of an observation.
        low: lower action bounds, one for each action dimension.
        high: upper action bounds.
        config: the settings.
        dtype: of the parameters; batches must have it too.

    Raises:
        ValueError: bounds that are not finite or not in order, or a size that is not positive.
    """

    obs_dim: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    config: BehaviorCloningConfig = BehaviorCloningConfig()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        Box(self.low, self.high, len(self.low))
        if self.obs_dim < 1:
            raise ValueError(f"obs_dim: expected a positive size, got {self.obs_dim}")

    def init(self, generators: list[Generator]) -> BehaviorCloningState:
        """A fresh state; one generator a run."""
        policy = init_mlp((self.obs_dim, *self.config.hidden, len(self.low)), generators, dtype=self.dtype)
        box, like, runs = Box(self.low, self.high), policy[0][0], len(generators)
        mean = like.new_zeros(runs, 1, self.obs_dim)
        center, scale = (x.to(like).expand(runs, 1, -1).clone() for x in (box.center, box.range / 2))
        return BehaviorCloningState(policy, init_adam(policy), mean, torch.ones_like(mean), center, scale)

    def noise(self, batch_size: int, generators: list[Generator]) -> tuple[()]:
        """Nothing: an update is a function of state and batch."""
        return ()

    def act_noise(self, rows: int, generators: list[Generator]) -> tuple[()]:
        """Nothing: the policy is deterministic."""
        return ()

    def fit_normalizer(self, state: BehaviorCloningState, obs: Float[Tensor, "runs rows obs"]) -> None:
        """Set the state's mean and standard deviation, in place, to those of the observations."""
        fit_runs(state.mean, state.std, obs)

    def update(
        self, state: BehaviorCloningState, batch: TransitionBatch, noise: Any = (), *, actor: bool = True
    ) -> tuple[BehaviorCloningState, Metrics]:
        """One step of Adam on a batch [runs, batch_size, ...], of which `obs` and `action` are used.

        `train/loss` is the mean squared error before the step, in units of half the action range. With
        `actor=False` it is measured, and nothing moves.
        """
        grads, metrics = self.policy_gradients(state, batch)
        if actor:
            adam_update(state.policy, grads, state.adam, lr=self.config.lr)
        return state, metrics

    def policy_gradients(self, state: BehaviorCloningState, batch: TransitionBatch) -> tuple[list[Tensor], Metrics]:
        """Gradients of the loss; nothing is written."""
        policy = differentiable(state.policy)
        target = (batch.action - state.center) / state.scale
        loss = (_squashed(policy, state, batch.obs) - target).square().mean((1, 2))
        return gradients(loss, policy), {"train/loss": loss.detach()}

    @torch.no_grad()
    def act(
        self, state: BehaviorCloningState, obs: Float[Tensor, "runs rows obs"], noise: Any = None
    ) -> Float[Tensor, "runs rows act"]:
        """The policy's actions, within the bounds up to rounding."""
        return state.center + state.scale * _squashed(state.policy, state, obs)


def _squashed(policy: MLP, state: BehaviorCloningState, obs: Tensor) -> Tensor:
    """The policy's output in [-1, 1]."""
    return torch.tanh(mlp(policy, (obs - state.mean) / state.std))


class BehaviorCloning:
    """Behaviour cloning with the interface of stable-baselines3: `learn`, `predict`, `save`, `load`.

    Args:
        observation_space: a flat `gymnasium.spaces.Box`.
        action_space: a flat `gymnasium.spaces.Box` with finite bounds.
        seed: of the initial weights and of the mini-batches.
        hidden: sizes of the hidden layers.
        lr: step size of Adam.
        device: where the network lives.

    Raises:
        ValueError: a space of another kind.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        seed: int = 0,
        *,
        hidden: tuple[int, ...] = (128, 128),
        lr: float = 1e-3,
        device: torch.device | str = "cpu",
    ) -> None:
        if not isinstance(observation_space, gym.spaces.Box) or len(observation_space.shape) != 1:
            raise ValueError(f"observation_space: expected a flat gymnasium.spaces.Box, got {observation_space}")
        box = Box.from_space(action_space)
        low, high = tuple(box.low.tolist()), tuple(box.high.tolist())
        self.observation_space, self.action_space, self.seed = observation_space, action_space, seed
        config = BehaviorCloningConfig(tuple(hidden), lr)
        self.learner = BehaviorCloningLearner(observation_space.shape[0], low, high, config)
        self.state = self.learner.init([generator(seed, "behavior_cloning", "init", device=device)])
        self.updates = 0
        """Updates so far. Mini-batch k is a function of (seed, k): learning in two calls is learning in one."""

    def learn(
        self, data: TransitionBatch | ReplayBuffer, updates: int = 2000, batch_size: int = 256
    ) -> BehaviorCloning:
        """Fit the policy to the actions of `data`, going on from where the last call left off.

        The input normaliser is fitted in the first call and kept: another one would change what the weights mean.

        Args:
            data: rows of transitions, [rows, ...], or a buffer, of which every valid row is used.
            updates: number of gradient steps.
            batch_size: rows a step, drawn with replacement.

        Raises:
            ValueError: no rows, wrong sizes, values that are not finite, or actions out of bounds.
        """
        if updates < 1 or batch_size < 1:
            raise ValueError(f"updates, batch_size: expected positive numbers, got {updates} and {batch_size}")
        rows = self._rows(data)
        if self.updates == 0:
            self.learner.fit_normalizer(self.state, rows.obs[None])
        for _ in range(updates):
            g = generator(self.seed, "behavior_cloning", "batch", self.updates, device=rows.obs.device)
            index = torch.randint(len(rows.obs), (1, batch_size), generator=g, device=g.device)
            self.learner.update(self.state, TransitionBatch(*(x[index] for x in rows)))
            self.updates += 1
        return self

    def loss(self, data: TransitionBatch | ReplayBuffer) -> float:
        """Mean squared error on all of `data`, in units of half the action range; raises as `learn` does."""
        batch = TransitionBatch(*(x[None] for x in self._rows(data)))
        return float(self.learner.update(self.state, batch, actor=False)[1]["train/loss"])

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """The policy's action; it is deterministic and has no memory, so the last two arguments change nothing.

        Args:
            observation: [obs], or [n, obs].
            state: handed back as it is.
            episode_start: not used.
            deterministic: not used.

        Returns:
            The action, [act] or [n, act], in the action space; and `state`.

        Raises:
            ValueError: an observation of another size, or not finite (a NaN action would pass for 0 in MuJoCo).
        """
        obs, size = np.asarray(observation), self.learner.obs_dim
        if obs.ndim not in (1, 2) or obs.shape[-1] != size:
            raise ValueError(f"observation: expected shape [{size}] or [n, {size}], got {list(obs.shape)}")
        rows = torch.as_tensor(obs.reshape(-1, size)).to(self.state.mean)
        _require_finite("observation", rows)
        action = self.learner.act(self.state, rows[None])[0].cpu().numpy().reshape(*obs.shape[:-1], -1)
        space = self.action_space
        return np.clip(action, space.low, space.high).astype(space.dtype), state  # type: ignore[attr-defined]

    def save(self, path: str | Path) -> Path:
        """Write policy, optimiser and normaliser to `path`, which gets the ending .safetensors where it lacks it.

        The write is atomic: a crash leaves the old file or the new one.
        """
        spaces = {"observation_space": self.observation_space, "action_space": self.action_space}
        config: dict[str, Any] = {name: files.space_to_json(space) for name, space in spaces.items()}
        config |= {"seed": self.seed, **asdict(self.learner.config), "updates": self.updates}
        return files.save(path, "BehaviorCloning", config, leaves(self.state))

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu") -> BehaviorCloning:
        """Read what `save` wrote; learning goes on from there as if it had not stopped.

        Raises:
            ValueError: no such file, or damaged, of another learner, or of a newer version.
        """
        config, tensors = files.load(path, "BehaviorCloning")
        obs_space, action_space = (
            files.space_from_json(config[name]) for name in ("observation_space", "action_space")
        )
        loaded = cls(
            obs_space, action_space, config["seed"], hidden=tuple(config["hidden"]), lr=config["lr"], device=device
        )
        files.copy_into(leaves(loaded.state), tensors, path)
        loaded.updates = config["updates"]
        return loaded

    def _rows(self, data: TransitionBatch | ReplayBuffer) -> TransitionBatch:
        """The demonstrations, checked, in the network's dtype and on its device."""
        rows = data if isinstance(data, TransitionBatch) else data.all()
        sizes = {"obs": (rows.obs, self.learner.obs_dim), "action": (rows.action, len(self.learner.low))}
        for name, (x, size) in sizes.items():
            if x.dim() != 2 or x.shape[1] != size or len(x) == 0:
                raise ValueError(
                    f"data.{name}: expected shape [rows, {size}] with one row or more, got {list(x.shape)}"
                )
            _require_finite(f"data.{name}", x)
        like = self.state.mean
        rows = TransitionBatch(*(x.to(like) if x.is_floating_point() else x.to(like.device) for x in rows))
        outside = ((rows.action - self.state.center[0]) / self.state.scale[0]).abs().amax(1) > 1 + 1e-4
        if outside.any():
            row = int(outside.nonzero()[0])
            bounds = f"{list(self.learner.low)} to {list(self.learner.high)}"
            raise ValueError(
                f"data.action: expected actions from {bounds}, got {rows.action[row].tolist()} in row {row}"
            )
        return rows


def _require_finite(name: str, x: Tensor) -> None:
    bad = ~x.isfinite().all(1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(f"{name}: expected finite numbers, got {x[row].tolist()} in row {row}")
