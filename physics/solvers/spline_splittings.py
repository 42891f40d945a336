"""Splitting methods on tensor-product splines in the plane, with their adjoint: what a network that predicts V is trained through.

    q' = p,    p' = -grad V(q),    V = sum_ij c_ij B_i(x) B_j(y)

Beyond the domain V is that of the nearest point in it, and springs pull back.
Steps of one length start at t = 0 and a last, shorter one ends at the query time, so a state depends on no other query. The adjoint
of the discrete motion is exact: states are computed again, and the chain rule is followed step by step, backwards (Hairer, Lubich &
Wanner, Geometric Numerical Integration, VI.4 and VI.9).

Shapes: R rows, T query times, (n1, n2) coefficients.
"""

from typing import NamedTuple

import numpy as np

from ..compiled import compiled
from ..potentials.tensor_splines import MOST, SPRING, Degree, Domain, beyond, fill_basis
from ..threads import share_rows
from .tableaux import FIXED_STEP_METHODS


class Splitting(NamedTuple):
    """Drifts (s + 1) and kicks (s), as fractions of a step, which begins and ends with a drift; steps of length `step`."""

    drifts: np.ndarray
    kicks: np.ndarray
    step: float


class Sensitivities(NamedTuple):
    """Derivatives of a loss by coefficients (R, n1, n2), initial states (R, 4) and query times (R, T)."""

    coefficients: np.ndarray
    initial: np.ndarray
    times: np.ndarray


def get_splitting(method: str, step: float) -> Splitting:
    """A splitting method of `tableaux` by its name."""
    nodes, _, _, kicks = FIXED_STEP_METHODS[method].tableau
    return Splitting(np.diff(nodes, prepend=0.0, append=1.0), kicks, step)


def solve_splines(
    coefficients: np.ndarray, domain: Domain, degree: Degree, initial: np.ndarray, times: np.ndarray, splitting: Splitting
) -> np.ndarray:
    """States (R, T, 4) at times (R, T) in any order, 0 or later, from initial states (R, 4)."""
    coefficients, initial, times = (np.ascontiguousarray(x, dtype=np.float64) for x in (coefficients, initial, times))
    order, ends, states = np.argsort(times, axis=1, kind="stable"), np.array(domain), np.empty((*times.shape, 4))

    def work(rows: slice) -> None:
        _solve_rows(coefficients[rows], ends, degree, initial[rows], times[rows], order[rows], *splitting, states[rows])

    share_rows(work, len(times), None)
    return states


def pull_back(
    coefficients: np.ndarray,
    domain: Domain,
    degree: Degree,
    initial: np.ndarray,
    times: np.ndarray,
    splitting: Splitting,
    by_states: np.ndarray,
) -> Sensitivities:
    """Derivatives of a loss, given those by the states that `solve_splines` returns, (R, T, 4)."""
    arrays = (coefficients, initial, times, by_states)
    coefficients, initial, times, by_states = (np.ascontiguousarray(x, dtype=np.float64) for x in arrays)
    order, ends = np.argsort(times, axis=1, kind="stable"), np.array(domain)
    found = Sensitivities(np.zeros_like(coefficients), np.zeros_like(initial), np.zeros_like(times))

    def work(rows: slice) -> None:
        problem = (coefficients[rows], ends, degree, initial[rows], times[rows], order[rows])
        _pull_rows(*problem, *splitting, by_states[rows], *(part[rows] for part in found))

    share_rows(work, len(times), None)
    return found


@compiled()
def _fill(c, ends, degree, y, fx, fy):
    """Basis functions and derivatives at a state y, into fx and fy; returns the indices of the first ones."""
    x_inside, y_inside = y[0] - beyond(ends[0, 0], ends[0, 1], y[0]), y[1] - beyond(ends[1, 0], ends[1, 1], y[1])
    i = fill_basis(ends[0, 0], ends[0, 1], c.shape[0], degree, x_inside, fx)
    j = fill_basis(ends[1, 0], ends[1, 1], c.shape[1], degree, y_inside, fy)
    for row in range(1, fx.shape[0]):
        if y[0] != x_inside:
            fx[row] = 0.0
        if y[1] != y_inside:
            fy[row] = 0.0
    return i, j


@compiled()
def _drift_and_kick(c, ends, degree, drift, kick, fx, fy, y):
    """Replace y by the state after a drift over a time `drift` and a kick over a time `kick`."""
    y[0] += drift * y[2]
    y[1] += drift * y[3]
    i, j = _fill(c, ends, degree, y, fx, fy)
    slope_x, slope_y = 0.0, 0.0
    for a in range(degree + 1):
        line, slope = 0.0, 0.0
        for b in range(degree + 1):
            line += fy[0, b] * c[i + a, j + b]
            slope += fy[1, b] * c[i + a, j + b]
        slope_x += fx[1, a] * line
        slope_y += fx[0, a] * slope
    y[2] -= kick * (slope_x + SPRING * beyond(ends[0, 0], ends[0, 1], y[0]))
    y[3] -= kick * (slope_y + SPRING * beyond(ends[1, 0], ends[1, 1], y[1]))


