"""Compiled inner loops: a potential as a cubic curve, its force, and one Runge-Kutta-Nystrom stepper.

All compiled code lives in this file because Numba's on-disk cache watches only the file of the
outermost function: a kernel split over two files could run stale.

A *curve* is the tuple `(knots_q, poly_q, poly_v)`: M pieces in order, each parametrised by u,

    q(u) = sum_k poly_q[m, k] u^k,    V(u) = sum_k poly_v[m, k] u^k,    knots_q[m] = q where piece m starts,

with q(u) increasing over u in [0, 1]. A B-spline curve and an ordinary cubic spline V(q) are both of
this form. The first and last piece lie outside the walls and are linear in q(u).
"""

import math

import numpy as np
from numba import njit

_MAX_NEWTON_STEPS = 60
_MAX_CROSSINGS = 8  # knots crossed within one step; only an orbit resting on a knot reaches it


@njit(cache=True)
def locate(curve, q):
    """Piece m and parameter u with q(u) = q: Newton's method, safeguarded by bisection inside [0, 1]."""
    knots_q, poly_q, _ = curve
    num_pieces = poly_q.shape[0]
    low, high = 0, num_pieces
    while high - low > 1:
        middle = (low + high) // 2
        if q < knots_q[middle]:
            high = middle
        else:
            low = middle
    c0, c1, c2, c3 = poly_q[low, 0], poly_q[low, 1], poly_q[low, 2], poly_q[low, 3]
    if c2 == 0.0 and c3 == 0.0:
        return low, (q - c0) / c1
    u = (q - knots_q[low]) / (knots_q[low + 1] - knots_q[low])
    left, right = 0.0, 1.0
    for _ in range(_MAX_NEWTON_STEPS):
        residual = c0 + u * (c1 + u * (c2 + u * c3)) - q
        slope = c1 + u * (2.0 * c2 + 3.0 * u * c3)
        if residual > 0.0:
            right = u
        else:
            left = u
        following = u - residual / slope if slope > 0.0 else math.nan
        if not (left <= following <= right):
            following = 0.5 * (left + right)
        if abs(following - u) <= 4e-16:
            return low, following
        u = following
    return low, u


@njit(cache=True)
def curve_value(curve, q):
    """V(q)."""
    m, u = locate(curve, q)
    v = curve[2][m]
    return v[0] + u * (v[1] + u * (v[2] + u * v[3]))


@njit(cache=True)
def curve_force(curve, q):
    """The force -V'(q) = -V'(u) / q'(u)."""
    m, u = locate(curve, q)
    c, v = curve[1][m], curve[2][m]
    return -(v[1] + u * (2.0 * v[2] + 3.0 * u * v[3])) / (c[1] + u * (2.0 * c[2] + 3.0 * u * c[3]))


@njit(cache=True)
def curve_values(curve, q):
    """V at an array of positions, shape (S,) -> (S,)."""
    result = np.empty(q.size)
    for i in range(q.size):
        result[i] = curve_value(curve, q[i])
    return result


@njit(cache=True)
def curve_forces(curve, q):
    """-V' at an array of positions, shape (S,) -> (S,)."""
    result = np.empty(q.size)
    for i in range(q.size):
        result[i] = curve_force(curve, q[i])
    return result


def make_nystrom_step(force):
    """One step of an explicit Runge-Kutta-Nystrom method for q'' = force(potential, q).

        k_i = f(q + c_i h p + h^2 sum_j a_ij k_j)
        q  <- q + h p + h^2 sum_i w_i k_i
        p  <- p + h sum_i b_i k_i                (Hairer, Norsett & Wanner, Solving ODEs I, II.14)

    The force is bound here, not passed, because Numba cannot cache a kernel that receives functions.
    """

    def nystrom_step(potential, tableau, q, p, h):
        nodes, a, weights_q, weights_p = tableau
        num_stages = nodes.size
        k = np.empty(num_stages)
        sum_q, sum_p = 0.0, 0.0
        for i in range(num_stages):
            shift = 0.0
            for j in range(i):
                shift += a[i, j] * k[j]
            k[i] = force(potential, q + nodes[i] * h * p + h * h * shift)
            sum_q += weights_q[i] * k[i]
            sum_p += weights_p[i] * k[i]
        return q + h * p + h * h * sum_q, p + h * sum_p

    return nystrom_step


_curve_step = njit(make_nystrom_step(curve_force))


