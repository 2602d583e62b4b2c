"""What runs cost: gradient steps, model steps and floating-point operations, of their settings and logged counters.

Operations are those of the matrix products of networks, 2 for each multiplication and addition, which is what
`torch.utils.flop_counter` counts: of the learner's updates, of the model's fits, of model rollouts and of planning.
Left out are acting, evaluations, the model's scores on held-out rows, activations, optimisers and the simulator: they
are small beside the others, or no operations of networks. An algorithm whose operations are not known here has NaN,
never 0.

With P the weights of a network and P_1 those of its first layer, a batch of B rows takes 2 P B forward, 2 P B for the
gradient of its weights and 2 (P - P_1) B for that of its hidden layers, or 2 P B where its input has one, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mbrl.envs.tasks import Task
from mbrl.experiments.metrics import STEP

GRADIENT_STEPS = ("train/gradient_steps", "train/n_updates", "model/gradient_steps")
"""Counters whose sum is a run's gradient steps."""
MODEL_STEPS = ("plan/model_steps", "model/steps")
COUNTED = frozenset({"sac", "redq", "droq", "td3", "ddpg", "dqn", "discrete_sac", "mbpo", "dyna"})
"""Algorithms of agents whose operations are known; those of PETS and stable-baselines3 stand apart."""


@dataclass(frozen=True)
class Network:
    """A fully connected network: sizes of its layers, from inputs to outputs."""

    sizes: tuple[int, ...]

    @property
    def weights(self) -> int:
        return sum(rows * columns for rows, columns in pairwise(self.sizes))

    def forward(self, rows: float) -> float:
        return 2 * self.weights * rows

    def backward(self, rows: float, *, weights: bool = True, inputs: bool = False) -> float:
        """Of the gradient of what it returned: for its weights, and for its inputs or only for its hidden layers."""
        through = self.weights if inputs else self.weights - self.sizes[0] * self.sizes[1]
        return 2 * rows * (through + (self.weights if weights else 0))

    def update(self, rows: float) -> float:
        """A step of supervised learning."""
        return self.forward(rows) + self.backward(rows)


@dataclass(frozen=True)
class Sizes:
    """What networks are made for."""

    obs: int
    act: int
    """Dimensions of an action, or how many there are where they are discrete."""
    discrete: bool
    task: Task | None
    """What the library knows of the environment."""


def sac_update(
    actor: Network, critic: Network, rows: int, *, critics: int = 2, actor_every: int = 1, frozen: bool = True
) -> float:
    """One update of SAC: targets, critics, and actor, as a mean over updates where the actor has fewer.

    Args:
        actor: gives mean and deviation of actions.
        critic: one of them.
        rows: of the batch.
        critics: how many.
        actor_every: critic updates per update of the actor.
        frozen: whether the actor's loss leaves out the gradient of the critics' weights, which it does not use;
            stable-baselines3 computes it.
    """
    targets = actor.forward(rows) + critics * critic.forward(rows)
    values = critics * critic.update(rows)
    through = critics * (critic.forward(rows) + critic.backward(rows, weights=not frozen, inputs=True))
    return targets + values + (actor.update(rows) + through) / actor_every


def td3_update(
    actor: Network, critic: Network, rows: int, *, critics: int = 2, actor_every: int = 2, frozen: bool = True
) -> float:
    """One update of TD3 or DDPG, whose actors climb the first critic alone; arguments as of `sac_update`."""
    targets = actor.forward(rows) + critics * critic.forward(rows)
    values = critics * critic.update(rows)
    through = critic.forward(rows) + critic.backward(rows, weights=not frozen, inputs=True)
    return targets + values + (actor.update(rows) + through) / actor_every


def dqn_update(q: Network, rows: int, *, double: bool) -> float:
    """One update of DQN: the target network, with `double` the network itself on what comes next, and its step."""
    return (1 + double) * q.forward(rows) + q.update(rows)


def discrete_sac_update(actor: Network, critic: Network, rows: int, *, critics: int = 2, actor_every: int = 1) -> float:
    """One update of SAC for discrete actions, whose actor's loss is a sum over actions: no gradient through critics."""
    targets = actor.forward(rows) + critics * critic.forward(rows)
    values = critics * critic.update(rows)
    return targets + values + (actor.update(rows) + critics * critic.forward(rows)) / actor_every


def cost_curves(
    algo: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], sizes: Sizes
) -> dict[str, np.ndarray]:
    """What was spent until each row of metrics, by `results.COSTS`; "steps" is NaN where a row has none.

    Args:
        algo: of the run directory.
        settings: its config.
        rows: of metrics.jsonl.
        sizes: of the environment.
    """
    steps = np.array([math.nan if (step := row.get(STEP)) is None else float(step) for row in rows])
    return {
        "steps": steps,
        "minutes": _column(rows, ("time/wall_clock",), before=math.nan) / 60,
        "cpu_minutes": _column(rows, ("time/cpu_seconds",), before=math.nan) / 60,
        "gradient_steps": _column(rows, GRADIENT_STEPS),
        "model_steps": _column(rows, MODEL_STEPS, default=0.0),
        "flops": _flops(algo, settings, rows, sizes),
    }


