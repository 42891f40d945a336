"""Compiled inner loops: a potential as a cubic curve, its slopes, and one Runge-Kutta-Nystrom stepper for every method.

All compiled code that calls each other lives in this file because Numba's on-disk cache watches only the
file of the outermost function: a kernel split over two files could run stale.

A *curve* is the tuple `(knots_q, poly_q, poly_v)`: M pieces in order, each parametrised by u,

    q(u) = sum_k poly_q[m, k] u^k,    V(u) = sum_k poly_v[m, k] u^k,    knots_q[m] = q where piece m starts,

with q(u) increasing over u in [0, 1]. A B-spline curve and an ordinary cubic spline V(q) are both of
this form. The first and last piece lie outside the walls and are linear in q(u).

A *tableau* is the tuple `(nodes (s,), a (s, s), weights_q (s,), weights_p (s,))` of `methods`.

The innermost functions are inlined and take arrays one by one, never a tuple of them: counting references to the
arrays at every call costs more than the force itself, and Numba leaves it out only where it sees no call.
"""

import math

import numpy as np
from numba import njit

_MAX_NEWTON_STEPS = 60
_MAX_TRACKING_STEPS = 4  # Halley steps from the last answer; beyond, the safeguarded search is quicker
_MAX_STAGE_ROUNDS = 100
_MAX_CROSSINGS = 8  # knots crossed within one step; only an orbit resting on a knot reaches it


@njit(cache=True, error_model="numpy", forceinline=True)
def _invert(c0, c1, c2, c3, u):
    """The root of c0 + c1 u + c2 u^2 + c3 u^3, increasing over [0, 1]: Newton's method from u, safeguarded by bisection."""
    left, right = 0.0, 1.0
    for _ in range(_MAX_NEWTON_STEPS):
        residual = c0 + u * (c1 + u * (c2 + u * c3))
        slope = c1 + u * (2.0 * c2 + 3.0 * u * c3)
        if residual > 0.0:
            right = u
        else:
            left = u
        following = u - residual / slope if slope > 0.0 else math.nan
        if not (left <= following <= right):
            following = 0.5 * (left + right)
        if abs(following - u) <= 4e-16:
            return following
        u = following
    return u


@njit(cache=True, error_model="numpy")
def _pack(curve):
    """A curve as one row (8,) a piece, `knot, q0, q1, q2, q3, V1, 2 V2, 3 V3` (powers of u), and a row for the last knot."""
    knots_q, poly_q, poly_v = curve
    num_pieces = poly_q.shape[0]
    rows = np.zeros((num_pieces + 1, 8))
    for m in range(num_pieces):
        rows[m, 0] = knots_q[m]
        for k in range(4):
            rows[m, 1 + k] = poly_q[m, k]
        for k in range(1, 4):
            rows[m, 4 + k] = k * poly_v[m, k]
    rows[num_pieces, 0] = knots_q[num_pieces]
    return rows


@njit(cache=True, error_model="numpy", forceinline=True)
def _search(rows, q):
    """Piece m and parameter u with q(u) = q, in a packed curve."""
    low, high = 0, rows.shape[0] - 1
    while high - low > 1:
        middle = (low + high) // 2
        if q < rows[middle, 0]:
            high = middle
        else:
            low = middle
    c0, c1, c2, c3 = rows[low, 1], rows[low, 2], rows[low, 3], rows[low, 4]
    if c2 == 0.0 and c3 == 0.0:
        return low, (q - c0) / c1
    u = (q - rows[low, 0]) / (rows[low + 1, 0] - rows[low, 0])
    return low, _invert(c0 - q, c1, c2, c3, u)


@njit(cache=True, error_model="numpy")
def _value(v, u):
    return v[0] + u * (v[1] + u * (v[2] + u * v[3]))


@njit(cache=True, error_model="numpy")
def _slope(c, v, u):
    """V'(q) = V_u / q_u."""
    return (v[1] + u * (2.0 * v[2] + 3.0 * u * v[3])) / (c[1] + u * (2.0 * c[2] + 3.0 * u * c[3]))


@njit(cache=True, error_model="numpy")
def _curvature(c, v, u):
    """V''(q) = (V_uu - V' q_uu) / q_u^2, by the chain rule on V(q(u))."""
    stretch = c[1] + u * (2.0 * c[2] + 3.0 * u * c[3])
    return (2.0 * v[2] + 6.0 * u * v[3] - _slope(c, v, u) * (2.0 * c[2] + 6.0 * u * c[3])) / (stretch * stretch)


