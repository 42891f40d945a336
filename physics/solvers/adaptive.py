"""DOP853 with step control and dense output: compiled for batches of cubic curves, SciPy's own for any potential.

The compiled one does what `scipy.integrate.solve_ivp(..., "DOP853", t_eval=times)` does, at less than a hundredth of the time:
steps and results are the same but for rounding. Where an orbit crosses knots, step control amplifies rounding (SciPy's as
well: a last bit of V' changes its steps), and the two solutions part within their errors. Steps do not end at knots: this is
the ordinary solver that others are compared with, not a certifying one.

Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, II.4 (first step), II.5 and II.6 (DOP853).
"""

import math

import numpy as np
from scipy.integrate import DOP853, solve_ivp

from ..compiled import compiled
from ..potentials.cubics import NEVER, QUADRATIC, continue_beyond_ends, invert
from ..potentials.curves import Curves
from ..threads import share_rows
from .problems import Potential, Solution, check_times, curves_of

_NUM_STAGES, _NUM_EXTENDED = 12, 16  # of a step; with the slope at its end and the three that its interpolant needs
# Row s weighs the stages before stage s; stage 12 is evaluated at the new state.
_A = np.zeros((_NUM_EXTENDED, _NUM_EXTENDED))
_A[:_NUM_STAGES, :_NUM_STAGES], _A[_NUM_STAGES, :_NUM_STAGES], _A[_NUM_STAGES + 1 :] = DOP853.A, DOP853.B, DOP853.A_EXTRA
_E3, _E5, _D = DOP853.E3, DOP853.E5, DOP853.D

_EXPONENT = 1 / 8  # the error of a step goes as h^8
_SAFETY, _MIN_FACTOR, _MAX_FACTOR = 0.9, 0.2, 10.0
_SMALLEST_RTOL = 100 * np.finfo(np.float64).eps  # as SciPy: a smaller one asks for less than rounding
_MAX_STEPS = 100_000  # an orbit of an ensemble takes tens; only a wild initial state comes near


def solve_curves(curves: Curves, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, tolerance: float, num_threads: int | None) -> Solution:
    """B orbits from q0, p0 (B,) at times (B, T), compiled; `tolerance` is the relative and the absolute one of a step.

    Times are read off the interpolant of each step, of order 7, whose three forces are evaluated only for steps that hold a
    query time. q and p are nan from where the step underflowed, as at a singularity.
    """
    check_times(times)
    solution = Solution(np.full(times.shape, np.nan), np.full(times.shape, np.nan), np.empty(q0.size, dtype=np.int64))

    def work(rows: slice) -> None:
        _solve_orbits(*curves_of(curves, rows), q0[rows], p0[rows], times[rows], tolerance, *(part[rows] for part in solution))

    share_rows(work, q0.size, num_threads)
    return solution


def solve_orbit(potential: Potential, q0: float, p0: float, times: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray, int]:
    """One orbit of any potential at times (T,) by SciPy: q, p (T,), nan after the time where it gives up, and the forces evaluated."""

    def slope(_: float, state: np.ndarray) -> list[float]:
        return [state[1], -float(potential.gradient(state[0]))]

    check_times(times)
    distinct, positions = np.unique(times, return_inverse=True)  # SciPy wants its times distinct
    states, num_evaluations = np.full((2, distinct.size), np.nan), 0
    states[:, distinct == 0.0] = [[q0], [p0]]
    later = distinct > 0.0
    if later.any():
        solution = solve_ivp(slope, (0.0, distinct[-1]), [q0, p0], "DOP853", t_eval=distinct[later], rtol=tolerance, atol=tolerance)
        num_solved, num_evaluations = solution.y.shape[1] if solution.y.size else 0, int(solution.nfev)
        states[:, np.flatnonzero(later)[:num_solved]] = solution.y[:, :num_solved] if num_solved else 0.0
    return states[0, positions], states[1, positions], num_evaluations


@compiled(forceinline=True)
def _force(knots_q, poly_q, poly_v, cursor, q):
    """-V'(q). `cursor` (2,) holds piece and u of the last call: consecutive stages are close together."""
    m, u = int(cursor[0]), cursor[1]
    while q < knots_q[m]:
        m, u = m - 1, 1.0
    while q >= knots_q[m + 1] and m < poly_q.shape[0] - 1:
        m, u = m + 1, 0.0
    c0, c1, c2, c3 = poly_q[m, 0], poly_q[m, 1], poly_q[m, 2], poly_q[m, 3]
    u = (q - c0) / c1 if c2 == 0.0 and c3 == 0.0 else invert(c0, c1, c2, c3, q, u, 0.0, 1.0, QUADRATIC, NEVER)
    cursor[0], cursor[1] = m, u
    return -(poly_v[m, 1] + u * (2.0 * poly_v[m, 2] + 3.0 * u * poly_v[m, 3])) / (c1 + u * (2.0 * c2 + 3.0 * u * c3))


@compiled(forceinline=True)
def _norm(x, y):
    return math.sqrt(0.5 * (x * x + y * y))


@compiled(forceinline=True)
def _dot(weights, k, count):
    total = 0.0
    for j in range(count):
        total += weights[j] * k[j]
    return total


@compiled()
def _first_step(knots_q, poly_q, poly_v, cursor, q, p, force, tolerance, rtol, end):
    """The length of the first step, from the sizes of the state and of its first two derivatives; evaluates one force."""
    scale_q, scale_p = tolerance + abs(q) * rtol, tolerance + abs(p) * rtol
    d0, d1 = _norm(q / scale_q, p / scale_p), _norm(p / scale_q, force / scale_p)
    h = min(1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1, end)
    ahead = _force(knots_q, poly_q, poly_v, cursor, q + h * p)
    d2 = _norm(h * force / scale_q, (ahead - force) / scale_p) / h
    largest = max(d1, d2)
    return min(100.0 * h, max(1e-6, 1e-3 * h) if largest <= 1e-15 else (0.01 / largest) ** _EXPONENT, end)


