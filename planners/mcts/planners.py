"""Tree search as planners for discrete actions: UCT, PUCT and Gumbel MuZero's search.

All three take these arguments:

    actions      number of actions, 0 to actions - 1 (`action_count(space)` tells it of a Gymnasium space).
    simulations  of a plan; `stop` is asked in between.
    horizon      depth of the tree, and length of `Plan.actions`: the most visited line, with 0 after its end; the
                 search has taken the first `plan.info.length` of them.
    evaluator    priors, values, valid actions and side to move; None: see each planner.
    rollout      without an evaluator: steps of a default-policy rollout (`Rollouts`), 0: the problem's terminal value.
    backup       UCT and PUCT: "mean": a node is worth the mean of its returns, and the most visited action is executed.
                 "max": after the simulations, values are those of the best actions (`dynamic_programming`), and the
                 action with the highest one is executed: nearer to the optimum where visits are many.
    stochastic   False: the model's mean transition, one outcome for each action. True: outcomes are drawn at every step
                 of every simulation, and each one that occurs becomes a node of its own.
    reuse        keep what was found below the executed action for the next plan.
    capacity     nodes that a tree has room for; what finds none is evaluated and counted but not stored. None: 4 times
                 the simulations where subtrees are reused, else room for all of them.
    compiled     True: select and back up in code compiled by numba (on the CPU); False: on tensors. The statistics are
                 the same. None: compiled where numba is installed and the states are on the CPU.

They raise ValueError where a number is out of range; planning raises it for particles or a risk measure in the problem,
for an evaluator's result of the wrong shape, and where a mask leaves no valid action.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from planners.checks import check_sizes, is_whole
from planners.mcts.evaluators import Evaluator, Rollouts
from planners.mcts.memory import SearchMemory, Settings, start_memory
from planners.mcts.policies import GUMBEL, Rule
from planners.mcts.policies import PUCT as PUCT_RULE
from planners.mcts.policies import UCT as UCT_RULE
from planners.mcts.roots import NoiseSource, dirichlet_noise, gumbel_noise
from planners.mcts.search import advance_search, plan_search
from planners.planner import Plan, never
from planners.problem import Problem


class TreeSearch(Protocol):
    """A planner that searches a tree: what UCT, PUCT and Gumbel share. A subclass gives the fields and `rule`."""

    actions: int
    simulations: int
    horizon: int
    rollout: int
    backup: Literal["mean", "max"]
    evaluator: Evaluator | None
    stochastic: bool
    reuse: bool
    capacity: int | None
    compiled: bool | None

    def rule(self) -> tuple[Rule, NoiseSource | None]:
        """How a node chooses among its actions, and what is added to the root's priors."""

    @property
    def nodes(self) -> int:
        """Room of a tree: for the root and every simulation, and one that stays free where nothing was left out."""
        if self.capacity is not None:
            return self.capacity
        return 2 + self.simulations * (4 if self.reuse else 1)

    def init(self, problem: Problem, start: Any, *, generator: Generator) -> SearchMemory:
        return start_memory(self, start)

    def plan(
        self,
        problem: Problem,
        start: Any,
        memory: SearchMemory,
        *,
        generator: Generator,
        stop: Callable[[], bool] = never,
    ) -> Plan:
        rule, noise = self.rule()
        evaluator = self.evaluator
        if evaluator is None:
            evaluator = Rollouts(problem, self.actions, self.rollout, stochastic=self.stochastic)
        return plan_search(self, rule, noise, evaluator, problem, start, memory, generator, stop)

    def advance(self, problem: Problem, memory: SearchMemory, action: Tensor, start: Any) -> SearchMemory:
        if not self.reuse:
            return start_memory(self, start)
        return advance_search(problem, memory, action, start)

    def action(self, problem: Problem, plan: Plan, age: Tensor, state: Any) -> Tensor:
        return plan.actions[torch.arange(len(age), device=age.device), age]


@dataclass(frozen=True)
class UCT(TreeSearch):
    """Upper confidence bounds applied to trees, with rollouts of a default policy.

    Source: Kocsis and Szepesvari (2006), https://doi.org/10.1007/11871842_29; constants as in Browne et al. (2012),
    section 3.3, https://doi.org/10.1109/TCIAIG.2012.2186810. Deviations: q is scaled to [0, 1] between the lowest and
    the highest of its siblings and their node, so that C needs no knowledge of the rewards (`normalise=False`: as
    published, for returns in [0, 1]); a node's own evaluation counts as its first visit.

    Args:
        exploration: C.
        normalise: scale q among siblings.

    The module documents the other arguments; without an evaluator, `rollout` steps of uniform random valid actions.
    """

    actions: int
    simulations: int = 100
    exploration: float = 0.5**0.5
    normalise: bool = True
    horizon: int = 32
    rollout: int = 20
    backup: Literal["mean", "max"] = "mean"
    evaluator: Evaluator | None = None
    stochastic: bool = False
    reuse: bool = True
    capacity: int | None = None
    compiled: bool | None = None

    def __post_init__(self) -> None:
        _check(self, exploration=self.exploration)

    def rule(self) -> tuple[Rule, NoiseSource | None]:
        return Rule(UCT_RULE, exploration=float(self.exploration), normalise=self.normalise), None


