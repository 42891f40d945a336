"""Any flow y' = f(y), compiled: DOP853 with step control and dense output, and certificates by tighter tolerances.

A flow is a compiled function `rates(parameters, y, out)` of three arrays that fills `out` with f(y). It is handed to the solver as a
pointer, so one compiled solver serves all systems, and both are kept on disk.

Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, II.4 (first step), II.5 and II.6 (DOP853).

Shapes: R orbits, T query times, n components of y, m parameters.
"""

import math
import threading
from typing import Any, NamedTuple

import numpy as np
from numba import types
from scipy.integrate import DOP853

from ..compiled import compiled
from ..threads import share_rows
from .problems import as_kernel_array, check_times

_NUM_STAGES, _NUM_EXTENDED = 12, 16  # of a step; with the slope at its end and the three that its interpolant needs
_A = np.zeros((_NUM_EXTENDED, _NUM_EXTENDED))
_A[:_NUM_STAGES, :_NUM_STAGES], _A[_NUM_STAGES, :_NUM_STAGES], _A[_NUM_STAGES + 1 :] = DOP853.A, DOP853.B, DOP853.A_EXTRA
_E3, _E5, _D = DOP853.E3, DOP853.E5, DOP853.D
_NUM_SERIES = 3 + _D.shape[0]

_EXPONENT = 1 / 8  # the error of a step goes as h^8
_SAFETY, _MIN_FACTOR, _MAX_FACTOR = 0.9, 0.2, 10.0
_SMALLEST_RTOL = 100 * np.finfo(np.float64).eps  # a smaller one asks for less than rounding
_MAX_STEPS = 100_000

_LOOSEST, _TIGHTER, _TIGHTEST = 0.1, 1 / 30, 1e-15  # of certificates: the first tolerance over theirs, the next over it, and the last

_Vector, _Matrix, _Integers = types.Array(types.float64, 1, "C"), types.Array(types.float64, 2, "C"), types.Array(types.int64, 1, "C")
RATES = types.void(_Vector, _Vector, _Vector)
_States = types.Array(types.float64, 3, "C")
_SOLVER = types.void(types.FunctionType(RATES), _Matrix, _Matrix, _Matrix, types.float64, types.float64, _States, _Integers)

Rates = Any  # a compiled function of (parameters (m,), y (n,), out (n,))


class Certified(NamedTuple):
    """States (R, T, n), and the bound (R,) on the absolute error of any of an orbit's components; inf where there is none."""

    states: np.ndarray
    error: np.ndarray


def solve_flow(
    rates: Rates,
    parameters: np.ndarray,
    start: np.ndarray,
    times: np.ndarray,
    tolerance: float,
    num_threads: int | None = None,
    longest_step: float = math.inf,
) -> tuple[np.ndarray, np.ndarray]:
    """States (R, T, n) at sorted times (R, T) from `start` (R, n), and the rates evaluated (R,).

    `tolerance` is the relative and the absolute one of a step; no step exceeds `longest_step`. States are nan from where a step
    underflowed. An orbit's numbers depend neither on the others nor on the number of threads.
    """
    check_times(times)
    parameters, start, times = (as_kernel_array(x) for x in (parameters, start, times))
    states = np.full((*times.shape, start.shape[1]), np.nan)
    num_evaluations = np.zeros(len(start), dtype=np.int64)
    solver, pointer = ready(_solve_orbits, _SOLVER), ready(rates, RATES)

    def work(rows: slice) -> None:
        solver(pointer, parameters[rows], start[rows], times[rows], tolerance, longest_step, states[rows], num_evaluations[rows])

    share_rows(work, len(start), num_threads)
    return states, num_evaluations


def certify_flow(
    rates: Rates,
    parameters: np.ndarray,
    start: np.ndarray,
    times: np.ndarray,
    tolerance: float,
    num_threads: int | None = None,
    longest_step: float = math.inf,
) -> Certified:
    """States at sorted times, solved again with thirty times tighter tolerances until no component changes by more than `tolerance`.

    The change is the certificate, kept with the finer solution, whose own error is about a twentieth of it.
    """
    pending = np.arange(len(start))
    states, error = np.full((*times.shape, start.shape[1]), np.nan), np.full(len(start), np.inf)
    step_tolerance, first = _LOOSEST * tolerance, True
    while pending.size and step_tolerance >= _TIGHTEST:
        finer, _ = solve_flow(rates, parameters[pending], start[pending], times[pending], step_tolerance, num_threads, longest_step)
        if not first:
            change = np.abs(finer - states[pending]).max(axis=(1, 2))
            error[pending] = np.where(np.isfinite(change), change, np.inf)
        states[pending] = finer
        pending = pending[~(error[pending] <= tolerance)]
        step_tolerance, first = _TIGHTER * step_tolerance, False
    return Certified(states, error)


_compiling = threading.Lock()


def ready(function: Any, signature: Any) -> Any:
    """`function` compiled for this signature only, so that Numba takes a function among its arguments as a pointer."""
    with _compiling:
        if not function.signatures:
            function.compile(signature)
            function.disable_compile()
    return function


@compiled()
def _norm(x, scale):
    total = 0.0
    for c in range(x.size):
        total += (x[c] / scale[c]) ** 2
    return math.sqrt(total / x.size)


