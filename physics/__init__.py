"""Potentials, solvers and certified trajectories. NumPy, SciPy and Numba only."""

from .errors import InputError
from .potentials.curves import Curves
from .potentials.expressions import evaluate_expression
from .solvers import FIXED_STEP_METHODS, Rejection, Solution, Trajectories, certify, solve, solve_tangents

__all__ = [
    "FIXED_STEP_METHODS",
    "Curves",
    "InputError",
    "Rejection",
    "Solution",
    "Trajectories",
    "certify",
    "evaluate_expression",
    "solve",
    "solve_tangents",
]
