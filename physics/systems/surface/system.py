"""A particle on a random surface: two degrees of freedom, mostly chaotic, inside a square whose rim it cannot cross."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import InputError, shown
from ...potentials.tensor_splines import Degree
from ..base import Column, Ensemble, Hamiltonians, NamedCase, Names, State
from ..baselines import Reconstruction
from ..compiled_flow import LYAPUNOV, CompiledSystem
from .ensembles import ENERGY_STRATA, HORIZON, ProductSurface, RandomSurface, ThreeWaves
from .surfaces import RIM, SEARCH, SplineSurfaces, Surfaces, pack

if TYPE_CHECKING:
    from ..problems import Problems

_SHALLOWEST = 1e-6  # depth below the rim that is one
_RIM_TOLERANCE = 0.1
_ROUNDING = 1e-12  # of heights
_MOST_FITTED = 1024  # sensors: the fit costs their cube
_NUM_SAMPLES = 8  # of the surfaces that could have noisy readings


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
    horizon = HORIZON
    columns = (
        Column("coefficients", "list", "a_ij of the field g, row by row"),
        Column("scale", "float64", "c, the factor before w w exp g"),
        Column("length_scale", "float64", "length scale of the field"),
        Column("depth", "float64", "depth of the lowest point of V below the rim"),
        Column("stratum", "int8", "energy stratum of the orbit"),
        LYAPUNOV,
    )
    ensembles: ClassVar[Mapping[str, type[Ensemble]]] = {one.name: one for one in (RandomSurface, ProductSurface, ThreeWaves)}
    requirements = f"V = {RIM:g} on the rim of the square (within 0.1) and lower inside"
    examples: ClassVar[Mapping[str, str]] = {
        "One well": "2 - 3*16*q1*(1-q1)*q2*(1-q2)",
        "Two wells": "2 - 16*q1*(1-q1)*q2*(1-q2)*(4*exp(-30*((q1-0.3)**2+(q2-0.4)**2))+4*exp(-30*((q1-0.7)**2+(q2-0.6)**2)))",
    }
    energy_scale_name = "the depth of the surface below its rim"
    energy_strata = ENERGY_STRATA
    energy_strata_title = "(E − V(q0)) / (2 − V(q0))"

    def rebuild(self, columns: Mapping[str, Sequence[Any]]) -> Surfaces:
        rows = list(columns["coefficients"])
        coefficients = np.full((len(rows), max((len(row) for row in rows), default=1)), np.nan)
        for row, values in enumerate(rows):
            coefficients[row, : len(values)] = values
        scale, depth = (np.asarray(columns[name], dtype=np.float64) for name in ("scale", "depth"))
        return Surfaces(pack(scale, coefficients), depth)

    def splines(self, fields: Mapping[str, np.ndarray], degree: Degree) -> SplineSurfaces:
        return SplineSurfaces.through(fields["potential"], self.domain, degree)

    def prior_fits(self) -> list[Reconstruction]:
        from .prior_fit import fit_surfaces

        def fit(problems: "Problems") -> Surfaces:
            return fit_surfaces(problems.fields["potential"], problems.noise)

        about = "the mean of the Gaussian process that the surfaces are drawn from, given the sensors"
        return [Reconstruction("prior-fit", about, fit, 4, _draws_fields)]

    def plausible(self, fields: Mapping[str, np.ndarray], ensemble: Ensemble | None, noise: float) -> list[Hamiltonians]:
        """The fit of the prior, and the spline of degree 5; with noise, other surfaces of the prior instead of the spline."""
        from .prior_fit import fit_surfaces, sample_surfaces

        values = fields["potential"]
        if not isinstance(ensemble, RandomSurface) or values[0].size > _MOST_FITTED or min(values.shape[1:]) < 6:
            return super().plausible(fields, ensemble, noise)
        others = sample_surfaces(values, noise, ensemble.length_scale, _NUM_SAMPLES, 0) if noise > 0.0 else [self.splines(fields, 5)]
        return [fit_surfaces(values, noise), *others]

    def complete_fields(self, fields: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = fields["potential"].copy()
        values[:, [0, -1]] = values[:, :, [0, -1]] = RIM
        return {"potential": values}

    def energy_scale(self, hamiltonians: Any) -> np.ndarray:
        """Of exact surfaces the depth, and of others that of their lowest point on a grid."""
        if isinstance(hamiltonians, Surfaces):
            return hamiltonians.depth
        values = hamiltonians.sense((2 * SEARCH - 1,) * 2)["potential"]
        return RIM - values.reshape(len(values), -1).min(axis=1)

    def check_potential(self, fields: Mapping[str, np.ndarray], names: Sequence[Names]) -> None:
        super().check_potential(fields, names)
        values = fields["potential"]
        rim = np.concatenate([values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]], axis=1)
        for row in np.flatnonzero(np.abs(rim - RIM).max(axis=1) > _RIM_TOLERANCE + _ROUNDING)[:1]:
            worst = shown(rim[row, np.argmax(np.abs(rim[row] - RIM))], RIM - _RIM_TOLERANCE, RIM, RIM + _RIM_TOLERANCE)
            raise InputError(f"{names[row].potential} is {worst} on the rim of the square; a surface has V = {RIM:g} there (within 0.1)")
        lowest = values[:, 1:-1, 1:-1].min(axis=(1, 2))
        for row in np.flatnonzero(lowest > RIM - _SHALLOWEST)[:1]:
            raise InputError(
                f"{names[row].potential} is {shown(lowest[row], RIM)} and more inside the square; a surface is lower there than its "
                f"rim, by {_SHALLOWEST:g} at least"
            )

    def check_initial_state(self, hamiltonians: Any, q0: np.ndarray, p0: np.ndarray, names: Sequence[Names]) -> None:
        super().check_initial_state(hamiltonians, q0, p0, names)
        energy = hamiltonians.energy(q0, p0)
        for row in np.flatnonzero(~(energy < RIM))[:1]:
            raise InputError(
                f"{names[row].q0} and {names[row].p0} give |p0|**2/2 + V(q0) = {shown(energy[row], RIM)}; from {RIM:g} on the particle can "
                f"cross the rim: lower {names[row].p0}, or start where V is lower"
            )

    def named_cases(self, initial_state: tuple[State, State] | None) -> list[NamedCase]:
        """Those of `textbook`, which start in different places."""
        from .textbook import textbook_cases

        return textbook_cases() if initial_state is None else []


def _draws_fields(problems: "Problems") -> str | None:
    if isinstance(problems.ensemble, RandomSurface):
        count = math.prod(problems.sensors)
        return None if count <= _MOST_FITTED else f"its cost goes as the cube of {count} sensors; it takes at most {_MOST_FITTED}"
    return f"it fits the random fields of ensemble {RandomSurface.name!r}, and ensemble {problems.ensemble.name!r} draws none"


SYSTEM = Surface()
