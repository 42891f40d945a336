"""Compiled arithmetic of cubic curves: value, slope and curvature, the inversion of q(u), and the layouts that solvers step on.

A *piece* of a curve is parametrised by u in [0, 1],

    q(u) = sum_k c[k] u^k,    V(u) = sum_k v[k] u^k,

with q(u) increasing. Pieces are joined: one starts where the one before ends. See `curves.Curves`.
"""

import math

import numpy as np

from ..compiled import compiled

_MAX_STEPS = 60
ROUNDING = 4e-16  # of u in [0, 1]: a change no larger is the last
QUADRATIC = 1e-9  # a Newton step this short leaves an error of its square, which is rounding
NEVER = -1.0


@compiled(forceinline=True)
def invert(c0, c1, c2, c3, q, u, left, right, trusted, settled):
    """u in [left, right] with c0 + c1 u + c2 u^2 + c3 u^3 = q, a cubic that increases there.

    Newton's method from the guess u, inside a bracket that shrinks: a step that leaves it is replaced by bisection. Ends with a
    Newton step of at most `trusted`, even where rounding takes it out of the bracket, or with any change of at most `settled`.
    """
    for _ in range(_MAX_STEPS):
        residual = c0 + u * (c1 + u * (c2 + u * c3)) - q
        slope = c1 + u * (2.0 * c2 + 3.0 * u * c3)
        step = residual / slope
        following = u - step
        if abs(step) <= trusted and slope > 0.0:
            return following
        if residual > 0.0:
            right = u
        else:
            left = u
        if not (left <= following <= right and slope > 0.0):
            following = 0.5 * (left + right)
        if abs(following - u) <= settled:
            return following
        u = following
    return u


@compiled(forceinline=True)
def cubic(v, u):
    """The polynomial with ascending coefficients v (4,) at u."""
    return v[0] + u * (v[1] + u * (v[2] + u * v[3]))


@compiled(forceinline=True)
def slope_of(c, v, u):
    """V'(q) = V_u / q_u on the piece (c, v) at u."""
    return (v[1] + u * (2.0 * v[2] + 3.0 * u * v[3])) / (c[1] + u * (2.0 * c[2] + 3.0 * u * c[3]))


@compiled(forceinline=True)
def curvature_of(c, v, u):
    """V''(q) = (V_uu - V' q_uu) / q_u^2 on the piece (c, v) at u, by the chain rule on V(q(u))."""
    stretch = c[1] + u * (2.0 * c[2] + 3.0 * u * c[3])
    return (2.0 * v[2] + 6.0 * u * v[3] - slope_of(c, v, u) * (2.0 * c[2] + 6.0 * u * c[3])) / (stretch * stretch)


@compiled()
def right_end(c):
    """q at u = 1."""
    return c[0] + c[1] + c[2] + c[3]


@compiled()
def find_piece(poly_q, q):
    """The piece m that q lies on, of pieces `poly_q` (n, 4); the first or the last for q beyond an end."""
    m, beyond = 0, poly_q.shape[0]
    while beyond - m > 1:
        middle = (m + beyond) // 2
        if q < poly_q[middle, 0]:
            beyond = middle
        else:
            m = middle
    return m


@compiled()
def continue_piece(c, v, u, outer_c, outer_v):
    """Fill the piece that continues V beyond the end u (0 or 1) of the piece (c, v): the cubic Taylor polynomial in q - q(u).

    Stages of a solver may overshoot a turning point at the end by O(h^2); a continuation that is C3 costs them no order.
    """
    q1, q2, q3 = c[1] + u * (2.0 * c[2] + 3.0 * u * c[3]), 2.0 * c[2] + 6.0 * u * c[3], 6.0 * c[3]
    v1, v2, v3 = v[1] + u * (2.0 * v[2] + 3.0 * u * v[3]), 2.0 * v[2] + 6.0 * u * v[3], 6.0 * v[3]
    slope = v1 / q1
    curvature = (v2 - slope * q2) / (q1 * q1)
    third = (v3 - 3.0 * curvature * q1 * q2 - slope * q3) / math.pow(q1, 3.0)
    outer_c[0], outer_c[1], outer_c[2], outer_c[3] = c[0] if u == 0.0 else right_end(c), 1.0, 0.0, 0.0
    outer_v[0], outer_v[1], outer_v[2], outer_v[3] = cubic(v, u), slope, curvature / 2.0, third / 6.0


