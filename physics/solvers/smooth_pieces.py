"""Stretches on which a potential is smooth, in the coordinate that makes it so: what `quadrature` integrates over."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from scipy.optimize import brentq

from ..potentials.curves import Curves
from .problems import Potential

NODES, WEIGHTS = (0.5 * (x + shift) for x, shift in zip(np.polynomial.legendre.leggauss(24), (1.0, 0.0), strict=True))
_END_MARGIN = 1e-6  # how far beyond an end of the domain a turning point may be looked for: an orbit may turn at the end but for rounding
_INSIDE = 1e-13  # how far from a kink its one-sided slope is taken
_SCAN_POINTS = 400  # on which the extrema of a potential given as functions are looked for, a piece

Array = np.ndarray


class BoundedPotential(Potential, Protocol):
    """A potential on `domain`, smooth but at the positions `breakpoints` within it."""

    @property
    def domain(self) -> tuple[float, float]: ...
    @property
    def breakpoints(self) -> Sequence[float]: ...


class Piece(Protocol):
    """A stretch on which V is smooth as a function of a coordinate x in [left, right]; q(x) increases."""

    @property
    def left(self) -> float: ...
    @property
    def right(self) -> float: ...
    def position(self, x: Array | float) -> Array: ...
    def stretch(self, x: Array | float) -> Array: ...  # dq/dx
    def height(self, x: Array | float) -> Array: ...  # V
    def slope(self, x: float) -> float: ...  # dV/dq
    def secant(self, x: Array | float, anchor: float) -> Array: ...  # (V(x) - V(anchor)) / (x - anchor), without cancellation
    def coordinate(self, q: float) -> float: ...  # x of q
    def extrema(self) -> list[float]: ...  # where dV/dx = 0, ascending


@dataclass(frozen=True, eq=False)
class CubicPiece:
    """A piece (c, v) of a cubic curve; x is its parameter u."""

    c: Array
    v: Array
    left: float = 0.0
    right: float = 1.0

    def position(self, x: Array | float) -> Array:
        return np.polynomial.polynomial.polyval(x, self.c)

    def stretch(self, x: Array | float) -> Array:
        return self.c[1] + x * (2.0 * self.c[2] + 3.0 * self.c[3] * x)

    def height(self, x: Array | float) -> Array:
        return np.polynomial.polynomial.polyval(x, self.v)

    def slope(self, x: float) -> float:
        return float((self.v[1] + x * (2.0 * self.v[2] + 3.0 * self.v[3] * x)) / self.stretch(x))

    def secant(self, x: Array | float, anchor: float) -> Array:
        return self.v[1] + self.v[2] * (x + anchor) + self.v[3] * (x * x + x * anchor + anchor * anchor)

    def coordinate(self, q: float) -> float:
        if q <= self.position(0.0):
            return 0.0
        if q >= self.position(1.0):
            return 1.0
        return find_root(lambda x: float(self.position(x)) - q, 0.0, 1.0)

    def extrema(self) -> list[float]:
        c1, c2, c3 = self.v[1], 2.0 * self.v[2], 3.0 * self.v[3]
        roots = np.roots(np.trim_zeros([c3, c2, c1], "f"))
        return sorted(float(x) for x in roots.real[np.abs(roots.imag) == 0.0])


@dataclass(frozen=True, eq=False)
class SmoothPiece:
    """A potential given as functions between two breakpoints; x is q itself."""

    potential: Potential
    left: float
    right: float

    def position(self, x: Array | float) -> Array:
        return np.asarray(x)

    def stretch(self, x: Array | float) -> Array:
        return np.ones(np.shape(x))

    def height(self, x: Array | float) -> Array:
        return np.asarray(self.potential.value(np.asarray(x)))

    def slope(self, x: float) -> float:
        # At a kink, the slope on this side of it.
        inside = np.clip(x, self.left + _INSIDE, self.right - _INSIDE)
        return float(self.potential.gradient(np.asarray(inside)))

    def secant(self, x: Array | float, anchor: float) -> Array:
        x = np.asarray(x, dtype=np.float64)
        here, there = self.height(x), self.height(anchor)
        rise = here - there
        # A rise this large has lost no digits; a smaller one comes from the mean of V' over [anchor, x].
        far = np.abs(rise) > 0.05 * np.maximum(np.abs(here), np.abs(there))
        mean = self.potential.gradient(anchor + (x[..., None] - anchor) * NODES) @ WEIGHTS
        return np.where(far, rise / np.where(far, x - anchor, 1.0), mean)

    def coordinate(self, q: float) -> float:
        return q

    def extrema(self) -> list[float]:
        x = self.left + (self.right - self.left) * (np.arange(_SCAN_POINTS) + 0.5) / _SCAN_POINTS
        rising = self.potential.gradient(x) > 0.0
        return [find_root(self.slope, x[i], x[i + 1]) for i in np.flatnonzero(rising[1:] != rising[:-1])]


def find_root(function: Callable[[float], float], left: float, right: float) -> float:
    return float(brentq(function, left, right, xtol=1e-17, rtol=1e-15))  # type: ignore[arg-type]


def cubic_pieces(curve: Curves) -> Sequence[Piece]:
    """The pieces of a single curve; the outer ones reach a little beyond its ends."""
    last = len(curve.poly_q[0]) - 1
    return [
        CubicPiece(c, v, -_END_MARGIN if i == 0 else 0.0, 1.0 + _END_MARGIN if i == last else 1.0)
        for i, (c, v) in enumerate(zip(curve.poly_q[0], curve.poly_v[0], strict=True))
    ]


def smooth_pieces(potential: BoundedPotential) -> Sequence[Piece]:
    """A potential between its breakpoints; the outer pieces reach a little beyond its domain."""
    low, high = potential.domain
    edges = [low - _END_MARGIN, *sorted(potential.breakpoints), high + _END_MARGIN]
    return [SmoothPiece(potential, float(left), float(right)) for left, right in pairwise(edges)]
