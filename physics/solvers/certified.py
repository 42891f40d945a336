"""Certified trajectories: solved again with shorter steps until the answer stops changing by more than a tolerance."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from ..errors import InputError
from ..kernels import integrate_pieces
from ..potentials.curve_batches import CurveBatch
from ..potentials.curves import CurvePotential
from .fixed_step import count_substeps, get_integrator
from .taylor import LEFT_THE_WALLS, NOT_CERTIFIED, SOLVED, solve_certified_orbits, solve_orbits

_COARSEST_STEP = {"rk4": 1 / 200, "dop853": 1 / 25}
CERTIFYING_METHODS = ("taylor", *_COARSEST_STEP)
_MAX_DOUBLINGS = 9
_MAX_OVERSHOOT = 0.1  # beyond a wall, by a coarse solution
_MAX_POTENTIAL = 10.0
WALL_HEIGHT = 2.0


class Rejection(Enum):
    """Why a draw gave no row; the values are the keys counted in a dataset's manifest."""

    POTENTIAL_OUT_OF_RANGE = "potential_out_of_range"
    POSITION_OUT_OF_RANGE = "position_out_of_range"
    NOT_CERTIFIED = "not_certified"


@dataclass(frozen=True)
class Trajectories:
    """States of B orbits at `times` (B, T), each with a certificate.

    q, p (B, T); energy (B,); integration_error (B,), the certified bound on the abs error of any q or p of
    an orbit; energy_drift (B,), max abs(H - H0) / (2 - min V); rejection, B reasons or None. The numbers of
    a rejected orbit mean nothing.
    """

    times: np.ndarray
    q: np.ndarray
    p: np.ndarray
    energy: np.ndarray
    integration_error: np.ndarray
    energy_drift: np.ndarray
    rejection: list[Rejection | None]


@dataclass(frozen=True)
class Trajectory:
    """One certified orbit: times, q, p (T,), and the scalars of `Trajectories`."""

    times: np.ndarray
    q: np.ndarray
    p: np.ndarray
    energy: float
    integration_error: float
    energy_drift: float


def solve_certified_batch(
    curves: CurveBatch, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, *, method: str = "taylor", tolerance: float = 1e-9
) -> Trajectories:
    """The orbits of B curves from q0, p0 (B,) at sorted times (B, T), each with a certificate of at most `tolerance`.

    Steps are shortened until the largest change of any q or p from one solution to the next is at most
    `tolerance`; that change is the certificate, kept with the finer solution. All steps end at the knots
    of the curve, so methods converge at their full order r, and the error left in the finer solution is
    a small part of its certificate:

    - `taylor`: series of order 20, steps shrunk by 0.7: about a thousandth;
    - `dop853`: steps halved, order 8: about a 255th;
    - `rk4`: steps halved, order 4: about a fifteenth.

    An orbit's numbers do not depend on the others of its batch.
    """
    solve = _solver(method)
    q0, p0, times = (np.ascontiguousarray(x, dtype=np.float64) for x in (q0, p0, times))
    lowest, highest = curves.extrema()
    sane = np.maximum(np.abs(lowest), np.abs(highest)) <= _MAX_POTENTIAL
    rows = np.flatnonzero(sane)
    q, p = np.zeros(times.shape), np.zeros(times.shape)
    error, drift = np.zeros(rows.size), np.zeros(rows.size)
    status = np.empty(0, np.int64)
    if rows.size:
        part = curves if rows.size == len(curves) else curves.take(rows)
        q[rows], p[rows], error, drift, status = solve(part, q0[rows], p0[rows], times[rows], tolerance)
    rejection: list[Rejection | None] = [Rejection.POTENTIAL_OUT_OF_RANGE] * len(curves)
    for row, code in zip(rows, status, strict=True):
        rejection[row] = _REASONS[int(code)]
    q = np.where(times <= 0.0, q0[:, None], q)  # exactly, though the curve's parameter is rounded
    errors, drifts = np.zeros(len(curves)), np.zeros(len(curves))
    errors[rows] = error
    solved = rows[status == SOLVED]
    drifts[solved] = drift[status == SOLVED] / (WALL_HEIGHT - lowest[solved])
    return Trajectories(times, q, p, 0.5 * p0 * p0 + curves.value(q0), errors, drifts, rejection)


