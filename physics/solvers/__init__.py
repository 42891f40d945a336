"""Solvers of Hamilton's equations in one degree of freedom: `solve` for an orbit, `certify` for an orbit with a bound on its error.

One file for each family of methods. `solve_tangents` gives the derivative of the motion with respect to its initial state.
"""

from .certify import CERTIFYING_METHODS, Rejection, Trajectories, certify
from .problems import Potential, Solution
from .solve import METHODS, solve
from .tableaux import FIXED_STEP_METHODS, FixedStepMethod
from .tangents import solve_tangents

__all__ = [
    "CERTIFYING_METHODS",
    "FIXED_STEP_METHODS",
    "METHODS",
    "FixedStepMethod",
    "Potential",
    "Rejection",
    "Solution",
    "Trajectories",
    "certify",
    "solve",
    "solve_tangents",
]
