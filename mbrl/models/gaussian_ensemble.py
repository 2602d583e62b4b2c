"""Ensembles of probabilistic networks: p_m(s' - s, r | s, a) = N(mean_m(s, a), diag(std_m(s, a)^2)) for members m.

Source: Chua et al. (2018), "Deep reinforcement learning in a handful of trials using probabilistic dynamics models",
https://arxiv.org/abs/1805.12114, section 4 and appendix A. Deviations: targets are standardised too (the variance is
scaled back with the mean), and every member has log-variance bounds of its own, so that members never meet in training.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mbrl.data.normalizer import Normalizer
from mbrl.models.folded import Folded, fold
from mbrl.models.network import ACTIVATIONS, Activation, Parameters, forward, init_parameters


class Prediction(NamedTuple):
    """What every member predicts, in the units of the environment.

    Columns are the changes of the observation, `next_obs - obs`, then the reward where it is learned.
    """

    mean: Float[Tensor, "members rows out"]
    std: Float[Tensor, "members rows out"]
    """Standard deviation of the noise in the data (aleatoric); 0 where the ensemble is deterministic."""


class GaussianEnsemble:
    """Networks that predict the change of the observation, and how sure it is, from observation and action.

    One network is `members=1`; networks without a variance are `deterministic=True`. Train it with `fit`; plan with it
    through `EnsembleDynamics`.

    Args:
        obs_dim: length of an observation.
        action_dim: length of an action; how many there are where they are discrete.
        members: number of networks.
        hidden: widths of the hidden layers.
        activation: between layers: "silu", "relu" or "tanh".
        deterministic: predict no variance; trained on the squared error.
        learned_reward: predict the reward as a last output.
        normalize_targets: standardise what is predicted. MBPO and MOPO leave it raw, which is for reproducing them.
        weight_decay: L2 penalty per layer, or one for all; None: PETS's, from 2.5e-5 (first) to 1e-4 (last).
        ignored_inputs: indices of the observation that the networks don't see, such as a position along which the
            world looks the same everywhere. Their changes are predicted all the same.
        discrete_actions: actions are int64 [rows], 0 to action_dim - 1; the networks see them one-hot.
        seed: of the initial weights; member i depends on (seed, i) only.
        device: where the networks live.
        dtype: of parameters and predictions.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        *,
        members: int = 5,
        hidden: Sequence[int] = (200, 200, 200, 200),
        activation: Activation = "silu",
        deterministic: bool = False,
        learned_reward: bool = False,
        normalize_targets: bool = True,
        weight_decay: float | Sequence[float] | None = None,
        ignored_inputs: Sequence[int] = (),
        discrete_actions: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        _check_sizes(obs_dim, action_dim, members, hidden, activation, ignored_inputs)
        self.obs_dim = obs_dim
        self.action_dim = action_dim
        self.members = members
        self.activation = activation
        self.deterministic = deterministic
        self.learned_reward = learned_reward
        self.normalize_targets = normalize_targets
        self.discrete_actions = discrete_actions
        self.device = torch.device(device)
        self.dtype = dtype
        self.out_dim = obs_dim + learned_reward
        seen = [i for i in range(obs_dim + action_dim) if i not in set(ignored_inputs)]
        self.seen = torch.tensor(seen, device=self.device)
        """Columns of (obs, action) that the networks see."""
        sizes = (len(seen), *hidden, self.out_dim * (1 if deterministic else 2))
        self.weight_decay = _decay_by_layer(weight_decay, len(sizes) - 1)
        """L2 penalty of each layer's weights."""

        bounded = 0 if deterministic else self.out_dim
        self.parameters = init_parameters(members, sizes, bounded, seed=seed, device=self.device, dtype=dtype)
        self.inputs = Normalizer(len(seen), device=self.device, dtype=dtype)
        self.targets = Normalizer(self.out_dim, device=self.device, dtype=dtype)
        self.elites: Int[Tensor, "elites"] = torch.arange(members, device=self.device)
        """The members to predict with, the best first."""
        self.version = 0
        """Counts changes of what is predicted: what is derived from the parameters is stale once it has moved."""
        self._folded: Folded | None = None

    @property
    def target_scale(self) -> Float[Tensor, "out"]:
        """What errors and disagreement are measured in: standard deviations of the targets in the data that it was
        fitted to, 1 for those that never change there, and of all where targets are not standardised."""
        return torch.where(self.targets.std > 0, self.targets.std, 1.0)

    def encode(self, action: Tensor) -> Float[Tensor, "*rows act"]:
        """Actions in the ensemble's type and on its device; discrete ones [*rows] one-hot (others than 0 to
        action_dim - 1 become zeros: `fit` and the first step of `EnsembleDynamics` check them).

        Raises:
            ValueError: an action is a floating-point number where discrete ones are expected.
        """
        if not self.discrete_actions:
            return action.to(self.device, self.dtype)
        if action.is_floating_point():
            raise ValueError(
                f"action: expected int64, one number a row, got {action.dtype} of shape {list(action.shape)}; the "
                "ensemble was built with discrete_actions=True"
            )
        kinds = torch.arange(self.action_dim, device=self.device)
        return (action.to(self.device).unsqueeze(-1) == kinds).to(self.dtype)

    def check_actions(self, action: Tensor) -> None:
        """Check that actions are [rows, act], or [rows] where discrete, and then among those that there are.

        Raises:
            ValueError: they are not.
        """
        own = () if self.discrete_actions else (self.action_dim,)
        if not action.dim() or tuple(action.shape[1:]) != own:
            raise ValueError(
                f"action: expected shape [{', '.join(map(str, ('rows', *own)))}], got {list(action.shape)}"
            )
        if self.discrete_actions:
            wrong = (action < 0) | (action >= self.action_dim)
            if bool(wrong.any()):
                raise ValueError(
                    f"action: expected numbers from 0 to {self.action_dim - 1}, got {action[wrong][0].item()}"
                )

    def scaled_inputs(self, obs: Float[Tensor, "*rows obs"], action: Tensor) -> Tensor:
        """What the networks see: the columns `seen` of (obs, action), standardised: [*rows, in]."""
        obs = obs.to(self.device, self.dtype)
        return self.inputs.normalize(torch.cat([obs, self.encode(action)], -1).index_select(-1, self.seen))

    def predict(self, obs: Float[Tensor, "*members rows obs"], action: Tensor) -> Prediction:
        """What every member says about every row. Differentiable.

        Args:
            obs: [rows, obs], seen by all members, or [members, rows, obs], a part for each.
            action: likewise, [rows, act], or int64 [rows] where actions are discrete.
        """
        x = self.scaled_inputs(obs, action)
        mean, logvar = forward(self.parameters, x.expand(self.members, *x.shape[-2:]), ACTIVATIONS[self.activation])
        mean = self.targets.denormalize(mean)
        if self.deterministic:
            return Prediction(mean, torch.zeros_like(mean))
        return Prediction(mean, (0.5 * logvar).exp() * self.targets.std)

    @torch.no_grad()
    def folded(self) -> Folded:
        """The same function with fewer operations; made once after each change."""
        if self._folded is None:
            self._folded = fold(self.parameters, self.inputs, self.targets, self.seen, self.obs_dim + self.action_dim)
        return self._folded

    def replace(self, parameters: Parameters, inputs: Normalizer, targets: Normalizer, elites: Tensor) -> None:
        """Take over what training has made. The tensors are kept, not copied."""
        self.parameters, self.inputs, self.targets, self.elites = parameters, inputs, targets, elites
        self.version += 1
        self._folded = None

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all that predictions depend on, under flat names."""
        return {name: tensor.clone() for name, tensor in self._named().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned, from an ensemble built with the same arguments.

        Raises:
            ValueError: a tensor is missing, unknown, or of another shape, or elites are no members.
        """
        mine = self._named()
        if set(state) != set(mine):
            raise ValueError(
                f"state: expected the tensors {sorted(mine)}, got {sorted(state)}; "
                "build the ensemble with the arguments it was saved with"
            )
        for name, tensor in mine.items():
            if name != "elites" and state[name].shape != tensor.shape:
                raise ValueError(
                    f"state[{name!r}]: expected shape {list(tensor.shape)}, got {list(state[name].shape)}; "
                    "build the ensemble with the arguments it was saved with"
                )
        elites = state["elites"]
        if elites.dim() != 1 or not set(elites.tolist()) <= set(range(self.members)) or not len(elites):
            raise ValueError(f"state['elites']: expected some of 0 to {self.members - 1}, got {elites.tolist()}")
        new = {name: state[name].to(tensor, copy=True) for name, tensor in mine.items()}
        inputs, targets = (Normalizer(n, device=self.device, dtype=self.dtype) for n in (len(self.seen), self.out_dim))
        for name, scale in (("inputs", inputs), ("targets", targets)):
            scale.load_state_dict({key: new[f"{name}.{key}"] for key in ("mean", "std")})
        depth = range(len(self.parameters.weights))
        self.replace(
            Parameters(
                tuple(new[f"weights.{i}"] for i in depth),
                tuple(new[f"biases.{i}"] for i in depth),
                new["max_logvar"],
                new["min_logvar"],
            ),
            inputs,
            targets,
            new["elites"],
        )

    def _named(self) -> dict[str, Tensor]:
        p = self.parameters
        return {
            **{f"weights.{i}": w for i, w in enumerate(p.weights)},
            **{f"biases.{i}": b for i, b in enumerate(p.biases)},
            "max_logvar": p.max_logvar,
            "min_logvar": p.min_logvar,
            **{f"inputs.{key}": value for key, value in self.inputs.state_dict().items()},
            **{f"targets.{key}": value for key, value in self.targets.state_dict().items()},
            "elites": self.elites,
        }


