"""Orbits in batches of cubic curves by Taylor series: compiled, in steps that end at knots, certified by step doubling.

Within a piece of a curve (q(u), V(u)) the motion in the curve's own parameter,

    q'(u) du/dt = p,    q'(u) dp/dt = -V'(u),

has polynomial coefficients, so the Taylor coefficients of u(t) and p(t) follow one after the other from
three Cauchy products (Jorba & Zou, Experimental Mathematics 14, 2005). A series of order 20 reaches
rounding in a few tens of steps an orbit, and its polynomial gives every query time within a step for
free, where a Runge-Kutta method would have to stop at each.
"""

import math

import numpy as np

from ..compiled import compiled
from ..potentials.curves import Curves
from ..threads import share_rows
from .problems import Solution, check_times, curves_of

_ORDER = 20
_FAST_ORDER = 16  # where a tolerance of 1e-6 is enough, shorter series are cheaper
_SHRINK = 0.7  # of the steps from one solution to the next: what the series leaves out falls by 0.7^20, a thousandfold
_MAX_SHRINKS = 6
_FIRST_SHARE = 0.01  # of the tolerance, for the last terms of a series in the first solution
_MAX_STEPS = 4000  # an orbit of an ensemble takes about 20; only a singular curve comes near
_MAX_ROOT_STEPS = 100
_END_MARGIN = 0.1  # in u: an orbit that turns at an end may overshoot it by its error, one that leaves goes on

SOLVED, LEFT_THE_CURVE, NOT_CERTIFIED = 0, 1, 2


def solve_curves(curves: Curves, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, tolerance: float, num_threads: int | None) -> Solution:
    """B orbits from q0, p0 (B,) at times (B, T), to about `tolerance`; nan for an orbit that leaves the curve.

    An orbit that lingers near a barrier magnifies its errors beyond the tolerance; only a certificate shows it.
    """
    check_times(times)
    pieces, u0 = (curves if len(curves) == q0.size else curves.take(np.zeros(q0.size, dtype=np.int64))).locate(q0)
    solution = Solution(np.empty(times.shape), np.empty(times.shape), np.zeros(q0.size, dtype=np.int64))

    def work(rows: slice) -> None:
        orbits = (pieces[rows], u0[rows], p0[rows], times[rows])
        _solve_orbits(*curves_of(curves, rows), *orbits, tolerance, solution.q[rows], solution.p[rows])

    share_rows(work, q0.size, num_threads)
    return solution


@compiled(fastmath={"contract"}, forceinline=True)
def _expand(c, v, u, p, work):
    """Fill u and p (K + 1,) with Taylor coefficients from u[0] and p[0] on the piece (c, v); returns q'(u[0]).

    `work` (3, K) holds the series of q'(u) = c1 + 2 c2 u + 3 c3 u^2, du/dt and dp/dt.
    """
    order = u.size - 1
    slope, u_rate, p_rate = work
    u0 = u[0]
    c2, c3, v2, v3 = 2.0 * c[2], 3.0 * c[3], 2.0 * v[2], 3.0 * v[3]
    slope[0] = c[1] + u0 * (c2 + c3 * u0)
    inverse = 1.0 / slope[0]
    u[1] = u_rate[0] = p[0] * inverse
    p[1] = p_rate[0] = -(v[1] + u0 * (v2 + v3 * u0)) * inverse
    for k in range(1, order):
        # The inner terms of the three products in one loop: their sums run side by side in the processor.
        square, stretched_u, stretched_p = 0.0, 0.0, 0.0
        for j in range(1, k):
            square += u[j] * u[k - j]
            stretched_u += slope[j] * u_rate[k - j]
            stretched_p += slope[j] * p_rate[k - j]
        square += 2.0 * u0 * u[k]
        slope[k] = c2 * u[k] + c3 * square
        u_rate[k] = (p[k] - slope[k] * u_rate[0] - stretched_u) * inverse
        p_rate[k] = (-(v2 * u[k] + v3 * square) - slope[k] * p_rate[0] - stretched_p) * inverse
        u[k + 1] = u_rate[k] / (k + 1)
        p[k + 1] = p_rate[k] / (k + 1)
    return slope[0]