@dataclass(frozen=True)
class PUCT(TreeSearch):
    """The search of AlphaZero and MuZero: priors and values of an evaluator, Dirichlet noise at the root.

    Source: Schrittwieser et al. (2020), appendix B, https://arxiv.org/abs/1911.08265. Deviation: q is scaled among
    siblings and their node, not over the tree, so that a reused subtree continues as it would have alone.

    Args:
        exploration: c1.
        base: c2.
        noise_fraction: share of the noise in the root's priors; 0 (the default) to act, 0.25 to collect data.
        noise_concentration: of the Dirichlet distribution.
        normalise: scale q among siblings; False: for values in [-1, 1].

    The module documents the other arguments; without an evaluator, equal priors and the terminal value.
    """

    actions: int
    simulations: int = 100
    exploration: float = 1.25
    base: float = 19652.0
    noise_fraction: float = 0.0
    noise_concentration: float = 0.3
    normalise: bool = True
    horizon: int = 32
    rollout: int = 0
    backup: Literal["mean", "max"] = "mean"
    evaluator: Evaluator | None = None
    stochastic: bool = False
    reuse: bool = True
    capacity: int | None = None
    compiled: bool | None = None

    def __post_init__(self) -> None:
        _check(self, exploration=self.exploration, base=self.base, noise_concentration=self.noise_concentration)
        if not 0 <= self.noise_fraction < 1:
            raise ValueError(f"noise_fraction: expected a share in [0, 1), got {self.noise_fraction}")

    def rule(self) -> tuple[Rule, NoiseSource | None]:
        rule = Rule(PUCT_RULE, exploration=float(self.exploration), base=float(self.base), normalise=self.normalise)
        return rule, dirichlet_noise(self.noise_concentration, self.noise_fraction) if self.noise_fraction else None


@dataclass(frozen=True)
class Gumbel(TreeSearch):
    """Gumbel MuZero's search: sequential halving at the root, and a policy that improves on the prior in expectation.

    Right for few simulations, fewer than actions even. Source: Danihelka et al. (2022),
    https://openreview.net/forum?id=bERaNdoegnO. Deviation: with a reused subtree, sequential halving counts the visits
    of this plan, while q values are those of all visits.

    Args:
        considered: at most so many actions take part in sequential halving.
        noise_scale: of the Gumbel noise; 1 to collect data, 0 to act on what the search has found.
        visit_offset: see `policies.Rule`.
        value_scale: see `policies.Rule`; smaller keeps closer to the prior.

    The module documents the other arguments; without an evaluator, equal priors and the terminal value.
    """

    actions: int
    simulations: int = 32
    considered: int = 16
    noise_scale: float = 1.0
    visit_offset: float = 50.0
    value_scale: float = 0.1
    horizon: int = 32
    rollout: int = 0
    evaluator: Evaluator | None = None
    stochastic: bool = False
    reuse: bool = True
    capacity: int | None = None
    compiled: bool | None = None
    backup = "mean"  # what the guarantee of improvement is about

    def __post_init__(self) -> None:
        _check(self, considered=self.considered, value_scale=self.value_scale)
        if self.noise_scale < 0 or self.visit_offset < 0:
            raise ValueError(
                f"noise_scale, visit_offset: expected at least 0, got {self.noise_scale}, {self.visit_offset}"
            )

    def rule(self) -> tuple[Rule, NoiseSource | None]:
        rule = Rule(GUMBEL, visit_offset=float(self.visit_offset), value_scale=float(self.value_scale))
        return rule, gumbel_noise(self.noise_scale)


def action_count(space: Any) -> int:
    """The number of actions of a `gymnasium.spaces.Discrete` that counts from 0.

    Raises:
        ValueError: the space is of another kind, or counts from another number.
    """
    n, first = getattr(space, "n", None), getattr(space, "start", 0)
    if getattr(space, "low", None) is not None:
        raise ValueError(
            f"space: tree search needs discrete actions, got {space}; for continuous actions use CEM, iCEM or MPPI"
        )
    if n is None or not isinstance(first, int | np.integer):
        raise ValueError(
            f"space: expected a gymnasium.spaces.Discrete, got {space}; number the actions 0 to n - 1 first"
        )
    if first != 0:
        raise ValueError(f"space: expected actions from 0, got {space}; shift them by {first} in a wrapper")
    return int(n)


_ADVICE = {"actions": "; `action_count(space)` tells it of a space; for continuous actions use CEM, iCEM or MPPI"}


def _check(settings: Settings, **positive: float) -> None:
    whole = {"actions": settings.actions, "simulations": settings.simulations, "horizon": settings.horizon}
    if settings.capacity is not None:
        whole["capacity"] = settings.capacity
    for name, number in whole.items():
        if not is_whole(number):
            raise ValueError(f"{name}: expected a whole number of at least 1, got {number!r}{_ADVICE.get(name, '')}")
    check_sizes(**whole)
    if settings.rollout < 0:
        raise ValueError(f"rollout: expected at least 0, got {settings.rollout}")
    if settings.backup not in ("mean", "max"):
        raise ValueError(f'backup: expected "mean" or "max", got {settings.backup!r}')
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name}: expected a positive number, got {value}")
