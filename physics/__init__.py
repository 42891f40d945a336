"""Potentials, integrators and certified trajectories. NumPy, SciPy and Numba only."""

from .curve_batches import CurveBatch
from .curves import CurvePotential
from .ensembles import Ensemble, Rows, draw_rows
from .errors import InputError
from .expressions import evaluate_expression
from .integrators import INTEGRATORS, integrate, integrate_batch
from .named_potentials import NAMED_POTENTIALS, NamedPotential, piecewise_linear, power_law, steps
from .quadrature import solve_by_quadrature
from .tangents import solve_tangents
from .trajectories import Rejection, Trajectory, solve_batch, solve_certified, solve_certified_batch

__all__ = [
    "INTEGRATORS",
    "NAMED_POTENTIALS",
    "CurveBatch",
    "CurvePotential",
    "Ensemble",
    "InputError",
    "NamedPotential",
    "Rejection",
    "Rows",
    "Trajectory",
    "draw_rows",
    "evaluate_expression",
    "integrate",
    "integrate_batch",
    "piecewise_linear",
    "power_law",
    "solve_batch",
    "solve_by_quadrature",
    "solve_certified",
    "solve_certified_batch",
    "solve_tangents",
    "steps",
]
