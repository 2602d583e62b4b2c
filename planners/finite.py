"""Finite Markov decision processes: the model as tables, and value iteration

    V(s) <- max over a of sum over s' of P(s' | s, a) (R(s, a, s') + discount (1 - ends(s, a, s')) V(s')).

in place (Gauss-Seidel): a sweep goes from the last state to the first, and each update reads the values that the sweep
has already made. The fixed point is that of synchronous sweeps, which read the last sweep's values; after a given
number of sweeps in-place values are nearer to it, much nearer where states lie in the order of the way to the goal.

Source: Sutton and Barto, Reinforcement Learning, 2nd edition, section 4.4, http://incompleteideas.net/book/the-book.html.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from planners.dynamics import Step


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """A finite MDP, and the `Dynamics` of it. A state is its number [rows], the observation that number, [rows, 1].

    Args:
        probability: P(s' | s, a); sums to 1 over s'.
        reward: of the transition.
        terminated: whether the transition ends the episode; None: none does.

    Raises:
        ValueError: shapes disagree, or probabilities are negative or don't sum to 1.
    """

    probability: Float[Tensor, "states actions states"]
    reward: Float[Tensor, "states actions states"]
    terminated: Bool[Tensor, "states actions states"] | None = None

    def __post_init__(self) -> None:
        shape = self.probability.shape
        if len(shape) != 3 or shape[0] != shape[2]:
            raise ValueError(f"probability: expected shape [states, actions, states], got {list(shape)}")
        for name, table in (("reward", self.reward), ("terminated", self.terminated)):
            if table is not None and table.shape != shape:
                raise ValueError(f"{name}: expected shape {list(shape)} as probability has, got {list(table.shape)}")
        if self.reward.dtype != self.probability.dtype:
            raise ValueError(f"reward: expected {self.probability.dtype}, as probability has, got {self.reward.dtype}")
        sums = self.probability.double().sum(2)
        if bool((self.probability < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-6):
            raise ValueError("probability: expected numbers from 0 that sum to 1 over the last axis")

    @classmethod
    def from_env(cls, env: Any) -> "FiniteMDP":
        """The tables of a Gymnasium environment that has them as `P[s][a] = [(probability, s', reward, ends), ...]`.

        FrozenLake, Taxi and CliffWalking have. Entries that lead to the same state become one: their probabilities are
        added and their rewards averaged; it ends the episode if one of them does.

        Raises:
            ValueError: there are no such tables.
        """
        tables = getattr(getattr(env, "unwrapped", env), "P", None)
        if tables is None:
            raise ValueError(f"env: expected tables P[state][action] as FrozenLake has them, got {env}; use EnvCopies")
        states, actions = len(tables), len(tables[0])
        probability = torch.zeros(states, actions, states, dtype=torch.float64)
        reward, terminated = torch.zeros_like(probability), torch.zeros_like(probability, dtype=torch.bool)
        for s, by_action in tables.items():
            for a, outcomes in by_action.items():
                for p, s_next, r, ends in outcomes:
                    probability[s, a, s_next] += p
                    reward[s, a, s_next] += p * float(r)
                    terminated[s, a, s_next] |= bool(ends) and p > 0
        reward = torch.where(probability > 0, reward / probability.clamp(min=1e-300), 0.0)
        return cls(probability, reward, terminated)

    @property
    def states(self) -> int:
        return self.probability.shape[0]

    @property
    def actions(self) -> int:
        return self.probability.shape[1]

    def reset(self, obs: Float[Tensor, "rows obs"]) -> Int[Tensor, "rows"]:
        if obs.dim() != 2 or obs.shape[1] != 1:
            raise ValueError(f"obs: expected state numbers of shape [rows, 1], got {list(obs.shape)}")
        state = obs[:, 0].long()
        wrong = (state != obs[:, 0]) | (state < 0) | (state >= self.states)
        if bool(wrong.any()):
            raise ValueError(f"obs: expected state numbers from 0 to {self.states - 1}, got {obs[wrong][0].item():g}")
        return state

    def observe(self, state: Int[Tensor, "rows"]) -> Float[Tensor, "rows 1"]:
        return state[:, None].to(self.reward)

    def assign(self, state: Tensor, particles: int, *, generator: Generator) -> Tensor:
        return state

    def step(self, state: Tensor, action: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Step]:
        chances = self.probability[state, action]
        if generator is not None:
            luck = torch.rand(len(state), 1, generator=generator, device=chances.device, dtype=torch.float64)
            # The first state whose cumulative probability is above the number: never one of probability 0.
            total = chances.double().cumsum(1)
            next_state = (total <= luck * total[:, -1:]).sum(1)
        elif bool((chances.amax(1) < 1 - 1e-9).any()):
            raise ValueError(
                "generator: this model is stochastic and has no mean transition; plan with stochastic=True, in "
                "an evaluator's rollouts too: Rollouts(..., stochastic=True)"
            )
        else:
            next_state = chances.argmax(1)
        reward = self.reward[state, action, next_state]
        if self.terminated is None:
            ended = torch.zeros_like(state, dtype=torch.bool)
        else:
            ended = self.terminated[state, action, next_state]
        return next_state, Step(self.observe(next_state), reward, ended)


def q_values(mdp: FiniteMDP, values: Float[Tensor, "states"], discount: float) -> Float[Tensor, "states actions"]:
    """The expected return of each action, where the states that follow are worth `values`."""
    ahead = values.to(mdp.reward).expand_as(mdp.reward)
    if mdp.terminated is not None:
        ahead = torch.where(mdp.terminated, 0.0, ahead)
    return (mdp.probability * (mdp.reward + discount * ahead)).sum(2)


def value_iteration(
    mdp: FiniteMDP, discount: float, *, sweeps: int | None = None, tolerance: float = 1e-10
) -> Float[Tensor, "states"]:
    """The optimal values after `sweeps` sweeps from 0; without a number, until no value moves by more than `tolerance`.

    Sweeps are in place, from the last state to the first, so that one sweep can carry a value far: with `sweeps` the
    result is not that of as many synchronous sweeps (repeat `q_values(mdp, values, discount).amax(1)` for those).

    Raises:
        ValueError: a number is out of range, or there is no end to it: `discount=1` where episodes need not end.
    """
    if not 0 < discount <= 1 or (sweeps is not None and sweeps < 0) or not tolerance > 0:
        raise ValueError(
            "discount, sweeps, tolerance: expected a number in (0, 1], at least 0 and above 0, "
            f"got {discount}, {sweeps}, {tolerance}"
        )
    values = torch.zeros(mdp.states, dtype=mdp.reward.dtype, device=mdp.reward.device)
    goes_on = mdp.probability * (1 if mdp.terminated is None else ~mdp.terminated)
    paid = (mdp.probability * mdp.reward).sum(2)
    for _ in range(10_000 if sweeps is None else sweeps):
        before = values.clone()
        for state in reversed(range(mdp.states)):
            values[state] = (paid[state] + discount * goes_on[state] @ values).amax()
        if sweeps is None and bool((values - before).abs().amax() <= tolerance):
            return values
    if sweeps is None:
        raise ValueError(f"discount: after 10,000 sweeps values still move at {discount}; use one below 1, or `sweeps`")
    return values