@compiled(fastmath={"contract"}, forceinline=True)
def _cubic(c, u):
    return c[0] + u * (c[1] + u * (c[2] + u * c[3]))


@compiled(fastmath={"contract"}, forceinline=True)
def _state(u, p, h):
    """u and p at time h into the step: two Horner schemes side by side."""
    u_h, p_h = u[-1], p[-1]
    for k in range(u.size - 2, -1, -1):
        u_h = u_h * h + u[k]
        p_h = p_h * h + p[k]
    return u_h, p_h


@compiled(fastmath={"contract"}, forceinline=True)
def _value_and_slope(series, h):
    value, slope = series[-1], 0.0
    for k in range(series.size - 2, -1, -1):
        slope = slope * h + value
        value = value * h + series[k]
    return value, slope


@compiled(forceinline=True)
def _root(series, target, left, right):
    """h in [left, right] with series(h) = target, where series - target changes sign: Newton inside a bracket."""
    rising = _value_and_slope(series, right)[0] > target
    h = 0.5 * (left + right)
    for _ in range(_MAX_ROOT_STEPS):
        value, slope = _value_and_slope(series, h)
        if (value > target) == rising:
            right = h
        else:
            left = h
        following = h - (value - target) / slope if slope != 0.0 else math.nan
        if not (left <= following <= right):
            following = 0.5 * (left + right)
        if abs(following - h) <= 1e-15:
            return following
        h = following
    return h


@compiled()
def _solve_orbit(poly_q, poly_v, piece, u0, p0, times, local_tolerance, scale, scratch, qs, ps):
    """One orbit from parameter u0 of `piece` at momentum p0: fills qs, ps (T,); returns (status, max abs(H - H0)).

    Steps are `scale` times those that leave the last two terms of the series at `local_tolerance`.
    """
    u, p, work = scratch
    order, m, last = u.size - 1, piece, poly_q.shape[0] - 1
    c, v = poly_q[m], poly_v[m]
    u[0], p[0] = u0, p0
    energy = 0.5 * p0 * p0 + _cubic(v, u0)
    t, end, drift = 0.0, times[-1], 0.0
    i = 0
    while i < times.size and times[i] <= 0.0:
        qs[i], ps[i] = _cubic(c, u0), p0
        i += 1
    for _ in range(_MAX_STEPS):
        if i == times.size:
            return SOLVED, drift
        stretch = _expand(c, v, u, p, work)
        h = end - t
        for k in (order - 1, order):
            term = max(abs(stretch * u[k]), abs(p[k]))
            if term > 0.0:
                h = min(h, scale * (local_tolerance / term) ** (1.0 / k))
        h, following = _cut_at_knot(u, p, h, m, last)
        if not h > 0.0 and following == m:
            return NOT_CERTIFIED, drift
        if following < 0 or following > last:
            return LEFT_THE_CURVE, drift
        until = end if following == m and t + h >= end else t + h
        while i < times.size and times[i] <= until:
            u_i, ps[i] = _state(u, p, times[i] - t)
            qs[i] = _cubic(c, u_i)
            i += 1
        u_next, p_next = _state(u, p, h)
        drift = max(drift, abs(0.5 * p_next * p_next + _cubic(v, u_next) - energy))
        t, p[0] = until, p_next
        if following == m:
            u[0] = u_next
        else:
            u[0] = 0.0 if following > m else 1.0
            m = following
            c, v = poly_q[m], poly_v[m]
    return NOT_CERTIFIED, drift


