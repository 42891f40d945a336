"""Tensor-product cubic splines in any number of dimensions, many at once.

Shapes: R splines, T places of each, d dimensions.
"""

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Self

import numpy as np
from scipy.interpolate import make_interp_spline


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

    def __call__(self, places: np.ndarray, slope_along: int | None = None) -> np.ndarray:
        """The values (R, ...) at places (R, ..., d), or their slopes along one axis."""
        rows = places.reshape(len(self), prod(places.shape[1:-1]), len(self.knots))
        factors = [_basis(knots, rows[..., axis], axis == slope_along) for axis, knots in enumerate(self.knots)]
        strides = np.cumprod([1, *self.coefficients.shape[:0:-1]])[::-1]  # of the flat coefficients: a row, then each axis
        origin = np.arange(len(self))[:, None] * strides[0]
        for (first, _), stride in zip(factors, strides[1:], strict=True):
            origin = origin + first * stride
        total, flat = np.zeros(rows.shape[:2]), self.coefficients.reshape(-1)
        for offsets in product(range(4), repeat=len(self.knots)):
            weight = prod(weights[offset] for (_, weights), offset in zip(factors, offsets, strict=True))
            total += weight * flat[origin + np.dot(offsets, strides[1:])]
        return total.reshape(places.shape[:-1])


def _coefficients(grids: list[np.ndarray], values: np.ndarray) -> np.ndarray:
    """Interpolate along one axis after the other; the coefficients of one are the data of the next."""
    for axis, grid in enumerate(grids):
        values = np.moveaxis(make_interp_spline(grid, values, k=3, axis=axis).c, 0, axis)  # SciPy puts that axis first
    return values


def _basis(knots: np.ndarray, x: np.ndarray, slope: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    """The first of the four cubic B-splines that do not vanish at x, and the four values or slopes there.

    Piegl and Tiller, The NURBS Book, algorithm A2.2.
    """
    last = np.clip(np.searchsorted(knots, x, side="right") - 1, 3, len(knots) - 5)
    values = [np.ones_like(x)]
    for degree in range(1, 3 if slope else 4):
        saved = np.zeros_like(x)
        for r in range(degree):
            right, left = knots[last + r + 1] - x, x - knots[last + 1 - degree + r]
            part = values[r] / (right + left)
            values[r], saved = saved + right * part, left * part
        values.append(saved)
    if not slope:
        return last - 3, values
    # The slope of a cubic B-spline is a difference of two quadratic ones over their widths.
    steps = [3.0 * value / (knots[last + r + 1] - knots[last + r - 2]) for r, value in enumerate(values)]
    zero = np.zeros_like(x)
    return last - 3, [before - after for before, after in zip([zero, *steps], [*steps, zero], strict=True)]
