"""Solvers and interpolation for a system that brings none of its own: any H, any number of degrees of freedom.

Certification steps with the eighth-order tableau of Dormand and Prince at fixed steps, all rows side by side, and halves the
steps until each row has converged. The reference is SciPy's adaptive DOP853, row by row, which shares only the coefficients.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from scipy.integrate import DOP853, solve_ivp

from ..compiled import compiled
from ..diagnostics import jacobian_by_differences
from ..errors import InputError
from ..potentials.tensor_splines import Degree, TensorSplines, pack_planes, plane_terms
from ..solvers.certify import Rejection, Trajectories
from ..solvers.flow_steps import RUNGE_KUTTA
from ..solvers.flows import Rates, certify_flow

if TYPE_CHECKING:
    from .base import System


class Solved(NamedTuple):
    """q, p of R orbits, (R, T) or (R, T, d), and the error of any number of an orbit (R,) by how it changes; inf where that is unknown."""

    q: np.ndarray
    p: np.ndarray
    error: np.ndarray


class Scheme(NamedTuple):
    """The coefficients of an explicit Runge-Kutta scheme: stages (s, s) and weights (s,)."""

    stages: np.ndarray
    weights: np.ndarray

    @property
    def num_stages(self) -> int:
        return self.weights.size


ORDER_8 = Scheme(DOP853.A[:12, :12], DOP853.B)  # Dormand and Prince
RK4 = Scheme(*RUNGE_KUTTA["rk4"])
_MAX_HALVINGS = 8
_MARGIN = 0.1  # of the domain's width, beyond its ends: a coarse solution may overshoot
_INSTANT = 1e-5  # over which the rates are differenced; the horizon is of order 1
_TANGENT_TOLERANCE = 1e-10
_REFERENCE: dict[str, Any] = {"rtol": 1e-13, "atol": 1e-15, "max_step": 0.01}
_PLAIN: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
_CLOSE = 1e-6  # by which orbits that are solved again may still change
_COMPILED_STEPS, _PYTHON_STEPS = 2_000, 400  # over the horizon, at least, in potentials with features of any width


def certify(
    hamiltonians: Any,
    q0: np.ndarray,
    p0: np.ndarray,
    times: np.ndarray,
    *,
    domain: tuple[tuple[float, float], ...],
    energy_scale: np.ndarray,
    tolerance: float,
) -> Trajectories:
    """R orbits at sorted times (R, T), with the change in the last halving of the steps as the bound on their error.

    Orbits that leave the domain are rejected. Energy drifts are relative to `energy_scale` (R,). At order 8 the finer solution,
    which is kept, is about 255 times better than its certificate. No row depends on another.
    """
    q0, p0, times = (np.ascontiguousarray(x, dtype=np.float64) for x in (q0, p0, times))
    num_rows = len(times)
    shape = (*times.shape, *q0.shape[1:])
    q, p, error = np.empty(shape), np.empty(shape), np.full(num_rows, np.inf)
    low, high = np.array(domain).T
    margin = _MARGIN * (high - low)
    outside = np.zeros(num_rows, dtype=bool)
    pending = np.arange(num_rows)
    for halving in range(_MAX_HALVINGS + 1):
        with np.errstate(all="ignore"):  # an orbit that leaves the domain may go anywhere
            fine_q, fine_p = integrate(hamiltonians.take(pending), q0[pending], p0[pending], times[pending], 2**halving)
            if halving:
                change = np.maximum(*(np.abs(a - b[pending]).reshape(pending.size, -1).max(axis=1) for a, b in ((fine_q, q), (fine_p, p))))
                error[pending] = np.where(np.isfinite(change), change, np.inf)
        q[pending], p[pending] = fine_q, fine_p
        places = fine_q.reshape(pending.size, -1, len(domain))
        outside[pending] = ~((places >= low - margin) & (places <= high + margin)).all(axis=(1, 2))
        pending = pending[error[pending] > tolerance]
        if not pending.size:
            break
    energy = hamiltonians.energy(q0, p0)
    with np.errstate(all="ignore"):
        drift = np.abs(hamiltonians.energy(q, p) - energy[:, None]).max(axis=1) / energy_scale
    reasons = [_reason(bool(out), float(e), tolerance) for out, e in zip(outside, error, strict=True)]
    return Trajectories(times, q, p, energy, error, drift, reasons)


def _reason(outside: bool, error: float, tolerance: float) -> Rejection | None:
    if outside:
        return Rejection.POSITION_OUT_OF_RANGE
    return None if error <= tolerance else Rejection.NOT_CERTIFIED


def integrate(
    hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, num_steps: int, scheme: Scheme = ORDER_8
) -> tuple[np.ndarray, np.ndarray]:
    """q, p at sorted times (R, T), in `num_steps` equal steps between neighbouring times."""
    q, p = q0.copy(), p0.copy()
    qs, ps = np.empty((*times.shape, *q0.shape[1:])), np.empty((*times.shape, *q0.shape[1:]))
    widen = (slice(None), *[None] * (q0.ndim - 1))
    before = np.zeros(len(times))
    for i in range(times.shape[1]):
        h = ((times[:, i] - before) / num_steps)[widen]
        for _ in range(num_steps):
            q, p = _step(hamiltonians, q, p, h, scheme)
        before = times[:, i]
        qs[:, i], ps[:, i] = q, p
    return qs, ps


def _step(hamiltonians: Any, q: np.ndarray, p: np.ndarray, h: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    rates_q: list[np.ndarray] = []
    rates_p: list[np.ndarray] = []
    for stage in range(scheme.num_stages):
        weights = scheme.stages[stage, :stage]
        by_q, by_p = hamiltonians.gradient(q + h * _weighted(weights, rates_q), p + h * _weighted(weights, rates_p))
        rates_q.append(by_p)
        rates_p.append(-by_q)
    return q + h * _weighted(scheme.weights, rates_q), p + h * _weighted(scheme.weights, rates_p)


def _weighted(weights: np.ndarray, rates: list[np.ndarray]) -> Any:
    """The weighted sum, term by term: a matrix product may round a row by its neighbours."""
    return sum((w * rate for w, rate in zip(weights, rates, strict=True) if w), 0.0)


def rates(hamiltonians: Any, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """dq/dt and dp/dt by Hamilton's equations at states along trajectories, (R, T) or (R, T, d)."""
    columns = [hamiltonians.gradient(q[:, t], p[:, t]) for t in range(q.shape[1])]
    by_q, by_p = (np.stack([column[i] for column in columns], axis=1) for i in (0, 1))
    return by_p, -by_q


