"""Tabular reinforcement learning: values of states, or of states and actions, in tables that experience moves.

Each rule is a frozen dataclass of settings and says what one transition (S, A, R, S') changes; `tabular_agent.Tabular`
steps the environment. With the error of one step

    delta = R + gamma Q(S', .) - Q(S, A)        (Q(S', .) = 0 where S' is terminal, and only there)

Q-learning takes the maximum of Q(S', .), Sarsa the value of the action that follows; lambda spreads delta over the
pairs visited before, in proportion to their traces. Where an episode is cut (truncated), bootstrapping goes on.

Source: Sutton and Barto, Reinforcement Learning, 2nd edition, http://incompleteideas.net/book/the-book.html; sections
stand at the rules. docs/learners/tabular.md lists the deviations.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from mbrl.learners.settings import check_numbers
from mbrl.types import NonFiniteUpdate

Tables = dict[str, np.ndarray]
Traces = Literal["accumulating", "replacing", "dutch"]
DIVERGED = "the tables diverged: take a smaller alpha or lambda_, or traces that do not accumulate ('replacing')"


class Transition(NamedTuple):
    """One step: what was seen, done and got."""

    state: int
    action: int
    reward: float
    next_state: int
    terminated: bool
    truncated: bool


class Rule(Protocol):
    """A way to learn from transitions."""

    def tables(self, states: int, actions: int) -> Tables:
        """What is learned and kept, before any experience."""

    def begin(self, tables: Tables) -> Any:
        """What is kept for the length of an episode, such as traces."""

    def act(self, tables: Tables, state: int, rng: np.random.Generator) -> int:
        """An action of the policy that explores."""

    def step(self, tables: Tables, memory: Any, t: Transition, rng: np.random.Generator) -> int:
        """Learn, in place, from a transition; the next action (of no meaning where the episode is over)."""

    def greedy(self, tables: Tables, state: int) -> int:
        """The best action by what is known; the first of equals."""


def epsilon_greedy(values: np.ndarray, epsilon: float, rng: np.random.Generator) -> int:
    """An action of the best value [actions], with probability epsilon any; equals are drawn from.

    Always takes two numbers from the generator.

    Raises:
        NonFiniteUpdate: a value is NaN.
    """
    luck, place = rng.random(2)
    if luck < epsilon:
        return int(place * len(values))
    best = (values == values.max()).nonzero()[0]
    if not len(best):
        raise NonFiniteUpdate(DIVERGED)
    return int(best[int(place * len(best))])


@dataclass(frozen=True)
class QLearning:
    """Q-learning (section 6.5): Q(S, A) += alpha (R + gamma max_a Q(S', a) - Q(S, A)).

    Raises:
        ValueError: a number is out of range.
    """

    alpha: float = 0.1
    """Step size, in (0, 1]."""
    discount: float = 0.99
    epsilon: float = 0.1
    """Share of actions that are drawn uniformly."""

    def __post_init__(self) -> None:
        check_unit(self, "alpha", "discount", "epsilon")

    def tables(self, states: int, actions: int) -> Tables:
        return {"q": np.zeros((states, actions))}

    def begin(self, tables: Tables) -> None:
        return None

    def act(self, tables: Tables, state: int, rng: np.random.Generator) -> int:
        return epsilon_greedy(tables["q"][state], self.epsilon, rng)

    def step(self, tables: Tables, memory: None, t: Transition, rng: np.random.Generator) -> int:
        q = tables["q"]
        ahead = 0.0 if t.terminated else q[t.next_state].max()
        q[t.state, t.action] += self.alpha * (t.reward + self.discount * ahead - q[t.state, t.action])
        return self.act(tables, t.next_state, rng)

    def greedy(self, tables: Tables, state: int) -> int:
        return int(tables["q"][state].argmax())


@dataclass(frozen=True)
class DoubleQLearning:
    """Double Q-learning (section 6.7): a coin says which table moves; it picks the action, the other one values it.

        Q1(S, A) += alpha (R + gamma Q2(S', argmax_a Q1(S', a)) - Q1(S, A)), or with 1 and 2 exchanged

    The behaviour is epsilon-greedy in Q1 + Q2. Ties of the argmax go to the first action.

    Raises:
        ValueError: a number is out of range.
    """

    alpha: float = 0.1
    """Step size, in (0, 1]."""
    discount: float = 0.99
    epsilon: float = 0.1
    """Share of actions that are drawn uniformly."""

    def __post_init__(self) -> None:
        check_unit(self, "alpha", "discount", "epsilon")

    def tables(self, states: int, actions: int) -> Tables:
        return {"q": np.zeros((2, states, actions))}

    def begin(self, tables: Tables) -> None:
        return None

    def act(self, tables: Tables, state: int, rng: np.random.Generator) -> int:
        return epsilon_greedy(tables["q"][:, state].sum(0), self.epsilon, rng)

    def step(self, tables: Tables, memory: None, t: Transition, rng: np.random.Generator) -> int:
        first = int(rng.random() < 0.5)
        mine, other = tables["q"][first], tables["q"][1 - first]
        ahead = 0.0 if t.terminated else other[t.next_state, mine[t.next_state].argmax()]
        mine[t.state, t.action] += self.alpha * (t.reward + self.discount * ahead - mine[t.state, t.action])
        return self.act(tables, t.next_state, rng)

    def greedy(self, tables: Tables, state: int) -> int:
        return int(tables["q"][:, state].sum(0).argmax())


@dataclass(frozen=True)
class SarsaLambda:
    """Sarsa(lambda) (section 12.7, with one feature for each pair): Sarsa at lambda 0, Monte Carlo's target at 1.

        delta = R + gamma Q(S', A') - Q(S, A);   Q += alpha delta z;   z *= gamma lambda

    where the trace z(S, A) of the pair that was visited grows by 1 (accumulating) or becomes 1 (replacing) before.

    Raises:
        ValueError: a number is out of range, or another kind of traces.
    """

    alpha: float = 0.1
    """Step size, in (0, 1]."""
    discount: float = 0.99
    epsilon: float = 0.1
    """Share of actions that are drawn uniformly."""
    lambda_: float = 0.9
    traces: Literal["accumulating", "replacing"] = "replacing"

    def __post_init__(self) -> None:
        check_unit(self, "alpha", "discount", "epsilon", "lambda_")
        _check_traces(self.traces, "accumulating", "replacing")

    def tables(self, states: int, actions: int) -> Tables:
        return {"q": np.zeros((states, actions))}

    def begin(self, tables: Tables) -> np.ndarray:
        return np.zeros_like(tables["q"])

    def act(self, tables: Tables, state: int, rng: np.random.Generator) -> int:
        return epsilon_greedy(tables["q"][state], self.epsilon, rng)

    def step(self, tables: Tables, memory: np.ndarray, t: Transition, rng: np.random.Generator) -> int:
        q, here = tables["q"], (t.state, t.action)
        next_action = self.act(tables, t.next_state, rng)
        ahead = 0.0 if t.terminated else q[t.next_state, next_action]
        delta = t.reward + self.discount * ahead - q[here]
        memory[here] = 1 + (memory[here] if self.traces == "accumulating" else 0)
        q += self.alpha * delta * memory
        memory *= self.discount * self.lambda_
        return next_action

    def greedy(self, tables: Tables, state: int) -> int:
        return int(tables["q"][state].argmax())


class _Prediction(NamedTuple):
    """What TD(lambda) keeps for the length of an episode."""

    trace: np.ndarray
    """[states]."""
    change: np.ndarray
    """[states]: of the values, where they are to move at the end of the episode."""
    before: np.ndarray
    """[1]: the value of the state before the last step moved it."""


@dataclass(frozen=True)
class TDLambda:
    """TD(lambda): values of states under a given policy (section 12.2), which is followed.

    Online, with accumulating traces, it is the book's TD(lambda); with dutch ones it is true online TD(lambda) (section
    12.5), which is the online lambda-return algorithm exactly. With `offline=True` values stand still until the end of
    the episode; with accumulating traces that is the lambda-return algorithm (section 12.1) exactly. (Returns of an
    episode that was cut end with the value of the state that it was cut in.)

    Raises:
        ValueError: a number is out of range, or another kind of traces, or probabilities that don't sum to 1.
    """

    alpha: float = 0.1
    """Step size, in (0, 1]."""
    discount: float = 0.99
    lambda_: float = 0.9
    traces: Traces = "accumulating"
    offline: bool = False
    """Whether values move at the end of an episode only; not for dutch traces, which are made to be online."""
    policy: tuple[tuple[float, ...], ...] | None = None
    """Probabilities of actions, [states][actions]; None: all alike."""

    def __post_init__(self) -> None:
        check_unit(self, "alpha", "discount", "lambda_")
        _check_traces(self.traces, "accumulating", "replacing", *([] if self.offline else ["dutch"]))
        if self.policy is not None:
            table = np.asarray(self.policy, dtype=np.float64)
            if table.ndim != 2 or (table < 0).any() or not np.allclose(table.sum(1), 1):
                raise ValueError(f"policy: expected probabilities [states][actions] that sum to 1, got {self.policy}")
            object.__setattr__(self, "policy", tuple(map(tuple, table.tolist())))

    def tables(self, states: int, actions: int) -> Tables:
        policy = np.full((states, actions), 1 / actions) if self.policy is None else np.array(self.policy)
        if policy.shape != (states, actions):
            raise ValueError(f"policy: expected shape [{states}, {actions}], got {list(policy.shape)}")
        return {"v": np.zeros(states), "policy": policy}

    def begin(self, tables: Tables) -> _Prediction:
        v = tables["v"]
        return _Prediction(np.zeros_like(v), np.zeros_like(v), np.zeros(1))

    def act(self, tables: Tables, state: int, rng: np.random.Generator) -> int:
        return int((tables["policy"][state].cumsum()[:-1] <= rng.random()).sum())

    def step(self, tables: Tables, memory: _Prediction, t: Transition, rng: np.random.Generator) -> int:
        v, (trace, change, before) = tables["v"], memory
        here = v[t.state]
        ahead = 0.0 if t.terminated else v[t.next_state]
        delta = t.reward + self.discount * ahead - here
        trace *= self.discount * self.lambda_
        if self.traces == "dutch":
            moved = here - before[0]
            trace[t.state] += 1 - self.alpha * trace[t.state]
            v += self.alpha * (delta + moved) * trace
            v[t.state] -= self.alpha * moved
            before[0] = ahead
        else:
            trace[t.state] = 1 + (trace[t.state] if self.traces == "accumulating" else 0)
            to = change if self.offline else v
            to += self.alpha * delta * trace
        if self.offline and (t.terminated or t.truncated):
            v += change
        return self.act(tables, t.next_state, rng)

    def greedy(self, tables: Tables, state: int) -> int:
        """The policy's likeliest action: it is given, not learned."""
        return int(tables["policy"][state].argmax())


