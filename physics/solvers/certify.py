"""`certify`: orbits solved again with shorter steps until they stop changing by more than a tolerance."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from ..errors import InputError
from ..potentials.curves import Curves
from .knot_steps import integrate_to_knots
from .problems import check_times, count_substeps, read_orbits
from .tableaux import FIXED_STEP_METHODS
from .taylor import LEFT_THE_CURVE, NOT_CERTIFIED, SOLVED, certify_orbits

# The fixed-step method behind a name, and its coarsest step.
_STEP_DOUBLING = {"dop853": ("dop853-fixed", 1 / 25), "rk4": ("rk4", 1 / 200)}
CERTIFYING_METHODS = ("taylor", *_STEP_DOUBLING)
_MAX_DOUBLINGS = 9
_MAX_OVERSHOOT = 0.1  # of the width of the domain, by a coarse solution


class Rejection(Enum):
    """Why an orbit has no certificate; the values are the keys counted in a dataset's manifest."""

    POTENTIAL_OUT_OF_RANGE = "potential_out_of_range"
    POSITION_OUT_OF_RANGE = "position_out_of_range"
    NOT_CERTIFIED = "not_certified"


@dataclass(frozen=True)
class Trajectories:
    """States of B orbits at `times` (B, T), each with a certificate.

    q, p (B, T); energy (B,); integration_error (B,), the certified bound on the absolute error of any q or p of
    an orbit; energy_drift (B,), max abs(H - H0) / energy_scale; rejection, B reasons or None. The numbers of
    a rejected orbit mean nothing.
    """

    times: np.ndarray
    q: np.ndarray
    p: np.ndarray
    energy: np.ndarray
    integration_error: np.ndarray
    energy_drift: np.ndarray
    rejection: list[Rejection | None]


def certify(
    curves: Curves,
    q0: np.ndarray,
    p0: np.ndarray,
    times: np.ndarray,
    *,
    energy_scale: np.ndarray,
    domain: tuple[float, float],
    largest_potential: float = np.inf,
    method: str = "taylor",
    tolerance: float = 1e-9,
) -> Trajectories:
    """The orbits of B curves from q0, p0 (B,), each with a certificate of at most `tolerance`.

    Steps are shortened until the largest change of any q or p from one solution to the next is at most
    `tolerance`; that change is the certificate, kept with the finer solution. All steps end at the knots
    of the curve, so methods converge at their full order r, and the error left in the finer solution is
    a small part of its certificate:

    - `taylor`: series of order 20, steps shrunk by 0.7: about a thousandth;
    - `dop853`: steps halved, order 8: about a 255th;
    - `rk4`: steps halved, order 4: about a fifteenth.

    An orbit's numbers do not depend on the others of its batch.

    Parameters
    ----------
    curves
        B curves over `domain`.
    times
        Query times (T,), or (B, T), sorted and not negative.
    energy_scale
        Shape (B,): the unit of the energy drift.
    domain
        An orbit that leaves it is rejected.
    largest_potential
        A curve is rejected where abs(V) exceeds this within the domain.

    Raises
    ------
    InputError
        For an unknown method, unsorted times or shapes that do not fit.
    """
    solver = _solver(method, domain)
    q0, p0, times = read_orbits(q0, p0, times)
    check_times(times)
    if len(curves) != q0.size or np.shape(energy_scale) != q0.shape:
        raise InputError(
            f"curves are {len(curves)} and energy_scale has shape {np.shape(energy_scale)}; give one for each of {q0.size} orbits"
        )
    lowest, highest = curves.extrema()
    rows = np.flatnonzero(np.maximum(np.abs(lowest), np.abs(highest)) <= largest_potential)
    q, p = np.zeros(times.shape), np.zeros(times.shape)
    error, drift = np.zeros(rows.size), np.zeros(rows.size)
    status = np.empty(0, np.int64)
    if rows.size:
        part = curves if rows.size == len(curves) else curves.take(rows)
        q[rows], p[rows], error, drift, status = solver(part, q0[rows], p0[rows], times[rows], tolerance)
    rejection: list[Rejection | None] = [Rejection.POTENTIAL_OUT_OF_RANGE] * len(curves)
    for row, code in zip(rows, status, strict=True):
        rejection[row] = _REASONS[int(code)]
    q = np.where(times <= 0.0, q0[:, None], q)  # exactly, though the curve's parameter is rounded
    errors, drifts = np.zeros(len(curves)), np.zeros(len(curves))
    errors[rows] = error
    solved = rows[status == SOLVED]
    drifts[solved] = drift[status == SOLVED] / energy_scale[solved]
    return Trajectories(times, q, p, 0.5 * p0 * p0 + _heights(curves, q0), errors, drifts, rejection)


