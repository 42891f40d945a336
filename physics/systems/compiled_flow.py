"""A system whose equations of motion are compiled: certificates, tangents and Lyapunov exponents from two functions."""

from abc import abstractmethod
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from ..solvers.certify import Rejection, Trajectories
from ..solvers.flows import Rates, certify_flow, solve_flow
from .base import Column, Hamiltonians, System

LYAPUNOV = Column("lyapunov", "float64", "finite-time Lyapunov exponent: log of the largest stretching over the horizon, divided by it")
_SOLVER_TOLERANCE = 1e-10
_TANGENT_TOLERANCE = 1e-8  # of derivatives, of which a few digits are wanted


class Packed(Hamiltonians, Protocol):
    """R Hamiltonians with what the compiled functions read of them in `packed` (R, m)."""

    @property
    def packed(self) -> np.ndarray: ...
    def take(self, rows: np.ndarray) -> Self: ...


class CompiledSystem(System):
    """A subclass says which Hamiltonians are its exact ones, `exact`, and gives their equations as flows (`solvers.flows`).

    `flow` fills the rates of y = (q, p), (2d,); `tangent_flow` those of (q, p, J), J = d(q, p) / d(q0, p0) row by row,
    (2d + 4d²,). Other Hamiltonians, such as splines through sensors, are solved as in any system.
    """

    exact: ClassVar[type]

    @property
    @abstractmethod
    def flow(self) -> Rates: ...

    @property
    @abstractmethod
    def tangent_flow(self) -> Rates: ...

    def certify(
        self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, *, method: str, tolerance: float
    ) -> Trajectories:
        if not isinstance(hamiltonians, self.exact):
            return super().certify(hamiltonians, q0, p0, times, method=method, tolerance=tolerance)
        self.check_method(method)
        states, error = certify_flow(self.flow, hamiltonians.packed, np.concatenate([q0, p0], axis=1), times, tolerance)
        q, p = np.split(states, 2, axis=-1)
        rejection = [None if bound <= tolerance else Rejection.NOT_CERTIFIED for bound in error]
        drift = self.energy_drift(hamiltonians, q0, p0, q, p)
        return Trajectories(times, q, p, hamiltonians.energy(q0, p0), error, drift, rejection)

    def measure(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
        """The Lyapunov exponent of each orbit up to its last time."""
        ends = times[:, -1:]
        stretching = np.linalg.svd(self.tangents(hamiltonians, q0, p0, ends)[:, 0], compute_uv=False)[:, 0]
        return {LYAPUNOV.name: np.log(stretching) / ends[:, 0]}

    def solve(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(hamiltonians, self.exact):
            return super().solve(hamiltonians, q0, p0, times)
        states, _ = solve_flow(self.flow, hamiltonians.packed, np.concatenate([q0, p0], axis=1), times, _SOLVER_TOLERANCE)
        q, p = np.split(states, 2, axis=-1)
        return q, p

    def tangents(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> np.ndarray:
        """By the variational equation."""
        if not isinstance(hamiltonians, self.exact):
            return super().tangents(hamiltonians, q0, p0, times)
        size = 2 * self.degrees_of_freedom
        start = np.concatenate([q0, p0, np.tile(np.eye(size).ravel(), (len(q0), 1))], axis=1)
        states, _ = solve_flow(self.tangent_flow, hamiltonians.packed, start, times, _TANGENT_TOLERANCE)
        return states[..., size:].reshape(*times.shape, size, size)