@njit(cache=True, error_model="numpy")
def curve_values(curve, q):
    """V at an array of positions, shape (S,) -> (S,)."""
    rows = _pack(curve)
    result = np.empty(q.size)
    for i in range(q.size):
        m, u = _search(rows, q[i])
        result[i] = _value(curve[2][m], u)
    return result


@njit(cache=True, error_model="numpy")
def curve_forces(curve, q):
    """-V' at an array of positions, shape (S,) -> (S,)."""
    rows = _pack(curve)
    result = np.empty(q.size)
    for i in range(q.size):
        m, u = _search(rows, q[i])
        result[i] = -_slope(curve[1][m], curve[2][m], u)
    return result


@njit(cache=True, error_model="numpy")
def curve_curvatures(curve, q):
    """V'' at an array of positions, shape (S,) -> (S,)."""
    rows = _pack(curve)
    result = np.empty(q.size)
    for i in range(q.size):
        m, u = _search(rows, q[i])
        result[i] = _curvature(curve[1][m], curve[2][m], u)
    return result


@njit(cache=True, error_model="numpy", forceinline=True)
def _tracked_force(rows, cursor, q):
    """-V'(q), starting from where the last call ended: consecutive stages of a solver are close together.

    `cursor` (4,) is the piece of the last call, its u, its q and du/dq there.
    """
    m = int(cursor[0])
    near = rows[m, 0] <= q < rows[m + 1, 0]
    u = 0.0
    if not near:
        m, u = _search(rows, q)
    c0, c1, c2, c3 = rows[m, 1], rows[m, 2], rows[m, 3], rows[m, 4]
    if c2 == 0.0 and c3 == 0.0:
        inverse = 1.0 / c1
        u = (q - c0) * inverse
    else:
        if near:
            # u of q to second order about the last answer, then Halley's iteration: one division a step.
            shift, last, inverse = q - cursor[2], cursor[1], cursor[3]
            shift *= inverse
            u = last + shift - shift * shift * inverse * (c2 + 3.0 * c3 * last)
            found = False
            for _ in range(_MAX_TRACKING_STEPS):
                residual = c0 + u * (c1 + u * (c2 + u * c3)) - q
                slope = c1 + u * (2.0 * c2 + 3.0 * u * c3)
                step = residual * slope / (slope * slope - residual * (c2 + 3.0 * u * c3))
                u -= step
                if abs(step) <= 3e-7:  # cubic convergence: the answer just formed is exact to rounding
                    found = -1e-9 <= u <= 1.0 + 1e-9  # the cubic may have other roots outside its piece
                    break
            if not found:
                u = _search(rows, q)[1]
        inverse = 1.0 / (c1 + u * (2.0 * c2 + 3.0 * u * c3))
    cursor[0], cursor[1], cursor[2], cursor[3] = m, u, q, inverse
    return -(rows[m, 5] + u * (rows[m, 6] + u * rows[m, 7])) * inverse


def make_nystrom_step(force):
    """One step of a Runge-Kutta-Nystrom method for q'' = f(q), explicit or implicit.

        k_i = f(q + c_i h p + h^2 sum_j a_ij k_j)
        q  <- q + h p + h^2 sum_i w_i k_i
        p  <- p + h sum_i b_i k_i                (Hairer, Norsett & Wanner, Solving ODEs I, II.14)

    The force is called as `force(potential, memory, q)`; `memory` is what it keeps from call to call. The step
    takes these, the arrays of the tableau and k (s,), the forces of the last step (zeros at first), and returns
    `(q, p, number of forces evaluated)`. The stages of an implicit method are iterated from those of the last
    step until they stop moving; where they do not settle (h^2 |V''| above about 12 for Gauss-Legendre of two
    stages) the new state is nan.

    The force is bound here, not passed, because Numba cannot cache a kernel that receives functions.
    """

    def nystrom_step(potential, memory, nodes, a, weights_q, weights_p, k, q, p, h):
        num_stages = nodes.size
        num_evaluations = num_stages
        if a[0, 0] == 0.0:  # the first stage of an explicit method depends on no other
            for i in range(num_stages):
                shift = 0.0
                for j in range(i):
                    shift += a[i, j] * k[j]
                k[i] = force(potential, memory, q + nodes[i] * h * p + h * h * shift)
        else:
            last_change = math.inf
            for num_rounds in range(1, _MAX_STAGE_ROUNDS + 1):
                change, size = 0.0, 0.0
                for i in range(num_stages):
                    shift = 0.0
                    for j in range(num_stages):
                        shift += a[i, j] * k[j]
                    following = force(potential, memory, q + nodes[i] * h * p + h * h * shift)
                    change = max(change, abs(following - k[i]))
                    size = max(size, abs(following))
                    k[i] = following
                num_evaluations = num_stages * num_rounds
                # Rounding keeps the stages trembling: they are solved once they tremble and no longer shrink.
                if change == 0.0 or last_change <= change <= 1e-10 * (1.0 + size) < math.inf:
                    break
                last_change = change
            else:
                k[0] = math.nan
        sum_q, sum_p = 0.0, 0.0
        for i in range(num_stages):
            sum_q += weights_q[i] * k[i]
            sum_p += weights_p[i] * k[i]
        return q + h * p + h * h * sum_q, p + h * sum_p, num_evaluations

    return nystrom_step