@dataclass(frozen=True)
class MonteCarloControl:
    """On-policy Monte-Carlo control with epsilon-greedy policies (section 5.4): averages of returns.

    Values move at the end of an episode: going backwards, G = R + gamma G, and Q(S, A) moves towards G, by 1 / n at its
    n-th return. Returns of an episode that was cut end with the epsilon-greedy policy's value of the state that it was
    cut in.

    Raises:
        ValueError: a number is out of range.
    """

    discount: float = 0.99
    epsilon: float = 0.1
    """Share of actions that are drawn uniformly."""
    first_visit: bool = True
    """Whether only the first visit of a pair in an episode counts, or every one."""
    alpha: float | None = None
    """A constant step size in the place of 1 / n: older returns, of worse policies, are forgotten."""

    def __post_init__(self) -> None:
        check_unit(self, "discount", "epsilon", *(["alpha"] if self.alpha is not None else []))

    def tables(self, states: int, actions: int) -> Tables:
        return {"q": np.zeros((states, actions)), "returns": np.zeros((states, actions), dtype=np.int64)}

    def begin(self, tables: Tables) -> list[Transition]:
        return []

    def act(self, tables: Tables, state: int, rng: np.random.Generator) -> int:
        return epsilon_greedy(tables["q"][state], self.epsilon, rng)

    def step(self, tables: Tables, memory: list[Transition], t: Transition, rng: np.random.Generator) -> int:
        memory.append(t)
        if t.terminated or t.truncated:
            self._learn(tables, memory)
        return self.act(tables, t.next_state, rng)

    def greedy(self, tables: Tables, state: int) -> int:
        return int(tables["q"][state].argmax())

    def _learn(self, tables: Tables, episode: list[Transition]) -> None:
        q, counts = tables["q"], tables["returns"]
        first = {(t.state, t.action): i for i, t in reversed(list(enumerate(episode)))}
        row, ret = q[episode[-1].next_state], 0.0
        if not episode[-1].terminated:
            ret = float((1 - self.epsilon) * row.max() + self.epsilon * row.mean())
        for i, t in reversed(list(enumerate(episode))):
            ret = t.reward + self.discount * ret
            pair = (t.state, t.action)
            if self.first_visit and first[pair] != i:
                continue
            counts[pair] += 1
            q[pair] += (1 / counts[pair] if self.alpha is None else self.alpha) * (ret - q[pair])


def check_unit(rule: Any, *names: str) -> None:
    """Raise ValueError where a setting is not within [0, 1], alpha is 0, or any is of another type than expected."""
    check_numbers(rule)
    for name in names:
        value = getattr(rule, name)
        if not 0 <= value <= 1 or (name == "alpha" and value == 0):
            expected = "a number in (0, 1]" if name == "alpha" else "a number in [0, 1]"
            raise ValueError(f"{name}: expected {expected}, got {value}")


def _check_traces(traces: str, *known: str) -> None:
    if traces not in known:
        raise ValueError(f"traces: expected one of {', '.join(known)}, got {traces!r}")
