"""A particle on a random surface: two degrees of freedom, mostly chaotic, inside a square whose rim it cannot cross."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from scipy.special import ndtri

from ...compiled import compiled
from ...errors import InputError
from ...potentials.fourier_fields import fill_modes, gaussian_fields, highest_modes
from ...potentials.tensor_splines import SPRING, Degree, beyond, plane_terms
from ...solvers.flows import Rates
from ...threads import share_rows
from ..base import Column, Drawn, Ensemble, Names
from ..baselines import Reconstruction
from ..compiled_flow import LYAPUNOV, CompiledSystem
from ..draws import Draws, between, random_times
from ..generic import SplineHamiltonians

if TYPE_CHECKING:
    from ..problems import Problems

RIM = 2.0
_ENERGY_STRATA = np.array([(0.05, 0.35), (0.35, 0.65), (0.65, 0.95), (0.95, 0.99)])  # of E - V(q0), over what is left up to the rim
_SEARCH = 25  # places along each axis among which the lowest point is looked for, before Newton's method
_NEWTON_STEPS = 20


@dataclass(frozen=True)
class Surfaces:
    """H = p²/2 + V(q) of R rows, V = 2 - c w(x) w(y) exp g(x, y), with w(x) = 4 x (1 - x) and g a sum of Fourier modes.

    `packed` (R, 2 + M²) holds c, the number M of functions along an axis, and their coefficients (M, M), padded with zeros;
    `depth` (R,) is that of the lowest point below the rim.
    """

    packed: np.ndarray
    depth: np.ndarray

    @classmethod
    def from_modes(cls, scale: np.ndarray, coefficients: np.ndarray) -> Self:
        """From c (R,) and the coefficients (R, M²), row by row and padded with nan."""
        packed, depth = _pack(scale, coefficients), np.empty(len(scale))
        _find_deepest(packed, depth)
        return cls(packed, depth)

    def __len__(self) -> int:
        return len(self.packed)

    def take(self, rows: np.ndarray) -> Self:
        return type(self)(self.packed[rows], self.depth[rows])

    @property
    def flow(self) -> Rates:
        return _rates

    @property
    def tangent_flow(self) -> Rates:
        return _tangent_rates

    def energy(self, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        return 0.5 * np.square(p).sum(axis=-1) + self.derivatives(q, 1)[..., 0]

    def gradient(self, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.derivatives(q, 3)[..., 1:], p

    def derivatives(self, q: np.ndarray, count: int) -> np.ndarray:
        """The first `count` of V, Vx, Vy, Vxx, Vxy, Vyy at positions (R, ..., 2), as (R, ..., count)."""
        places = np.ascontiguousarray(q, dtype=np.float64).reshape(len(self), -1, 2)
        values = np.empty((*places.shape[:2], 6))
        share_rows(lambda rows: _evaluate(self.packed[rows], places[rows], count > 3, values[rows]), len(self), None)
        return values[..., :count].reshape(*q.shape[:-1], count)

    def sense(self, sensors: tuple[int, ...]) -> dict[str, np.ndarray]:
        x, y = (np.linspace(0.0, 1.0, count) for count in sensors)
        values = np.empty((len(self), *sensors))
        share_rows(lambda rows: _sense(self.packed[rows], x, y, values[rows]), len(self), None)
        return {"potential": values}


class FittedSurfaces(Surfaces):
    """Surfaces that need not be exact, in which a particle may have the energy to leave the square: beyond the rim springs pull back."""

    @property
    def flow(self) -> Rates:
        return _confined_rates


class SplineSurfaces(SplineHamiltonians):
    """V interpolated, which a particle may have the energy to leave as well."""

    @property
    def flow(self) -> Rates:
        return _confined_spline_rates


@dataclass(frozen=True)
class RandomSurface(Ensemble):
    """Random fields g of random length scale, V with a random depth; four particles on each surface, at energies below its rim."""

    name = "random"
    orbits_per_hamiltonian = len(_ENERGY_STRATA)

    length_scale: tuple[float, float] = field(default=(0.15, 0.5), metadata={"description": "range of the field's length scale"})
    depth: tuple[float, float] = field(default=(1.0, 4.0), metadata={"description": "range of the depth of V below the rim"})

    def __post_init__(self) -> None:
        for name, least in (("length_scale", 0.05), ("depth", 0.1)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise InputError(f"{name} is ({low}, {high}); give {least} <= low <= high")

    def draw(self, draws: Draws, num_times: int) -> Drawn:
        distinct, owner = draws.distinct()
        columns = self._draw_surfaces(distinct)
        surfaces = Surfaces(_pack(columns["scale"], columns["coefficients"]), columns["depth"]).take(owner)
        uniforms = draws.orbit(2 + num_times)
        q0 = uniforms[:, :2]
        fraction = between(uniforms[:, 2], _ENERGY_STRATA[draws.orbit_index].T)
        # E = V(q0) + u (2 - V(q0)) < 2 keeps the particle inside by construction.
        speed = np.sqrt(2.0 * fraction * (RIM - surfaces.derivatives(q0, 1)[:, 0]))
        direction = 2.0 * math.pi * uniforms[:, 3]
        p0 = speed[:, None] * np.stack([np.cos(direction), np.sin(direction)], axis=-1)
        times = random_times(uniforms[:, 4:], SYSTEM.horizon)
        own = {name: column[owner] for name, column in columns.items()} | {"stratum": draws.orbit_index}
        return Drawn(own, surfaces, q0, p0, times)

    def _draw_surfaces(self, draws: Draws) -> dict[str, np.ndarray]:
        """`coefficients` (R, M²) padded with nan, `scale`, `length_scale` and `depth` (R,)."""
        size = 2 * int(highest_modes(np.array(self.length_scale[0]))) + 1
        uniforms = draws.hamiltonian(2 + size * size)
        length_scale, depth = between(uniforms[:, 0], self.length_scale), between(uniforms[:, 1], self.depth)
        coefficients = np.full((len(uniforms), size * size), np.nan)
        for row, (one, highest) in enumerate(zip(length_scale, highest_modes(length_scale), strict=True)):
            own = 2 * int(highest) + 1
            normals = ndtri(uniforms[row, 2 : 2 + own * own]).reshape(1, own, own)
            coefficients[row, : own * own] = gaussian_fields(normals, float(one)).ravel()
        deepest = np.empty(len(uniforms))
        _find_deepest(_pack(np.ones(len(uniforms)), coefficients), deepest)
        return {"coefficients": coefficients, "scale": depth / deepest, "length_scale": length_scale, "depth": depth}

    def describe(self) -> str:
        (shortest, longest), (low, high) = self.length_scale, self.depth
        return (
            "g is a Gaussian random field of variance 1 with kernel exp(−r²/2ℓ²), summed over its images at distances of 2,\n"
            f"ℓ uniform in [{shortest}, {longest}]; c is such that the lowest point lies `depth` below the rim,\n"
            f"uniform in [{low}, {high}]. Four particles move on each surface, from q0 uniform in the square in uniform\n"
            "directions, at the energy V(q0) + u (2 − V(q0)), u in [0.05, 0.35), [0.35, 0.65), [0.65, 0.95), [0.95, 0.99)\n"
            "for stratum 0 to 3. Query times are random and sorted, with 0 and 2 among them."
        )


class Surface(CompiledSystem):
    """q' = p, p' = -∇V(q) on the unit square for 0 <= t <= 2, with V = 2 on its rim."""

    name = "surface"
    title = "One particle on random surfaces"
    equations = """\
