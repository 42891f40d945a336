"""V rebuilt from uniform sensors by the usual interpolants, many rows at once."""

from collections.abc import Callable

import numpy as np
from scipy.interpolate import CubicHermiteSpline, CubicSpline, PchipInterpolator, PPoly, make_interp_spline

from ..errors import InputError
from .curves import CurvePotential

_QUINTIC_REFINEMENT = 8  # cubic pieces that stand for one of the quintic


def interpolate_sensors(values: np.ndarray, kind: str) -> list[CurvePotential]:
    """Potentials through V at S uniform sensors on [0, 1], values (N, S).

    Row by row or all at once, the bits are the same. Beyond the walls each goes on by the cubic of its last piece.

    Parameters
    ----------
    kind
        `cubic`: the C2 spline, not-a-knot, as `CurvePotential.from_samples`. Its error is O(h^4).
        `hermite`: cubics with the slope of the parabola through each sensor and its neighbours, at a wall through the
        nearest three. C1, local, O(h^3).
        `pchip`: cubics with the slopes of Fritsch and Butland, which never overshoot the data (SIAM J. Sci. Stat. Comput. 5,
        300, 1984). C1, O(h^3), but O(h^2) at extrema.
        `quintic`: the C4 spline of degree 5, not-a-knot, O(h^6), given by cubics with its values and slopes at eight points
        a cell. They depart from it by h^4 |V''''| / 1.6e6: on curves of the ensembles by a ten-thousandth of its own error
        in the median, and by 15% at most, where that error is below 1e-6.

    Raises
    ------
    InputError
        For an unknown kind, too few sensors for it, or values that are not finite.
    """
    if kind not in INTERPOLANTS:
        raise InputError(f"interpolant is {kind!r}; choose one of {', '.join(INTERPOLANTS)}")
    least_sensors, through = INTERPOLANTS[kind]
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < least_sensors or not np.all(np.isfinite(values)):
        raise InputError(f"values have shape {values.shape}; give (N, S) finite numbers at S >= {least_sensors} sensors for {kind!r}")
    if not len(values):
        return []
    splines = through(np.linspace(0.0, 1.0, values.shape[1]), values.T)
    widths = np.diff(splines.x)
    poly_q = np.zeros((widths.size, 4))
    poly_q[:, 0], poly_q[:, 1] = splines.x[:-1], widths
    poly_v = np.ascontiguousarray(splines.c[::-1].T * widths[:, None] ** np.arange(4))
    return [CurvePotential.from_pieces(poly_q, pieces) for pieces in poly_v]


def _hermite(q: np.ndarray, values: np.ndarray) -> PPoly:
    return CubicHermiteSpline(q, values, np.gradient(values, q[1], axis=0, edge_order=2))


def _quintic(q: np.ndarray, values: np.ndarray) -> PPoly:
    spline = make_interp_spline(q, values, k=5)
    fine = np.linspace(0.0, 1.0, _QUINTIC_REFINEMENT * (q.size - 1) + 1)
    return CubicHermiteSpline(fine, spline(fine), spline(fine, 1))


# The fewest sensors, and the piecewise cubics through values (S, N) at q (S,).
INTERPOLANTS: dict[str, tuple[int, Callable[[np.ndarray, np.ndarray], PPoly]]] = {
    "cubic": (4, CubicSpline),
    "hermite": (3, _hermite),
    "pchip": (2, PchipInterpolator),
    "quintic": (6, _quintic),
}
