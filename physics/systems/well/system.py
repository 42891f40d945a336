"""The well: its Hamiltonians, domain and certificates."""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import InputError, shown
from ...potentials.curves import Curves
from ...potentials.interpolants import INTERPOLANTS
from ...solvers.certify import CERTIFYING_METHODS, certify
from ...solvers.reference import solve_control_polygon
from ...solvers.solve import solve
from ...solvers.tangents import solve_tangents
from ..base import Column, Ensemble, EquivalentWell, Group, Hamiltonians, NamedCase, Names, Shapes, State, System, Trajectories
from ..generic import Solved, largest_difference
from .polygons import WALL_HEIGHT, RandomPolygons
from .prior_fit import sample_prior

if TYPE_CHECKING:
    from ..problems import Problems

_ROUNDING = 1e-12  # of heights
_PLACES = 4_001  # among which the lowest point of a potential is found that is no curve
_WALL_TOLERANCE = 0.1  # of the heights of the walls, which sensors may read with noise
_ENERGY_TOLERANCE = 1e-6
_LARGEST_READING = 1e3  # abs(V) at a sensor; far outside any training data, and single precision loses the well beyond it
_SHALLOWEST_WELL = 1e-6
_GENTLEST_FALL = 1e-2  # slope of V inward from a wall at which a particle starts; the interpolation decides about less
_SOLVER_STEP = 1e-3
_CLOSE_TOLERANCES = (1e-8, 1e-10)
_NUM_SAMPLES, _FEW_SAMPLES = 16, 4  # of the curves that could have a row's readings; where these are a curve's own but for rounding
_LARGEST_POTENTIAL = 10.0  # abs(V) of a curve that is certified


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
    equivalent_well = EquivalentWell(WALL_HEIGHT, usual_depth=2.0, largest_depth=3.5)  # those of `paper`
    columns = (
        Column("control_q", "list", "abscissae of the control polygon of the exact potential"),
        Column("control_v", "list", "its heights"),
        Column("length_scale", "float64", "length scale of the random field", nullable=True),
        Column("depth", "float64", "depth of the well; null where the ensemble does not vary it", nullable=True),
        Column("stratum", "int8", "energy stratum of the orbit; null where the ensemble has none", nullable=True),
    )
    methods = CERTIFYING_METHODS
    requirements = f"V = {WALL_HEIGHT:g} at both walls (within {_WALL_TOLERANCE:g}) and a minimum between them"
    examples: ClassVar[Mapping[str, str]] = {
        "Harmonic": "8*(q-0.5)**2",
        "Double well": "625/8*(q-0.2)**2*(q-0.8)**2",
        "Morse": "8/(sqrt(5)-1)**2*(1-exp(-3*log((1+sqrt(5))/2)*(q-1/3)))**2",
        "Pendulum": "4*(1-cos(2*pi/3*(q-0.5)))",
    }
    energy_scale_name = "the depth of the well"

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

    def energy_scale(self, hamiltonians: Any) -> np.ndarray:
        """The depth, of any but curves that of the lowest of many places."""
        if isinstance(hamiltonians, Wells):
            return hamiltonians.depth
        return WALL_HEIGHT - hamiltonians.sense((_PLACES,))["potential"].min(axis=1)

    def check_potential(self, fields: Mapping[str, np.ndarray], names: Sequence[Names]) -> None:
        """Refuse V (R, S) that no network could have been trained on: without finite values, walls of height 2, or a well."""
        values = fields["potential"]
        for row, sensor in np.argwhere(~(np.abs(values) <= _LARGEST_READING))[:1]:
            received = f"{names[row].potential}[{sensor}] is {shown(float(values[row, sensor]), -_LARGEST_READING, _LARGEST_READING)}"
            raise InputError(f"{received}; values must be finite and between {-_LARGEST_READING:g} and {_LARGEST_READING:g}")
        walls = values[:, [0, -1]]
        for row in np.flatnonzero(np.any(np.abs(walls - WALL_HEIGHT) > _WALL_TOLERANCE + _ROUNDING, axis=1))[:1]:
            left, right = (shown(wall, WALL_HEIGHT - _WALL_TOLERANCE, WALL_HEIGHT, WALL_HEIGHT + _WALL_TOLERANCE) for wall in walls[row])
            raise InputError(
                f"{names[row].potential} is {left} at q = 0 and {right} at q = 1; "
                f"a well has V = {WALL_HEIGHT:g} at both walls (within {_WALL_TOLERANCE:g})"
            )

    def check_initial_state(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, names: Sequence[Names]) -> None:
        """Refuse a potential without a well, and a particle that does not stay between the walls.

        Noise may lift a wall by up to 0.1, and a particle may start at rest on such a wall.
        """
        super().check_initial_state(hamiltonians, q0, p0, names)
        depth = self.energy_scale(hamiltonians)
        for row in np.flatnonzero(depth < _SHALLOWEST_WELL)[:1]:
            lowest = shown(float(WALL_HEIGHT - depth[row]), WALL_HEIGHT) if depth[row] else f"{WALL_HEIGHT:g}"
            raise InputError(f"{names[row].potential} has no well: its lowest value is {lowest} and must be below {WALL_HEIGHT:g}")
        with np.errstate(over="ignore"):
            energy = hamiltonians.energy(q0, p0)
        ends = np.tile(self.domain[0], (len(hamiltonians), 1))
        walls = hamiltonians.energy(ends, np.zeros_like(ends))
        limit = np.maximum(WALL_HEIGHT, walls.max(axis=1)) + _ENERGY_TOLERANCE
        for row in np.flatnonzero(~(energy <= limit))[:1]:
            raise InputError(
                f"{names[row].potential} gives p0**2/2 + V(q0) = {shown(energy[row], WALL_HEIGHT)} for {names[row].q0} = {q0[row]:.6g} and "
                f"{names[row].p0} = {p0[row]:.6g}; above {WALL_HEIGHT:g} the particle leaves the walls: lower {names[row].p0}, or start "
                "where V is lower"
            )
        self._check_slope_at_walls(hamiltonians, q0, names)

    def _check_slope_at_walls(self, hamiltonians: Any, q0: np.ndarray, names: Sequence[Names]) -> None:
        for wall, inward in zip(self.domain[0], (1.0, -1.0), strict=True):
            rows = np.flatnonzero(q0 == wall)
            if not rows.size:
                continue
            slope, _ = (hamiltonians if rows.size == len(q0) else hamiltonians.take(rows)).gradient(q0[rows], q0[rows])
            for row in rows[inward * slope > -_GENTLEST_FALL][:1]:
                raise InputError(
                    f"{names[row].potential} does not fall inward from the wall at q = {wall:g}, where the particle starts: its slope "
                    f"there is {slope[rows == row][0]:.3g}, so the particle would rest or leave the walls; make V fall there by "
                    f"{_GENTLEST_FALL:g} or more per unit of q, or start elsewhere"
                )

    def solve(self, hamiltonians: Wells, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By the classical Runge-Kutta method with steps of at most 1e-3."""
        solution = solve(hamiltonians.curves, q0, p0, times, method="rk4", step=_SOLVER_STEP)
        return solution.q, solution.p

    def solve_closely(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> Solved:
        if not isinstance(hamiltonians, Wells):
            return super().solve_closely(hamiltonians, q0, p0, times)
        coarse, fine = (solve(hamiltonians.curves, q0, p0, times, tolerance=tolerance) for tolerance in _CLOSE_TOLERANCES)
        return Solved(fine.q, fine.p, largest_difference(coarse[:2], fine[:2]))

    def plausible(self, fields: Mapping[str, np.ndarray], ensemble: Ensemble | None, noise: float) -> "list[Hamiltonians]":
        """Curves of the ensemble through the sensors, where there are any; else interpolants, which noise leaves no use for."""
        values = fields["potential"]
        if isinstance(ensemble, RandomPolygons):
            # As many sensors as there are unknowns determine a curve.
            count = _NUM_SAMPLES if noise > 0.0 or 2 * ensemble.control_points[1] >= values.shape[1] - 2 else _FEW_SAMPLES
            settings: dict[str, Any] = {"wall_height": WALL_HEIGHT, "noise": noise, "control_points": ensemble.control_points}
            fit, others, explains = sample_prior(values, count=count, **settings)
            if fit.explained.all() and explains.any():
                return [Wells(curves) for curves in (fit.curves, others.take(np.flatnonzero(explains[0])))]
        if noise > 0.0 or values.shape[1] < INTERPOLANTS["quintic"][0]:
            return []
        return [Wells(Curves.from_samples(values, kind)) for kind in ("quintic", "cubic", "hermite")]

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

    def shapes(self, initial_state: tuple[State, State] | None, count: int, seed: int) -> dict[str, Shapes]:
        from .shapes import draw_shapes

        return draw_shapes(initial_state, count, seed)

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
