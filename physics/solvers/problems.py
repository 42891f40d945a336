"""What all solvers share: potentials, the shapes of a problem and of its solution, and the steps between query times.

Shapes: B orbits, T query times.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import InputError
from ..potentials.curves import Curves


class Potential(Protocol):
    """Anything with a value and a slope: V(q) and V'(q) for q of any shape."""

    def value(self, q: Any, /) -> Any: ...
    def gradient(self, q: Any, /) -> Any: ...


class Solution(NamedTuple):
    """q, p (B, T) of B orbits and the number of forces evaluated for each, (B,); without the B for a single orbit."""

    q: np.ndarray
    p: np.ndarray
    num_evaluations: np.ndarray


def read_orbits(q0: Any, p0: Any, times: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q0, p0 (B,) and times (B, T) as float64; times may be given as (T,). InputError for shapes that do not fit."""
    q0, p0, times = (as_kernel_array(x) for x in (q0, p0, times))
    if q0.ndim != 1 or q0.shape != p0.shape:
        raise InputError(f"q0 and p0 have shapes {q0.shape} and {p0.shape}; give two numbers, or two arrays of the same shape (B,)")
    if times.ndim not in (1, 2) or (times.ndim == 2 and times.shape[0] != q0.size):
        raise InputError(f"times have shape {times.shape}; give (T,) or ({q0.size}, T)")
    if times.ndim == 1:
        times = times[None] if q0.size == 1 else np.tile(times, (q0.size, 1))
    return q0, p0, times


def as_kernel_array(values: Any) -> np.ndarray:
    """The values as float64, contiguous and writeable: so compiled code is compiled for one kind of array only."""
    array = np.asarray(values, dtype=np.float64)
    return array if array.flags.carray else array.copy(order="C")


def check_times(times: np.ndarray) -> np.ndarray:
    """The lengths (..., T) of the intervals (0, times[0]), (times[0], times[1]), ... of times (..., T).

    Raises InputError unless times are sorted along the last axis and not negative.
    """
    gaps = times.copy()
    gaps[..., 1:] -= times[..., :-1]
    if not (gaps >= 0.0).all():
        raise InputError("times must be sorted and not negative")
    return gaps


def count_substeps(times: np.ndarray, step: float) -> np.ndarray:
    """Equal steps in each interval (0, times[0]), (times[0], times[1]), ... so that none exceeds `step`, (..., T) -> (..., T)."""
    return np.maximum(1, np.ceil(check_times(times) / step - 1e-9)).astype(np.int64)


def curves_of(curves: Curves, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arrays of the curves of some orbits, as compiled kernels take them; a single curve serves all orbits."""
    part = curves if len(curves) == 1 else curves.take(rows)
    return part.poly_q, part.poly_v, part.num_pieces
