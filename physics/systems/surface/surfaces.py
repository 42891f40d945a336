"""Surfaces that a particle moves on: V from the coefficients of a field, its derivatives, and the rates of the motion, compiled.

Shapes: R rows, M functions along each axis.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from ...compiled import compiled
from ...potentials.fourier_fields import fill_modes
from ...potentials.tensor_splines import SPRING, beyond, plane_terms
from ...solvers.flows import Rates
from ...threads import share_rows
from ..generic import SplineHamiltonians
from ..packed import PackedHamiltonians

RIM = 2.0
SEARCH = 25  # places along each axis among which the lowest point is looked for, before Newton's method
_NEWTON_STEPS = 20


@dataclass(frozen=True)
class Surfaces(PackedHamiltonians):
    """H = p²/2 + V(q) of R rows, V = 2 - c w(x) w(y) exp g(x, y), with w(x) = 4 x (1 - x) and g a sum of Fourier modes.

    `packed` (R, 2 + M²) holds c, the number M of functions along an axis, and their coefficients (M, M), padded with zeros;
    `depth` (R,) is that of the lowest point below the rim.
    """

    depth: np.ndarray

    @classmethod
    def from_modes(cls, scale: np.ndarray, coefficients: np.ndarray) -> Self:
        """From c (R,) and the coefficients (R, M²), row by row and padded with nan."""
        packed, depth = pack(scale, coefficients), np.empty(len(scale))
        find_deepest(packed, depth)
        return cls(packed, depth)

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


def pack(scale: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
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
def find_deepest(packed, depths):
    """The depth below the rim of the lowest point of each surface: on a grid, then by Newton's method where it goes on down."""
    terms = np.empty(6)
    for row in range(packed.shape[0]):
        lowest, x, y = math.inf, 0.5, 0.5
        for k in range(1, SEARCH - 1):
            for m in range(1, SEARCH - 1):
                _terms(packed[row], k / (SEARCH - 1), m / (SEARCH - 1), False, terms)
                if terms[0] < lowest:
                    lowest, x, y = terms[0], k / (SEARCH - 1), m / (SEARCH - 1)
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
