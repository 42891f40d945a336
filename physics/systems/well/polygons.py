"""Random control polygons, which the ensembles of the well share: abscissae in cells, heights from a random field."""

from abc import abstractmethod
from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri

from ...errors import InputError
from ...potentials.curves import Curves
from ...potentials.random_fields import gaussian_random_fields
from ..base import Ensemble
from ..draws import Draws, between

WALL_HEIGHT = 2.0


@dataclass(frozen=True)
class RandomPolygons(Ensemble):
    """Polygons with a random number of interior points, one in each of as many equal cells of [0, 1].

    Their heights follow a Gaussian random field of a random length scale, which a subclass maps to V.
    """

    control_points: tuple[int, int] = field(default=(2, 7), metadata={"description": "fewest and most interior control points"})
    length_scale: tuple[float, float] = field(default=(0.01, 0.2), metadata={"description": "range of the field's length scale"})
    depth: tuple[float, float] = field(default=(4.0, 4.0), metadata={"description": "range of well depths"})

    def __post_init__(self) -> None:
        for name, least in (("control_points", 2), ("length_scale", 1e-6), ("depth", 0.1)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise InputError(f"{name} is ({low}, {high}); give {least} <= low <= high")

    @abstractmethod
    def heights(self, field: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """V at the interior control points, (R, b), from the field there and the depths (R, 1)."""

    def draw_polygons(self, draws: Draws) -> dict[str, np.ndarray]:
        """`control_q`, `control_v` (R, n) padded with zeros, `num_control`, `length_scale` and `depth` (R,)."""
        fewest, most = self.control_points
        uniforms = draws.hamiltonian(3 + 2 * most)
        num_rows = len(uniforms)
        num_inner = fewest + (uniforms[:, 0] * (most - fewest + 1)).astype(np.int64)
        length_scale, depth = between(uniforms[:, 1], self.length_scale), between(uniforms[:, 2], self.depth)
        control_q, control_v = np.zeros((2, num_rows, most + 2))
        for b in np.unique(num_inner):
            rows = np.flatnonzero(num_inner == b)
            low, high = abscissa_cells(int(b))
            control_q[rows, 1 : b + 1] = low + uniforms[rows, 3 : 3 + b] * (high - low)
            control_q[rows, b + 1] = 1.0
            values = gaussian_random_fields(ndtri(uniforms[rows, 3 + most : 3 + most + b]), length_scale[rows])
            control_v[rows, 1 : b + 1] = self.heights(values, depth[rows, None])
            control_v[rows, 0] = control_v[rows, b + 1] = WALL_HEIGHT
        return {
            "control_q": control_q,
            "control_v": control_v,
            "num_control": num_inner + 2,
            "length_scale": length_scale,
            "depth": depth if self.depth[0] < self.depth[1] else np.full(num_rows, np.nan),
        }

    def describe_polygons(self) -> str:
        (fewest, most), (low, high) = self.control_points, self.length_scale
        return (
            f"{fewest} to {most} control points lie between the walls, one at a random place in each of as many equal cells.\n"
            f"Their heights follow a Gaussian random field with kernel exp(−(x − x′)²/2ℓ²), ℓ uniform in [{low}, {high}],\n"
        )


def build_curves(polygons: dict[str, np.ndarray]) -> Curves:
    """The potentials of `RandomPolygons.draw_polygons`."""
    return Curves.from_control_points(polygons["control_q"], polygons["control_v"], polygons["num_control"])


def own_columns(polygons: dict[str, np.ndarray], stratum: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of the well for R rows; the padding of a polygon becomes nan."""
    inside = np.arange(polygons["control_q"].shape[1]) < polygons["num_control"][:, None]
    control = {name: np.where(inside, polygons[name], np.nan) for name in ("control_q", "control_v")}
    return control | {name: polygons[name] for name in ("length_scale", "depth")} | {"stratum": stratum}


def abscissa_cells(num_inner: int) -> np.ndarray:
    """Bounds (2, b) of the abscissae of b interior points.

    Gaps keep the abscissae apart and off the walls, so that q(u) increases; where cells are narrower the gaps shrink with them.
    """
    gap = np.full(num_inner + 1, min(0.025, 0.2 / num_inner))
    gap[[0, -1]] = min(0.05, 0.4 / num_inner)
    left = np.arange(num_inner) / num_inner
    return np.stack([gap[:-1] + left, (np.arange(num_inner) + 1) / num_inner - gap[1:]])