def _heights(curves: Curves, q0: np.ndarray) -> np.ndarray:
    """V (B,) at the parameters from which the orbits start."""
    piece, u = curves.locate(q0)
    v0, v1, v2, v3 = curves.poly_v[np.arange(len(curves)), piece].T
    return v0 + u * (v1 + u * (v2 + u * v3))


_REASONS = {SOLVED: None, LEFT_THE_CURVE: Rejection.POSITION_OUT_OF_RANGE, NOT_CERTIFIED: Rejection.NOT_CERTIFIED}
_Solution = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # q, p, error, drift, status
_Solver = Callable[[Curves, np.ndarray, np.ndarray, np.ndarray, float], _Solution]


def _solver(method: str, domain: tuple[float, float]) -> _Solver:
    if method == "taylor":
        return _by_taylor_series
    if method in _STEP_DOUBLING:
        return lambda *arguments: _by_step_doubling(method, domain, *arguments)
    raise InputError(f"method is {method!r}; orbits are certified by {', '.join(CERTIFYING_METHODS)}")


def _by_taylor_series(curves: Curves, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, tolerance: float) -> _Solution:
    return certify_orbits(curves.poly_q, curves.poly_v, curves.num_pieces, *curves.locate(q0), p0, times, tolerance)


def _by_step_doubling(
    method: str, domain: tuple[float, float], curves: Curves, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, tolerance: float
) -> _Solution:
    name, coarsest_step = _STEP_DOUBLING[method]
    tableau, overshoot = FIXED_STEP_METHODS[name].tableau, _MAX_OVERSHOOT * (domain[1] - domain[0])
    qs, ps = np.zeros(times.shape), np.zeros(times.shape)
    error, drift, status = np.zeros(len(curves)), np.zeros(len(curves)), np.full(len(curves), NOT_CERTIFIED)
    for row in range(len(curves)):
        pieces = slice(0, int(curves.num_pieces[row]))
        orbit = curves.poly_q[row, pieces], curves.poly_v[row, pieces], tableau, q0[row], p0[row], times[row]
        substeps = count_substeps(times[row], coarsest_step)
        q, p, _ = integrate_to_knots(*orbit, substeps)
        was_outside = False
        for _ in range(_MAX_DOUBLINGS):
            is_outside = not (q.min() >= domain[0] - overshoot and q.max() <= domain[1] + overshoot)
            if is_outside and was_outside:  # one alone may have stepped too far at a steep wall
                status[row] = LEFT_THE_CURVE
                break
            coarse_q, coarse_p, was_outside = q, p, is_outside
            substeps = 2 * substeps
            q, p, drift[row] = integrate_to_knots(*orbit, substeps)
            with np.errstate(invalid="ignore", over="ignore"):  # of an orbit that is far away
                error[row] = max(np.max(np.abs(q - coarse_q)), np.max(np.abs(p - coarse_p)))
            if error[row] <= tolerance and not is_outside:
                status[row] = SOLVED
                break
        qs[row], ps[row] = q, p
    return qs, ps, error, drift, status
