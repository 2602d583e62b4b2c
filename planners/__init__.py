"""Planners on models of any kind: a plain function, a learned ensemble, or the simulator itself."""

from planners.box import Box
from planners.derivatives import Expansion
from planners.dynamics import Dynamics, FunctionDynamics, Smooth, Step
from planners.ilqr import ILQR
from planners.ilqr_search import Reason
from planners.lqr import LQR, lqr, lqr_infinite
from planners.mcts import PUCT, UCT, Gumbel
from planners.mpc import MPC, InvalidPlanError, MPCState
from planners.planner import Plan, Planner
from planners.polish import Polished
from planners.problem import Evaluation, Problem, evaluate_plans
from planners.sampling.cem import CEM
from planners.sampling.icem import ICEM
from planners.sampling.knots import Knots
from planners.sampling.mppi import MPPI
from planners.sampling.predictive_sampling import PredictiveSampling
from planners.sampling.proposals import Proposals
from planners.sampling.random_shooting import RandomShooting

__all__ = [
    "CEM",
    "ICEM",
    "ILQR",
    "LQR",
    "MPC",
    "MPPI",
    "PUCT",
    "UCT",
    "Box",
    "Dynamics",
    "Evaluation",
    "Expansion",
    "FunctionDynamics",
    "Gumbel",
    "InvalidPlanError",
    "Knots",
    "MPCState",
    "Plan",
    "Planner",
    "Polished",
    "PredictiveSampling",
    "Problem",
    "Proposals",
    "RandomShooting",
    "Reason",
    "Smooth",
    "Step",
    "evaluate_plans",
    "lqr",
    "lqr_infinite",
]
