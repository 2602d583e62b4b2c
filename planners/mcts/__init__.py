"""Tree search for discrete actions, on any model: UCT, PUCT and Gumbel MuZero's search."""

from planners.mcts.evaluators import Evaluator, Leaf, Rollouts
from planners.mcts.planners import PUCT, UCT, Gumbel, action_count
from planners.mcts.search import SearchInfo, SearchMemory

__all__ = ["PUCT", "UCT", "Evaluator", "Gumbel", "Leaf", "Rollouts", "SearchInfo", "SearchMemory", "action_count"]
