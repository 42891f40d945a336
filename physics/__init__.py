"""Potentials, solvers and certified trajectories. NumPy, SciPy and Numba only."""

from .errors import InputError
from .potentials.curves import Curves
from .potentials.expressions import evaluate_expression
from .potentials.textbook import NAMED_POTENTIALS, NamedPotential, piecewise_linear, power_law, steps
from .solvers import FIXED_STEP_METHODS, Rejection, Solution, Trajectories, certify, solve, solve_tangents

__all__ = [
    "FIXED_STEP_METHODS",
    "NAMED_POTENTIALS",
    "Curves",
    "InputError",
    "NamedPotential",
    "Rejection",
    "Solution",
    "Trajectories",
    "certify",
    "evaluate_expression",
    "piecewise_linear",
    "power_law",
    "solve",
    "solve_tangents",
    "steps",
]
