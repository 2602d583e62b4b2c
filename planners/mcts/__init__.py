"""Tree search for discrete actions, on any model: UCT, PUCT and Gumbel MuZero's search."""

from planners.mcts.evaluators import Evaluator, Leaf, Rollouts
from planners.mcts.memory import SearchInfo, SearchMemory
from planners.mcts.planners import PUCT, UCT, Gumbel, action_count

__all__ = ["PUCT", "UCT", "Evaluator", "Gumbel", "Leaf", "Rollouts", "SearchInfo", "SearchMemory", "action_count"]
