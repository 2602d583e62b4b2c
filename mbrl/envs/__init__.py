"""Environments, and what the library knows about them: reward, termination and physics of known tasks."""

from mbrl.envs import gridworlds
from mbrl.envs.make import check_spaces, make_env
from mbrl.envs.tasks import Task, simulator, task, true_model, verify
from mbrl.envs.vector import make_vector_env

__all__ = [
    "Task",
    "check_spaces",
    "gridworlds",
    "make_env",
    "make_vector_env",
    "simulator",
    "task",
    "true_model",
    "verify",
]
