"""V between uniform sensors by the usual interpolants, as cubic pieces, many rows at once. See `curves.Curves.from_samples`."""

from collections.abc import Callable

import numpy as np
from scipy.interpolate import CubicHermiteSpline, CubicSpline, PchipInterpolator, PPoly, make_interp_spline

from ..errors import InputError

_QUINTIC_REFINEMENT = 8  # cubic pieces that stand for one of the quintic


def interpolate_pieces(values: np.ndarray, kind: str, domain: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The pieces through V at S uniform sensors on `domain`, values (N, S): `poly_q` (M, 4), the same for all, and `poly_v` (N, M, 4).

    Parameters
    ----------
    kind
        `cubic`: the C2 spline, not-a-knot. Its error is O(h^4).
        `hermite`: cubics with the slope of the parabola through each sensor and its neighbours, at an end through the
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
    if values.ndim != 2 or values.shape[1] < least_sensors or not np.all(np.isfinite(values)):
        raise InputError(f"values have shape {values.shape}; give (N, S) finite numbers at S >= {least_sensors} sensors for {kind!r}")
    rows = values if len(values) else np.zeros((1, values.shape[1]))  # SciPy's splines need one
    splines = through(np.linspace(*domain, values.shape[1]), rows.T)
    widths = np.diff(splines.x)
    poly_q = np.zeros((widths.size, 4))
    poly_q[:, 0], poly_q[:, 1] = splines.x[:-1], widths
    poly_v = np.ascontiguousarray(splines.c[::-1].T * widths[:, None] ** np.arange(4))
    return poly_q, poly_v[: len(values)]


def _hermite(q: np.ndarray, values: np.ndarray) -> PPoly:
    return CubicHermiteSpline(q, values, np.gradient(values, q[1] - q[0], axis=0, edge_order=2))


def _quintic(q: np.ndarray, values: np.ndarray) -> PPoly:
    spline = make_interp_spline(q, values, k=5)
    fine = np.linspace(q[0], q[-1], _QUINTIC_REFINEMENT * (q.size - 1) + 1)
    return CubicHermiteSpline(fine, spline(fine), spline(fine, 1))


# The fewest sensors, and the piecewise cubics through values (S, N) at q (S,).
INTERPOLANTS: dict[str, tuple[int, Callable[[np.ndarray, np.ndarray], PPoly]]] = {
    "cubic": (4, CubicSpline),
    "hermite": (3, _hermite),
    "pchip": (2, PchipInterpolator),
    "quintic": (6, _quintic),
}