_tracked_step = njit(error_model="numpy", forceinline=True)(make_nystrom_step(_tracked_force))


@njit(cache=True, error_model="numpy")
def _integrate_tracked(curve, tableau, q0, p0, times, substeps, qs, ps):
    """Fill qs, ps (T,) with the states at `times`, in substeps[i] equal steps before times[i]; returns evaluations."""
    nodes, a, weights_q, weights_p = tableau
    rows = _pack(curve)
    cursor = np.zeros(4)
    m, u = _search(rows, q0)
    cursor[0], cursor[1], cursor[2] = m, u, q0
    cursor[3] = 1.0 / (rows[m, 2] + u * (2.0 * rows[m, 3] + 3.0 * u * rows[m, 4]))
    k = np.zeros(nodes.size)
    q, p, t = q0, p0, 0.0
    num_evaluations = 0
    for i in range(times.size):
        h = (times[i] - t) / substeps[i]
        for _ in range(substeps[i]):
            q, p, n = _tracked_step(rows, cursor, nodes, a, weights_q, weights_p, k, q, p, h)
            num_evaluations += n
        t = times[i]
        qs[i], ps[i] = q, p
    return num_evaluations


@njit(cache=True, error_model="numpy")
def integrate_curve(curve, tableau, q0, p0, times, substeps):
    """States (T,), (T,) at `times`, with `substeps[i]` equal steps before times[i]."""
    qs, ps = np.empty(times.size), np.empty(times.size)
    _integrate_tracked(curve, tableau, q0, p0, times, substeps, qs, ps)
    return qs, ps


@njit(cache=True, nogil=True, error_model="numpy")
def integrate_curves(curves, starts, which, tableau, q0, p0, times, substeps, qs, ps, num_evaluations):
    """As `integrate_curve` for B orbits, orbit b in curve which[b]; fills qs, ps (B, T) and num_evaluations (B,).

    `curves` holds the arrays of all curves end to end: the pieces of curve i start at starts[i] and its
    knots, one more than pieces, at starts[i] + i.
    """
    knots_q, poly_q, poly_v = curves
    for b in range(which.size):
        i = which[b]
        first, last = starts[i], starts[i + 1]
        curve = (knots_q[first + i : last + i + 1], poly_q[first:last], poly_v[first:last])
        num_evaluations[b] = _integrate_tracked(curve, tableau, q0[b], p0[b], times[b], substeps[b], qs[b], ps[b])


@njit(cache=True, error_model="numpy")
def _piece_parameter(row, guess, q):
    """u with q(u) = q on one piece continued beyond its ends, by Newton's method from the last answer."""
    u = guess[0]
    for _ in range(_MAX_NEWTON_STEPS):
        residual = row[1] + u * (row[2] + u * (row[3] + u * row[4])) - q
        step = residual / (row[2] + u * (2.0 * row[3] + 3.0 * u * row[4]))
        u -= step
        if abs(step) <= 1e-9:  # quadratic convergence: the answer just formed is exact to rounding
            guess[0] = u
            return u
    guess[0] = 0.5
    return math.nan


