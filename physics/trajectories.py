"""Certified trajectories: a Runge-Kutta solution refined by step doubling until its own error estimate is small enough."""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from .curves import CurvePotential
from .errors import InputError
from .integrators import count_substeps, get_integrator
from .kernels import integrate_pieces

_COARSEST_STEP = {"rk4": 1 / 200, "dop853": 1 / 25}
_MAX_DOUBLINGS = 9
_MAX_POSITION = 1.1
_MAX_POTENTIAL = 10.0


class Rejection(Enum):
    """Why a draw gave no row; the values are the keys counted in a dataset's manifest."""

    POTENTIAL_OUT_OF_RANGE = "potential_out_of_range"
    POSITION_OUT_OF_RANGE = "position_out_of_range"
    NOT_CERTIFIED = "not_certified"


@dataclass(frozen=True)
class Trajectory:
    """States at `times` (T,) with `integration_error`, the certified bound on abs error of any q or p in it."""

    times: np.ndarray
    q: np.ndarray
    p: np.ndarray
    energy: float
    integration_error: float
    energy_drift: float


def solve_certified(
    potential: CurvePotential, q0: float, p0: float, times: np.ndarray, *, method: str = "rk4", tolerance: float = 1e-9
) -> Trajectory | Rejection:
    """The orbit from (q0, p0) at sorted `times` (T,), with a certificate of at most `tolerance`.

    The step is halved until the largest change of any q or p in the latest halving is at most
    `tolerance`; that change is the certificate. Steps end at the knots of the curve, so the method
    converges at its full order r and the error left is about 1 / (2^r - 1) of the certificate.
    """
    if method not in _COARSEST_STEP:
        raise InputError(f"truth is solved by {', '.join(_COARSEST_STEP)}; {method!r} is not one of them")
    lowest, highest = potential.extrema()
    if max(abs(lowest), abs(highest)) > _MAX_POTENTIAL:
        return Rejection.POTENTIAL_OUT_OF_RANGE
    tableau = get_integrator(method).tableau
    substeps = count_substeps(times, _COARSEST_STEP[method])
    q, p, _ = integrate_pieces(potential.curve, tableau, q0, p0, times, substeps)
    for _ in range(_MAX_DOUBLINGS):
        coarse_q, coarse_p = q, p
        substeps = 2 * substeps
        q, p, drift = integrate_pieces(potential.curve, tableau, q0, p0, times, substeps)
        change = max(float(np.max(np.abs(q - coarse_q))), float(np.max(np.abs(p - coarse_p))))
        if change <= tolerance:
            break
    else:
        return Rejection.NOT_CERTIFIED
    if np.max(np.abs(q)) > _MAX_POSITION:
        return Rejection.POSITION_OUT_OF_RANGE
    energy = 0.5 * p0 * p0 + float(potential.value(np.array(q0)))
    return Trajectory(times, q, p, energy, change, float(drift) / (2.0 - lowest))
