"""The surfaces that are drawn: random fields, and two families that no such field resembles, to test what was learnt from them.

Shapes: R rows, M functions along each axis.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from ...errors import InputError
from ...potentials.fourier_fields import gaussian_fields, highest_modes, mode_deviations, modes
from ..base import Drawn, Ensemble
from ..draws import Draws, between, random_times
from .surfaces import RIM, Surfaces, find_deepest, pack

ENERGY_STRATA = np.array([(0.05, 0.35), (0.35, 0.65), (0.65, 0.95), (0.95, 0.99)])  # of E - V(q0), over what is left up to the rim
HORIZON = 2.0
_FITTED = 40  # places along each axis at which a field is given its modes
_ENERGIES = (
    "Four particles move on each surface, from q0 uniform in the square in uniform directions, at the energy\n"
    "V(q0) + u (2 − V(q0)), u in [0.05, 0.35), [0.35, 0.65), [0.65, 0.95), [0.95, 0.99) for stratum 0 to 3.\n"
    "Query times are random and sorted, with 0 and 2 among them."
)


@dataclass(frozen=True)
class SurfaceEnsemble(Ensemble):
    """V with a random depth, four particles on each surface, at energies below its rim. Subclasses draw the field g."""

    orbits_per_hamiltonian = len(ENERGY_STRATA)

    length_scale: tuple[float, float] = field(default=(0.15, 0.5), metadata={"description": "range of the field's length scale"})
    depth: tuple[float, float] = field(default=(1.0, 4.0), metadata={"description": "range of the depth of V below the rim"})

    def __post_init__(self) -> None:
        for name, least in (("length_scale", 0.05), ("depth", 0.1)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise InputError(f"{name} is ({low}, {high}); give {least} <= low <= high")

    @property
    @abstractmethod
    def num_uniforms(self) -> int:
        """Random numbers of one field."""

    @abstractmethod
    def draw_field(self, uniforms: np.ndarray, length_scale: float) -> np.ndarray:
        """Coefficients (M, M) of g, of a length scale, from numbers (num_uniforms,) uniform in (0, 1)."""

    def draw(self, draws: Draws, num_times: int) -> Drawn:
        distinct, owner = draws.distinct()
        columns = self._draw_surfaces(distinct)
        surfaces = Surfaces(pack(columns["scale"], columns["coefficients"]), columns["depth"]).take(owner)
        uniforms = draws.orbit(2 + num_times)
        q0 = uniforms[:, :2]
        fraction = between(uniforms[:, 2], ENERGY_STRATA[draws.orbit_index].T)
        # E = V(q0) + u (2 - V(q0)) < 2 keeps the particle inside by construction.
        speed = np.sqrt(2.0 * fraction * (RIM - surfaces.derivatives(q0, 1)[:, 0]))
        direction = 2.0 * math.pi * uniforms[:, 3]
        p0 = speed[:, None] * np.stack([np.cos(direction), np.sin(direction)], axis=-1)
        own = {name: column[owner] for name, column in columns.items()} | {"stratum": draws.orbit_index}
        return Drawn(own, surfaces, q0, p0, random_times(uniforms[:, 4:], HORIZON))

    def _draw_surfaces(self, draws: Draws) -> dict[str, np.ndarray]:
        """`coefficients` (R, M²) padded with nan, `scale`, `length_scale` and `depth` (R,)."""
        uniforms = draws.hamiltonian(2 + self.num_uniforms)
        length_scale, depth = between(uniforms[:, 0], self.length_scale), between(uniforms[:, 1], self.depth)
        fields = [self.draw_field(row, float(one)).ravel() for row, one in zip(uniforms[:, 2:], length_scale, strict=True)]
        coefficients = np.full((len(fields), self._largest_size**2), np.nan)
        for row, values in enumerate(fields):
            coefficients[row, : values.size] = values
        deepest = np.empty(len(fields))
        find_deepest(pack(np.ones(len(fields)), coefficients), deepest)
        return {"coefficients": coefficients, "scale": depth / deepest, "length_scale": length_scale, "depth": depth}

    @property
    def _largest_size(self) -> int:
        return 2 * int(highest_modes(np.array(self.length_scale[0]))) + 1

    def _describe_depth(self) -> str:
        low, high = self.depth
        return f"c is such that the lowest point lies `depth` below the rim, uniform in [{low}, {high}]."


@dataclass(frozen=True)
class RandomSurface(SurfaceEnsemble):
    """Gaussian random fields g of random length scale."""

    name = "random"

    @property
    def num_uniforms(self) -> int:
        return self._largest_size**2

    def draw_field(self, uniforms: np.ndarray, length_scale: float) -> np.ndarray:
        size = 2 * int(highest_modes(np.array(length_scale))) + 1
        return gaussian_fields(ndtri(uniforms[: size * size]).reshape(1, size, size), length_scale)[0]

    def describe(self) -> str:
        shortest, longest = self.length_scale
        return (
            "g is a Gaussian random field of variance 1 with kernel exp(−r²/2ℓ²), summed over its images at distances of 2,\n"
            f"ℓ uniform in [{shortest}, {longest}].\n{self._describe_depth()}\n{_ENERGIES}"
        )

    def variants(self) -> dict[str, Ensemble]:
        both = {"length_scale": self.length_scale, "depth": self.depth}
        (shortest, longest), (low, high) = self.length_scale, self.depth
        return {
            "rougher": replace(self, length_scale=(max(0.05, 2 * shortest / 3), shortest)),
            "smoother": replace(self, length_scale=(longest, 2 * longest)),
            "shallower": replace(self, depth=(max(0.1, low / 3), low)),
            "deeper": replace(self, depth=(high, 1.5 * high)),
            "products": ProductSurface(**both),
            "three waves": ThreeWaves(**both),
        }


@dataclass(frozen=True)
class ProductSurface(SurfaceEnsemble):
    """g(x, y) = a(x) + b(y), so that 2 - V is a product. V = A(x) + B(y), which separates the motion, cannot have a level rim."""

    name = "products"

    @property
    def num_uniforms(self) -> int:
        return 2 * self._largest_size

    def draw_field(self, uniforms: np.ndarray, length_scale: float) -> np.ndarray:
        highest = int(highest_modes(np.array(length_scale)))
        size = 2 * highest + 1
        # Half the variance along each axis: 1 in all.
        along = math.sqrt(0.5) * mode_deviations(length_scale, highest) * ndtri(uniforms[: 2 * size]).reshape(2, size)
        coefficients = np.zeros((size, size))
        coefficients[:, 0], coefficients[0, :] = along
        coefficients[0, 0] = along[:, 0].sum()
        return coefficients

    def describe(self) -> str:
        shortest, longest = self.length_scale
        return (
            "g(x, y) = a(x) + b(y), two independent Gaussian random functions of variance 1/2 with kernel exp(−r²/2ℓ²),\n"
            f"summed over its images at distances of 2, ℓ uniform in [{shortest}, {longest}]: 2 − V is a product.\n"
            f"{self._describe_depth()}\n{_ENERGIES}"
        )


@dataclass(frozen=True)
class ThreeWaves(SurfaceEnsemble):
    """g = A (cos(k₁·r + φ) + cos(k₂·r + φ) + cos(k₃·r + φ)), three plane waves at 120°, about the middle of the square.

    To third order in r this is the potential of Hénon and Heiles (The Astronomical Journal 69, 73, 1964), turned: an isotropic well and a
    cubic term with threefold symmetry. A and the wave number give g the variance and the mean squared gradient of a random field of the
    same length scale; φ sets the strength of the cubic term.
    """

    name = "three-waves"

    @property
    def num_uniforms(self) -> int:
        return 2

    def draw_field(self, uniforms: np.ndarray, length_scale: float) -> np.ndarray:
        turn, phase = 2.0 * math.pi / 3.0 * uniforms[0], math.pi / 6.0 * (2.0 * uniforms[1] - 1.0)
        angles = turn + 2.0 * math.pi / 3.0 * np.arange(3)
        wave = math.sqrt(2.0) / length_scale

        def field_at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            along = np.cos(angles) * (x[..., None] - 0.5) + np.sin(angles) * (y[..., None] - 0.5)
            return math.sqrt(2.0 / 3.0) * np.cos(wave * along + phase).sum(axis=-1)

        return _fit_modes(field_at, int(highest_modes(np.array(length_scale))))

    def describe(self) -> str:
        shortest, longest = self.length_scale
        return (
            "g = √(2/3) (cos(k₁·r + φ) + cos(k₂·r + φ) + cos(k₃·r + φ)) with r from the middle of the square, three wave vectors at\n"
            f"120° of length √2/ℓ in a random direction, ℓ uniform in [{shortest}, {longest}], φ uniform in [−π/6, π/6]:\n"
            f"to third order the potential of Hénon and Heiles. g is what its Fourier modes of period 2 make of it.\n"
            f"{self._describe_depth()}\n{_ENERGIES}"
        )


def _fit_modes(function: Callable[[np.ndarray, np.ndarray], Any], highest: int) -> np.ndarray:
    """Coefficients (M, M) of a smooth function on the square, by least squares: it need not have the modes' period."""
    x = np.linspace(0.0, 1.0, _FITTED)
    inverse = np.linalg.pinv(modes(x, highest), rcond=1e-6)
    return inverse @ function(*np.meshgrid(x, x, indexing="ij")) @ inverse.T