@compiled()
def continue_beyond_ends(poly_q, poly_v):
    """A curve of n pieces with its two continuations as first and last piece: knots (n + 3,), and coefficients (n + 2, 4) twice.

    knots[m] is q where piece m starts; the first is -inf, the last inf.
    """
    n = poly_q.shape[0]
    knots, all_q, all_v = np.empty(n + 3), np.empty((n + 2, 4)), np.empty((n + 2, 4))
    all_q[1 : n + 1], all_v[1 : n + 1], knots[1 : n + 1] = poly_q, poly_v, poly_q[:, 0]
    knots[0], knots[n + 1], knots[n + 2] = -math.inf, right_end(poly_q[n - 1]), math.inf
    continue_piece(poly_q[0], poly_v[0], 0.0, all_q[0], all_v[0])
    continue_piece(poly_q[n - 1], poly_v[n - 1], 1.0, all_q[n + 1], all_v[n + 1])
    return knots, all_q, all_v


@compiled()
def pack(knots, poly_q, poly_v):
    """A curve as one row (8,) a piece, one line of the processor's cache: `knot, q0, q1, q2, q3, V1, 2 V2, 3 V3`, powers of u.

    A last row holds the last knot.
    """
    num_pieces = poly_q.shape[0]
    rows = np.zeros((num_pieces + 1, 8))
    for m in range(num_pieces):
        rows[m, 0] = knots[m]
        for k in range(4):
            rows[m, 1 + k] = poly_q[m, k]
        for k in range(1, 4):
            rows[m, 4 + k] = k * poly_v[m, k]
    rows[num_pieces, 0] = knots[num_pieces]
    return rows


@compiled(forceinline=True)
def search(rows, q):
    """The piece m and the parameter u with q(u) = q, in a packed curve."""
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
    return low, invert(c0 - q, c1, c2, c3, 0.0, u, 0.0, 1.0, NEVER, ROUNDING)


@compiled(nogil=True)
def locate_each(poly_q, num_pieces, q, pieces, parameters):
    """Fill `pieces` and `parameters` (B,): where q[b] lies on curve b, for q within the curves."""
    for b in range(q.size):
        m = find_piece(poly_q[b, : num_pieces[b]], q[b])
        c0, c1, c2, c3 = poly_q[b, m, 0], poly_q[b, m, 1], poly_q[b, m, 2], poly_q[b, m, 3]
        pieces[b], parameters[b] = m, invert(c0, c1, c2, c3, q[b], 0.5, 0.0, 1.0, NEVER, ROUNDING)


@compiled(nogil=True)
def evaluate_curves(poly_q, poly_v, num_pieces, q, is_start, derivative, result):
    """Fill `result` (B, T) with V, V' or V'' (`derivative` 0, 1 or 2) of curve b at q[b], continued beyond its ends.

    Where `is_start` is true, u is found as `locate_each` finds it: to the last bit, V is then what a solver starts from.
    """
    outer_c, outer_v = np.empty(4), np.empty(4)
    for b in range(q.shape[0]):
        n = num_pieces[b]
        left, right = poly_q[b, 0, 0], right_end(poly_q[b, n - 1])
        for i in range(q.shape[1]):
            c, v = outer_c, outer_v
            if left <= q[b, i] < right:
                m = find_piece(poly_q[b, :n], q[b, i])
                c, v = poly_q[b, m], poly_v[b, m]
                c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
                if c2 == 0.0 and c3 == 0.0:
                    u = (q[b, i] - c0) / c1
                elif is_start:
                    u = invert(c0, c1, c2, c3, q[b, i], 0.5, 0.0, 1.0, NEVER, ROUNDING)
                else:
                    guess = (q[b, i] - c0) / ((poly_q[b, m + 1, 0] if m + 1 < n else right) - c0)
                    u = invert(c0 - q[b, i], c1, c2, c3, 0.0, guess, 0.0, 1.0, NEVER, ROUNDING)
            else:  # a nan comes here too, and stays one
                m, end = (0, 0.0) if q[b, i] < left else (n - 1, 1.0)
                continue_piece(poly_q[b, m], poly_v[b, m], end, outer_c, outer_v)
                u = q[b, i] - outer_c[0]
            if derivative == 0:
                result[b, i] = cubic(v, u)
            elif derivative == 1:
                result[b, i] = slope_of(c, v, u)
            else:
                result[b, i] = curvature_of(c, v, u)


