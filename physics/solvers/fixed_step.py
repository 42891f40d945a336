"""Solving q' = p, p' = -V'(q) by any method under one interface: one orbit, or a compiled batch of them."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.integrate import solve_ivp

from ..errors import InputError
from ..kernels import integrate_curve, integrate_curves, make_nystrom_step
from ..potentials.curves import CurvePotential
from .methods import INTEGRATORS, Integrator, Tableau, get_integrator

__all__ = [
    "ADAPTIVE",
    "INTEGRATORS",
    "BatchSolution",
    "Integrator",
    "Potential",
    "count_substeps",
    "get_integrator",
    "integrate",
    "integrate_batch",
    "integrate_batch_counted",
]

ADAPTIVE = ("scipy-dop853",)  # methods that choose their steps to meet a tolerance; not compiled
_ORBITS_PER_CHUNK = 64  # of a batch, handed to a thread at a time


class Potential(Protocol):
    """Anything with a value and a slope: V(q) and V'(q) for q of any shape."""

    def value(self, q: Any, /) -> Any: ...
    def gradient(self, q: Any, /) -> Any: ...


class BatchSolution(NamedTuple):
    """q, p (B, T) of B orbits and the number of forces evaluated for each, (B,)."""

    q: np.ndarray
    p: np.ndarray
    num_evaluations: np.ndarray


def count_substeps(times: np.ndarray, max_step: float) -> np.ndarray:
    """Equal steps in each interval (0, times[0]), (times[0], times[1]), ... so that none exceeds `max_step`.

    times (..., T), sorted along the last axis -> (..., T).
    """
    gaps = np.diff(times, prepend=0.0)
    if not np.all(gaps >= 0):
        raise InputError("times must be sorted and not negative")
    return np.maximum(1, np.ceil(gaps / max_step - 1e-9)).astype(np.int64)