@njit(cache=True, error_model="numpy")
def _piece_force(row, guess, q):
    u = _piece_parameter(row, guess, q)
    return -(row[5] + u * (row[6] + u * row[7])) / (row[2] + u * (2.0 * row[3] + 3.0 * u * row[4]))


_piece_step = njit(error_model="numpy")(make_nystrom_step(_piece_force))


@njit(cache=True, error_model="numpy")
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


@njit(cache=True, error_model="numpy")
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
        k[0, i] = -_slope(c, v, u)
        curvature = _curvature(c, v, u)
        k[1, i] = -curvature * (tangent[0, 0] + nodes[i] * h * tangent[1, 0] + h * h * shift_0)
        k[2, i] = -curvature * (tangent[0, 1] + nodes[i] * h * tangent[1, 1] + h * h * shift_1)
    for column in range(2):
        tangent[0, column] += h * tangent[1, column]
        for i in range(num_stages):
            tangent[0, column] += h * h * weights_q[i] * k[1 + column, i]
            tangent[1, column] += h * weights_p[i] * k[1 + column, i]


@njit(cache=True, error_model="numpy")
def _integrate_pieces(curve, tableau, q0, p0, times, substeps, tangents):
    nodes, a, weights_q, weights_p = tableau
    knots_q, poly_q, poly_v = curve
    rows = _pack(curve)
    first, last = 1, poly_q.shape[0] - 2  # the outer pieces are not entered: end pieces continue instead
    tangent = np.eye(2)
    scratch = np.zeros((3, nodes.size))
    k = scratch[0]
    guess = np.full(1, 0.5)
    qs, ps = np.empty(times.size), np.empty(times.size)
    q, p, t = q0, p0, 0.0
    m = min(max(_search(rows, q)[0], first), last)
    if q == knots_q[m] and p < 0.0 and m > first:
        m -= 1
    energy = 0.5 * p * p + _value(poly_v[m], _piece_parameter(rows[m], guess, q))
    worst = 0.0
    for i in range(times.size):
        h = (times[i] - t) / substeps[i]
        for _ in range(substeps[i]):
            remaining = h
            for crossings in range(_MAX_CROSSINGS + 1):
                row = rows[m]
                theta = remaining
                next_q, next_p, _ = _piece_step(row, guess, nodes, a, weights_q, weights_p, k, q, p, theta)
                above = next_q > knots_q[m + 1] and m < last
                below = next_q < knots_q[m] and m > first
                crossed = crossings < _MAX_CROSSINGS and (above or below)
                if crossed:
                    next_q = knots_q[m + 1] if above else knots_q[m]
                    theta, next_p = _step_to_knot(row, guess, nodes, a, weights_q, weights_p, k, q, p, remaining, next_q)
                if tangents is not None:  # decided when compiled
                    _tangent_step(poly_q[m], poly_v[m], row, guess, nodes, a, weights_q, weights_p, scratch, q, p, tangent, theta)
                q, p = next_q, next_p
                if not crossed:
                    break
                remaining -= theta
                m += 1 if above else -1
                guess[0] = 0.0 if above else 1.0
            drift = abs(0.5 * p * p + _value(poly_v[m], _piece_parameter(rows[m], guess, q)) - energy)
            if not drift <= worst:  # a nan must be seen, not lost in a comparison
                worst = drift
        t = times[i]
        qs[i], ps[i] = q, p
        if tangents is not None:
            tangents[i] = tangent
    return qs, ps, worst


@njit(cache=True, error_model="numpy")
def integrate_pieces(curve, tableau, q0, p0, times, substeps):
    """As `integrate_curve`, but no step straddles a knot; also returns max abs(H - H0) over all steps.

    The third derivative of V jumps at a knot, so a step across it loses the order of any method and
    the regularity that step doubling relies on. Here a step that would leave its piece is cut at the
    knot, and its stages see the piece continued analytically.
    """
    return _integrate_pieces(curve, tableau, q0, p0, times, substeps, None)


@njit(cache=True, error_model="numpy")
def integrate_tangents(curve, tableau, q0, p0, times, substeps):
    """States (T,), (T,) and d(q, p) / d(q0, p0) (T, 2, 2), in steps of an explicit method that end at knots.

    No jump condition is needed at a knot: V'' is continuous there.
    """
    tangents = np.empty((times.size, 2, 2))
    qs, ps, _ = _integrate_pieces(curve, tableau, q0, p0, times, substeps, tangents)
    return qs, ps, tangents