def second_rates(hamiltonians: Any, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d²q/dt² and d²p/dt² there: the change of `rates` along the motion, by a central difference."""
    rate_q, rate_p = rates(hamiltonians, q, p)
    ahead, behind = (rates(hamiltonians, q + h * rate_q, p + h * rate_p) for h in (_INSTANT, -_INSTANT))
    second_q, second_p = ((a - b) / (2.0 * _INSTANT) for a, b in zip(ahead, behind, strict=True))
    return second_q, second_p


def tangents(system: "System", hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> np.ndarray:
    """d(q, p) / d(q0, p0) of certified orbits at sorted times (R, T), by differences: (R, T, 2d, 2d)."""

    def flow(start_q: np.ndarray, start_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(len(start_q)) % len(times)
        moved = system.certify(
            hamiltonians.take(rows), start_q, start_p, times[rows], method=system.methods[0], tolerance=_TANGENT_TOLERANCE
        )
        return moved.q, moved.p

    return jacobian_by_differences(flow, q0, p0)


def reference(hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """q, p of R orbits at sorted times (R, T) by SciPy's DOP853 at a relative tolerance of 1e-13."""
    return _solve_rows(hamiltonians, q0, p0, times, _REFERENCE)


def solve(hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """q, p of R orbits at sorted times (R, T) by SciPy's DOP853 at a tolerance of 1e-10, without a certificate."""
    return _solve_rows(hamiltonians, q0, p0, times, _PLAIN)


def solve_closely(hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, horizon: float) -> Solved:
    """q, p of R orbits at sorted times (R, T), solved with tighter tolerances until they agree; steps are fractions of the horizon at most.

    The steps of Hamiltonians with a compiled `flow` are shorter than those of the others.
    """
    if getattr(hamiltonians, "flow", None) is not None:
        start = np.concatenate([x.reshape(len(times), -1) for x in (q0, p0)], axis=1)
        longest = horizon / _COMPILED_STEPS
        states, error = certify_flow(hamiltonians.flow, hamiltonians.packed, start, times, _CLOSE, longest_step=longest)
        q, p = (half.reshape(*times.shape, *q0.shape[1:]) for half in np.split(states, 2, axis=-1))
        return Solved(q, p, error)
    coarse, fine = (
        _solve_rows(hamiltonians, q0, p0, times, {"rtol": tolerance, "atol": tolerance, "max_step": horizon / _PYTHON_STEPS})
        for tolerance in (_CLOSE, _PLAIN["rtol"])
    )
    return Solved(*fine, largest_difference(coarse, fine))


def largest_difference(states: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The largest difference of any q or p of a row, (R,); inf where a number is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        parts = [np.abs(a - b).reshape(len(a), -1).max(axis=1) for a, b in zip(states, others, strict=True)]
    largest = np.maximum(*parts)
    return np.where(np.isfinite(largest), largest, np.inf)


def _solve_rows(
    hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, options: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    parts = [_solve_row(hamiltonians.take(np.array([row])), q0[row], p0[row], times[row], options) for row in range(len(times))]
    return np.stack([q for q, _ in parts]), np.stack([p for _, p in parts])


def _solve_row(hamiltonian: Any, q0: Any, p0: Any, times: np.ndarray, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    shape = np.shape(q0)
    size = int(np.prod(shape))

    def rates(_: float, state: np.ndarray) -> np.ndarray:
        by_q, by_p = hamiltonian.gradient(*(half.reshape(1, *shape) for half in np.split(state, 2)))
        return np.concatenate([by_p.ravel(), -by_q.ravel()])

    start = np.concatenate([np.ravel(q0), np.ravel(p0)])
    distinct, places = np.unique(times, return_inverse=True)  # SciPy wants its times distinct
    states = np.full((distinct.size, start.size), np.nan)  # nan from where SciPy gives up
    states[distinct == 0.0] = start
    later = np.flatnonzero(distinct > 0.0)
    if later.size:
        solved = np.asarray(solve_ivp(rates, (0.0, float(times[-1])), start, "DOP853", t_eval=distinct[later], **options).y)
        if solved.size:
            states[later[: solved.shape[1]]] = solved.T
    states = states[places]
    return states[:, :size].reshape(-1, *shape), states[:, size:].reshape(-1, *shape)


def sensor_positions(domain: tuple[tuple[float, float], ...], sensors: tuple[int, ...]) -> np.ndarray:
    """The uniform grid of sensors over the domain: (S,) with one degree of freedom, (*sensors, d) with more."""
    return _grid(tuple((float(low), float(high)) for low, high in domain), tuple(sensors)).copy()


@cache
def _grid(domain: tuple[tuple[float, float], ...], sensors: tuple[int, ...]) -> np.ndarray:
    grids = [np.linspace(low, high, count) for (low, high), count in zip(domain, sensors, strict=True)]
    return grids[0] if len(grids) == 1 else np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1)


@dataclass(frozen=True)
class SplineHamiltonians:
    """H = p²/2 + V(q) of R rows, V a tensor-product spline (not-a-knot) over the domain."""

    splines: TensorSplines

    @classmethod
    def through(cls, values: np.ndarray, domain: tuple[tuple[float, float], ...], degree: Degree = 3) -> Self:
        """Splines through V at uniform sensors over the domain, values (R, *sensors), at least degree + 1 along each axis."""
        if values.ndim != 1 + len(domain) or min(values.shape[1:]) <= degree or not np.all(np.isfinite(values)):
            raise InputError(
                f"potential has shape {values.shape}; give finite numbers at {degree + 1} or more sensors along each of {len(domain)} axes"
            )
        return cls(TensorSplines.through(values, domain, degree))

    @property
    def domain(self) -> tuple[tuple[float, float], ...]:
        return self.splines.domain

    def __len__(self) -> int:
        return len(self.splines)

    def take(self, rows: np.ndarray) -> Self:
        return type(self)(self.splines.take(np.arange(len(self))[rows]))

    @cached_property
    def packed(self) -> np.ndarray:
        """What `flow` reads of each row, (R, m); for two degrees of freedom."""
        return pack_planes([self.splines])

    @property
    def flow(self) -> Rates | None:
        """The compiled equations of motion (`solvers.flows`); None except for two degrees of freedom."""
        return _plane_rates if len(self.domain) == 2 else None

    def energy(self, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        kinetic = 0.5 * np.square(p)
        potential = self.splines(self._places(q))
        return potential + (kinetic if kinetic.ndim == potential.ndim else kinetic.sum(axis=-1))

    def gradient(self, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slopes = self.splines.gradient(self._places(q))
        return slopes.reshape(q.shape), p

    def sense(self, sensors: tuple[int, ...]) -> dict[str, np.ndarray]:
        places = self._places(sensor_positions(self.domain, sensors))
        return {"potential": self.splines(np.broadcast_to(places, (len(self), *places.shape)))}

    def _places(self, q: np.ndarray) -> np.ndarray:
        """Positions with an axis for their components."""
        return q[..., None] if len(self.domain) == 1 else q


@compiled()
def _plane_rates(packed, y, out):
    """y = (q, p) in two dimensions, with unit mass."""
    terms = np.empty((1, 3))
    plane_terms(packed, y[0], y[1], terms)
    out[0], out[1], out[2], out[3] = y[2], y[3], -terms[0, 1], -terms[0, 2]
