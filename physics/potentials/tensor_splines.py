"""Tensor-product splines in any number of dimensions, many at once, of degree 3 or 5.

Knots are those of the not-a-knot splines through uniform sensors: of the interior ones, the first and last (degree - 1) / 2 are
left out, and the ends are repeated degree + 1 times (de Boor, A Practical Guide to Splines, chapter XIII).

Shapes: R splines, T places of each, d dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, Self

import numpy as np
from scipy.interpolate import make_interp_spline

from ..compiled import compiled

Degree = Literal[3, 5]
Domain = tuple[tuple[float, float], ...]
MOST = 6  # basis functions that do not vanish at a place
SPRING = 1000.0  # stiffness of the springs that keep a particle in the domain of V, where V is known only there


@dataclass(frozen=True)
class TensorSplines:
    """R splines over one domain: coefficients (R, n1, ..., nd), as many as sensors. They go on linearly beyond the domain's ends.

    No spline's numbers depend on another one.
    """

    domain: Domain
    coefficients: np.ndarray
    degree: Degree = 3

    @classmethod
    def through(cls, values: np.ndarray, domain: Domain, degree: Degree = 3) -> Self:
        """The not-a-knot splines through values (R, S1, ..., Sd) at uniform places, at least degree + 1 along each axis."""
        grids = [np.linspace(low, high, count) for (low, high), count in zip(domain, values.shape[1:], strict=True)]
        # Row by row: a solver for many right-hand sides may round one by its neighbours.
        rows = [_coefficients(grids, row, degree) for row in values]
        return cls(domain, np.stack(rows) if rows else np.asarray(values, dtype=np.float64), degree)

    def __len__(self) -> int:
        return len(self.coefficients)

    def take(self, rows: np.ndarray) -> Self:
        return type(self)(self.domain, self.coefficients[rows], self.degree)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The values (R, ...) at places (R, ..., d)."""
        return self._evaluate(places, np.array([-1]))[..., 0]

    def gradient(self, places: np.ndarray) -> np.ndarray:
        """The slopes along every axis (R, ..., d) at places (R, ..., d)."""
        return self._evaluate(places, np.arange(len(self.domain)))

    def _evaluate(self, places: np.ndarray, slopes_along: np.ndarray) -> np.ndarray:
        shape = np.array(self.coefficients.shape[1:])
        rows = np.ascontiguousarray(places, dtype=np.float64).reshape(len(self), prod(places.shape[1:-1]), shape.size)
        coefficients = np.ascontiguousarray(self.coefficients).reshape(len(self), prod(shape))
        values = np.empty((*rows.shape[:2], slopes_along.size))
        _evaluate(np.array(self.domain), shape, self.degree, coefficients, rows, slopes_along, values)
        return values.reshape(*places.shape[:-1], slopes_along.size)


def pack_planes(channels: Sequence[TensorSplines]) -> np.ndarray:
    """R groups of two-dimensional splines on one grid as rows of numbers (R, m), for `plane_terms`."""
    first = channels[0]
    about = [first.degree, *(x for ends, n in zip(first.domain, first.coefficients.shape[1:], strict=True) for x in (*ends, n))]
    parts = [channel.coefficients.reshape(len(channel), -1) for channel in channels]
    return np.concatenate([np.tile(np.array(about, dtype=np.float64), (len(first), 1)), *parts], axis=1)


def _coefficients(grids: list[np.ndarray], values: np.ndarray, degree: int) -> np.ndarray:
    """Interpolate along one axis after the other; the coefficients of one are the data of the next."""
    for axis, grid in enumerate(grids):
        values = np.moveaxis(make_interp_spline(grid, values, k=degree, axis=axis).c, 0, axis)  # SciPy puts that axis first
    return values


@compiled(nogil=True)
def plane_terms(packed, x, y, terms):
    """Fill terms (C, 3) with value, slope along x and slope along y of the C splines of a row of `pack_planes`."""
    degree, along_x, along_y = int(packed[0]), int(packed[3]), int(packed[6])
    fx, fy = np.empty((2, MOST)), np.empty((2, MOST))
    i = fill_basis(packed[1], packed[2], along_x, degree, x, fx)
    j = fill_basis(packed[4], packed[5], along_y, degree, y, fy)
    start = 7 + i * along_y + j
    for channel in range(terms.shape[0]):
        value, slope_x, slope_y = 0.0, 0.0, 0.0
        for a in range(degree + 1):
            line, slope = 0.0, 0.0
            for b in range(degree + 1):
                coefficient = packed[start + a * along_y + b]
                line += fy[0, b] * coefficient
                slope += fy[1, b] * coefficient
            value += fx[0, a] * line
            slope_x += fx[1, a] * line
            slope_y += fx[0, a] * slope
        terms[channel, 0], terms[channel, 1], terms[channel, 2] = value, slope_x, slope_y
        start += along_x * along_y