@njit(cache=True)
def integrate_curve(curve, tableau, q0, p0, times, substeps):
    """States (T,), (T,) at `times`, with `substeps[i]` equal steps before times[i]."""
    qs, ps = np.empty(times.size), np.empty(times.size)
    q, p, t = q0, p0, 0.0
    for i in range(times.size):
        h = (times[i] - t) / substeps[i]
        for _ in range(substeps[i]):
            q, p = _curve_step(curve, tableau, q, p, h)
        t = times[i]
        qs[i], ps[i] = q, p
    return qs, ps


@njit(cache=True)
def _piece_parameter(piece, q):
    """u with q(u) = q on one piece continued beyond its ends, by Newton's method from the last answer."""
    poly_q, _, last = piece
    u = last[0]
    for _ in range(_MAX_NEWTON_STEPS):
        residual = poly_q[0] + u * (poly_q[1] + u * (poly_q[2] + u * poly_q[3])) - q
        step = residual / (poly_q[1] + u * (2.0 * poly_q[2] + 3.0 * u * poly_q[3]))
        u -= step
        if abs(step) <= 1e-9:  # quadratic convergence: the answer just formed is exact to rounding
            last[0] = u
            return u
    last[0] = 0.5
    return math.nan


@njit(cache=True)
def _piece_force(piece, q):
    u = _piece_parameter(piece, q)
    c, v, _ = piece
    return -(v[1] + u * (2.0 * v[2] + 3.0 * u * v[3])) / (c[1] + u * (2.0 * c[2] + 3.0 * u * c[3]))


@njit(cache=True)
def _piece_value(piece, q):
    u = _piece_parameter(piece, q)
    v = piece[1]
    return v[0] + u * (v[1] + u * (v[2] + u * v[3]))


_piece_step = njit(make_nystrom_step(_piece_force))


@njit(cache=True)
def _step_to_knot(piece, tableau, q, p, h, knot):
    """The step theta in (0, h] that lands on `knot`, and p there: Newton on theta, kept inside its bracket."""
    left, right = 0.0, h
    rising = q < knot or (q == knot and p > 0.0)
    theta, p_theta = h, p
    for _ in range(_MAX_NEWTON_STEPS):
        q_theta, p_theta = _piece_step(piece, tableau, q, p, theta)
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


@njit(cache=True)
def integrate_pieces(curve, tableau, q0, p0, times, substeps):
    """As `integrate_curve`, but no step straddles a knot; also returns max abs(H - H0) over all steps.

    The third derivative of V jumps at a knot, so a step across it loses the order of any method and
    the regularity that step doubling relies on. Here a step that would leave its piece is cut at the
    knot, and its stages see the piece continued analytically.
    """
    knots_q, poly_q, poly_v = curve
    first, last = 1, poly_q.shape[0] - 2  # the outer pieces are not entered: end pieces continue instead
    guess = np.full(1, 0.5)
    qs, ps = np.empty(times.size), np.empty(times.size)
    q, p, t = q0, p0, 0.0
    m = min(max(locate(curve, q)[0], first), last)
    if q == knots_q[m] and p < 0.0 and m > first:
        m -= 1
    piece = (poly_q[m], poly_v[m], guess)
    energy = 0.5 * p * p + _piece_value(piece, q)
    worst = 0.0
    for i in range(times.size):
        h = (times[i] - t) / substeps[i]
        for _ in range(substeps[i]):
            remaining = h
            for crossings in range(_MAX_CROSSINGS + 1):
                next_q, next_p = _piece_step(piece, tableau, q, p, remaining)
                above = next_q > knots_q[m + 1] and m < last
                below = next_q < knots_q[m] and m > first
                if crossings == _MAX_CROSSINGS or not (above or below):
                    q, p = next_q, next_p
                    break
                knot = knots_q[m + 1] if above else knots_q[m]
                theta, p = _step_to_knot(piece, tableau, q, p, remaining, knot)
                q = knot
                remaining -= theta
                m += 1 if above else -1
                guess[0] = 0.0 if above else 1.0
                piece = (poly_q[m], poly_v[m], guess)
            drift = abs(0.5 * p * p + _piece_value(piece, q) - energy)
            if not drift <= worst:  # a nan must be seen, not lost in a comparison
                worst = drift
        t = times[i]
        qs[i], ps[i] = q, p
    return qs, ps, worst
