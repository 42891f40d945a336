"""Wells with corners, steps and plateaus, as sharp as a smooth curve allows: to train on beside smoother ones."""

from dataclasses import dataclass, field

import numpy as np

from ...errors import InputError
from ..base import Ensemble
from ..draws import Draws, between
from .paper import Paper, depth_variants
from .polygons import WALL_HEIGHT

_STEP_WIDTH = 0.02  # of a piece that is made a step
_THIRD = 1.0 / 3.0


@dataclass(frozen=True)
class Sharp(Paper):
    """The polygons of `paper` themselves, their corners rounded: straight pieces, of which some are made level and some steep.

    A cubic B-spline follows a straight line while four successive control points lie on one. Each corner therefore
    becomes three control points: itself, and one on each of its two sides at `rounding` of the way to the next corner.
    A piece is then exactly straight from (1 + 3 `rounding`) / 6 of its length on, and to as far from its end. The first and the last
    piece, which end at walls, bend into their corners.
    """

    name = "sharp"

    rounding: tuple[float, float] = field(
        default=(0.01, 0.3),
        metadata={"description": "range of the rounding of corners, as a fraction of the pieces beside them; log-uniform"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.rounding
        if not 1e-3 <= low <= high <= 0.45:
            raise InputError(f"rounding is ({low}, {high}); give 0.001 <= low <= high <= 0.45")

    def draw_polygons(self, draws: Draws) -> dict[str, np.ndarray]:
        polygons = super().draw_polygons(draws)
        most = self.control_points[1]
        uniforms = draws.hamiltonian(3 + 2 * most + 1 + most)[:, 3 + 2 * most :]
        rounding = np.exp(between(uniforms[:, 0], np.log(self.rounding)))
        q, v, count = (polygons[name].copy() for name in ("control_q", "control_v", "num_control"))
        _level_and_steepen(q, v, count, uniforms[:, 1:])
        return polygons | _with_round_corners(q, v, count, rounding)

    def describe(self) -> str:
        low, high = self.rounding
        return (
            f"{super().describe()}\n"
            "Between the outer corners the polygon itself is the potential, its corners rounded over a fraction of the pieces\n"
            f"beside them that is log-uniform in [{low}, {high}]; a third of the inner pieces are level, and a third are steps\n"
            f"of width {_STEP_WIDTH:g}."
        )

    def variants(self) -> dict[str, Ensemble]:
        return depth_variants(self, (5.0, 6.0), (2.0, 3.0))


def _level_and_steepen(q: np.ndarray, v: np.ndarray, count: np.ndarray, uniforms: np.ndarray) -> None:
    """Make pieces between interior corners level or steep, in place, as `uniforms` (R, b) say; polygons (R, n) with walls."""
    for k in range(2, q.shape[1] - 1):
        inner = k < count - 1
        level, steep = (uniforms[:, k - 2] < _THIRD) & inner, (uniforms[:, k - 2] > 1.0 - _THIRD) & inner
        v[level, k] = v[level, k - 1]
        q[steep, k] = np.minimum(q[steep, k], q[steep, k - 1] + _STEP_WIDTH)


def _with_round_corners(q: np.ndarray, v: np.ndarray, count: np.ndarray, rounding: np.ndarray) -> dict[str, np.ndarray]:
    """Polygons with three control points for each interior corner, padded with zeros."""
    num_rows, size = q.shape
    rounded = np.zeros((2, num_rows, 3 * (size - 2) + 2))
    rounded[1, :, 0] = WALL_HEIGHT
    for k in range(1, size - 1):
        inner = k < count - 1
        for axis, x in enumerate((q, v)):
            corner, before, after = x[inner, k], x[inner, k - 1], x[inner, k + 1]
            share = rounding[inner]
            rounded[axis, inner, 3 * k - 2] = corner + share * (before - corner)
            rounded[axis, inner, 3 * k - 1] = corner
            rounded[axis, inner, 3 * k] = corner + share * (after - corner)
    num_control = 3 * (count - 2) + 2
    rows = np.arange(num_rows)
    rounded[0, rows, num_control - 1], rounded[1, rows, num_control - 1] = 1.0, WALL_HEIGHT
    return {"control_q": rounded[0], "control_v": rounded[1], "num_control": num_control}


ENSEMBLE = Sharp
