"""The derivative of exact motion with respect to its initial state, by the variational equation: the reference for Jacobians."""

import numpy as np

from ..errors import InputError
from ..potentials.curves import Curves
from .knot_steps import integrate_tangents
from .problems import as_kernel_array, count_substeps
from .tableaux import FIXED_STEP_METHODS

_COARSEST_STEP = 1 / 25
_MAX_DOUBLINGS = 8


def solve_tangents(
    curve: Curves, q0: float, p0: float, times: np.ndarray, *, tolerance: float = 1e-10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States and d(q, p) / d(q0, p0) along the orbit of a single curve from (q0, p0).

    The variational equation dq'' = -V''(q) dq is solved beside the motion, by `dop853-fixed` in steps that end at the
    knots (V'' is continuous across them, so nothing jumps), halved until the largest change of any entry is at
    most `tolerance` times the largest entry.

    Parameters
    ----------
    times
        Shape (T,), sorted, starting at or after 0.

    Returns
    -------
    q, p
        Shape (T,) each.
    jacobian
        Shape (T, 2, 2): rows q and p, columns q0 and p0. Its determinant is 1.

    Raises
    ------
    InputError
        For unsorted times, or where the tolerance cannot be met, as for an orbit that leaves the curve for good.
    """
    times = as_kernel_array(times)
    tableau = FIXED_STEP_METHODS["dop853-fixed"].tableau
    substeps = count_substeps(times, _COARSEST_STEP)
    found = integrate_tangents(curve.poly_q[0], curve.poly_v[0], tableau, float(q0), float(p0), times, substeps)
    change = np.inf
    for _ in range(_MAX_DOUBLINGS):
        coarse = found
        substeps = 2 * substeps
        found = integrate_tangents(curve.poly_q[0], curve.poly_v[0], tableau, float(q0), float(p0), times, substeps)
        change = max(float(np.max(np.abs(fine - rough), initial=0.0)) for fine, rough in zip(found, coarse, strict=True))
        if change <= tolerance * max(1.0, float(np.max(np.abs(found[2]), initial=0.0))):
            return found
    raise InputError(
        f"tolerance is {tolerance:g}; the tangents from ({q0:g}, {p0:g}) changed by {change:.1e} in the last halving of the step"
    )
