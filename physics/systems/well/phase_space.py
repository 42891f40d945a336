"""An ensemble that covers phase space: four orbits in each potential, at stratified energies below the walls."""

from dataclasses import dataclass, field

import numpy as np

from ..base import Drawn, Ensemble
from ..draws import Draws, between, random_times
from .paper import depth_variants, shape_variants
from .polygons import WALL_HEIGHT, RandomPolygons, build_curves, own_columns
from .system import Well, Wells

_LEAST_DROP = 0.1  # of the highest interior control point below the walls
# Of E - V(q0) over what is left up to the walls.
_ENERGY_STRATA = np.array([(0.05, 0.35), (0.35, 0.65), (0.65, 0.95), (0.95, 0.99)])


@dataclass(frozen=True)
class PhaseSpace(RandomPolygons):
    """Heights stretched to [2 - depth, 1.9]; random initial states and query times."""

    name = "phase-space"
    orbits_per_hamiltonian = len(_ENERGY_STRATA)

    depth: tuple[float, float] = field(default=(0.5, 3.5), metadata={"description": "range of well depths"})

    def heights(self, field: np.ndarray, depth: np.ndarray) -> np.ndarray:
        lowest, highest = field.min(axis=1, keepdims=True), field.max(axis=1, keepdims=True)
        return WALL_HEIGHT - depth + (field - lowest) / (highest - lowest) * (depth - _LEAST_DROP)

    def draw(self, draws: Draws, num_times: int) -> Drawn:
        distinct, owner = draws.distinct()
        polygons = self.draw_polygons(distinct)
        curves = build_curves(polygons).take(owner)
        uniforms = draws.orbit(1 + num_times)
        q0 = uniforms[:, 0]
        # E = V(q0) + u (2 - V(q0)) < 2 keeps the orbit between the walls by construction.
        fraction = between(uniforms[:, 1], _ENERGY_STRATA[draws.orbit_index].T)
        speed = np.sqrt(2.0 * fraction * (WALL_HEIGHT - curves.value(q0)))
        p0 = np.where(uniforms[:, 2] < 0.5, -speed, speed)
        times = random_times(uniforms[:, 3:], Well.horizon)
        columns = own_columns({name: column[owner] for name, column in polygons.items()}, draws.orbit_index)
        return Drawn(columns, Wells(curves), q0, p0, times)

    def describe(self) -> str:
        low, high = self.depth
        return (
            f"{self.describe_polygons()}stretched to [2 − depth, 1.9], depth uniform in [{low}, {high}]. Four particles move in each "
            "potential, from q0 uniform in [0, 1]\n"
            "with p0 of either sign and energy V(q0) + u (2 − V(q0)), u in [0.05, 0.35), [0.35, 0.65), [0.65, 0.95), [0.95, 0.99)\n"
            "for stratum 0 to 3. Query times are random and sorted, with 0 and 2 among them."
        )

    def variants(self) -> dict[str, Ensemble]:
        return shape_variants(self) | depth_variants(self, (3.5, 5.0), (0.2, 0.5))


ENSEMBLE = PhaseSpace
