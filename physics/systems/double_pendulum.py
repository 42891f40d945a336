"""The double pendulum with random masses and lengths: the kinetic energy depends on the angles, and H does not separate.

Units: the upper mass, the upper length and the acceleration of gravity are 1, so times are in units of sqrt(l / g).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from ..compiled import compiled
from ..errors import InputError
from ..potentials.tensor_splines import Degree, TensorSplines, pack_planes, plane_terms
from ..solvers.flows import Rates
from .base import Column, Drawn, Ensemble, Hamiltonians, NamedCase, State
from .baselines import Reconstruction
from .compiled_flow import LYAPUNOV, CompiledSystem, has_readings
from .draws import Draws, between, random_times
from .generic import sensor_positions
from .packed import PackedHamiltonians

_ENERGY_STRATA = np.array([(0.1, 0.3), (0.3, 0.6), (0.6, 0.85), (0.85, 0.98)])  # of the energy at which a rod can go over
_DOMAIN = ((-math.pi, math.pi), (-math.pi, math.pi))


@dataclass(frozen=True)
class DoublePendulums(PackedHamiltonians):
    """H = pᵀ M⁻¹ p / 2 + V of R rows, at angles θ1, θ2 from the vertical; `packed` (R, 2): mass μ and length λ of the lower pendulum.

    V = (1 + μ) (1 - cos θ1) + μ λ (1 - cos θ2)
    M⁻¹ = ((1, -cos Δ / λ), (-cos Δ / λ, (1 + μ) / (μ λ²))) / (1 + μ sin² Δ),    Δ = θ1 - θ2
    """

    @property
    def flow(self) -> Rates:
        return _rates

    @property
    def tangent_flow(self) -> Rates:
        return _tangent_rates

    def energy(self, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        a, b, d = np.moveaxis(self.inverse_mass(q), -1, 0)
        p1, p2 = np.moveaxis(p, -1, 0)
        return 0.5 * (a * p1 * p1 + 2.0 * b * p1 * p2 + d * p2 * p2) + self.potential(q)

    def gradient(self, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mass, length = self._widened(q)
        a, b, d = np.moveaxis(self.inverse_mass(q), -1, 0)
        (t1, t2), (p1, p2) = np.moveaxis(q, -1, 0), np.moveaxis(p, -1, 0)
        sine, cosine = np.sin(t1 - t2), np.cos(t1 - t2)
        kinetic = 0.5 * (a * p1 * p1 + 2.0 * b * p1 * p2 + d * p2 * p2)
        turning = (sine * p1 * p2 / length - 2.0 * mass * sine * cosine * kinetic) / (1.0 + mass * sine**2)
        by_q = np.stack([turning + (1.0 + mass) * np.sin(t1), -turning + mass * length * np.sin(t2)], axis=-1)
        return by_q, np.stack([a * p1 + b * p2, b * p1 + d * p2], axis=-1)

    def potential(self, q: np.ndarray) -> np.ndarray:
        """V at angles (R, ..., 2)."""
        mass, length = self._widened(q)
        return (1.0 + mass) * (1.0 - np.cos(q[..., 0])) + mass * length * (1.0 - np.cos(q[..., 1]))

    def inverse_mass(self, q: np.ndarray) -> np.ndarray:
        """The entries 11, 12 and 22 of M⁻¹ at angles (R, ..., 2), as (R, ..., 3)."""
        mass, length = self._widened(q)
        difference = q[..., 0] - q[..., 1]
        entries = [np.ones_like(difference), -np.cos(difference) / length, (1.0 + mass) / (mass * length**2) + 0.0 * difference]
        return np.stack(entries, axis=-1) / (1.0 + mass * np.sin(difference) ** 2)[..., None]

    def sense(self, sensors: tuple[int, ...]) -> dict[str, np.ndarray]:
        places = sensor_positions(_DOMAIN, sensors)
        everyone = np.broadcast_to(places, (len(self), *places.shape))
        return {"potential": self.potential(everyone), "inverse_mass": np.moveaxis(self.inverse_mass(everyone), -1, 1)}

    @property
    def turnover_energy(self) -> np.ndarray:
        """The lower of the energies at which a rod can stand upright, (R,)."""
        mass, length = self.packed.T
        return np.minimum(2.0 * (1.0 + mass), 2.0 * mass * length)

    def _widened(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mass, length = (x.reshape(-1, *[1] * (q.ndim - 2)) for x in self.packed.T)
        return mass, length


@dataclass(frozen=True)
class SplinePendulums:
    """V and the entries of M⁻¹ of R rows as tensor-product splines through their sensors: (R, S, S) and (R, 3, S, S)."""

    potential: TensorSplines
    inverse_mass: tuple[TensorSplines, TensorSplines, TensorSplines]

    def __len__(self) -> int:
        return len(self.potential)

    def take(self, rows: np.ndarray) -> Self:
        chosen = np.arange(len(self))[rows]
        first, second, third = (entry.take(chosen) for entry in self.inverse_mass)
        return type(self)(self.potential.take(chosen), (first, second, third))

    @cached_property
    def packed(self) -> np.ndarray:
        return pack_planes([self.potential, *self.inverse_mass])

    @property
    def flow(self) -> Rates:
        return _spline_rates

    def energy(self, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        a, b, d = (entry(q) for entry in self.inverse_mass)
        p1, p2 = np.moveaxis(p, -1, 0)
        return 0.5 * (a * p1 * p1 + 2.0 * b * p1 * p2 + d * p2 * p2) + self.potential(q)

    def gradient(self, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p1, p2 = np.moveaxis(p, -1, 0)
        weights = (0.5 * p1 * p1, p1 * p2, 0.5 * p2 * p2)
        slopes = (entry.gradient(q) * weight[..., None] for entry, weight in zip(self.inverse_mass, weights, strict=True))
        a, b, d = (entry(q) for entry in self.inverse_mass)
        return sum(slopes, self.potential.gradient(q)), np.stack([a * p1 + b * p2, b * p1 + d * p2], axis=-1)

    def sense(self, sensors: tuple[int, ...]) -> dict[str, np.ndarray]:
        places = sensor_positions(_DOMAIN, sensors)
        everyone = np.broadcast_to(places, (len(self), *places.shape))
        return {"potential": self.potential(everyone), "inverse_mass": np.stack([entry(everyone) for entry in self.inverse_mass], axis=1)}


@dataclass(frozen=True)
class RandomPendulums(Ensemble):
    """Random masses and lengths; four motions each, in four strata of energy below that at which a rod goes over."""

    name = "random"
    orbits_per_hamiltonian = len(_ENERGY_STRATA)

    mass: tuple[float, float] = field(
        default=(0.5, 2.0), metadata={"description": "range of the lower mass over the upper one; log-uniform"}
    )
    length: tuple[float, float] = field(default=(0.5, 2.0), metadata={"description": "range of the lower length; log-uniform"})

    def __post_init__(self) -> None:
        for name in ("mass", "length"):
            low, high = getattr(self, name)
            if not 0.1 <= low <= high <= 10.0:
                raise InputError(f"{name} is ({low}, {high}); give 0.1 <= low <= high <= 10")

    def draw(self, draws: Draws, num_times: int) -> Drawn:
        of_pendulum = draws.hamiltonian(2)
        mass, length = (np.exp(between(of_pendulum[:, k], np.log(bounds))) for k, bounds in enumerate((self.mass, self.length)))
        pendulums = DoublePendulums(np.stack([mass, length], axis=-1))
        uniforms = draws.orbit(4 + num_times)
        energy = between(uniforms[:, 0], _ENERGY_STRATA[draws.orbit_index].T) * pendulums.turnover_energy
        # Shares of the energy: of the upper pendulum's height, of the lower one's, and the rest in motion.
        upper = energy * uniforms[:, 1]
        lower = (energy - upper) * uniforms[:, 2]
        sides = np.where(uniforms[:, 3:5] < 0.5, -1.0, 1.0)
        q0 = sides * np.arccos(1.0 - np.stack([upper / (1.0 + mass), lower / (mass * length)], axis=-1))
        p0 = _momenta(pendulums, q0, energy - upper - lower, 2.0 * math.pi * uniforms[:, 5])
        times = random_times(uniforms[:, 6:], SYSTEM.horizon)
        columns = {"mass": mass, "length": length, "stratum": draws.orbit_index}
        return Drawn(columns, pendulums, q0, p0, times)

    def describe(self) -> str:
        (lightest, heaviest), (shortest, longest) = self.mass, self.length
        return (
            f"μ is log-uniform in [{lightest}, {heaviest}], λ in [{shortest}, {longest}]. Four motions of each pendulum, at\n"
            "energies of [0.1, 0.3), [0.3, 0.6), [0.6, 0.85) and [0.85, 0.98) times that at which a rod can go over, for stratum 0\n"
            "to 3: a uniform share is the height of the upper mass, a uniform share of the rest that of the lower one, and what is\n"
            "left is motion in a uniform direction. Query times are random and sorted, with 0 and the horizon among them."
        )


class DoublePendulum(CompiledSystem):
    """θ' = M⁻¹ p, p' = -∂H/∂θ for 0 <= t <= 10; V and the entries of M⁻¹ on a grid of angles are what a network sees."""

    name = "double-pendulum"
    title = "The double pendulum"
    equations = """\