def _check_sizes(
    obs_dim: int, action_dim: int, members: int, hidden: Sequence[int], activation: str, ignored: Sequence[int]
) -> None:
    for name, value in (("obs_dim", obs_dim), ("action_dim", action_dim), ("members", members)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if any(width < 1 for width in hidden):
        raise ValueError(f"hidden: expected positive widths, got {tuple(hidden)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if any(not 0 <= i < obs_dim for i in ignored):
        raise ValueError(
            f"ignored_inputs: expected indices of the observation, 0 to {obs_dim - 1}, got {tuple(ignored)}"
        )


def _decay_by_layer(weight_decay: float | Sequence[float] | None, layers: int) -> tuple[float, ...]:
    if weight_decay is None:
        # PETS's values for five layers (HalfCheetah); other depths repeat or leave out the middle ones.
        first = (2.5e-5, 5e-5)[: max(layers - 1, 0)]
        return (*first, *(7.5e-5,) * (layers - 1 - len(first)), 1e-4)
    decay = (weight_decay,) * layers if isinstance(weight_decay, int | float) else tuple(weight_decay)
    if len(decay) != layers or any(d < 0 for d in decay):
        raise ValueError(
            f"weight_decay: expected {layers} numbers of 0 or more, one a layer (hidden layers and output), got {decay}"
        )
    return decay