Each row is a potential V on the unit square, and the motion of a particle of unit mass in it:

    q' = p,    p' = -∇V(q),    H = |p|²/2 + V(q),    0 ≤ t ≤ 2        (everything dimensionless)

    V(x, y) = 2 − c w(x) w(y) exp g(x, y),    w(x) = 4 x (1 − x),    g = Σ a_ij f_i(x) f_j(y),
    f_0 = 1,    f_(2k−1)(x) = cos πkx,    f_2k(x) = sin πkx

V = 2 on the rim, and every particle has less energy. c and the coefficients a, row by row, rebuild the exact potential."""
    domain = ((0.0, 1.0), (0.0, 1.0))
    horizon = 2.0
    columns = (
        Column("coefficients", "list", "a_ij of the field g, row by row"),
        Column("scale", "float64", "c, the factor before w w exp g"),
        Column("length_scale", "float64", "length scale of the field"),
        Column("depth", "float64", "depth of the lowest point of V below the rim"),
        Column("stratum", "int8", "energy stratum of the orbit"),
        LYAPUNOV,
    )
    ensembles: ClassVar[Mapping[str, type[Ensemble]]] = {RandomSurface.name: RandomSurface}
    requirements = f"V = {RIM:g} on the rim of the square (within 0.1) and lower inside"
    examples: ClassVar[Mapping[str, str]] = {
        "One well": "2 - 3*16*q1*(1-q1)*q2*(1-q2)",
        "Two wells": "2 - 16*q1*(1-q1)*q2*(1-q2)*(4*exp(-30*((q1-0.3)**2+(q2-0.4)**2))+4*exp(-30*((q1-0.7)**2+(q2-0.6)**2)))",
    }
    energy_scale_name = "the depth of the surface below its rim"
    energy_strata = _ENERGY_STRATA
    energy_strata_title = "(E − V(q0)) / (2 − V(q0))"

    def rebuild(self, columns: Mapping[str, Sequence[Any]]) -> Surfaces:
        rows = list(columns["coefficients"])
        coefficients = np.full((len(rows), max((len(row) for row in rows), default=1)), np.nan)
        for row, values in enumerate(rows):
            coefficients[row, : len(values)] = values
        scale, depth = (np.asarray(columns[name], dtype=np.float64) for name in ("scale", "depth"))
        return Surfaces(_pack(scale, coefficients), depth)

    def splines(self, fields: Mapping[str, np.ndarray], degree: Degree) -> SplineSurfaces:
        return SplineSurfaces.through(fields["potential"], self.domain, degree)

    def prior_fits(self) -> list[Reconstruction]:
        from .prior_fit import fit_surfaces

        def fit(problems: "Problems") -> Surfaces:
            return fit_surfaces(problems.fields["potential"], problems.noise)

        about = "the mean of the Gaussian process that the surfaces are drawn from, given the sensors"
        return [Reconstruction("prior-fit", about, fit, 4, _draws_fields)]

    def complete_fields(self, fields: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = fields["potential"].copy()
        values[:, [0, -1]] = values[:, :, [0, -1]] = RIM
        return {"potential": values}

    def energy_scale(self, hamiltonians: Any) -> np.ndarray:
        """Of exact surfaces the depth, and of others that of their lowest point on a grid."""
        if isinstance(hamiltonians, Surfaces):
            return hamiltonians.depth
        values = hamiltonians.sense((2 * _SEARCH - 1,) * 2)["potential"]
        return RIM - values.reshape(len(values), -1).min(axis=1)

    def check_potential(self, fields: Mapping[str, np.ndarray], names: Sequence[Names]) -> None:
        super().check_potential(fields, names)
        values = fields["potential"]
        rim = np.concatenate([values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]], axis=1)
        for row in np.flatnonzero(np.abs(rim - RIM).max(axis=1) > _RIM_TOLERANCE)[:1]:
            worst = rim[row, np.argmax(np.abs(rim[row] - RIM))]
            raise InputError(
                f"{names[row].potential} is {worst:.6g} on the rim of the square; a surface has V = {RIM:g} there (within 0.1)"
            )

    def check_initial_state(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, names: Sequence[Names]) -> None:
        super().check_initial_state(hamiltonians, q0, p0, names)
        energy = hamiltonians.energy(q0, p0)
        for row in np.flatnonzero(~(energy < RIM))[:1]:
            raise InputError(
                f"{names[row].potential} gives |p0|**2/2 + V(q0) = {energy[row]:.6g}; from {RIM:g} on the particle can cross the rim"
            )


def _draws_fields(problems: "Problems") -> str | None:
    if isinstance(problems.ensemble, RandomSurface):
        count = math.prod(problems.sensors)
        return None if count <= _MOST_FITTED else f"its cost goes as the cube of {count} sensors; it takes at most {_MOST_FITTED}"
    return f"it fits the random fields of ensemble {RandomSurface.name!r}, and ensemble {problems.ensemble.name!r} draws none"


_RIM_TOLERANCE = 0.1
_MOST_FITTED = 1024


def _pack(scale: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """As `Surfaces` holds them, from c (R,) and coefficients (R, n) padded with nan."""
    sizes = np.sqrt((~np.isnan(coefficients)).sum(axis=1)).round()
    return np.concatenate([scale[:, None], sizes[:, None], np.nan_to_num(coefficients)], axis=1)


@compiled()
def _terms(packed, x, y, second, out):
    """Fill out (6,) with V, Vx, Vy and, if `second`, Vxx, Vxy, Vyy."""
    c, size = packed[0], int(packed[1])
    fx, fy = np.empty((3, size)), np.empty((3, size))
    fill_modes(x, fx[0], fx[1], fx[2])
    fill_modes(y, fy[0], fy[1], fy[2])
    sums = np.zeros((3, size))
    for i in range(size):
        a, b, d = fx[0, i], fx[1, i], fx[2, i]
        row = 2 + i * size
        for j in range(size):
            sums[0, j] += a * packed[row + j]
            sums[1, j] += b * packed[row + j]
        if second:
            for j in range(size):
                sums[2, j] += d * packed[row + j]
    g, gx, gy, gxx, gxy, gyy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(size):
        g += sums[0, j] * fy[0, j]
        gx += sums[1, j] * fy[0, j]
        gy += sums[0, j] * fy[1, j]
        if second:
            gxx += sums[2, j] * fy[0, j]
            gxy += sums[1, j] * fy[1, j]
            gyy += sums[0, j] * fy[2, j]
    u, v, du, dv = 4.0 * x * (1.0 - x), 4.0 * y * (1.0 - y), 4.0 - 8.0 * x, 4.0 - 8.0 * y
    e = -c * math.exp(g)
    out[0] = RIM + e * u * v
    out[1] = e * v * (du + u * gx)
    out[2] = e * u * (dv + v * gy)
    if second:
        out[3] = e * v * (-8.0 + 2.0 * du * gx + u * (gxx + gx * gx))
        out[4] = e * (du * dv + du * v * gy + u * dv * gx + u * v * (gxy + gx * gy))
        out[5] = e * u * (-8.0 + 2.0 * dv * gy + v * (gyy + gy * gy))


@compiled()
def _rates(packed, y, out):
    """y = (q, p)."""
    terms = np.empty(6)
    _terms(packed, y[0], y[1], False, terms)
    out[0], out[1], out[2], out[3] = y[2], y[3], -terms[1], -terms[2]


@compiled()
def _confined_rates(packed, y, out):
    """The same with V = 2 and springs beyond the rim."""
    terms = np.empty(6)
    outside_x, outside_y = beyond(0.0, 1.0, y[0]), beyond(0.0, 1.0, y[1])
    _terms(packed, y[0] - outside_x, y[1] - outside_y, False, terms)
    out[0], out[1] = y[2], y[3]
    out[2] = -terms[1] if outside_x == 0.0 else -SPRING * outside_x
    out[3] = -terms[2] if outside_y == 0.0 else -SPRING * outside_y


@compiled()
def _confined_spline_rates(packed, y, out):
    """The same with V as a spline."""
    terms = np.empty((1, 3))
    outside_x, outside_y = beyond(0.0, 1.0, y[0]), beyond(0.0, 1.0, y[1])
    plane_terms(packed, y[0] - outside_x, y[1] - outside_y, terms)
    out[0], out[1] = y[2], y[3]
    out[2] = -terms[0, 1] if outside_x == 0.0 else -SPRING * outside_x
    out[3] = -terms[0, 2] if outside_y == 0.0 else -SPRING * outside_y


@compiled()
def _tangent_rates(packed, y, out):
    """y = (q, p, J), J = d(q, p) / d(q0, p0) row by row."""
    terms = np.empty(6)
    _terms(packed, y[0], y[1], True, terms)
    out[0], out[1], out[2], out[3] = y[2], y[3], -terms[1], -terms[2]
    for k in range(4):
        along_x, along_y = y[4 + k], y[8 + k]
        out[4 + k], out[8 + k] = y[12 + k], y[16 + k]
        out[12 + k] = -(terms[3] * along_x + terms[4] * along_y)
        out[16 + k] = -(terms[4] * along_x + terms[5] * along_y)


@compiled(nogil=True)
def _evaluate(packed, places, second, values):
    """`_terms` at places (R, T, 2), into values (R, T, 6)."""
    for row in range(places.shape[0]):
        for k in range(places.shape[1]):
            _terms(packed[row], places[row, k, 0], places[row, k, 1], second, values[row, k])


@compiled(nogil=True)
def _sense(packed, x, y, values):
    """V on a grid, into values (R, S1, S2)."""
    spare = np.empty((2, packed.shape[1]))
    for row in range(packed.shape[0]):
        c, size = packed[row, 0], int(packed[row, 1])
        along_y = np.empty((y.size, size))
        for m in range(y.size):
            fill_modes(y[m], along_y[m], spare[0, :size], spare[1, :size])
        fx, sums = np.empty(size), np.empty(size)
        for k in range(x.size):
            fill_modes(x[k], fx, spare[0, :size], spare[1, :size])
            sums[:] = 0.0
            for i in range(size):
                for j in range(size):
                    sums[j] += fx[i] * packed[row, 2 + i * size + j]
            for m in range(y.size):
                g = 0.0
                for j in range(size):
                    g += sums[j] * along_y[m, j]
                values[row, k, m] = RIM - c * 16.0 * x[k] * (1.0 - x[k]) * y[m] * (1.0 - y[m]) * math.exp(g)


@compiled(nogil=True)
def _find_deepest(packed, depths):
    """The depth below the rim of the lowest point of each surface: on a grid, then by Newton's method where it goes on down."""
    terms = np.empty(6)
    for row in range(packed.shape[0]):
        lowest, x, y = math.inf, 0.5, 0.5
        for k in range(1, _SEARCH - 1):
            for m in range(1, _SEARCH - 1):
                _terms(packed[row], k / (_SEARCH - 1), m / (_SEARCH - 1), False, terms)
                if terms[0] < lowest:
                    lowest, x, y = terms[0], k / (_SEARCH - 1), m / (_SEARCH - 1)
        for _ in range(_NEWTON_STEPS):
            _terms(packed[row], x, y, True, terms)
            lowest = min(lowest, terms[0])
            determinant = terms[3] * terms[5] - terms[4] * terms[4]
            if not (determinant > 0.0 and terms[3] > 0.0):
                break
            step_x = (terms[5] * terms[1] - terms[4] * terms[2]) / determinant
            step_y = (terms[3] * terms[2] - terms[4] * terms[1]) / determinant
            if not (0.0 < x - step_x < 1.0 and 0.0 < y - step_y < 1.0):
                break
            x, y = x - step_x, y - step_y
        depths[row] = RIM - lowest


SYSTEM = Surface()
