"""Potentials as cubic curves: the one representation that is drawn, fitted, interpolated, solved and evaluated.

Shapes: B curves, M pieces of the longest one, S sensors, n control points, T positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.interpolate import BSpline, PPoly

from ..errors import InputError
from . import cubics
from .interpolants import interpolate_pieces


@dataclass(frozen=True, eq=False)
class Curves:
    """B potentials V(q), each given by joined cubic pieces: `poly_q[b, m]` and `poly_v[b, m]` are q(u) and V(u) over u in [0, 1].

    Coefficients ascend in powers of u; q(u) increases, so V is a function of q. Build them with `from_control_points`,
    `from_samples` or `join`. Beyond its ends V continues as the cubic that meets it there with three derivatives.

    Positions q are (B,) or (B, ...), one row for each curve; a single curve takes and returns any shape.

    Attributes
    ----------
    poly_q, poly_v
        Shape (B, M, 4).
    num_pieces
        Shape (B,); the pieces of a row beyond it are padding.
    """

    poly_q: np.ndarray
    poly_v: np.ndarray
    num_pieces: np.ndarray

    @classmethod
    def from_control_points(
        cls, control_q: Sequence[float] | np.ndarray, control_v: Sequence[float] | np.ndarray, num_control: np.ndarray | None = None
    ) -> "Curves":
        """Clamped cubic B-spline curves with uniform knots.

        Parameters
        ----------
        control_q, control_v
            Control polygons, (B, n), or (n,) of a single one.
        num_control
            Shape (B,): the number of points of each polygon, which come first in its row; by default n.

        Raises
        ------
        InputError
            Unless every polygon has at least 4 finite points with strictly increasing abscissae (so that q(u) increases).
        """
        q, v = (np.atleast_2d(np.require(x, np.float64, ("C", "W"))) for x in (control_q, control_v))
        if q.ndim != 2 or q.shape != v.shape or q.shape[1] < 4:
            raise InputError(
                f"control polygon has shapes {np.shape(control_q)} and {np.shape(control_v)}; give two equal lists of 4 numbers or more"
            )
        num_pieces = (np.full(len(q), q.shape[1]) if num_control is None else np.asarray(num_control, dtype=np.int64)) - 3
        padding = np.arange(q.shape[1]) >= num_pieces[:, None] + 3
        finite = (np.isfinite(q) & np.isfinite(v)) | padding
        increasing = (np.diff(q, axis=1) > 0) | padding[:, 1:]
        if not (np.all(finite) and np.all(increasing) and num_pieces.min(initial=1) >= 1):
            raise InputError("control polygon must have 4 finite points or more, with strictly increasing abscissae")
        poly = np.zeros((2, len(q), q.shape[1] - 3, 4))
        for count in np.unique(num_pieces):
            rows, basis = np.flatnonzero(num_pieces == count), clamped_basis(int(count) + 3)
            cubics.combine_control_points(poly[0], rows, basis, q)
            cubics.combine_control_points(poly[1], rows, basis, v)
        return cls(poly[0], poly[1], num_pieces)

    @classmethod
    def from_samples(cls, values: Sequence[float] | np.ndarray, kind: str = "cubic", domain: tuple[float, float] = (0.0, 1.0)) -> "Curves":
        """Interpolants of V at uniform positions on `domain`, values (B, S), or (S,) of a single one.

        Row by row or all at once, the bits are the same. See `interpolants.INTERPOLANTS` for the kinds.

        Raises
        ------
        InputError
            For an unknown kind, too few samples for it, or values that are not finite.
        """
        poly_q, poly_v = interpolate_pieces(np.atleast_2d(np.asarray(values, dtype=np.float64)), kind, domain)
        return cls(np.tile(poly_q, (len(poly_v), 1, 1)), poly_v, np.full(len(poly_v), len(poly_q)))

    @classmethod
    def join(cls, parts: Sequence["Curves"]) -> "Curves":
        """The curves of all parts in order."""
        num_pieces = np.concatenate([part.num_pieces for part in parts])
        poly = np.zeros((2, num_pieces.size, max(part.poly_q.shape[1] for part in parts), 4))
        first = 0
        for part in parts:
            rows, count = slice(first, first + len(part)), part.poly_q.shape[1]
            poly[0, rows, :count], poly[1, rows, :count] = part.poly_q, part.poly_v
            first += len(part)
        return cls(poly[0], poly[1], num_pieces)

    def __len__(self) -> int:
        return self.num_pieces.size

    def __getitem__(self, index: int) -> "Curves":
        """A single curve, without padding and without a copy."""
        rows = slice(index, index + 1 or None)
        count = self.num_pieces[index]  # an index out of range ends a loop over the curves
        return Curves(self.poly_q[rows, :count], self.poly_v[rows, :count], self.num_pieces[rows])

    def take(self, rows: np.ndarray | slice) -> "Curves":
        """The curves at `rows` (R,), which may repeat."""
        return Curves(self.poly_q[rows], self.poly_v[rows], self.num_pieces[rows])

    def value(self, q: np.ndarray | float) -> np.ndarray:
        """V(q), in the shape of q: (B,) or (B, ...)."""
        return self._evaluate(q, 0)

    def gradient(self, q: np.ndarray | float) -> np.ndarray:
        """V'(q), in the shape of q: (B,) or (B, ...)."""
        return self._evaluate(q, 1)

    def curvature(self, q: np.ndarray | float) -> np.ndarray:
        """V''(q), in the shape of q: (B,) or (B, ...)."""
        return self._evaluate(q, 2)

    def sample(self, q: np.ndarray) -> np.ndarray:
        """V of every curve at increasing positions q (S,) within them, (B, S)."""
        values = np.empty((len(self), np.size(q)))
        cubics.sample_curves(self.poly_q, self.poly_v, self.num_pieces, np.ascontiguousarray(q, dtype=np.float64), values)
        return values

    def locate(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Piece (B,) and parameter u (B,) with q(u) = q[b] on curve b, for q (B,) within the curves."""
        pieces, parameters = np.empty(len(self), dtype=np.int64), np.empty(len(self))
        cubics.locate_each(self.poly_q, self.num_pieces, np.ascontiguousarray(q, dtype=np.float64), pieces, parameters)
        return pieces, parameters

    def extrema(self) -> tuple[np.ndarray, np.ndarray]:
        """(min V (B,), max V (B,)) within the curves, exact to rounding."""
        lowest, highest = np.empty((2, len(self)))
        cubics.bound_curves(self.poly_v, self.num_pieces, lowest, highest)
        return lowest, highest

    def separatrix_distance(self, energy: np.ndarray) -> np.ndarray:
        """abs(E - V) at the top of the nearest barrier, (B,): the least over the maxima of V inside the curves; inf without one.

        An orbit at distance 0 is the separatrix itself and never reaches the top.
        """
        distance = np.empty(len(self))
        cubics.nearest_barriers(self.poly_v, self.num_pieces, np.ascontiguousarray(energy, dtype=np.float64), distance)
        return distance

    def _evaluate(self, q: np.ndarray | float, derivative: int) -> np.ndarray:
        q = np.asarray(q, dtype=np.float64)
        if len(self) != 1 and (q.ndim == 0 or q.shape[0] != len(self)):
            raise InputError(f"q has shape {q.shape}; give {len(self)} curves positions of shape ({len(self)},) or ({len(self)}, T)")
        rows = np.ascontiguousarray(q.reshape(len(self), -1) if len(self) else q.reshape(0, 0))
        result = np.empty(rows.shape)
        cubics.evaluate_curves(self.poly_q, self.poly_v, self.num_pieces, rows, q.shape == (len(self),), derivative, result)
        return result.reshape(q.shape)


@cache
def clamped_basis(num_control: int) -> np.ndarray:
    """Linear map from control values (n,) to ascending polynomial coefficients (n - 3, 4), pieces over u in [0, 1]."""
    inner = np.arange(1, num_control - 3)
    knots = np.concatenate([np.zeros(4), inner, np.full(4, num_control - 3)]).astype(np.float64)
    basis = np.empty((num_control - 3, 4, num_control))
    for i in range(num_control):
        element = PPoly.from_spline(BSpline(knots, np.eye(num_control)[i], 3))
        basis[:, :, i] = element.c[::-1, 3:num_control].T  # drop the zero-width pieces of the clamped ends
    return basis