@compiled(nogil=True)
def sample_curves(poly_q, poly_v, num_pieces, q, values):
    """Fill `values` (B, S) with V of every curve at the increasing positions q (S,)."""
    for b in range(num_pieces.size):
        m, last = 0, num_pieces[b] - 1
        c, v = poly_q[b, 0], poly_v[b, 0]
        u, before = 0.0, c[0]
        for i in range(q.size):
            while m < last and q[i] >= poly_q[b, m + 1, 0]:
                m += 1
                c, v = poly_q[b, m], poly_v[b, m]
                u, before = 0.0, c[0]
            # The position before is near: go on from it along the tangent.
            guess = u + (q[i] - before) / (c[1] + u * (2.0 * c[2] + 3.0 * u * c[3]))
            u = invert(c[0], c[1], c[2], c[3], q[i], min(max(guess, 0.0), 1.0), 0.0, 1.0, NEVER, ROUNDING)
            before = q[i]
            values[b, i] = cubic(v, u)


@compiled()
def bound_curves(poly_v, num_pieces, lowest, highest):
    """Fill min V and max V (B,): at the ends of pieces and at the real roots of V'(u)."""
    candidates = np.empty(4)
    for b in range(num_pieces.size):
        lowest[b], highest[b] = math.inf, -math.inf
        for m in range(num_pieces[b]):
            v = poly_v[b, m]
            c1, c2, c3 = v[1], 2.0 * v[2], 3.0 * v[3]
            candidates[0], candidates[1], candidates[2], candidates[3] = 0.0, 1.0, 0.0, 1.0
            discriminant = c2 * c2 - 4.0 * c1 * c3
            if discriminant >= 0.0:
                # The numerically stable pair of roots: w / c3 and c1 / w never cancel.
                w = -0.5 * (c2 + math.copysign(math.sqrt(discriminant), c2))
                if c3 != 0.0:
                    candidates[2] = w / c3
                if w != 0.0:
                    candidates[3] = c1 / w
            for u in candidates:
                if 0.0 <= u <= 1.0:
                    value = cubic(v, u)
                    lowest[b] = min(lowest[b], value)
                    highest[b] = max(highest[b], value)


@compiled()
def nearest_barriers(poly_v, num_pieces, energy, distance):
    """Fill abs(energy - V) (B,) at the maximum of V inside each curve where it is least; inf without one."""
    for b in range(num_pieces.size):
        distance[b] = math.inf
        for m in range(num_pieces[b]):
            v0, c1, c2, c3 = poly_v[b, m, 0], poly_v[b, m, 1], 2.0 * poly_v[b, m, 2], 3.0 * poly_v[b, m, 3]
            discriminant = c2 * c2 - 4.0 * c1 * c3
            if discriminant <= 0.0:
                continue
            # Of the two roots of V' the maximum is where V'' = c2 + 2 c3 u is -sqrt(discriminant); no cancellation either way.
            w = -0.5 * (c2 + math.copysign(math.sqrt(discriminant), c2))
            u = w / c3 if c2 >= 0.0 else c1 / w
            if 0.0 < u <= 1.0 and not (m == num_pieces[b] - 1 and u == 1.0):
                top = v0 + u * (c1 + u * (0.5 * c2 + u * c3 / 3.0))
                distance[b] = min(distance[b], abs(energy[b] - top))


@compiled()
def combine_control_points(poly, rows, basis, control):
    """poly[row, m, k] = sum_i basis[m, k, i] control[row, i]. Not a matrix product: BLAS may round a row by its neighbours."""
    for row in rows:
        for m in range(basis.shape[0]):
            for k in range(4):
                total = 0.0
                for i in range(basis.shape[2]):
                    total += basis[m, k, i] * control[row, i]
                poly[row, m, k] = total
