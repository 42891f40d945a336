"""The Hénon–Heiles family: regular at low energies, chaotic near the energy of escape.

Source: Hénon and Heiles, Astronomical Journal 69 (1964), 73. There λ = 1 and E = 1/12, 1/8 and 1/6, which are 0.5, 0.75 and 1
times the energy of escape.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ..compiled import compiled
from ..errors import InputError
from ..solvers.flows import Rates
from ..solvers.solve import QUADRATURE, solve
from .base import Column, Drawn, Ensemble, Hamiltonians, NamedCase, Names, State
from .baselines import Reconstruction
from .compiled_flow import LYAPUNOV, CompiledSystem, has_readings
from .draws import Draws, between, random_times
from .generic import sensor_positions
from .packed import PackedPotentials

_ENERGY_STRATA = np.array([(0.2, 0.5), (0.5, 0.75), (0.75, 0.9), (0.9, 0.98)])  # of the energy of escape
_EDGE = 1.25


@dataclass(frozen=True)
class HenonHeilesHamiltonians(PackedPotentials):
    """H = (|p|² + x² + y²) / 2 + λ (x² y - y³ / 3) of R rows; `packed` (R, 1) holds λ."""

    domain = ((-_EDGE, _EDGE), (-_EDGE, _EDGE))

    @property
    def flow(self) -> Rates:
        return _rates

    @property
    def tangent_flow(self) -> Rates:
        return _tangent_rates

    def gradient(self, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, coupling = *np.moveaxis(q, -1, 0), self._widened(q)
        return np.stack([x + 2.0 * coupling * x * y, y + coupling * (x * x - y * y)], axis=-1), p

    def potential(self, q: np.ndarray) -> np.ndarray:
        x, y = np.moveaxis(q, -1, 0)
        return 0.5 * (x * x + y * y) + self._widened(q) * (x * x * y - y * y * y / 3.0)

    @property
    def escape_energy(self) -> np.ndarray:
        """1 / 6 λ², (R,): that of the three saddle points."""
        with np.errstate(divide="ignore"):
            return 1.0 / (6.0 * self.packed[:, 0] ** 2)

    def _widened(self, q: np.ndarray) -> np.ndarray:
        return self.packed[:, 0].reshape(-1, *[1] * (q.ndim - 2))


@dataclass(frozen=True)
class OnSection(Ensemble):
    """Random λ; four particles each, through x = 0 to the right at random places of the section, in four strata of energy."""

    name = "section"
    orbits_per_hamiltonian = len(_ENERGY_STRATA)

    coupling: tuple[float, float] = field(default=(0.8, 1.2), metadata={"description": "range of λ"})

    def __post_init__(self) -> None:
        low, high = self.coupling
        if not 1.0 / _EDGE <= low <= high <= 10.0:
            raise InputError(f"coupling is ({low}, {high}); give {1.0 / _EDGE:g} <= low <= high <= 10: the sensors reach to {_EDGE:g}")

    def draw(self, draws: Draws, num_times: int) -> Drawn:
        coupling = between(draws.hamiltonian(1)[:, 0], self.coupling)
        hamiltonians = HenonHeilesHamiltonians(coupling[:, None])
        uniforms = draws.orbit(1 + num_times)
        energy = between(uniforms[:, 0], _ENERGY_STRATA[draws.orbit_index].T) * hamiltonians.escape_energy
        lowest, highest = _section_bounds(coupling, energy)
        y = lowest + uniforms[:, 1] * (highest - lowest)
        room = np.sqrt(2.0 * np.maximum(energy - hamiltonians.potential(np.stack([np.zeros_like(y), y], axis=-1)), 0.0))
        direction = math.pi * (uniforms[:, 2] - 0.5)  # of p: to the right
        q0 = np.stack([np.zeros_like(y), y], axis=-1)
        p0 = room[:, None] * np.stack([np.cos(direction), np.sin(direction)], axis=-1)
        times = random_times(uniforms[:, 3:], SYSTEM.horizon)
        columns = {"coupling": coupling, "stratum": draws.orbit_index}
        return Drawn(columns, hamiltonians, q0, p0, times)

    def describe(self) -> str:
        low, high = self.coupling
        return (
            f"λ is uniform in [{low}, {high}]. Four particles for each λ start at x = 0, at y uniform where their energy allows, in\n"
            "uniform directions to the right, at energies of [0.2, 0.5), [0.5, 0.75), [0.75, 0.9) and [0.9, 0.98) times that of\n"
            "escape, for stratum 0 to 3. Query times are random and sorted, with 0 and the horizon among them."
        )


class HenonHeiles(CompiledSystem):
    """x'' = -x - 2 λ x y, y'' = -y - λ (x² - y²) for 0 <= t <= 10."""

    name = "henon-heiles"
    title = "The Hénon–Heiles family"
    equations = """\