@compiled(forceinline=True)
def _run_stages(knots_q, poly_q, poly_v, cursor, k_q, k_p, first, stop, q, p, h):
    """Fill k_q, k_p, the slopes of q and p, for stages first <= s < stop; returns the state where the last was evaluated."""
    q_s, p_s = q, p
    for s in range(first, stop):
        q_s, p_s = q + h * _dot(_A[s], k_q, s), p + h * _dot(_A[s], k_p, s)
        k_q[s], k_p[s] = p_s, _force(knots_q, poly_q, poly_v, cursor, q_s)
    return q_s, p_s


@compiled(forceinline=True)
def _error_norm(k_q, k_p, h, scale_q, scale_p):
    """The error of a step in units of the tolerance, from estimates of orders 5 and 3."""
    n = _NUM_STAGES + 1
    fifth = _norm(_dot(_E5, k_q, n) / scale_q, _dot(_E5, k_p, n) / scale_p)
    third = _norm(_dot(_E3, k_q, n) / scale_q, _dot(_E3, k_p, n) / scale_p)
    return 0.0 if fifth == 0.0 else h * fifth * fifth / math.sqrt(fifth * fifth + 0.01 * third * third)


@compiled(forceinline=True)
def _interpolate(series, k, x, following, h):
    """Fill `series` (7,) for a component that goes from x to `following` in a step with slopes k; see `_read`."""
    series[0] = following - x
    series[1] = h * k[0] - series[0]
    series[2] = 2.0 * series[0] - h * (k[_NUM_STAGES] + k[0])
    for i in range(_D.shape[0]):
        series[3 + i] = h * _dot(_D[i], k, _NUM_EXTENDED)


@compiled(forceinline=True)
def _read(series, x, theta):
    """x + theta (s0 + (1 - theta) (s1 + theta (s2 + (1 - theta) (s3 + ...)))) at the fraction theta of the step."""
    total = 0.0
    for i in range(series.size - 1, -1, -1):
        total = (total + series[i]) * (theta if i % 2 == 0 else 1.0 - theta)
    return x + total


@compiled()
def _solve_orbit(knots_q, poly_q, poly_v, q, p, times, tolerance, k_q, k_p, series_q, series_p, qs, ps):
    """Fill qs, ps (T,) as far as the solution goes; returns the number of forces evaluated."""
    qs[times == 0.0], ps[times == 0.0] = q, p
    end = times[-1] if times.size else 0.0
    if end == 0.0:
        return 0
    i, t, rtol = 0, 0.0, max(tolerance, _SMALLEST_RTOL)
    cursor = np.array([1.0, 0.5])
    force = _force(knots_q, poly_q, poly_v, cursor, q)
    length = _first_step(knots_q, poly_q, poly_v, cursor, q, p, force, tolerance, rtol, end)
    num_evaluations, rejected = 2, False
    for _ in range(_MAX_STEPS):
        shortest = 10.0 * (np.nextafter(t, math.inf) - t)
        if not length >= shortest:
            if rejected:
                break
            length = shortest
        following = min(t + length, end)
        h = following - t
        k_q[0], k_p[0] = p, force
        next_q, next_p = _run_stages(knots_q, poly_q, poly_v, cursor, k_q, k_p, 1, _NUM_STAGES + 1, q, p, h)
        num_evaluations += _NUM_STAGES
        scale_q, scale_p = tolerance + max(abs(q), abs(next_q)) * rtol, tolerance + max(abs(p), abs(next_p)) * rtol
        error = _error_norm(k_q, k_p, h, scale_q, scale_p)
        factor = _SAFETY * error**-_EXPONENT
        if not error < 1.0:  # nor if it is nan
            length, rejected = h * (factor if factor > _MIN_FACTOR else _MIN_FACTOR), True
            continue
        length, rejected = h * min(factor, 1.0 if rejected else _MAX_FACTOR), False
        if times[i] <= following:
            piece, u = cursor
            _run_stages(knots_q, poly_q, poly_v, cursor, k_q, k_p, _NUM_STAGES + 1, _NUM_EXTENDED, q, p, h)
            cursor[0], cursor[1] = piece, u  # so that no query changes a bit of the steps
            num_evaluations += _NUM_EXTENDED - _NUM_STAGES - 1
            _interpolate(series_q, k_q, q, next_q, h)
            _interpolate(series_p, k_p, p, next_p, h)
            while i < times.size and times[i] <= following:
                theta = (times[i] - t) / h
                qs[i], ps[i] = _read(series_q, q, theta), _read(series_p, p, theta)
                i += 1
            if i == times.size:
                break
        t, q, p, force = following, next_q, next_p, k_p[_NUM_STAGES]
    return num_evaluations


@compiled(nogil=True)
def _solve_orbits(poly_q, poly_v, num_pieces, q0, p0, times, tolerance, qs, ps, num_evaluations):
    """`_solve_orbit` for B orbits, orbit b in curve b, or all in the only curve; fills qs, ps (B, T) and num_evaluations (B,)."""
    k, series = np.zeros((2, _NUM_EXTENDED)), np.zeros((2, 3 + _D.shape[0]))
    for b in range(q0.size):
        i = b if num_pieces.size > 1 else 0
        n = num_pieces[i]
        pieces = continue_beyond_ends(poly_q[i, :n], poly_v[i, :n])
        num_evaluations[b] = _solve_orbit(*pieces, q0[b], p0[b], times[b], tolerance, k[0], k[1], series[0], series[1], qs[b], ps[b])
