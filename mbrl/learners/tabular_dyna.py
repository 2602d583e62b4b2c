"""Tabular Dyna: every real step teaches a model too, by counting, and the model makes up more steps to learn from.

    direct:    Q(S, A) += alpha (R + gamma max_a Q(S', a) - Q(S, A)) on what happened
    planning:  the same, several times, on what the model says of pairs tried before

Dyna-Q takes those pairs at random, Dyna-Q+ adds a reward for what has not been tried for long, and prioritised sweeping
goes where the value of a pair would change most, backwards from there.

Source: Sutton and Barto, Reinforcement Learning, 2nd edition, sections 8.2 to 8.4,
http://incompleteideas.net/book/the-book.html. docs/dyna.md lists the deviations.
"""

import math
from dataclasses import dataclass

import numpy as np

from mbrl.learners.tabular import Tables, Transition, check_unit, epsilon_greedy


def model_tables(states: int, actions: int, stochastic: bool) -> Tables:
    """A model before any experience: how often each outcome of each pair was seen, and its rewards.

    Stochastic: [states, actions, states, 2], where the last axis is whether the episode ended, so memory grows with the
    square of the number of states. Deterministic: one outcome a pair, the last one seen.
    """
    if stochastic:
        shape = (states, actions, states, 2)
        return {"count": np.zeros(shape, dtype=np.int64), "reward": np.zeros(shape)}
    tables = {name: np.zeros((states, actions), dtype=np.int64) for name in ("count", "next_state", "terminated")}
    return {**tables, "reward": np.zeros((states, actions))}


def observe(tables: Tables, t: Transition) -> None:
    """Teach the model a transition."""
    pair = (t.state, t.action)
    if tables["count"].ndim == 4:
        outcome = (*pair, t.next_state, int(t.terminated))
        tables["count"][outcome] += 1
        tables["reward"][outcome] += (t.reward - tables["reward"][outcome]) / tables["count"][outcome]
    else:
        tables["count"][pair] += 1
        tables["next_state"][pair], tables["terminated"][pair] = t.next_state, t.terminated
        tables["reward"][pair] = t.reward


def sample(tables: Tables, state: int, action: int, luck: float) -> tuple[float, int, bool]:
    """Reward, next state and end of a pair that was tried: luck in [0, 1) chooses by how often each was seen."""
    pair = (state, action)
    if tables["count"].ndim == 2:
        return tables["reward"][pair], tables["next_state"][pair], bool(tables["terminated"][pair])
    below = tables["count"][pair].cumsum()
    number = int((below <= luck * below[-1]).sum())
    return tables["reward"][pair].flat[number], number // 2, number % 2 == 1


def expected(tables: Tables, state: int, action: int, discount: float) -> float:
    """R + gamma max_a Q(S', a) of a pair that was tried, averaged over what was seen to follow."""
    pair, q = (state, action), tables["q"]
    if tables["count"].ndim == 2:
        ahead = 0.0 if tables["terminated"][pair] else q[tables["next_state"][pair]].max()
        return tables["reward"][pair] + discount * ahead
    next_state, ended = tables["count"][pair].nonzero()
    seen = tables["count"][pair][next_state, ended]
    ahead = np.where(ended == 1, 0.0, q[next_state].max(1))
    return float((seen * (tables["reward"][pair][next_state, ended] + discount * ahead)).sum() / seen.sum())


