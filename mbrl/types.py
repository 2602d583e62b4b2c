"""The types at which collection, buffers, model rollouts and learners meet."""

from typing import Any, NamedTuple, Protocol, TypeVar

from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor


class TransitionBatch(NamedTuple):
    """Transitions, one a row (or [time, batch, ...] where sequences are sampled)."""

    obs: Float[Tensor, "*rows obs"]
    action: Float[Tensor, "*rows act"] | Int[Tensor, "*rows"]
    """Where actions are discrete: their numbers, int64."""
    reward: Float[Tensor, "*rows"]
    next_obs: Float[Tensor, "*rows obs"]
    """What the step returned, at the end of an episode too: never the next episode's first observation."""
    terminated: Bool[Tensor, "*rows"]
    """The Markov decision process ended: nothing is bootstrapped."""
    truncated: Bool[Tensor, "*rows"]
    """The episode was cut, by a time limit say: bootstrapping goes on."""
    discount: Float[Tensor, "*rows"]
    """gamma^n (1 - terminated): what the value of `next_obs` is multiplied with."""
    log_prob: Float[Tensor, "*rows"]
    """Log-probability of `action` under the policy that chose it; NaN where unknown."""


class NonFiniteUpdate(ValueError):
    """An update of a learner gave a loss, a metric or a parameter that is not finite."""


State = TypeVar("State")
Metrics = dict[str, Float[Tensor, "runs"]]


class Learner(Protocol[State]):
    """A learner: a frozen dataclass of hyperparameters; `State` is a NamedTuple of (tuples of) tensors.

    Every tensor of the state carries a leading axis of independent runs, trained at once on one device. `update`
    writes into the tensors of the state it is given and returns it; whoever wants the old one clones it.
    """

    def init(self, generators: list[Generator]) -> State:
        """A fresh state; one generator a run."""

    def noise(self, batch_size: int, generators: list[Generator]) -> Any:
        """All randomness of one update on [runs, batch_size] rows."""

    def act_noise(self, rows: int, generators: list[Generator]) -> Any:
        """All randomness of acting on [runs, rows] observations."""

    def update(self, state: State, batch: TransitionBatch, noise: Any, *, actor: bool = True) -> tuple[State, Metrics]:
        """One step of learning from a batch whose tensors are [runs, batch_size, ...]."""

    def act(
        self, state: State, obs: Float[Tensor, "runs rows obs"], noise: Any = None
    ) -> Float[Tensor, "runs rows act"]:
        """Actions for observations; without noise the deterministic ones."""
