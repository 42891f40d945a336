"""Fixed-step methods on cubic curves, compiled, and on any potential, in Python: one Runge-Kutta-Nystrom step for all of them."""

import numpy as np
from numba import njit

from ..compiled import compiled
from ..potentials.cubics import continue_beyond_ends, pack, search
from ..potentials.curves import Curves
from ..threads import share_rows
from .nystrom import make_nystrom_step
from .problems import Potential, Solution, count_substeps, curves_of
from .tableaux import Tableau

_MAX_TRACKING_STEPS = 4  # Halley steps from the last result; beyond, the safeguarded search is quicker


def solve_curves(
    curves: Curves, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, tableau: Tableau, step: float, num_threads: int | None
) -> Solution:
    """B orbits from q0, p0 (B,) at times (B, T); every interval between times is cut into equal steps of at most `step`."""
    substeps = count_substeps(times, step)
    solution = Solution(np.empty(times.shape), np.empty(times.shape), np.empty(q0.size, dtype=np.int64))

    def work(rows: slice) -> None:
        orbits = (q0[rows], p0[rows], times[rows], substeps[rows])
        _integrate_orbits(*curves_of(curves, rows), tableau, *orbits, *(part[rows] for part in solution))

    share_rows(work, q0.size, num_threads)
    return solution


def solve_orbit(
    potential: Potential, q0: float, p0: float, times: np.ndarray, tableau: Tableau, step: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """One orbit of any potential at times (T,), in Python: q, p (T,) and the number of forces evaluated."""
    nystrom_step = make_nystrom_step(lambda v, _, q: -v.gradient(q))
    nodes, a, weights_q, weights_p = tableau
    substeps, scratch = count_substeps(times, step), np.zeros(nodes.size)
    qs, ps = np.empty(times.size), np.empty(times.size)
    q, p, t, num_evaluations = q0, p0, 0.0, 0
    for i in range(times.size):
        h = (times[i] - t) / substeps[i]
        for _ in range(substeps[i]):
            q, p, n = nystrom_step(potential, None, nodes, a, weights_q, weights_p, scratch, q, p, h)
            num_evaluations += n
        qs[i], ps[i], t = q, p, times[i]
    return qs, ps, num_evaluations


@compiled(forceinline=True)
def _tracked_force(rows, cursor, q):
    """-V'(q), starting from where the last call ended: consecutive stages of a solver are close together.

    `cursor` (4,) is the piece of the last call, its u, its q and du/dq there.
    """
    m = int(cursor[0])
    near = rows[m, 0] <= q < rows[m + 1, 0]
    u = 0.0
    if not near:
        m, u = search(rows, q)
    c0, c1, c2, c3 = rows[m, 1], rows[m, 2], rows[m, 3], rows[m, 4]
    if c2 == 0.0 and c3 == 0.0:
        inverse = 1.0 / c1
        u = (q - c0) * inverse
    else:
        if near:
            # u of q to second order about the last result, then Halley's iteration: one division a step.
            shift, last, inverse = q - cursor[2], cursor[1], cursor[3]
            shift *= inverse
            u = last + shift - shift * shift * inverse * (c2 + 3.0 * c3 * last)
            found = False
            for _ in range(_MAX_TRACKING_STEPS):
                residual = c0 + u * (c1 + u * (c2 + u * c3)) - q
                slope = c1 + u * (2.0 * c2 + 3.0 * u * c3)
                step = residual * slope / (slope * slope - residual * (c2 + 3.0 * u * c3))
                u -= step
                if abs(step) <= 3e-7:  # cubic convergence: the u just formed is exact to rounding
                    found = -1e-9 <= u <= 1.0 + 1e-9  # the cubic may have other roots outside its piece
                    break
            if not found:
                u = search(rows, q)[1]
        inverse = 1.0 / (c1 + u * (2.0 * c2 + 3.0 * u * c3))
    cursor[0], cursor[1], cursor[2], cursor[3] = m, u, q, inverse
    return -(rows[m, 5] + u * (rows[m, 6] + u * rows[m, 7])) * inverse


_tracked_step = njit(error_model="numpy", forceinline=True)(make_nystrom_step(_tracked_force))


@compiled()
def _integrate_orbit(poly_q, poly_v, tableau, q0, p0, times, substeps, qs, ps):
    """Fill qs, ps (T,) with the states at `times`, in substeps[i] equal steps before times[i]; returns evaluations."""
    nodes, a, weights_q, weights_p = tableau
    knots, all_q, all_v = continue_beyond_ends(poly_q, poly_v)
    rows = pack(knots, all_q, all_v)
    cursor = np.zeros(4)
    m, u = search(rows, q0)
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


@compiled(nogil=True)
def _integrate_orbits(poly_q, poly_v, num_pieces, tableau, q0, p0, times, substeps, qs, ps, num_evaluations):
    """Fill qs, ps (B, T) and num_evaluations (B,), orbit b in curve b, or all in the only curve."""
    for b in range(q0.size):
        i = b if num_pieces.size > 1 else 0
        n = num_pieces[i]
        num_evaluations[b] = _integrate_orbit(poly_q[i, :n], poly_v[i, :n], tableau, q0[b], p0[b], times[b], substeps[b], qs[b], ps[b])