@dataclass(frozen=True)
class DynaQ:
    """Dyna-Q (section 8.2), and Dyna-Q+ (section 8.3) where `kappa` is above 0.

    Dyna-Q+ plans with R + kappa sqrt(tau), where tau is the number of real steps since the pair was last tried, and
    also with actions never tried in a state that was seen: they are taken to lead back to it with reward 0, and their
    tau counts from the first step of all.

    Raises:
        ValueError: a number is out of range.
    """

    alpha: float = 0.1
    """Step size, in (0, 1]."""
    discount: float = 0.95
    epsilon: float = 0.1
    """Share of actions that are drawn uniformly."""
    planning_steps: int = 10
    """Updates from the model for each real step; 0: Q-learning."""
    kappa: float = 0.0
    """Weight of the bonus for what has not been tried for long."""
    stochastic: bool = False
    """Whether the model counts outcomes and draws from them; else it holds the last outcome of each pair."""

    def __post_init__(self) -> None:
        check_unit(self, "alpha", "discount", "epsilon")
        if self.planning_steps < 0 or not self.kappa >= 0:
            raise ValueError(
                f"planning_steps, kappa: expected numbers from 0, got {self.planning_steps} and {self.kappa}"
            )

    def tables(self, states: int, actions: int) -> Tables:
        return {
            "q": np.zeros((states, actions)),
            **model_tables(states, actions, self.stochastic),
            "last": np.zeros((states, actions), dtype=np.int64),  # the real step that took a pair last; 0: none did
            "time": np.zeros(1, dtype=np.int64),  # real steps
            "seen": np.zeros(states, dtype=np.int64),  # states in the order in which they were first left
            "seen_count": np.zeros(1, dtype=np.int64),
            "updates": np.zeros(1, dtype=np.int64),  # of values, by experience and by planning
        }

    def begin(self, tables: Tables) -> None:
        return None

    def act(self, tables: Tables, state: int, rng: np.random.Generator) -> int:
        return epsilon_greedy(tables["q"][state], self.epsilon, rng)

    def step(self, tables: Tables, memory: None, t: Transition, rng: np.random.Generator) -> int:
        if not tables["last"][t.state].any():
            tables["seen"][tables["seen_count"][0]] = t.state
            tables["seen_count"] += 1
        tables["time"] += 1
        tables["last"][t.state, t.action] = tables["time"][0]
        self._move(tables, t.state, t.action, t.reward, t.next_state, t.terminated)
        observe(tables, t)
        self._plan(tables, rng)
        return self.act(tables, t.next_state, rng)

    def greedy(self, tables: Tables, state: int) -> int:
        return int(tables["q"][state].argmax())

    def _move(self, tables: Tables, state: int, action: int, reward: float, next_state: int, terminated: bool) -> None:
        q = tables["q"]
        ahead = 0.0 if terminated else q[next_state].max()
        q[state, action] += self.alpha * (reward + self.discount * ahead - q[state, action])
        tables["updates"] += 1

    def _plan(self, tables: Tables, rng: np.random.Generator) -> None:
        seen, last, now = tables["seen"][: tables["seen_count"][0]], tables["last"], int(tables["time"][0])
        for place, which, luck in rng.random((self.planning_steps, 3)).tolist():
            state = int(seen[int(place * len(seen))])
            choice = last[state].nonzero()[0] if self.kappa == 0 else range(last.shape[1])
            action = int(choice[int(which * len(choice))])
            tried = int(last[state, action])
            reward, next_state, terminated = sample(tables, state, action, luck) if tried else (0.0, state, False)
            bonus = self.kappa * math.sqrt(now - tried)
            self._move(tables, state, action, reward + bonus, next_state, terminated)


@dataclass(frozen=True)
class PrioritizedSweeping:
    """Prioritised sweeping (section 8.4): update pairs whose values would change most, and go on with what leads there.

    A real step teaches the model, and puts its pair into a queue by the size of the error of its value, where that is
    above `threshold`. Then up to `planning_steps` times the first of the queue is updated, and the pairs that lead to
    its state enter it. In a stochastic model updates and errors are expected ones, over all outcomes seen. The queue is
    a table, which is searched from end to end, and so are the predecessors: fine up to some thousand pairs.

    Raises:
        ValueError: a number is out of range.
    """

    alpha: float = 0.1
    """Step size, in (0, 1]; with a model that is right, 1 is best."""
    discount: float = 0.95
    epsilon: float = 0.1
    """Share of actions that are drawn uniformly."""
    planning_steps: int = 10
    """Updates for each real step, at most."""
    threshold: float = 1e-4
    """Smaller errors are left alone."""
    stochastic: bool = False
    """Whether the model counts outcomes; else it holds the last outcome of each pair."""

    def __post_init__(self) -> None:
        check_unit(self, "alpha", "discount", "epsilon")
        if self.planning_steps < 1 or not self.threshold > 0:
            raise ValueError(
                "planning_steps, threshold: expected at least 1 and a number above 0, got "
                f"{self.planning_steps} and {self.threshold}"
            )

    def tables(self, states: int, actions: int) -> Tables:
        return {
            "q": np.zeros((states, actions)),
            **model_tables(states, actions, self.stochastic),
            "priority": np.zeros((states, actions)),  # 0: not in the queue
            "updates": np.zeros(1, dtype=np.int64),  # of values
        }

    def begin(self, tables: Tables) -> None:
        return None

    def act(self, tables: Tables, state: int, rng: np.random.Generator) -> int:
        return epsilon_greedy(tables["q"][state], self.epsilon, rng)

    def step(self, tables: Tables, memory: None, t: Transition, rng: np.random.Generator) -> int:
        observe(tables, t)
        self._enqueue(tables, t.state, t.action)
        q, priority = tables["q"], tables["priority"]
        for _ in range(self.planning_steps):
            state, action = divmod(int(priority.argmax()), priority.shape[1])
            if priority[state, action] == 0:
                break
            priority[state, action] = 0
            q[state, action] += self.alpha * (expected(tables, state, action, self.discount) - q[state, action])
            tables["updates"] += 1
            for before, how in zip(*_leading_to(tables, state), strict=True):
                self._enqueue(tables, int(before), int(how))
        return self.act(tables, t.next_state, rng)

    def greedy(self, tables: Tables, state: int) -> int:
        return int(tables["q"][state].argmax())

    def _enqueue(self, tables: Tables, state: int, action: int) -> None:
        error = abs(expected(tables, state, action, self.discount) - tables["q"][state, action])
        if error > self.threshold:
            tables["priority"][state, action] = max(error, tables["priority"][state, action])


def _leading_to(tables: Tables, state: int) -> tuple[np.ndarray, ...]:
    """States and actions that were seen to lead to a state, and to go on there."""
    count = tables["count"]
    if count.ndim == 4:
        return count[:, :, state, 0].nonzero()
    return ((count > 0) & (tables["next_state"] == state) & (tables["terminated"] == 0)).nonzero()
