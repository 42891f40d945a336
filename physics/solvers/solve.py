"""`solve`: orbits in any potential by any method."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InputError
from ..potentials.curves import Curves
from . import adaptive, fixed_step, quadrature, taylor
from .problems import Potential, Solution, read_orbits
from .tableaux import FIXED_STEP_METHODS

ADAPTIVE, TAYLOR, QUADRATURE = "dop853", "taylor", "quadrature"
METHODS = (ADAPTIVE, TAYLOR, QUADRATURE, *FIXED_STEP_METHODS)
DEFAULT_TOLERANCE = 1e-9


def solve(
    potential: Potential,
    q0: Any,
    p0: Any,
    times: Any,
    *,
    method: str = ADAPTIVE,
    step: float | None = None,
    tolerance: float | None = None,
    num_threads: int | None = None,
) -> Solution:
    """Solve q' = p, p' = -V'(q) from (q0, p0) at t = 0, without a certificate (see `certify`).

    Everything is dimensionless, for a particle of unit mass. An orbit's numbers do not depend on the others of its
    batch, nor on the number of threads.

    Parameters
    ----------
    potential
        `Curves`, a single one for all orbits or one for each, solved by compiled code; or any object whose `value` and
        `gradient` take arrays, solved in Python, orbit by orbit.
    q0, p0
        Two numbers, or two arrays (B,).
    times
        Query times (T,), or (B, T), sorted and not negative; for `quadrature` any times in any order.
    method
        `dop853`: Dormand and Prince's method of order 8 with step control.
        `taylor`: series of order 20 in the curve's own parameter; `Curves` only.
        `quadrature`: t as an integral over q, exact to rounding; the potential needs a `domain` that the orbit does not leave,
        and `breakpoints` where it is not smooth (`Curves` have both).
        A name of `FIXED_STEP_METHODS`: equal steps between query times.
    step
        The largest step of a fixed-step method.
    tolerance
        Of `dop853`, the relative and absolute tolerance of a step; of `taylor`, about the error of an orbit. By default 1e-9.
    num_threads
        For `Curves`; by default as many as this process has CPUs.

    Returns
    -------
    Solution
        q, p (B, T) and the number of forces evaluated (B,), 0 for `taylor` and `quadrature`, which do not count any; (T,), (T,)
        and a single number where q0 is a number. Where a method fails, its q and p are nan: from where an implicit method
        could not solve its stages, numbers overflowed or a step underflowed; all of an orbit that `taylor` cannot follow.

    Raises
    ------
    InputError
        For an unknown method, a step or tolerance that is missing, not positive or of the other kind, unsorted times, shapes
        that do not fit, or an orbit that `quadrature` refuses.
    """
    check_method(method, step, tolerance)
    tolerance = DEFAULT_TOLERANCE if tolerance is None else float(tolerance)
    single = np.ndim(q0) == 0 and np.ndim(p0) == 0
    starts_q, starts_p, rows = read_orbits(np.atleast_1d(q0), np.atleast_1d(p0), times)
    if isinstance(potential, Curves):
        if len(potential) not in (1, starts_q.size):
            raise InputError(f"curves are {len(potential)}, orbits {starts_q.size}; give one curve for all or one for each")
        if method == ADAPTIVE:
            solution = adaptive.solve_curves(potential, starts_q, starts_p, rows, tolerance, num_threads)
        elif method == TAYLOR:
            solution = taylor.solve_curves(potential, starts_q, starts_p, rows, tolerance, num_threads)
        elif method == QUADRATURE:
            solution = _one_by_one(lambda b: quadrature.solve_orbit(_curve(potential, b), starts_q[b], starts_p[b], rows[b]), rows)
        else:
            assert step is not None
            tableau = FIXED_STEP_METHODS[method].tableau
            solution = fixed_step.solve_curves(potential, starts_q, starts_p, rows, tableau, float(step), num_threads)
    else:
        solve_orbit = _python_solver(potential, method, step, tolerance)
        solution = _one_by_one(lambda b: solve_orbit(float(starts_q[b]), float(starts_p[b]), rows[b]), rows)
    return Solution(*(part[0] for part in solution)) if single else solution


def check_method(method: str, step: float | None, tolerance: float | None) -> None:
    """Raise InputError unless the method exists and has the setting it takes."""
    if method not in METHODS:
        raise InputError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    if method in FIXED_STEP_METHODS:
        if tolerance is not None:
            raise InputError(f"tolerance is {tolerance}, but method {method!r} takes step instead")
        if step is None or not 0 < step < np.inf:
            raise InputError(f"step is {step}; method {method!r} needs it to be positive")
    else:
        if step is not None:
            raise InputError(f"step is {step}, but method {method!r} chooses its own; it takes tolerance instead")
        if tolerance is not None and not 0 < tolerance < np.inf:
            raise InputError(f"tolerance is {tolerance}; method {method!r} needs it to be positive")


_Orbit = tuple[np.ndarray, np.ndarray, int]  # q, p (T,) and the forces evaluated


def _python_solver(potential: Potential, method: str, step: float | None, tolerance: float) -> Callable[[float, float, np.ndarray], _Orbit]:
    if method == TAYLOR:
        raise InputError("method is 'taylor', which solves Curves only; interpolate the potential, or choose 'dop853'")
    if method == ADAPTIVE:
        return lambda q0, p0, times: adaptive.solve_orbit(potential, q0, p0, times, tolerance)
    if method == QUADRATURE:
        return lambda q0, p0, times: quadrature.solve_orbit(potential, q0, p0, times)
    assert step is not None
    tableau = FIXED_STEP_METHODS[method].tableau
    return lambda q0, p0, times: fixed_step.solve_orbit(potential, q0, p0, times, tableau, float(step))


def _one_by_one(solve_orbit: Callable[[int], _Orbit], times: np.ndarray) -> Solution:
    solution = Solution(np.empty(times.shape), np.empty(times.shape), np.zeros(len(times), dtype=np.int64))
    for b in range(len(times)):
        solution.q[b], solution.p[b], solution.num_evaluations[b] = solve_orbit(b)
    return solution


def _curve(curves: Curves, index: int) -> Curves:
    return curves[0 if len(curves) == 1 else index]