def integrate(
    potential: Potential,
    q0: float,
    p0: float,
    times: np.ndarray,
    *,
    method: str = "rk4",
    max_step: float | None = None,
    tolerance: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Solve q' = p, p' = -V'(q) from (q0, p0) at t = 0.

    Parameters
    ----------
    potential
        A `CurvePotential` runs compiled; any other `Potential` runs the same step in Python.
    times
        Shape (T,), sorted, starting at or after 0.
    method
        A name of `INTEGRATORS` (fixed steps) or `ADAPTIVE`.
    max_step
        For fixed steps: every interval between query times is cut into equal steps no longer than this.
    tolerance
        For adaptive methods: the relative and absolute tolerance of a step.

    Returns
    -------
    q, p
        Shape (T,) each; nan from where an implicit method could not solve its stages or numbers overflowed.

    Raises
    ------
    InputError
        For an unknown method, unsorted times, a step or tolerance that is missing, not positive or of the other kind.
    """
    times = np.ascontiguousarray(times, dtype=np.float64)
    if method in ADAPTIVE:
        _check_setting(method, "tolerance", tolerance, "max_step", max_step)
        count_substeps(times, 1.0)  # refuses unsorted times
        return _integrate_adaptive(potential, float(q0), float(p0), times, float(tolerance))  # type: ignore[arg-type]
    tableau = _fixed_step(method, max_step, tolerance).tableau
    substeps = count_substeps(times, float(max_step))  # type: ignore[arg-type]
    if isinstance(potential, CurvePotential):
        return integrate_curve(potential.curve, tableau, float(q0), float(p0), times, substeps)
    return _integrate_callable(potential, tableau, float(q0), float(p0), times, substeps)


def integrate_batch(
    curves: CurvePotential | Sequence[CurvePotential],
    q0: np.ndarray,
    p0: np.ndarray,
    times: np.ndarray,
    *,
    method: str = "rk4",
    max_step: float,
    num_threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`integrate` for B orbits at once, compiled, by a fixed-step method; q, p (B, T). See `integrate_batch_counted`."""
    solution = integrate_batch_counted(curves, q0, p0, times, method=method, max_step=max_step, num_threads=num_threads)
    return solution.q, solution.p


def integrate_batch_counted(
    curves: CurvePotential | Sequence[CurvePotential],
    q0: np.ndarray,
    p0: np.ndarray,
    times: np.ndarray,
    *,
    method: str = "rk4",
    max_step: float,
    num_threads: int | None = None,
) -> BatchSolution:
    """B orbits at once, compiled, with what each cost in forces evaluated.

    Each orbit is computed by one thread exactly as `integrate` computes it, so neither the batch nor the
    number of threads changes a bit of it. Threads of Python, not of Numba, share the work: they are safe
    under servers with threads and in forked workers, where Numba's own pool may abort the process.

    Parameters
    ----------
    curves
        One curve for all orbits, or B of them.
    q0, p0
        Shape (B,).
    times
        Shape (T,) or (B, T), sorted, starting at or after 0.
    num_threads
        By default as many as this process has CPUs.

    Raises
    ------
    InputError
        As `integrate`, and for shapes that do not fit.
    """
    tableau = _fixed_step(method, max_step, None).tableau
    packed, offsets, which, q0, p0, times = prepare_batch(curves, q0, p0, times)
    substeps = count_substeps(times, float(max_step))
    solution = BatchSolution(np.empty(times.shape), np.empty(times.shape), np.empty(which.size, dtype=np.int64))

    def solve(rows: slice) -> None:
        orbits = (q0[rows], p0[rows], times[rows], substeps[rows])
        integrate_curves(packed, offsets, which[rows], tableau, *orbits, *(part[rows] for part in solution))

    share_rows(solve, which.size, num_threads)
    return solution


def prepare_batch(
    curves: CurvePotential | Sequence[CurvePotential], q0: np.ndarray, p0: np.ndarray, times: np.ndarray
) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What compiled kernels take of B orbits: the arrays of all curves end to end, where each starts, which one each
    orbit takes (B,), q0 (B,), p0 (B,) and times (B, T). Raises InputError for shapes that do not fit.
    """
    q0, p0 = (np.ascontiguousarray(x, dtype=np.float64) for x in (q0, p0))
    if q0.ndim != 1 or q0.shape != p0.shape:
        raise InputError(f"q0 and p0 have shapes {q0.shape} and {p0.shape}; give two of the same shape (B,)")
    times = np.asarray(times, dtype=np.float64)
    if times.ndim not in (1, 2) or (times.ndim == 2 and times.shape[0] != q0.size):
        raise InputError(f"times have shape {times.shape}; give (T,) or ({q0.size}, T)")
    times = np.ascontiguousarray(np.broadcast_to(times, (q0.size, times.shape[-1])))
    return *_pack(curves, q0.size), q0, p0, times


def share_rows(solve: Callable[[slice], None], num_rows: int, num_threads: int | None) -> None:
    """Call `solve` on chunks of rows from threads, by default as many as this process has CPUs."""
    chunks = [slice(first, first + _ORBITS_PER_CHUNK) for first in range(0, num_rows, _ORBITS_PER_CHUNK)]
    num_threads = min(num_threads or _num_cpus(), len(chunks))
    if num_threads > 1:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(solve, chunks))
    else:
        solve(slice(None))


def _num_cpus() -> int:
    """CPUs this process may use; not every system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_setting(method: str, name: str, value: float | None, other: str, other_value: float | None) -> None:
    if other_value is not None:
        raise InputError(f"{other} is {other_value}, but integrator {method!r} takes {name} instead")
    if value is None or not 0 < value < np.inf:
        raise InputError(f"{name} is {value}; integrator {method!r} needs it to be positive")


def _fixed_step(method: str, max_step: float | None, tolerance: float | None) -> Integrator:
    if method not in INTEGRATORS:
        raise InputError(f"integrator is {method!r}; choose one of {', '.join([*sorted(INTEGRATORS), *ADAPTIVE])}")
    _check_setting(method, "max_step", max_step, "tolerance", tolerance)
    return INTEGRATORS[method]


def _pack(curves: CurvePotential | Sequence[CurvePotential], num_orbits: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """The arrays of all curves end to end, where each starts, and which one each orbit takes."""
    if isinstance(curves, CurvePotential):
        distinct, which = [curves], np.zeros(num_orbits, dtype=np.int64)
    else:
        distinct, which = list(curves), np.arange(num_orbits)
        if len(distinct) != num_orbits:
            raise InputError(f"curves are {len(distinct)}, orbits {num_orbits}; give one curve for all or one for each")
    offsets = np.cumsum([0, *(len(curve.poly_q) for curve in distinct)])
    columns = (
        zip(*(curve.curve for curve in distinct), strict=True) if distinct else ([np.empty(0)], [np.empty((0, 4))], [np.empty((0, 4))])
    )
    return tuple(np.ascontiguousarray(np.concatenate(arrays)) for arrays in columns), offsets, which


def _integrate_callable(
    potential: Potential, tableau: Tableau, q0: float, p0: float, times: np.ndarray, substeps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    step = make_nystrom_step(lambda v, _, q: -v.gradient(q))
    nodes, a, weights_q, weights_p = tableau
    scratch = np.zeros(nodes.size)
    qs, ps = np.empty(times.size), np.empty(times.size)
    q, p, t = q0, p0, 0.0
    for i in range(times.size):
        h = (times[i] - t) / substeps[i]
        for _ in range(substeps[i]):
            q, p, _ = step(potential, None, nodes, a, weights_q, weights_p, scratch, q, p, h)
        qs[i], ps[i], t = q, p, times[i]
    return qs, ps


def _integrate_adaptive(potential: Potential, q0: float, p0: float, times: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """SciPy's DOP853 with its own step control; nan after the time where it gives up."""

    def slope(_: float, state: np.ndarray) -> list[float]:
        return [state[1], -float(potential.gradient(state[0]))]

    asked, positions = np.unique(times, return_inverse=True)  # SciPy wants its times distinct
    states = np.full((2, asked.size), np.nan)
    states[:, asked == 0.0] = [[q0], [p0]]
    later = asked > 0.0
    if later.any():
        solution = solve_ivp(slope, (0.0, asked[-1]), [q0, p0], "DOP853", t_eval=asked[later], rtol=tolerance, atol=tolerance)
        num_solved = solution.y.shape[1] if solution.y.size else 0
        states[:, np.flatnonzero(later)[:num_solved]] = solution.y[:, :num_solved] if num_solved else 0.0
    return states[0, positions], states[1, positions]
