"""Potentials, integrators and certified trajectories. NumPy, SciPy and Numba only."""

from .curves import CurvePotential
from .ensembles import Ensemble, Problem, draw_problem
from .errors import InputError
from .expressions import evaluate_expression
from .integrators import INTEGRATORS, integrate
from .named_potentials import NAMED_POTENTIALS, NamedPotential
from .trajectories import Rejection, Trajectory, solve_certified

__all__ = [
    "INTEGRATORS",
    "NAMED_POTENTIALS",
    "CurvePotential",
    "Ensemble",
    "InputError",
    "NamedPotential",
    "Problem",
    "Rejection",
    "Trajectory",
    "draw_problem",
    "evaluate_expression",
    "integrate",
    "solve_certified",
]
