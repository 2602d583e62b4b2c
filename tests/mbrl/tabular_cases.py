"""A small Markov decision process whose values are known exactly, and data of it, for tests of policy evaluation."""

import numpy as np
import torch
from torch import Generator, Tensor

from mbrl.data.datasets import Dataset, DatasetInfo

STATES, ACTIONS, DISCOUNT = 3, 2, 0.9
MOVES = np.array(
    [
        [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]],
        [[0.3, 0.4, 0.3], [0.1, 0.1, 0.8]],
        [[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]],
    ]
)
"""P(s' | s, a), given that the episode goes on."""
REWARD = np.array([[0.0, 1.0], [2.0, -1.0], [-0.5, 1.5]])
END = np.array([[0.05, 0.2], [0.1, 0.05], [0.15, 0.1]])
"""Probability that the episode ends with this step."""
START = np.array([0.5, 0.3, 0.2])
TARGET = np.array([[0.7, 0.3], [0.4, 0.6], [0.5, 0.5]])
BEHAVIOUR = np.array([[0.5, 0.5], [0.6, 0.4], [0.3, 0.7]])


def exact(policy: np.ndarray = TARGET, discount: float = DISCOUNT) -> tuple[np.ndarray, np.ndarray, float]:
    """Q [states, actions], V [states], and the value where episodes begin, by a linear solve."""
    go_on = (1 - END)[..., None] * MOVES
    chain = np.einsum("sa,sat->st", policy, go_on)
    v = np.linalg.solve(np.eye(STATES) - discount * chain, (policy * REWARD).sum(1))
    return REWARD + discount * go_on @ v, v, float(START @ v)


def exact_for(steps: int, policy: np.ndarray = TARGET, discount: float = DISCOUNT) -> float:
    """The value of the first steps alone."""
    chain = np.einsum("sa,sat->st", policy, (1 - END)[..., None] * MOVES)
    v = np.zeros(STATES)
    for _ in range(steps):
        v = (policy * REWARD).sum(1) + discount * chain @ v
    return float(START @ v)


def data_of(episodes: int, seed: int, *, limit: int = 10_000, policy: np.ndarray = BEHAVIOUR) -> Dataset:
    """Episodes of the behaviour, cut after `limit` steps; observations are one-hot, rewards have noise."""
    rng = np.random.default_rng(seed)
    state = _drawn(np.tile(START, (episodes, 1)), rng)
    seen, rows, alive = [state], [], np.ones(episodes, dtype=bool)
    while alive.any():
        action = _drawn(policy[state], rng)
        reward = REWARD[state, action] + 0.3 * rng.normal(size=episodes)
        ended = rng.random(episodes) < END[state, action]
        cut = (len(rows) + 1 == limit) & ~ended
        rows.append((action, reward, ended, cut, np.log(policy[state, action]), alive))
        state = _drawn(MOVES[state, action], rng)
        seen.append(state)
        alive = alive & ~ended & ~cut
    action, reward, ended, cut, log_prob, was = (np.stack(x, 1) for x in zip(*rows, strict=True))
    lengths = was.sum(1)
    shown = np.arange(len(seen)) <= lengths[:, None]
    return Dataset(
        np.eye(STATES)[np.stack(seen, 1)[shown]],
        *(x[was] for x in (action, reward, ended, cut, log_prob)),
        lengths,
        DatasetInfo(actions=ACTIONS),
    )


def _drawn(chances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A number a row, by its probabilities [rows, kinds]."""
    return (rng.random((len(chances), 1)) > chances.cumsum(1)[:, :-1]).sum(1)


class Table:
    """A stochastic policy [states, actions] on one-hot observations."""

    draws = True

    def __init__(self, table: np.ndarray = TARGET) -> None:
        self.table = torch.from_numpy(table)

    def act(self, obs: Tensor, generator: Generator) -> Tensor:
        luck = torch.rand(len(obs), generator=generator, dtype=torch.float64)
        return (luck > self.table[obs.argmax(-1), 0]).long()

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.table[obs.argmax(-1), action].log().to(obs)


def log_probs(dataset: Dataset, policy: np.ndarray = TARGET) -> np.ndarray:
    """Of the dataset's actions under a policy."""
    batch = dataset.transitions(dtype=torch.float64)
    return Table(policy).log_prob(batch.obs, batch.action).numpy()


def critics(dataset: Dataset, wrong: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Q(s, a) of each row and V(s) of each observation, exact or wrong, but of one piece: V = sum_a pi(a|s) Q(s, a)."""
    q = exact()[0] + wrong * np.array([[2.0, -1.0], [0.5, 1.0], [-3.0, 0.0]])
    batch = dataset.transitions(dtype=torch.float64)
    return q[batch.obs.argmax(-1).numpy(), batch.action.numpy()], (TARGET * q).sum(1)[dataset.observations.argmax(1)]
