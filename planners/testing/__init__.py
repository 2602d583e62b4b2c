"""A conformance kit for users' own parts, and reference problems with known optima.

`check_dynamics` and `check_planner` run a part and raise AssertionError with a sentence that says which law is broken,
where, and by how much. They check behaviour, not implementation: nothing is mocked.
"""

from planners.testing.dynamics import check_dynamics, check_smooth
from planners.testing.planner import check_planner
from planners.testing.references import Reference, cliff_reference, lq_reference, riccati

__all__ = [
    "Reference",
    "check_dynamics",
    "check_planner",
    "check_smooth",
    "cliff_reference",
    "lq_reference",
    "riccati",
]
