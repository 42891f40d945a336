"""The ensemble of arXiv 2410.20951: every particle starts at rest at the left wall."""

from dataclasses import dataclass, replace

import numpy as np

from ..base import Drawn, Ensemble
from ..draws import Draws
from .polygons import WALL_HEIGHT, RandomPolygons, build_curves, own_columns
from .system import Well, Wells

# Half the range of the field that is mapped to heights; 100,000 draws stay inside it.
_FIELD_RANGE = 4.6


@dataclass(frozen=True)
class Paper(RandomPolygons):
    """Heights 2 - depth x, with x the field over its range; start at rest at q = 0; uniform query times."""

    name = "paper"
    fixed_initial_state = ((0.0,), (0.0,))

    def heights(self, field: np.ndarray, depth: np.ndarray) -> np.ndarray:
        return WALL_HEIGHT - depth * (field + _FIELD_RANGE) / (2.0 * _FIELD_RANGE)

    def draw(self, draws: Draws, num_times: int) -> Drawn:
        polygons = self.draw_polygons(draws)
        num_rows = draws.indices.size
        q0, p0 = np.zeros((2, num_rows))
        times = np.tile(np.linspace(0.0, Well.horizon, num_times), (num_rows, 1))
        columns = own_columns(polygons, np.full(num_rows, -1))
        return Drawn(columns, Wells(build_curves(polygons)), q0, p0, times)

    def describe(self) -> str:
        low, high = self.depth
        depth = f"{low} x" if low == high else "depth · x"
        drawn = "" if low == high else f" and depth is uniform in [{low}, {high}]"
        return (
            f"{self.describe_polygons()}mapped to V = 2 − {depth}, where x is the field over its range{drawn}.\n"
            "The particle starts at rest at q = 0, with the energy of the walls; query times are uniform (arXiv 2410.20951)."
        )

    def variants(self) -> dict[str, Ensemble]:
        return shape_variants(self) | depth_variants(self, (5.0, 6.0), (2.0, 3.0))


def shape_variants(ensemble: RandomPolygons) -> dict[str, Ensemble]:
    """More control points, and rougher and smoother fields."""
    return {
        "more control points (8 to 10)": replace(ensemble, control_points=(8, 10)),
        "rougher (length scale 0.005)": replace(ensemble, length_scale=(0.005, 0.01)),
        "smoother (length scale 0.2 to 0.5)": replace(ensemble, length_scale=(0.2, 0.5)),
    }


def depth_variants(ensemble: RandomPolygons, deeper: tuple[float, float], shallower: tuple[float, float]) -> dict[str, Ensemble]:
    """Deeper and shallower wells."""
    named = {"deeper": deeper, "shallower": shallower}
    return {f"{name} ({low:g} to {high:g})": replace(ensemble, depth=(low, high)) for name, (low, high) in named.items()}


ENSEMBLE = Paper
