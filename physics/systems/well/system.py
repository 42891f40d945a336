"""The well: its Hamiltonians, domain and certificates."""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...potentials.curves import Curves
from ...solvers.certify import CERTIFYING_METHODS, certify
from ...solvers.reference import solve_control_polygon
from ...solvers.tangents import solve_tangents
from ..base import Column, Ensemble, Group, NamedCase, State, System, Trajectories
from .polygons import WALL_HEIGHT

if TYPE_CHECKING:
    from ..problems import Problems

_LARGEST_POTENTIAL = 10.0  # abs(V) of a curve that is accepted


@dataclass(frozen=True)
class Wells:
    """H = p²/2 + V(q) of R rows, V a piecewise-cubic curve."""

    curves: Curves

    def __len__(self) -> int:
        return len(self.curves)

    def take(self, rows: np.ndarray) -> "Wells":
        return Wells(self.curves.take(np.arange(len(self))[rows]))

    def energy(self, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        return 0.5 * p * p + self.potential(q)

    def gradient(self, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.curves.gradient(q), p

    def potential(self, q: np.ndarray) -> np.ndarray:
        """V(q) of each row, (R,) or (R, T)."""
        return self.curves.value(q)

    def curvature(self, q: np.ndarray) -> np.ndarray:
        """V''(q) of each row, (R, T)."""
        return self.curves.curvature(q)

    def sense(self, sensors: tuple[int, ...]) -> dict[str, np.ndarray]:
        return {"potential": self.curves.sample(np.linspace(0.0, 1.0, sensors[0]))}

    @cached_property
    def depth(self) -> np.ndarray:
        """How far below the walls the lowest point lies, (R,)."""
        return WALL_HEIGHT - self.curves.extrema()[0]


class Well(System):
    """q' = p, p' = -V'(q) on [0, 1] for 0 <= t <= 2, with V = 2 at both walls (arXiv 2410.20951)."""

    name = "well"
    title = "One particle in random wells"
    equations = """\
Each row is a potential V(q) on [0, 1] with walls V(0) = V(1) = 2, and the motion of a particle of unit mass in it:

    q' = p,    p' = -V'(q),    H = p²/2 + V(q),    0 ≤ t ≤ 2        (everything dimensionless)

V is a clamped cubic B-spline curve (q(s), V(s)) with uniform knots over a control polygon from (0, 2) to (1, 2). The polygon
rebuilds the exact potential; the sensors are what a network sees of it."""
    domain = ((0.0, 1.0),)
    horizon = 2.0
    columns = (
        Column("control_q", "list", "abscissae of the control polygon of the exact potential"),
        Column("control_v", "list", "its heights"),
        Column("length_scale", "float64", "length scale of the random field", nullable=True),
        Column("depth", "float64", "depth of the well; null where the ensemble does not vary it", nullable=True),
        Column("stratum", "int8", "energy stratum of the orbit; null where the ensemble has none", nullable=True),
    )
    methods = CERTIFYING_METHODS

    @cached_property
    def ensembles(self) -> Mapping[str, type[Ensemble]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Every module of this package that exposes an `ENSEMBLE`, by name; `paper` is the default."""
        modules = (importlib.import_module(f".{m.name}", __package__) for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
        found = [module.ENSEMBLE for module in modules if hasattr(module, "ENSEMBLE")]
        return {ensemble.name: ensemble for ensemble in sorted(found, key=lambda e: (e.name != self.default_ensemble, e.name))}

    default_ensemble: ClassVar[str] = "paper"

    def rebuild(self, columns: Mapping[str, Sequence[Any]]) -> Wells:
        polygons = list(zip(columns["control_q"], columns["control_v"], strict=True))
        num_control = np.array([len(q) for q, _ in polygons], dtype=np.int64)
        control = np.zeros((2, num_control.size, int(num_control.max(initial=4))))
        for row, polygon in enumerate(polygons):
            control[:, row, : num_control[row]] = polygon
        return Wells(Curves.from_control_points(control[0], control[1], num_control))

    def from_sensors(self, fields: Mapping[str, np.ndarray]) -> Wells:
        """V as the cubic spline through the sensors."""
        return Wells(Curves.from_samples(fields["potential"]))

    def energy_scale(self, hamiltonians: Wells) -> np.ndarray:
        return hamiltonians.depth

    def certify(
        self, hamiltonians: Wells, q0: np.ndarray, p0: np.ndarray, times: np.ndarray, *, method: str, tolerance: float
    ) -> Trajectories:
        self.check_method(method)
        return certify(
            hamiltonians.curves,
            q0,
            p0,
            times,
            energy_scale=hamiltonians.depth,
            domain=self.domain[0],
            largest_potential=_LARGEST_POTENTIAL,
            method=method,
            tolerance=tolerance,
        )

    def rates(self, hamiltonians: Wells, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope, momentum = hamiltonians.gradient(q, p)
        return momentum, -slope

    def second_rates(self, hamiltonians: Wells, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Exact, by V' and V''."""
        slope, _ = hamiltonians.gradient(q, p)
        return -slope, -hamiltonians.curvature(q) * p

    def tangents(self, hamiltonians: Wells, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> np.ndarray:
        """By the variational equation."""
        return np.stack([solve_tangents(hamiltonians.curves[row], q0[row], p0[row], times[row])[2] for row in range(len(times))])

    def named_cases(self, initial_state: tuple[State, State] | None) -> list[NamedCase]:
        from .cases import named_cases

        return named_cases(initial_state)

    def groups(self, problems: "Problems") -> list[Group]:
        from .groups import groups

        return groups(problems)

    def reference(
        self, columns: Mapping[str, Sequence[Any]], q0: np.ndarray, p0: np.ndarray, times: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        rows = zip(columns["control_q"], columns["control_v"], q0, p0, times, strict=True)
        orbits = [solve_control_polygon(*row) for row in rows]
        return np.stack([q for q, _ in orbits]), np.stack([p for _, p in orbits])


SYSTEM = Well()