@compiled()
def _first_step(rates, parameters, y, slope, scale, ahead, place, end):
    """The length of the first step, from the sizes of the state and of its first two derivatives; evaluates the rates once."""
    d0, d1 = _norm(y, scale), _norm(slope, scale)
    h = min(1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1, end)
    for c in range(y.size):
        place[c] = y[c] + h * slope[c]
    rates(parameters, place, ahead)
    for c in range(y.size):
        ahead[c] -= slope[c]
    largest = max(d1, _norm(ahead, scale) / h)
    return min(100.0 * h, max(1e-6, 1e-3 * h) if largest <= 1e-15 else (0.01 / largest) ** _EXPONENT, end)


@compiled()
def _run_stages(rates, parameters, k, first, stop, y, h, place):
    """Fill k, the slopes of y, for stages first <= s < stop; `place` is where the last was evaluated."""
    for s in range(first, stop):
        for c in range(y.size):
            place[c] = 0.0
        for j in range(s):
            weight = _A[s, j]
            if weight != 0.0:
                for c in range(y.size):
                    place[c] += weight * k[j, c]
        for c in range(y.size):
            place[c] = y[c] + h * place[c]
        rates(parameters, place, k[s])


@compiled()
def _error_norm(k, h, scale):
    """The error of a step in units of the tolerance, from estimates of orders 5 and 3."""
    fifth, third = 0.0, 0.0
    for c in range(scale.size):
        of_fifth, of_third = 0.0, 0.0
        for j in range(_NUM_STAGES + 1):
            of_fifth += _E5[j] * k[j, c]
            of_third += _E3[j] * k[j, c]
        fifth += (of_fifth / scale[c]) ** 2
        third += (of_third / scale[c]) ** 2
    return 0.0 if fifth == 0.0 else h * fifth / math.sqrt((fifth + 0.01 * third) * scale.size)


@compiled()
def _interpolate(series, k, y, following, h):
    """Fill `series` (7, n) for a step from y to `following` with slopes k; see `_read`."""
    for c in range(y.size):
        series[0, c] = following[c] - y[c]
        series[1, c] = h * k[0, c] - series[0, c]
        series[2, c] = 2.0 * series[0, c] - h * (k[_NUM_STAGES, c] + k[0, c])
        for i in range(_D.shape[0]):
            total = 0.0
            for j in range(_NUM_EXTENDED):
                total += _D[i, j] * k[j, c]
            series[3 + i, c] = h * total


@compiled()
def _read(series, y, theta, out):
    """y + theta (s0 + (1 - theta) (s1 + theta (s2 + (1 - theta) (s3 + ...)))) at the fraction theta of the step."""
    for c in range(y.size):
        total = 0.0
        for i in range(_NUM_SERIES - 1, -1, -1):
            total = (total + series[i, c]) * (theta if i % 2 == 0 else 1.0 - theta)
        out[c] = y[c] + total


@compiled()
def _solve_orbit(rates, parameters, start, times, tolerance, longest_step, k, series, states):
    """Fill states (T, n) as far as the solution goes; returns how often the rates were evaluated."""
    n, i, t, rtol = start.size, 0, 0.0, max(tolerance, _SMALLEST_RTOL)
    while i < times.size and times[i] == 0.0:
        states[i] = start
        i += 1
    if i == times.size:
        return 0
    end = times[-1]
    y, following, scale, ahead = start.copy(), np.empty(n), np.empty(n), np.empty(n)
    rates(parameters, y, k[0])
    for c in range(n):
        scale[c] = tolerance + abs(y[c]) * rtol
    length = min(_first_step(rates, parameters, y, k[0], scale, ahead, following, end), longest_step)
    num_evaluations, rejected = 2, False
    for _ in range(_MAX_STEPS):
        shortest = 10.0 * (np.nextafter(t, math.inf) - t)
        if not length >= shortest:
            if rejected:
                break
            length = shortest
        stop = min(t + length, end)
        h = stop - t
        _run_stages(rates, parameters, k, 1, _NUM_STAGES + 1, y, h, following)
        num_evaluations += _NUM_STAGES
        for c in range(n):
            scale[c] = tolerance + max(abs(y[c]), abs(following[c])) * rtol
        error = _error_norm(k, h, scale)
        factor = _SAFETY * error**-_EXPONENT
        if not error < 1.0:  # nor if it is nan
            length, rejected = h * (factor if factor > _MIN_FACTOR else _MIN_FACTOR), True
            continue
        length, rejected = min(h * min(factor, 1.0 if rejected else _MAX_FACTOR), longest_step), False
        if times[i] <= stop:
            _run_stages(rates, parameters, k, _NUM_STAGES + 1, _NUM_EXTENDED, y, h, ahead)
            num_evaluations += _NUM_EXTENDED - _NUM_STAGES - 1
            _interpolate(series, k, y, following, h)
            while i < times.size and times[i] <= stop:
                _read(series, y, (times[i] - t) / h, states[i])
                i += 1
            if i == times.size:
                break
        t = stop
        y[:] = following
        k[0] = k[_NUM_STAGES]
    return num_evaluations


@compiled(nogil=True)
def _solve_orbits(rates, parameters, start, times, tolerance, longest_step, states, num_evaluations):
    """`_solve_orbit` for R orbits; fills states (R, T, n) and num_evaluations (R,)."""
    k, series = np.zeros((_NUM_EXTENDED, start.shape[1])), np.zeros((_NUM_SERIES, start.shape[1]))
    for row in range(start.shape[0]):
        num_evaluations[row] = _solve_orbit(rates, parameters[row], start[row], times[row], tolerance, longest_step, k, series, states[row])