@compiled()
def _step(c, ends, degree, drifts, kicks, h, fx, fy, y):
    """Replace y by the state a time h later."""
    for s in range(kicks.size):
        _drift_and_kick(c, ends, degree, drifts[s] * h, kicks[s] * h, fx, fy, y)
    y[0] += drifts[kicks.size] * h * y[2]
    y[1] += drifts[kicks.size] * h * y[3]


@compiled()
def _pull_step(c, ends, degree, drifts, kicks, h, fx, fy, start, y, places, by_y, by_c):
    """Replace by_y, the derivatives by the state a time h after `start`, by those by `start`; add those by c to by_c.

    `y` (4,) and `places` (s, 4) are scratch. Returns the derivative by h.
    """
    y[:] = start
    stages = kicks.size
    for s in range(stages):
        _drift_and_kick(c, ends, degree, drifts[s] * h, kicks[s] * h, fx, fy, y)
        places[s] = y
    by_h = drifts[stages] * (by_y[0] * y[2] + by_y[1] * y[3])
    by_y[2] += drifts[stages] * h * by_y[0]
    by_y[3] += drifts[stages] * h * by_y[1]
    for s in range(stages - 1, -1, -1):
        i, j = _fill(c, ends, degree, places[s], fx, fy)
        slope_x, slope_y, xx, xy, yy = 0.0, 0.0, 0.0, 0.0, 0.0
        weight_x, weight_y = -kicks[s] * h * by_y[2], -kicks[s] * h * by_y[3]
        for a in range(degree + 1):
            line, slope, curve = 0.0, 0.0, 0.0
            for b in range(degree + 1):
                value = c[i + a, j + b]
                line += fy[0, b] * value
                slope += fy[1, b] * value
                curve += fy[2, b] * value
                by_c[i + a, j + b] += weight_x * fx[1, a] * fy[0, b] + weight_y * fx[0, a] * fy[1, b]
            slope_x += fx[1, a] * line
            slope_y += fx[0, a] * slope
            xx += fx[2, a] * line
            xy += fx[1, a] * slope
            yy += fx[0, a] * curve
        outside_x, outside_y = beyond(ends[0, 0], ends[0, 1], places[s, 0]), beyond(ends[1, 0], ends[1, 1], places[s, 1])
        slope_x, slope_y = slope_x + SPRING * outside_x, slope_y + SPRING * outside_y
        xx, yy = xx + (SPRING if outside_x != 0.0 else 0.0), yy + (SPRING if outside_y != 0.0 else 0.0)
        by_h -= kicks[s] * (by_y[2] * slope_x + by_y[3] * slope_y)
        by_y[0] += weight_x * xx + weight_y * xy
        by_y[1] += weight_x * xy + weight_y * yy
        before_x = places[s, 2] + kicks[s] * h * slope_x
        before_y = places[s, 3] + kicks[s] * h * slope_y
        by_h += drifts[s] * (by_y[0] * before_x + by_y[1] * before_y)
        by_y[2] += drifts[s] * h * by_y[0]
        by_y[3] += drifts[s] * h * by_y[1]
    return by_h


@compiled(nogil=True)
def _solve_rows(coefficients, ends, degree, initial, times, order, drifts, kicks, step, states):
    fx, fy = np.empty((2, MOST)), np.empty((2, MOST))
    for row in range(times.shape[0]):
        c, y, done = coefficients[row], initial[row].copy(), 0
        for place in order[row]:
            t = times[row, place]
            while (done + 1) * step <= t:
                _step(c, ends, degree, drifts, kicks, step, fx, fy, y)
                done += 1
            states[row, place] = y
            if t > done * step:
                _step(c, ends, degree, drifts, kicks, t - done * step, fx, fy, states[row, place])


@compiled(nogil=True)
def _pull_rows(coefficients, ends, degree, initial, times, order, drifts, kicks, step, by_states, by_c, by_initial, by_times):
    fx, fy, y, places, by_y = np.empty((3, MOST)), np.empty((3, MOST)), np.empty(4), np.empty((kicks.size, 4)), np.empty(4)
    for row in range(times.shape[0]):
        c = coefficients[row]
        num_steps = int(times[row].max() / step) + 1
        grid = np.empty((num_steps + 1, 4))
        grid[0] = initial[row]
        for k in range(num_steps):
            grid[k + 1] = grid[k]
            _step(c, ends, degree, drifts, kicks, step, fx[:2], fy[:2], grid[k + 1])
        total, k = by_initial[row], num_steps  # `total` are the derivatives by grid[k]
        for turn in range(order.shape[1] - 1, -1, -1):
            place = order[row, turn]
            t = times[row, place]
            while k * step > t:
                k -= 1
                _pull_step(c, ends, degree, drifts, kicks, step, fx, fy, grid[k], y, places, total, by_c[row])
            by_y[:] = by_states[row, place]
            h = t - k * step
            by_times[row, place] = _pull_step(c, ends, degree, drifts, kicks, h, fx, fy, grid[k], y, places, by_y, by_c[row])
            total += by_y
        while k > 0:
            k -= 1
            _pull_step(c, ends, degree, drifts, kicks, step, fx, fy, grid[k], y, places, total, by_c[row])
