"""Fixed steps that end at the knots of a curve, compiled; with the derivative of the motion by its initial state.

The third derivative of V jumps at a knot, so a step across it loses the order of any method, and the regularity that
step doubling relies on.
"""

import math

import numpy as np
from numba import njit

from ..compiled import compiled
from ..potentials.cubics import NEVER, QUADRATIC, cubic, curvature_of, invert, pack, right_end, search, slope_of
from .nystrom import make_nystrom_step

_MAX_NEWTON_STEPS = 60
_MAX_CROSSINGS = 8  # knots crossed within one step; only an orbit resting on a knot reaches it


@compiled(forceinline=True)
def _piece_parameter(row, guess, q):
    """u with q(u) = q on one piece of a packed curve, continued beyond its ends; from the last result, kept in `guess` (1,)."""
    u = invert(row[1], row[2], row[3], row[4], q, guess[0], -math.inf, math.inf, QUADRATIC, NEVER)
    guess[0] = u if math.isfinite(u) else 0.5
    return u


@compiled(forceinline=True)
def _piece_force(row, guess, q):
    u = _piece_parameter(row, guess, q)
    return -(row[5] + u * (row[6] + u * row[7])) / (row[2] + u * (2.0 * row[3] + 3.0 * u * row[4]))


_piece_step = njit(error_model="numpy")(make_nystrom_step(_piece_force))


@compiled()
def _step_to_knot(row, guess, nodes, a, weights_q, weights_p, k, q, p, h, knot):
    """The step theta in (0, h] that lands on `knot`, and p there: Newton on theta, kept inside its bracket."""
    left, right = 0.0, h
    rising = q < knot or (q == knot and p > 0.0)
    theta, p_theta = h, p
    for _ in range(_MAX_NEWTON_STEPS):
        q_theta, p_theta, _ = _piece_step(row, guess, nodes, a, weights_q, weights_p, k, q, p, theta)
        if (q_theta > knot) == rising:
            right = theta
        else:
            left = theta
        following = theta - (q_theta - knot) / p_theta if p_theta != 0.0 else math.nan
        if not (left <= following <= right):
            following = 0.5 * (left + right)
        if abs(following - theta) <= 1e-15:
            break
        theta = following
    return theta, p_theta


@compiled()
def _tangent_step(c, v, row, guess, nodes, a, weights_q, weights_p, k, q, p, tangent, h):
    """Advance `tangent` (2, 2) = d(q, p) / d(q0, p0) in place over the explicit step of length h from (q, p).

    The same step applied to dq'' = -V''(q) dq: the exact derivative of the step. k (3, s) is scratch.
    """
    num_stages = nodes.size
    for i in range(num_stages):
        shift, shift_0, shift_1 = 0.0, 0.0, 0.0
        for j in range(i):
            shift += a[i, j] * k[0, j]
            shift_0 += a[i, j] * k[1, j]
            shift_1 += a[i, j] * k[2, j]
        u = _piece_parameter(row, guess, q + nodes[i] * h * p + h * h * shift)
        k[0, i] = -slope_of(c, v, u)
        curvature = curvature_of(c, v, u)
        k[1, i] = -curvature * (tangent[0, 0] + nodes[i] * h * tangent[1, 0] + h * h * shift_0)
        k[2, i] = -curvature * (tangent[0, 1] + nodes[i] * h * tangent[1, 1] + h * h * shift_1)
    for column in range(2):
        tangent[0, column] += h * tangent[1, column]
        for i in range(num_stages):
            tangent[0, column] += h * h * weights_q[i] * k[1 + column, i]
            tangent[1, column] += h * weights_p[i] * k[1 + column, i]


@compiled()
def _integrate(poly_q, poly_v, tableau, q0, p0, times, substeps, tangents):
    nodes, a, weights_q, weights_p = tableau
    last = poly_q.shape[0] - 1
    knots = np.append(poly_q[:, 0], right_end(poly_q[last]))
    rows = pack(knots, poly_q, poly_v)
    tangent = np.eye(2)
    scratch = np.zeros((3, nodes.size))
    k = scratch[0]
    guess = np.full(1, 0.5)
    qs, ps = np.empty(times.size), np.empty(times.size)
    q, p, t = q0, p0, 0.0
    m, _ = search(rows, q)
    if q == knots[m] and p < 0.0 and m > 0:
        m -= 1
    energy = 0.5 * p * p + cubic(poly_v[m], _piece_parameter(rows[m], guess, q))
    worst = 0.0
    for i in range(times.size):
        h = (times[i] - t) / substeps[i]
        for _ in range(substeps[i]):
            remaining = h
            for crossings in range(_MAX_CROSSINGS + 1):
                row = rows[m]
                theta = remaining
                next_q, next_p, _ = _piece_step(row, guess, nodes, a, weights_q, weights_p, k, q, p, theta)
                above = next_q > knots[m + 1] and m < last
                below = next_q < knots[m] and m > 0
                crossed = crossings < _MAX_CROSSINGS and (above or below)
                if crossed:
                    next_q = knots[m + 1] if above else knots[m]
                    theta, next_p = _step_to_knot(row, guess, nodes, a, weights_q, weights_p, k, q, p, remaining, next_q)
                if tangents is not None:  # decided when compiled
                    _tangent_step(poly_q[m], poly_v[m], row, guess, nodes, a, weights_q, weights_p, scratch, q, p, tangent, theta)
                q, p = next_q, next_p
                if not crossed:
                    break
                remaining -= theta
                m += 1 if above else -1
                guess[0] = 0.0 if above else 1.0
            drift = abs(0.5 * p * p + cubic(poly_v[m], _piece_parameter(rows[m], guess, q)) - energy)
            if not drift <= worst:  # a nan must be seen, not lost in a comparison
                worst = drift
        t = times[i]
        qs[i], ps[i] = q, p
        if tangents is not None:
            tangents[i] = tangent
    return qs, ps, worst


@compiled()
def integrate_to_knots(poly_q, poly_v, tableau, q0, p0, times, substeps):
    """States (T,), (T,) at `times`, with substeps[i] equal steps before times[i], and max abs(H - H0) over all steps.

    A step that would leave its piece is cut at the knot; its stages see the piece continued analytically.
    """
    return _integrate(poly_q, poly_v, tableau, q0, p0, times, substeps, None)


@compiled()
def integrate_tangents(poly_q, poly_v, tableau, q0, p0, times, substeps):
    """States (T,), (T,) and d(q, p) / d(q0, p0) (T, 2, 2), by an explicit method in the same steps.

    No jump condition is needed at a knot: V'' is continuous there.
    """
    tangents = np.empty((times.size, 2, 2))
    qs, ps, _ = _integrate(poly_q, poly_v, tableau, q0, p0, times, substeps, tangents)
    return qs, ps, tangents
