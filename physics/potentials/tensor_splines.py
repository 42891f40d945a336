"""Tensor-product cubic splines in any number of dimensions, many at once.

Shapes: R splines, T places of each, d dimensions.
"""

from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np
from scipy.interpolate import make_interp_spline

from ..compiled import compiled


@dataclass(frozen=True)
class TensorSplines:
    """R splines on the same knots: `knots` of each axis, coefficients (R, n1, ..., nd). They go on beyond their ends.

    No spline's numbers depend on another one.
    """

    knots: tuple[np.ndarray, ...]
    coefficients: np.ndarray

    @classmethod
    def through(cls, values: np.ndarray, domain: tuple[tuple[float, float], ...]) -> Self:
        """The not-a-knot splines through values (R, S1, ..., Sd) at uniform places over the domain, at least 4 along each axis."""
        grids = [np.linspace(low, high, count) for (low, high), count in zip(domain, values.shape[1:], strict=True)]
        knots = tuple(make_interp_spline(grid, grid, k=3).t for grid in grids)
        # Row by row: a solver for many right-hand sides may round one by its neighbours.
        return cls(knots, np.stack([_coefficients(grids, row) for row in values]) if len(values) else np.asarray(values, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.coefficients)

    def take(self, rows: np.ndarray) -> Self:
        return type(self)(self.knots, self.coefficients[rows])

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The values (R, ...) at places (R, ..., d)."""
        return self._evaluate(places, np.array([-1]))[..., 0]

    def gradient(self, places: np.ndarray) -> np.ndarray:
        """The slopes along every axis (R, ..., d) at places (R, ..., d)."""
        return self._evaluate(places, np.arange(len(self.knots)))

    def _evaluate(self, places: np.ndarray, slopes_along: np.ndarray) -> np.ndarray:
        shape = np.array(self.coefficients.shape[1:])
        rows = np.ascontiguousarray(places, dtype=np.float64).reshape(len(self), prod(places.shape[1:-1]), shape.size)
        ends = np.cumsum([0, *(knots.size for knots in self.knots)])
        coefficients = np.ascontiguousarray(self.coefficients).reshape(len(self), prod(shape))
        values = np.empty((*rows.shape[:2], slopes_along.size))
        _evaluate(np.concatenate(self.knots), ends, shape, coefficients, rows, slopes_along, values)
        return values.reshape(*places.shape[:-1], slopes_along.size)


def _coefficients(grids: list[np.ndarray], values: np.ndarray) -> np.ndarray:
    """Interpolate along one axis after the other; the coefficients of one are the data of the next."""
    for axis, grid in enumerate(grids):
        values = np.moveaxis(make_interp_spline(grid, values, k=3, axis=axis).c, 0, axis)  # SciPy puts that axis first
    return values


@compiled()
def _evaluate(knots, ends, shape, coefficients, places, slopes_along, values):
    """The slopes along axes `slopes_along` (K,), where -1 asks for the value, at places (R, T, d): values (R, T, K).

    The knots of axis i are knots[ends[i]:ends[i + 1]]; coefficients (R, n1 ... nd).
    """
    num_rows, num_places, num_axes = places.shape
    first = np.empty(num_axes, dtype=np.int64)
    weights = np.empty((2, num_axes, 4))  # of values, and of slopes
    for row in range(num_rows):
        for place in range(num_places):
            for axis in range(num_axes):
                along = knots[ends[axis] : ends[axis + 1]]
                for slope in range(2):
                    first[axis] = _basis(along, places[row, place, axis], slope == 1, weights[slope, axis])
            values[row, place] = 0.0
            for corner in range(4**num_axes):
                index, rest = 0, corner
                for axis in range(num_axes):
                    index = index * shape[axis] + first[axis] + rest % 4
                    rest //= 4
                for k, asked in enumerate(slopes_along):
                    weight, rest = coefficients[row, index], corner
                    for axis in range(num_axes):
                        weight *= weights[int(axis == asked), axis, rest % 4]
                        rest //= 4
                    values[row, place, k] += weight


@compiled()
def _basis(knots, x, slope, weights):
    """The first of the four cubic B-splines that do not vanish at x; their values or slopes there go to `weights`.

    Piegl and Tiller, The NURBS Book, algorithm A2.2.
    """
    last = min(max(np.searchsorted(knots, x, side="right") - 1, 3), knots.size - 5)
    weights[0], weights[1], weights[2], weights[3] = 1.0, 0.0, 0.0, 0.0
    for degree in range(1, 3 if slope else 4):
        saved = 0.0
        for r in range(degree):
            right, left = knots[last + r + 1] - x, x - knots[last + 1 - degree + r]
            part = weights[r] / (right + left)
            weights[r], saved = saved + right * part, left * part
        weights[degree] = saved
    if slope:  # the slope of a cubic B-spline is a difference of two quadratic ones over their widths
        before = 0.0
        for r in range(3):
            step = 3.0 * weights[r] / (knots[last + r + 1] - knots[last + r - 2])
            weights[r], before = before - step, step
        weights[3] = before
    return last - 3
