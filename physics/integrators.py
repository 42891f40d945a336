"""Time-stepping methods for q'' = -V'(q), all of them Runge-Kutta-Nystrom tableaux.

A classical explicit Runge-Kutta method (A, b, c) applied to the pair q' = p, p' = f(q) is exactly
the Nystrom method with matrix A^2, position weights A^T b and momentum weights b, so methods here
are data and one stepper (`kernels.make_nystrom_step`) runs them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.integrate import DOP853

from .curves import CurvePotential
from .errors import InputError
from .kernels import integrate_curve, make_nystrom_step


class Potential(Protocol):
    """Anything with a value and a slope: V(q) and V'(q) for q of any shape."""

    def value(self, q: Any, /) -> Any: ...
    def gradient(self, q: Any, /) -> Any: ...


@dataclass(frozen=True)
class Integrator:
    """An explicit Nystrom method; `order` is its nominal order on smooth potentials."""

    name: str
    order: int
    tableau: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

    @property
    def num_stages(self) -> int:
        """Force evaluations a step."""
        return int(self.tableau[0].size)


def _nystrom(name: str, order: int, nodes: Sequence[float] | np.ndarray, a: Any, weights_q: Any, weights_p: Any) -> Integrator:
    arrays = (np.array(x, dtype=np.float64) for x in (nodes, a, weights_q, weights_p))
    return Integrator(name, order, tuple(np.ascontiguousarray(x) for x in arrays))  # type: ignore[arg-type]


def _runge_kutta(name: str, order: int, nodes: Sequence[float] | np.ndarray, a: Any, weights: Any) -> Integrator:
    matrix, b = np.array(a, dtype=np.float64), np.array(weights, dtype=np.float64)
    return _nystrom(name, order, nodes, matrix @ matrix, b @ matrix, b)


INTEGRATORS: dict[str, Integrator] = {
    method.name: method
    for method in (
        _runge_kutta(
            "rk4",
            4,
            nodes=[0, 1 / 2, 1 / 2, 1],
            a=[[0, 0, 0, 0], [1 / 2, 0, 0, 0], [0, 1 / 2, 0, 0], [0, 0, 1, 0]],
            weights=[1 / 6, 1 / 3, 1 / 3, 1 / 6],
        ),
        _runge_kutta("dop853", 8, nodes=DOP853.C[:12], a=DOP853.A[:12, :12], weights=DOP853.B),
        _nystrom("stormer-verlet", 2, nodes=[0, 1], a=[[0, 0], [1 / 2, 0]], weights_q=[1 / 2, 0], weights_p=[1 / 2, 1 / 2]),
        # What the solver behind the published "RK4" figures computed: a reused stage index left one
        # effective force evaluation and a position weight of 5/12, so the scheme is of first order.
        # It exists only to reproduce those figures under a name that says so.
        _nystrom("rk4-as-published", 1, nodes=[0], a=[[0]], weights_q=[5 / 12], weights_p=[1]),
    )
}


def get_integrator(name: str) -> Integrator:
    """The method called `name`; InputError names the choices."""
    if name not in INTEGRATORS:
        raise InputError(f"integrator is {name!r}; choose one of {', '.join(sorted(INTEGRATORS))}")
    return INTEGRATORS[name]


def count_substeps(times: np.ndarray, max_step: float) -> np.ndarray:
    """Equal steps in each interval (0, times[0]), (times[0], times[1]), ... so that none exceeds `max_step`."""
    gaps = np.diff(times, prepend=0.0)
    if np.any(gaps < 0):
        raise InputError("times must be sorted and not negative")
    return np.maximum(1, np.ceil(gaps / max_step - 1e-9)).astype(np.int64)


def integrate(
    potential: Potential, q0: float, p0: float, times: np.ndarray, *, method: str = "rk4", max_step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Solve q' = p, p' = -V'(q) from (q0, p0) at t = 0.

    Parameters
    ----------
    potential
        A `CurvePotential` runs compiled; any other `Potential` runs the same step in Python.
    times
        Shape (T,), sorted, starting at or after 0.
    max_step
        Every interval between query times is cut into equal steps no longer than this.

    Returns
    -------
    q, p
        Shape (T,) each.

    Raises
    ------
    InputError
        For an unknown method, unsorted times or a step that is not positive.
    """
    if not max_step > 0:
        raise InputError(f"max_step is {max_step}; it must be positive")
    times = np.ascontiguousarray(times, dtype=np.float64)
    tableau = get_integrator(method).tableau
    substeps = count_substeps(times, max_step)
    if isinstance(potential, CurvePotential):
        return integrate_curve(potential.curve, tableau, float(q0), float(p0), times, substeps)
    return _integrate_callable(potential, tableau, q0, p0, times, substeps)


def _integrate_callable(
    potential: Potential, tableau: Any, q0: float, p0: float, times: np.ndarray, substeps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    step = make_nystrom_step(lambda v, q: -v.gradient(q))
    qs, ps = np.empty(times.size), np.empty(times.size)
    q, p, t = q0, p0, 0.0
    for i in range(times.size):
        h = (times[i] - t) / substeps[i]
        for _ in range(substeps[i]):
            q, p = step(potential, tableau, q, p, h)
        qs[i], ps[i], t = q, p, times[i]
    return qs, ps
