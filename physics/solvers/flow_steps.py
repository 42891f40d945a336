"""Fixed steps along any flow y' = f(y), compiled; flows as in `flows`, where y = (q, p).

Runge-Kutta methods take every flow, implicit ones too. Splitting methods, such as Störmer-Verlet, need q' = p and p' = f(q): they are
run as the Nyström tableaux of `tableaux`.

Shapes: R orbits, T query times, n components of y, m parameters, s stages.
"""

import numpy as np
from numba import types

from ..compiled import compiled
from ..errors import InputError
from ..threads import share_rows
from .flows import RATES, Rates, ready
from .problems import as_kernel_array, count_substeps
from .tableaux import FIXED_STEP_METHODS

_ROOT_3 = np.sqrt(3.0)
RUNGE_KUTTA = {  # stages (s, s) and weights (s,)
    "rk4": (np.diag([0.5, 0.5, 1.0], -1), np.array([1.0, 2.0, 2.0, 1.0]) / 6.0),
    "gauss-legendre4": (np.array([[1 / 4, 1 / 4 - _ROOT_3 / 6], [1 / 4 + _ROOT_3 / 6, 1 / 4]]), np.array([1 / 2, 1 / 2])),
}
FLOW_SPLITTINGS = ("stormer-verlet", "yoshida4")
FLOW_METHODS = (*RUNGE_KUTTA, *FLOW_SPLITTINGS)
_MAX_SWEEPS, _SWEPT = 60, 1e-15  # of an implicit step, and the change relative to the step's length at which it is done

_Vector, _Matrix = types.Array(types.float64, 1, "C"), types.Array(types.float64, 2, "C")
_Counts = types.Array(types.int64, 2, "C")
_ORBITS = types.void(
    types.FunctionType(RATES),
    types.boolean,
    _Matrix,
    _Vector,
    _Vector,
    _Vector,
    _Matrix,
    _Matrix,
    _Matrix,
    _Counts,
    types.Array(types.float64, 3, "C"),
    types.Array(types.int64, 1, "C"),
)


def solve_flow_steps(
    rates: Rates, parameters: np.ndarray, start: np.ndarray, times: np.ndarray, method: str, step: float, num_threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """States (R, T, n) at sorted times (R, T) from `start` (R, n), and the rates evaluated (R,).

    Every interval between times is cut into equal steps of at most `step`. An orbit's numbers depend neither on the others nor on
    the number of threads; they are inf or nan where the method runs away. InputError for an unknown method.
    """
    if method not in FLOW_METHODS:
        raise InputError(f"method is {method!r}; choose one of {', '.join(FLOW_METHODS)}")
    parameters, start, times = (as_kernel_array(x) for x in (parameters, start, times))
    substeps = count_substeps(times, step)
    states, num_evaluations = np.empty((*times.shape, start.shape[1])), np.zeros(len(start), dtype=np.int64)
    if method in RUNGE_KUTTA:
        matrix, weights = RUNGE_KUTTA[method]
        tableau = (False, matrix, np.zeros(0), weights, weights)
    else:
        nodes, matrix, weights_q, weights_p = FIXED_STEP_METHODS[method].tableau
        tableau = (True, matrix, nodes, weights_q, weights_p)
    solver, pointer = ready(_step_orbits, _ORBITS), ready(rates, RATES)

    def work(rows: slice) -> None:
        solver(pointer, *tableau, parameters[rows], start[rows], times[rows], substeps[rows], states[rows], num_evaluations[rows])

    share_rows(work, len(start), num_threads)
    return states, num_evaluations


@compiled()
def _runge_kutta_step(rates, parameters, a, b, k, place, y, h):
    """Replace y by the state a time h later; returns the rates evaluated. `k` (s, n) and `place` (n,) are scratch."""
    stages, n = k.shape
    implicit = a[0, stages - 1] != 0.0 or a[0, 0] != 0.0
    if implicit:
        rates(parameters, y, k[0])
        for s in range(1, stages):
            k[s] = k[0]
    sweeps = 0
    while sweeps < (_MAX_SWEEPS if implicit else 1):
        sweeps += 1
        change, size = 0.0, 1e-300
        for s in range(stages):
            for c in range(n):
                total = 0.0
                for j in range(stages if implicit else s):
                    total += a[s, j] * k[j, c]
                total = y[c] + h * total
                change, size = max(change, abs(total - place[s, c])), max(size, abs(total))
                place[s, c] = total
            rates(parameters, place[s], k[s])
        if sweeps > 1 and not change > _SWEPT * size:
            break
    for s in range(stages):
        for c in range(n):
            y[c] += h * b[s] * k[s, c]
    return sweeps * stages + (1 if implicit else 0)


@compiled()
def _nystrom_step(rates, parameters, a, nodes, weights_q, weights_p, k, place, y, h):
    """The same for an explicit Nyström tableau, of q'' = f(q)."""
    stages, half = nodes.size, y.size // 2
    rate = k[stages]
    for s in range(stages):
        for c in range(half):
            total = 0.0
            for j in range(s):
                total += a[s, j] * k[j, c]
            place[0, c] = y[c] + h * (nodes[s] * y[half + c] + h * total)
            place[0, half + c] = y[half + c]
        rates(parameters, place[0], rate)
        for c in range(half):
            k[s, c] = rate[half + c]
    for c in range(half):
        by_q, by_p = 0.0, 0.0
        for s in range(stages):
            by_q += weights_q[s] * k[s, c]
            by_p += weights_p[s] * k[s, c]
        y[c] += h * (y[half + c] + h * by_q)
        y[half + c] += h * by_p
    return stages


@compiled(nogil=True)
def _step_orbits(rates, nystrom, a, nodes, weights_q, weights_p, parameters, start, times, substeps, states, num_evaluations):
    """Fill states (R, T, n) and num_evaluations (R,)."""
    stages, n = a.shape[0], start.shape[1]
    k, place = np.zeros((stages + 1, n)), np.zeros((stages, n))
    for row in range(start.shape[0]):
        y, t = start[row].copy(), 0.0
        for i in range(times.shape[1]):
            h = (times[row, i] - t) / substeps[row, i]
            for _ in range(substeps[row, i]):
                if nystrom:
                    num_evaluations[row] += _nystrom_step(rates, parameters[row], a, nodes, weights_q, weights_p, k, place, y, h)
                else:
                    num_evaluations[row] += _runge_kutta_step(rates, parameters[row], a, weights_p, k[:stages], place, y, h)
            t = times[row, i]
            states[row, i] = y