@compiled()
def _evaluate(domain, shape, degree, coefficients, places, slopes_along, values):
    """The slopes along axes `slopes_along` (K,), where -1 asks for the value, at places (R, T, d): values (R, T, K).

    Coefficients (R, n1 ... nd).
    """
    num_rows, num_places, num_axes = places.shape
    first, width = np.empty(num_axes, dtype=np.int64), degree + 1
    weights = np.empty((num_axes, 2, MOST))  # of values, and of slopes
    for row in range(num_rows):
        for place in range(num_places):
            for axis in range(num_axes):
                low, high = domain[axis]
                first[axis] = fill_basis(low, high, shape[axis], degree, places[row, place, axis], weights[axis])
            values[row, place] = 0.0
            for corner in range(width**num_axes):
                index, rest = 0, corner
                for axis in range(num_axes):
                    index = index * shape[axis] + first[axis] + rest % width
                    rest //= width
                for k, asked in enumerate(slopes_along):
                    weight, rest = coefficients[row, index], corner
                    for axis in range(num_axes):
                        weight *= weights[axis, int(axis == asked), rest % width]
                        rest //= width
                    values[row, place, k] += weight


@compiled()
def _knot(low, high, n, degree, i):
    """Knot i of the spline with n coefficients."""
    if i <= degree:
        return low
    return high if i >= n else low + (i - (degree + 1) // 2) * (high - low) / (n - 1)


@compiled()
def beyond(low, high, x):
    """How far x lies beyond the nearer end; 0 between them."""
    return x - low if x < low else (x - high if x > high else 0.0)


@compiled()
def fill_basis(low, high, n, degree, x, weights):
    """The first of the B-splines that do not vanish at x; fills weights (2 or 3, degree + 1) with their values and derivatives there.

    Piegl and Tiller, The NURBS Book, algorithm A2.2. Beyond the ends they are continued by their tangents.
    """
    outside = beyond(low, high, x)
    x -= outside
    cell = (x - low) / (high - low) * (n - 1)
    last = degree
    if cell > 0.0:  # not if it is nan
        last = max(degree, min(n - 1, int(min(cell, float(n))) + (degree + 1) // 2))
        if last > degree and x < _knot(low, high, n, degree, last):  # rounding
            last -= 1
    values, slopes = weights[0], weights[1]
    values[0] = 1.0
    for grown in range(1, degree + 1):
        if grown == degree:
            if weights.shape[0] > 2:
                _differentiate(low, high, n, degree, last, degree, weights[2], weights[2])
            _differentiate(low, high, n, degree, last, degree, values, slopes)
        elif grown == degree - 1 and weights.shape[0] > 2:  # slopes of one degree less, to be differentiated again
            _differentiate(low, high, n, degree, last, degree - 1, values, weights[2])
        saved = 0.0
        for r in range(grown):
            right = _knot(low, high, n, degree, last + r + 1) - x
            left = x - _knot(low, high, n, degree, last + 1 - grown + r)
            part = values[r] / (right + left)
            values[r], saved = saved + right * part, left * part
        values[grown] = saved
    if outside != 0.0:
        for r in range(degree + 1):
            values[r] += outside * slopes[r]
            if weights.shape[0] > 2:
                weights[2, r] = 0.0
    return last - degree


@compiled()
def _differentiate(low, high, n, degree, last, order, lower, slopes):
    """Slopes (order + 1) of the B-splines of degree `order`, from `lower` (order), those of one degree less or their slopes.

    They are differences over the widths. Both may be one array.
    """
    before = 0.0
    for r in range(order):
        width = _knot(low, high, n, degree, last + r + 1) - _knot(low, high, n, degree, last + r + 1 - order)
        step = order * lower[r] / width
        slopes[r], before = before - step, step
    slopes[order] = before
