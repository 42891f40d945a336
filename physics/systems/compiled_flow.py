"""A system whose equations of motion are compiled: certificates, tangents, Lyapunov exponents and baselines from two functions."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeGuard

import numpy as np

from ..potentials.tensor_splines import Degree
from ..solvers.certify import Rejection, Trajectories
from ..solvers.flows import Rates, certify_flow, solve_flow
from .base import Column, Ensemble, Group, Hamiltonians, System
from .baselines import Baseline, Reconstruction
from .generic import SplineHamiltonians

if TYPE_CHECKING:
    from .problems import Problems

LYAPUNOV = Column("lyapunov", "float64", "finite-time Lyapunov exponent: log of the largest stretching over the horizon, divided by it")
_FOLDS = (0.0, 1.0, 2.0, 3.0, 4.0)
_SOLVER_TOLERANCE = 1e-10
_ROUNDING = 1e-6  # of readings
_TANGENT_TOLERANCE = 1e-8  # of derivatives, of which a few digits are wanted


class Flowing(Hamiltonians, Protocol):
    """R Hamiltonians with compiled equations: `flow` fills the rates of y = (q, p), (2d,), from a row of `packed` (R, m).

    Exact ones also have `tangent_flow`, which fills those of (q, p, J), J = d(q, p) / d(q0, p0) row by row, (2d + 4d²,).
    """

    @property
    def packed(self) -> np.ndarray: ...
    @property
    def flow(self) -> Rates: ...


class CompiledSystem(System):
    """A system whose Hamiltonians have flows (`Flowing`), exact ones and splines. Any others are solved as in any system.

    Its rows have the columns `stratum`, the number of the range in `energy_strata` that the energy was drawn from, and `LYAPUNOV`.
    """

    energy_strata: ClassVar[np.ndarray]  # (n, 2)
    energy_strata_title: ClassVar[str]  # what the ranges are of
    default_sensors = 24
    sensor_counts = (24, 12, 8)
    work_batches = (1, 100, 1_000)

    def splines(self, fields: Mapping[str, np.ndarray], degree: Degree) -> Hamiltonians:
        """Hamiltonians interpolated by tensor-product splines through the sensors, fields as in `sense`."""
        return SplineHamiltonians.through(fields["potential"], self.domain, degree)

    def complete_fields(self, fields: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Noisy fields, with what is known without sensors put in place."""
        return dict(fields)

    def prior_fits(self) -> list[Reconstruction]:
        """Reconstructions that make use of how Hamiltonians are drawn; here: none."""
        return []

    def groups(self, problems: "Problems") -> list[Group]:
        """By energy stratum, and by how fast neighbours part: by a factor of e^k over the horizon.

        This is not a division into regular and chaotic motion. Of regular motion the exponent decays as ln(t) / t, and over one horizon,
        which is a few oscillations, it is as large as that of chaotic motion; see `diagnostics.parts_exponentially`.
        """
        found = []
        if "stratum" in problems.columns:
            stratum = np.asarray(problems.columns["stratum"])
            labels = {f"{low:g} to {high:g}": stratum == k for k, (low, high) in enumerate(self.energy_strata)}
            found.append(Group("stratum", self.energy_strata_title, labels))
        if LYAPUNOV.name in problems.columns:
            # At least 0 but for rounding: a symplectic map and its inverse stretch by the same factor.
            folds = np.maximum(np.asarray(problems.columns[LYAPUNOV.name]) * self.horizon, 0.0)
            labels = {f"{low:g} to {high:g}": (low <= folds) & (folds < high) for low, high in pairwise(_FOLDS)}
            labels |= {f"{_FOLDS[-1]:g} and more": folds >= _FOLDS[-1]}
            found.append(Group("lyapunov", "e-folds by which neighbours part over the horizon", labels))
        return found

    def from_sensors(self, fields: Mapping[str, np.ndarray]) -> Hamiltonians:
        """Bicubic splines."""
        return self.splines(fields, 3)

    def baselines(self, steps: Sequence[float]) -> list[Baseline]:
        """Compiled solvers on the exact Hamiltonian and on what the sensors allow to rebuild."""
        from .flow_baselines import flow_baselines

        return flow_baselines(self, steps)

    def plausible(self, fields: Mapping[str, np.ndarray], ensemble: Ensemble | None, noise: float) -> "list[Hamiltonians]":
        """Splines of degree 5 and 3, for fields without noise."""
        return [] if noise > 0.0 or min(fields["potential"].shape[1:]) < 6 else [self.splines(fields, degree) for degree in (5, 3)]

    def certify(
        self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, *, method: str, tolerance: float
    ) -> Trajectories:
        if not flows(hamiltonians):
            return super().certify(hamiltonians, q0, p0, times, method=method, tolerance=tolerance)
        self.check_method(method)
        states, error = certify_flow(hamiltonians.flow, hamiltonians.packed, np.concatenate([q0, p0], axis=1), times, tolerance)
        q, p = np.split(states, 2, axis=-1)
        low, high = np.array(self.domain).T
        outside = ((q < low) | (q > high)).any(axis=(1, 2))  # where a spline through sensors knows nothing
        rejection = [_reason(bool(out), bound <= tolerance) for out, bound in zip(outside, error, strict=True)]
        drift = self.energy_drift(hamiltonians, q0, p0, q, p)
        return Trajectories(times, q, p, hamiltonians.energy(q0, p0), error, drift, rejection)

    def measure(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
        """The Lyapunov exponent of each orbit up to its last time."""
        ends = times[:, -1:]
        stretching = np.linalg.svd(self.tangents(hamiltonians, q0, p0, ends)[:, 0], compute_uv=False)[:, 0]
        return {LYAPUNOV.name: np.log(stretching) / ends[:, 0]}

    def solve(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not flows(hamiltonians):
            return super().solve(hamiltonians, q0, p0, times)
        states, _ = solve_flow(hamiltonians.flow, hamiltonians.packed, np.concatenate([q0, p0], axis=1), times, _SOLVER_TOLERANCE)
        q, p = np.split(states, 2, axis=-1)
        return q, p

    def tangents(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> np.ndarray:
        """By the variational equation, where the Hamiltonians are exact."""
        if not hasattr(hamiltonians, "tangent_flow"):
            return super().tangents(hamiltonians, q0, p0, times)
        size = 2 * self.degrees_of_freedom
        start = np.concatenate([q0, p0, np.tile(np.eye(size).ravel(), (len(q0), 1))], axis=1)
        states, _ = solve_flow(hamiltonians.tangent_flow, hamiltonians.packed, start, times, _TANGENT_TOLERANCE)
        return states[..., size:].reshape(*times.shape, size, size)


def flows(hamiltonians: Any) -> TypeGuard[Flowing]:
    """Whether Hamiltonians have compiled equations."""
    return getattr(hamiltonians, "flow", None) is not None


def has_readings(hamiltonians: Hamiltonians, fields: Mapping[str, np.ndarray]) -> bool:
    """Whether the sensors of Hamiltonians read `fields`, as precisely as float32 holds them."""
    read = hamiltonians.sense(fields["potential"].shape[1:])
    return all(np.allclose(read[name], values, rtol=_ROUNDING, atol=_ROUNDING) for name, values in fields.items())


def _reason(outside: bool, certified: bool) -> Rejection | None:
    if outside:
        return Rejection.POSITION_OUT_OF_RANGE
    return None if certified else Rejection.NOT_CERTIFIED