@compiled(forceinline=True)
def _cut_at_knot(u, p, h, m, last):
    """The step to take, at most h, and the piece it ends in: m, a neighbour if it ends at a knot, -1 or last + 1 beyond an end.

    A step is far shorter than a period, so the particle turns at most once within it; and one that turns may
    leave its piece before it turns or after. A step of 0 is one whose series is not finite.
    """
    u_end, p_end = _state(u, p, h)
    if not (math.isfinite(u_end) and math.isfinite(p_end)):
        return 0.0, m
    low, high = 0.0, h
    if p[0] * p_end < 0.0:
        turn = _root(p, 0.0, 0.0, h)
        u_turn, _ = _state(u, p, turn)
        if 0.0 <= u_turn <= 1.0:
            low = turn
        else:
            high, u_end = turn, u_turn
    if u_end > 1.0:
        if m < last:
            return _root(u, 1.0, low, high), m + 1
        return h, m if u_end <= 1.0 + _END_MARGIN else last + 1
    if u_end < 0.0:
        if m > 0:
            return _root(u, 0.0, low, high), m - 1
        return h, m if u_end >= -_END_MARGIN else -1
    return h, m


@compiled(nogil=True)
def _solve_orbits(poly_q, poly_v, num_pieces, piece, u0, p0, times, tolerance, q, p):
    """As `certify_orbits`, but once and without a certificate: fills q, p (B, T), nan for an orbit that cannot be followed."""
    scratch = (np.empty(_FAST_ORDER + 1), np.empty(_FAST_ORDER + 1), np.empty((3, _FAST_ORDER)))
    for b in range(p0.size):
        i = b if num_pieces.size > 1 else 0
        pieces_q, pieces_v = poly_q[i, : num_pieces[i]], poly_v[i, : num_pieces[i]]
        status, _ = _solve_orbit(pieces_q, pieces_v, piece[b], u0[b], p0[b], times[b], _FIRST_SHARE * tolerance, 1.0, scratch, q[b], p[b])
        if status != SOLVED:
            q[b], p[b] = math.nan, math.nan


@compiled(nogil=True)
def certify_orbits(poly_q, poly_v, num_pieces, piece, u0, p0, times, tolerance):
    """Orbits of B curves, each certified by comparing solutions whose steps shrink by 0.7.

    Parameters
    ----------
    poly_q, poly_v, num_pieces
        The curves, shapes (B, M, 4), (B, M, 4) and (B,); see `Curves`.
    piece, u0, p0
        Shape (B,): where each orbit starts, as a parameter on a piece, and its momentum.
    times
        Shape (B, T), sorted, starting at or after 0.
    tolerance
        The largest certificate accepted.

    Returns
    -------
    q, p
        Shape (B, T).
    error
        Shape (B,): the largest change of any q or p from the solution before, the certificate.
    drift
        Shape (B,): max abs(H - H0) over the ends of all steps.
    status
        Shape (B,): SOLVED, LEFT_THE_CURVE or NOT_CERTIFIED.
    """
    num_orbits, num_times = times.shape
    q, p = np.empty((num_orbits, num_times)), np.empty((num_orbits, num_times))
    error, drift = np.empty(num_orbits), np.empty(num_orbits)
    status = np.empty(num_orbits, np.int64)
    coarse_q, coarse_p = np.empty(num_times), np.empty(num_times)
    scratch = (np.empty(_ORDER + 1), np.empty(_ORDER + 1), np.empty((3, _ORDER)))
    for row in range(num_orbits):
        pieces_q, pieces_v = poly_q[row, : num_pieces[row]], poly_v[row, : num_pieces[row]]
        scale, change, worst, outcome = 1.0, np.inf, 0.0, NOT_CERTIFIED
        for attempt in range(_MAX_SHRINKS + 1):
            coarse_q[:], coarse_p[:] = q[row], p[row]
            outcome, worst = _solve_orbit(
                pieces_q, pieces_v, piece[row], u0[row], p0[row], times[row], _FIRST_SHARE * tolerance, scale, scratch, q[row], p[row]
            )
            if outcome != SOLVED:
                break
            if attempt > 0:
                change = max(np.max(np.abs(q[row] - coarse_q)), np.max(np.abs(p[row] - coarse_p)))
                if change <= tolerance:
                    break
                outcome = NOT_CERTIFIED
            scale *= _SHRINK
        status[row], error[row], drift[row] = outcome, change, worst
    return q, p, error, drift, status