def solve_batch(
    curves: CurveBatch, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, *, tolerance: float = 1e-9
) -> tuple[np.ndarray, np.ndarray]:
    """q, p (B, T) of B orbits from q0, p0 (B,) at sorted times (B, T) by Taylor series, to about `tolerance`; no certificate.

    An orbit that lingers near a barrier magnifies its errors beyond that: only a certificate tells. Rows of an
    orbit that leaves the walls or cannot be followed are nan.
    """
    q0, p0, times = (np.ascontiguousarray(x, dtype=np.float64) for x in (q0, p0, times))
    q, p, status = solve_orbits(curves.poly_q, curves.poly_v, curves.num_pieces, *curves.locate(q0), p0, times, tolerance)
    q[status != SOLVED], p[status != SOLVED] = np.nan, np.nan
    return q, p


def solve_certified(
    potential: CurvePotential, q0: float, p0: float, times: np.ndarray, *, method: str = "taylor", tolerance: float = 1e-9
) -> Trajectory | Rejection:
    """One orbit of `solve_certified_batch`: from (q0, p0) at sorted times (T,)."""
    batch = CurveBatch.stack([potential])
    row = solve_certified_batch(batch, np.array([q0]), np.array([p0]), np.asarray(times)[None], method=method, tolerance=tolerance)
    if row.rejection[0] is not None:
        return row.rejection[0]
    return Trajectory(row.times[0], row.q[0], row.p[0], float(row.energy[0]), float(row.integration_error[0]), float(row.energy_drift[0]))


_REASONS = {SOLVED: None, LEFT_THE_WALLS: Rejection.POSITION_OUT_OF_RANGE, NOT_CERTIFIED: Rejection.NOT_CERTIFIED}
_Solution = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # q, p, error, drift, status
_Solver = Callable[[CurveBatch, np.ndarray, np.ndarray, np.ndarray, float], _Solution]


def _solver(method: str) -> _Solver:
    if method == "taylor":
        return _by_taylor_series
    if method in _COARSEST_STEP:
        return lambda *arguments: _by_step_doubling(method, *arguments)
    raise InputError(f"truth is solved by {', '.join(CERTIFYING_METHODS)}; {method!r} is not one of them")


def _by_taylor_series(curves: CurveBatch, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, tolerance: float) -> _Solution:
    piece, u0 = curves.locate(q0)
    return solve_certified_orbits(curves.poly_q, curves.poly_v, curves.num_pieces, piece, u0, p0, times, tolerance)


def _by_step_doubling(method: str, curves: CurveBatch, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, tolerance: float) -> _Solution:
    tableau = get_integrator(method).tableau
    qs, ps = np.zeros(times.shape), np.zeros(times.shape)
    error, drift, status = np.zeros(len(curves)), np.zeros(len(curves)), np.full(len(curves), NOT_CERTIFIED)
    for row in range(len(curves)):
        curve = curves[row].curve
        substeps = count_substeps(times[row], _COARSEST_STEP[method])
        q, p, _ = integrate_pieces(curve, tableau, q0[row], p0[row], times[row], substeps)
        was_outside = False
        for _ in range(_MAX_DOUBLINGS):
            is_outside = not (q.min() >= -_MAX_OVERSHOOT and q.max() <= 1.0 + _MAX_OVERSHOOT)
            if is_outside and was_outside:  # one alone may have stepped too far at a steep wall
                status[row] = LEFT_THE_WALLS
                break
            coarse_q, coarse_p, was_outside = q, p, is_outside
            substeps = 2 * substeps
            q, p, drift[row] = integrate_pieces(curve, tableau, q0[row], p0[row], times[row], substeps)
            with np.errstate(invalid="ignore", over="ignore"):  # of an orbit that is far away
                error[row] = max(np.max(np.abs(q - coarse_q)), np.max(np.abs(p - coarse_p)))
            if error[row] <= tolerance and not is_outside:
                status[row] = SOLVED
                break
        qs[row], ps[row] = q, p
    return qs, ps, error, drift, status