Each row is a potential of the Hénon–Heiles family, and the motion of a particle of unit mass in it:

    q' = p,    p' = -∇V(q),    H = |p|²/2 + V(q),    0 ≤ t ≤ 10        (everything dimensionless)

    V(x, y) = (x² + y²)/2 + λ (x² y − y³/3)

The particle has less energy than the saddle points, 1/(6 λ²), and stays between them."""
    domain = HenonHeilesHamiltonians.domain
    horizon = 10.0
    columns = (
        Column("coupling", "float64", "λ"),
        Column("stratum", "int8", "energy stratum of the orbit"),
        LYAPUNOV,
    )
    ensembles: ClassVar[Mapping[str, type[Ensemble]]] = {OnSection.name: OnSection}
    requirements = "V that keeps the particle within [-1.25, 1.25]²"
    examples: ClassVar[Mapping[str, str]] = {"λ = 1": "(q1**2+q2**2)/2 + q1**2*q2 - q2**3/3", "Harmonic": "(q1**2+q2**2)/2"}
    energy_scale_name = "the energy of escape"
    section_plane = 0.0
    energy_strata = _ENERGY_STRATA
    energy_strata_title = "energy / energy of escape"

    def prior_fits(self) -> list[Reconstruction]:
        """V is linear in λ: least squares over the sensors."""

        return [Reconstruction("prior-fit", "λ by least squares", lambda problems: self._fit(problems.fields), 4)]

    def plausible(self, fields: Mapping[str, np.ndarray], ensemble: Ensemble | None, noise: float) -> list[Hamiltonians]:
        """The member of the family that has the readings, where there is one; else splines."""
        fit = self._fit(fields)
        return [fit] if has_readings(fit, fields) else super().plausible(fields, ensemble, noise)

    def _fit(self, fields: Mapping[str, np.ndarray]) -> HenonHeilesHamiltonians:
        x, y = np.moveaxis(sensor_positions(self.domain, fields["potential"].shape[1:]), -1, 0)
        factor = x * x * y - y * y * y / 3.0
        values = fields["potential"] - 0.5 * (x * x + y * y)
        return HenonHeilesHamiltonians(((values * factor).sum(axis=(1, 2)) / np.square(factor).sum())[:, None])

    def rebuild(self, columns: Mapping[str, Sequence[Any]]) -> HenonHeilesHamiltonians:
        return HenonHeilesHamiltonians(np.asarray(columns["coupling"], dtype=np.float64)[:, None])

    def energy_scale(self, hamiltonians: Any) -> np.ndarray:
        """Of exact Hamiltonians the energy of escape, of others 1/6, which is that for λ = 1."""
        scale = hamiltonians.escape_energy if isinstance(hamiltonians, HenonHeilesHamiltonians) else np.full(len(hamiltonians), 1.0 / 6.0)
        return np.minimum(scale, 1.0)  # without coupling nothing escapes

    def check_initial_state(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, names: Sequence[Names]) -> None:
        super().check_initial_state(hamiltonians, q0, p0, names)
        if not isinstance(hamiltonians, HenonHeilesHamiltonians):
            return
        energy, escape = hamiltonians.energy(q0, p0), hamiltonians.escape_energy
        for row in np.flatnonzero(~(energy < escape))[:1]:
            raise InputError(
                f"{names[row].potential} gives |p0|**2/2 + V(q0) = {energy[row]:.6g}; from {escape[row]:.6g} on the particle can escape"
            )

    def named_cases(self, initial_state: tuple[State, State] | None) -> list[NamedCase]:
        """λ = 0, where both coordinates are harmonic; and for λ = 1 the straight orbit on the axis of symmetry x = 0."""
        if initial_state is not None:
            return []
        q0, p0 = (0.3, -0.2), (0.1, 0.35)
        harmonic, axis = HenonHeilesHamiltonians(np.zeros((1, 1))), HenonHeilesHamiltonians(np.ones((1, 1)))
        return [
            NamedCase("harmonic", "textbook", harmonic, q0, p0, partial(_rotation, np.array(q0), np.array(p0))),
            NamedCase("axis", "textbook", axis, (0.0, -0.3), (0.0, 0.4), partial(_along_axis, -0.3, 0.4)),
        ]


def _rotation(q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """q, p (T, d) of oscillators of frequency 1."""
    c, s = np.cos(times)[:, None], np.sin(times)[:, None]
    return q0 * c + p0 * s, p0 * c - q0 * s


@dataclass(frozen=True)
class _Axis:
    """V(0, y) for λ = 1, a potential of one degree of freedom."""

    domain: tuple[float, float] = (-_EDGE, 1.0)
    breakpoints: tuple[float, ...] = ()

    def value(self, y: Any) -> Any:
        return 0.5 * y * y - y * y * y / 3.0

    def gradient(self, y: Any) -> Any:
        return y - y * y


def _along_axis(y0: float, p0: float, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """q, p (T, 2) of a particle that moves along x = 0, by quadrature."""
    y, p, _ = solve(_Axis(), y0, p0, times, method=QUADRATURE)
    return np.stack([np.zeros_like(y), y], axis=-1), np.stack([np.zeros_like(p), p], axis=-1)


def _section_bounds(coupling: np.ndarray, energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Between which y, (R,) each, a particle of an energy below that of escape may cross x = 0.

    With z = λ y, V(0, y) λ² = z²/2 - z³/3 = e λ²: the two smaller roots of a cubic with three real ones.
    """
    # z = 1/2 + cos(a), cos(3 a) = 1 - 12 e λ².
    third = np.arccos(np.clip(1.0 - 12.0 * energy * coupling**2, -1.0, 1.0)) / 3.0
    lowest, highest = (0.5 + np.cos(third + shift) for shift in (2.0 * math.pi / 3.0, 4.0 * math.pi / 3.0))
    return lowest / coupling, highest / coupling


@compiled()
def _rates(packed, y, out):
    """y = (q, p)."""
    out[0], out[1] = y[2], y[3]
    out[2] = -y[0] - 2.0 * packed[0] * y[0] * y[1]
    out[3] = -y[1] - packed[0] * (y[0] * y[0] - y[1] * y[1])


@compiled()
def _tangent_rates(packed, y, out):
    """y = (q, p, J), J = d(q, p) / d(q0, p0) row by row."""
    out[0], out[1] = y[2], y[3]
    out[2] = -y[0] - 2.0 * packed[0] * y[0] * y[1]
    out[3] = -y[1] - packed[0] * (y[0] * y[0] - y[1] * y[1])
    xx, xy, yy = 1.0 + 2.0 * packed[0] * y[1], 2.0 * packed[0] * y[0], 1.0 - 2.0 * packed[0] * y[1]
    for k in range(4):
        along_x, along_y = y[4 + k], y[8 + k]
        out[4 + k], out[8 + k] = y[12 + k], y[16 + k]
        out[12 + k], out[16 + k] = -(xx * along_x + xy * along_y), -(xy * along_x + yy * along_y)


SYSTEM = HenonHeiles()