Each row is a double pendulum and one of its motions. q = (θ1, θ2) are the angles from the vertical, p their momenta:

    H = pᵀ M⁻¹(q) p / 2 + V(q),    q' = M⁻¹ p,    p' = −∂H/∂q,    0 ≤ t ≤ 10

    V = (1 + μ) (1 − cos θ1) + μ λ (1 − cos θ2)
    M⁻¹ = ((1, −cos Δ/λ), (−cos Δ/λ, (1 + μ)/(μλ²))) / (1 + μ sin²Δ),    Δ = θ1 − θ2

μ and λ are mass and length of the lower pendulum in units of the upper one's, and times are in units of √(l/g)."""
    domain = _DOMAIN
    horizon = 10.0
    fields: ClassVar[Mapping[str, int]] = {"potential": 1, "inverse_mass": 3}
    has_unit_mass = False
    columns = (
        Column("mass", "float64", "μ, the lower mass over the upper one"),
        Column("length", "float64", "λ, the lower length over the upper one"),
        Column("stratum", "int8", "energy stratum of the motion"),
        LYAPUNOV,
    )
    ensembles: ClassVar[Mapping[str, type[Ensemble]]] = {RandomPendulums.name: RandomPendulums}
    energy_scale_name = "the energy at which a rod can go over"
    section_plane = 0.0
    energy_strata = _ENERGY_STRATA
    energy_strata_title = "energy / energy at which a rod can go over"

    def prior_fits(self) -> list[Reconstruction]:
        """V is linear in 1 + μ and in μ λ: least squares over its sensors."""

        return [Reconstruction("prior-fit", "μ and λ by least squares", lambda problems: self._fit(problems.fields), 4)]

    def plausible(self, fields: Mapping[str, np.ndarray], ensemble: Ensemble | None, noise: float) -> list[Hamiltonians]:
        """The pendulum that has the readings, where there is one; else splines."""
        fit = self._fit(fields)
        return [fit] if has_readings(fit, fields) else super().plausible(fields, ensemble, noise)

    def _fit(self, fields: Mapping[str, np.ndarray]) -> DoublePendulums:
        values = fields["potential"]
        angles = sensor_positions(self.domain, values.shape[1:]).reshape(-1, 2)
        (of_first, of_second), *_ = np.linalg.lstsq(1.0 - np.cos(angles), values.reshape(len(values), -1).T)
        return DoublePendulums(np.stack([of_first - 1.0, of_second / (of_first - 1.0)], axis=-1))

    def rebuild(self, columns: Mapping[str, Sequence[Any]]) -> DoublePendulums:
        return DoublePendulums(np.stack([np.asarray(columns[name], dtype=np.float64) for name in ("mass", "length")], axis=-1))

    def energy_scale(self, hamiltonians: Any) -> np.ndarray:
        """Of interpolated pendulums, the lower of V at the two upright positions."""
        if isinstance(hamiltonians, DoublePendulums):
            return hamiltonians.turnover_energy
        upright = np.broadcast_to(np.array([[math.pi, 0.0], [0.0, math.pi]]), (len(hamiltonians), 2, 2))
        return hamiltonians.energy(upright, np.zeros_like(upright)).min(axis=1)

    def splines(self, fields: Mapping[str, np.ndarray], degree: Degree) -> SplinePendulums:
        """V and the entries of M⁻¹ as tensor-product splines."""
        first, second, third = (TensorSplines.through(fields["inverse_mass"][:, k], self.domain, degree) for k in range(3))
        return SplinePendulums(TensorSplines.through(fields["potential"], self.domain, degree), (first, second, third))

    def named_cases(self, initial_state: tuple[State, State] | None) -> list[NamedCase]:
        """The two normal modes at a small amplitude, where the motion is harmonic up to the square of the amplitude."""
        if initial_state is not None:
            return []
        return [_small_oscillation(name, sign) for name, sign in (("in-phase", 1.0), ("out-of-phase", -1.0))]