def _flops(algo: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], sizes: Sizes) -> np.ndarray:
    if algo == "pets":
        return _pets(settings["pets"], rows, sizes)
    per_update = _sb3(algo, settings, sizes) if algo.startswith("sb3-") else _per_update(algo, settings, sizes)
    spent = per_update * _column(rows, ("train/n_updates",))
    if algo in ("mbpo", "dyna"):
        spent = spent + _rolled_model(settings, rows, sizes)
    return spent


def _pets(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], sizes: Sizes) -> np.ndarray:
    learned_reward = sizes.task is None or sizes.task.reward is None
    network = _ensemble_network(sizes, config["hidden"], config["deterministic"], learned_reward)
    fit = config["members"] * network.update(config["batch_size"])
    members = config["members"] if config["propagation"] == "expectation" else 1  # else a row meets one member
    plan = members * network.forward(1)
    return fit * _column(rows, ("train/gradient_steps",)) + plan * _column(rows, ("plan/model_steps",))


def _rolled_model(settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], sizes: Sizes) -> np.ndarray:
    """Fits and rollouts, in which a row asks one elite and the policy."""
    config = settings["loop"]
    # Expanded targets ask the model in every update; a classifier of ends has networks of its own.
    if config.get("targets", "td") != "td" or config.get("termination") == "learned":
        return np.full(len(rows), math.nan)
    unknown = sizes.task is None or sizes.task.reward is None
    network = _ensemble_network(sizes, config["model_hidden"], False, config["reward"] == "learned" or unknown)
    fit = config["members"] * network.update(config["model_batch_size"])
    step = network.forward(1) + _policy(settings, sizes).forward(1)
    return fit * _column(rows, ("model/gradient_steps",)) + step * _column(rows, ("model/steps",))


def _ensemble_network(sizes: Sizes, hidden: Sequence[int], deterministic: bool, learned_reward: bool) -> Network:
    """One member of `mbrl.models.GaussianEnsemble`."""
    seen = sizes.obs + sizes.act - (len(sizes.task.ignored_inputs) if sizes.task else 0)
    out = sizes.obs + learned_reward
    return Network((seen, *hidden, out if deterministic else 2 * out))


def _per_update(algo: str, settings: Mapping[str, Any], sizes: Sizes) -> float:
    """Operations of one gradient step of the learner; NaN where they are not known."""
    if algo not in COUNTED:
        return math.nan
    learner, agent, rows = settings["learner"], settings["agent"], settings["loop"]["batch_size"]
    actor = _policy(settings, sizes)
    if agent == "DQN":
        return dqn_update(actor, rows, double=learner["double"])
    if agent == "DiscreteSAC":
        critics, every = learner["critics"], learner["actor_every"]
        return discrete_sac_update(actor, actor, rows, critics=critics, actor_every=every)  # of the same sizes
    if sizes.discrete:
        return math.nan
    critic = Network((sizes.obs + sizes.act, *learner["hidden"], 1))
    if agent == "SAC":
        return sac_update(actor, critic, rows, critics=learner["critics"], actor_every=learner["actor_every"])
    if agent in ("TD3", "DDPG"):
        return td3_update(actor, critic, rows, critics=learner.get("critics", 1), actor_every=learner["actor_every"])
    return math.nan


def _policy(settings: Mapping[str, Any], sizes: Sizes) -> Network:
    """What an agent acts with: SAC's gives mean and deviation, the others' one number for each action."""
    outputs = 2 * sizes.act if settings["agent"] == "SAC" else sizes.act
    return Network((sizes.obs, *settings["learner"]["hidden"], outputs))


def _sb3(algo: str, settings: Mapping[str, Any], sizes: Sizes) -> float:
    given = settings["sb3"]["hyperparameters"]
    nets = given.get("policy_kwargs", {}).get("net_arch")
    if nets is None or "batch_size" not in given:  # stable-baselines3's own, which are its versions' business
        return math.nan
    pi, second = (nets["pi"], nets.get("qf", nets.get("vf"))) if isinstance(nets, Mapping) else (nets, nets)
    rows = given["batch_size"]
    if algo == "sb3-ppo":
        return Network((sizes.obs, *pi, sizes.act)).update(rows) + Network((sizes.obs, *second, 1)).update(rows)
    if algo == "sb3-dqn":
        return dqn_update(Network((sizes.obs, *pi, sizes.act)), rows, double=False)
    critic = Network((sizes.obs + sizes.act, *second, 1))
    if algo == "sb3-sac" and not sizes.discrete:
        return sac_update(Network((sizes.obs, *pi, 2 * sizes.act)), critic, rows, frozen=False)
    if algo == "sb3-td3" and not sizes.discrete:
        actor = Network((sizes.obs, *pi, sizes.act))
        return td3_update(actor, critic, rows, actor_every=given.get("policy_delay", 2), frozen=False)
    return math.nan


def _column(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], default: float = math.nan, before: float = 0.0
) -> np.ndarray:
    """[rows] sum of those of the counters that a run has; `default` where it has none of them.

    A row without one that others have goes on with the last that was logged; until the first it is `before`.
    """
    counters = [[row.get(name) for row in rows] for name in names if any(row.get(name) is not None for row in rows)]
    if not counters:
        return np.full(len(rows), default)
    return np.sum([_carried(values, before) for values in counters], axis=0)


def _carried(values: Sequence[Any], before: float) -> np.ndarray:
    carried, last = [], before
    for value in values:
        last = last if value is None else float(value)
        carried.append(last)
    return np.array(carried)
