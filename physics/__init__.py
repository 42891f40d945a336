"""Potentials, integrators and certified trajectories. NumPy, SciPy and Numba only."""

from .errors import InputError
from .potentials.curve_batches import CurveBatch
from .potentials.curves import CurvePotential
from .potentials.expressions import evaluate_expression
from .potentials.textbook import NAMED_POTENTIALS, NamedPotential, piecewise_linear, power_law, steps
from .solvers.certified import Rejection, Trajectory, solve_batch, solve_certified, solve_certified_batch
from .solvers.fixed_step import INTEGRATORS, integrate, integrate_batch
from .solvers.quadrature import solve_by_quadrature
from .solvers.tangents import solve_tangents

__all__ = [
    "INTEGRATORS",
    "NAMED_POTENTIALS",
    "CurveBatch",
    "CurvePotential",
    "InputError",
    "NamedPotential",
    "Rejection",
    "Trajectory",
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
