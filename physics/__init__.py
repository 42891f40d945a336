"""Potentials, solvers and certified trajectories. NumPy, SciPy and Numba only."""

from .ensembles import Ensemble, Rows, draw_rows
from .errors import InputError
from .potentials.curves import Curves
from .potentials.expressions import evaluate_expression
from .potentials.textbook import NAMED_POTENTIALS, NamedPotential, piecewise_linear, power_law, steps
from .solvers import FIXED_STEP_METHODS, Rejection, Solution, Trajectories, certify, solve, solve_tangents

__all__ = [
    "FIXED_STEP_METHODS",
    "NAMED_POTENTIALS",
    "Curves",
    "Ensemble",
    "InputError",
    "NamedPotential",
    "Rejection",
    "Rows",
    "Solution",
    "Trajectories",
    "certify",
    "draw_rows",
    "evaluate_expression",
    "piecewise_linear",
    "power_law",
    "solve",
    "solve_tangents",
    "steps",
]