_AMPLITUDE = 1e-4


def _small_oscillation(name: str, sign: float) -> NamedCase:
    """A normal mode of the pendulum of equal masses and lengths: θ2 = ± sqrt(2) θ1, of frequency sqrt(2 ∓ sqrt(2))."""
    frequency = math.sqrt(2.0 - sign * math.sqrt(2.0))
    shape = _AMPLITUDE * np.array([1.0, sign * math.sqrt(2.0)])
    momentum = np.array([[2.0, 1.0], [1.0, 1.0]]) @ shape  # M shape, at rest angles

    def truth(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        c, s = np.cos(frequency * times)[:, None], np.sin(frequency * times)[:, None]
        return shape * c, -frequency * momentum * s

    q0 = (float(shape[0]), float(shape[1]))
    return NamedCase(name, "textbook", DoublePendulums(np.ones((1, 2))), q0, (0.0, 0.0), truth)


def _momenta(pendulums: DoublePendulums, q: np.ndarray, kinetic: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Momenta (R, 2) of these kinetic energies: p = L⁻ᵀ u with M⁻¹ = L Lᵀ and u of length sqrt(2 K)."""
    a, b, d = pendulums.inverse_mass(q).T
    first = np.sqrt(a)
    second, third = b / first, np.sqrt(d - b * b / a)
    u1, u2 = np.sqrt(2.0 * kinetic) * np.stack([np.cos(direction), np.sin(direction)])
    p2 = u2 / third
    return np.stack([(u1 - second * p2) / first, p2], axis=-1)


@compiled()
def _rates(packed, y, out):
    """y = (q, p)."""
    mass, length = packed[0], packed[1]
    sine, cosine = math.sin(y[0] - y[1]), math.cos(y[0] - y[1])
    share = 1.0 / (1.0 + mass * sine * sine)
    out[0] = (y[2] - cosine / length * y[3]) * share
    out[1] = (-cosine / length * y[2] + (1.0 + mass) / (mass * length * length) * y[3]) * share
    kinetic = 0.5 * (y[2] * out[0] + y[3] * out[1])
    turning = (sine * y[2] * y[3] / length - 2.0 * mass * sine * cosine * kinetic) * share
    out[2] = -turning - (1.0 + mass) * math.sin(y[0])
    out[3] = turning - mass * length * math.sin(y[1])


@compiled()
def _tangent_rates(packed, y, out):
    """y = (q, p, J), J = d(q, p) / d(q0, p0) row by row."""
    _rates(packed, y, out)
    mass, length = packed[0], packed[1]
    sine, cosine = math.sin(y[0] - y[1]), math.cos(y[0] - y[1])
    share = 1.0 / (1.0 + mass * sine * sine)
    slope, bend = 2.0 * mass * sine * cosine, 2.0 * mass * (cosine * cosine - sine * sine)  # derivatives of 1 / share
    a, b, d = share, -cosine / length * share, (1.0 + mass) / (mass * length * length) * share
    # By Δ: of the velocities, and twice of the kinetic energy T = N share.
    v1 = (sine / length * y[3] - out[0] * slope) * share
    v2 = (sine / length * y[2] - out[1] * slope) * share
    kinetic = 0.5 * (y[2] * out[0] + y[3] * out[1])
    turning = (sine * y[2] * y[3] / length - slope * kinetic) * share
    turning_by_angle = (cosine * y[2] * y[3] / length - 2.0 * slope * turning - bend * kinetic) * share
    by_first, by_second = (1.0 + mass) * math.cos(y[0]), mass * length * math.cos(y[1])
    for k in range(4):
        t1, t2, p1, p2 = y[4 + k], y[8 + k], y[12 + k], y[16 + k]
        out[4 + k] = v1 * (t1 - t2) + a * p1 + b * p2
        out[8 + k] = v2 * (t1 - t2) + b * p1 + d * p2
        change = turning_by_angle * (t1 - t2) + v1 * p1 + v2 * p2
        out[12 + k] = -change - by_first * t1
        out[16 + k] = change - by_second * t2


@compiled()
def _spline_rates(packed, y, out):
    """y = (q, p), with V and the entries 11, 12 and 22 of M⁻¹ as splines."""
    terms = np.empty((4, 3))
    plane_terms(packed, y[0], y[1], terms)
    out[0] = terms[1, 0] * y[2] + terms[2, 0] * y[3]
    out[1] = terms[2, 0] * y[2] + terms[3, 0] * y[3]
    weights = (0.5 * y[2] * y[2], y[2] * y[3], 0.5 * y[3] * y[3])
    for axis in range(2):
        force = terms[0, 1 + axis]
        for k in range(3):
            force += weights[k] * terms[1 + k, 1 + axis]
        out[2 + axis] = -force


SYSTEM = DoublePendulum()
