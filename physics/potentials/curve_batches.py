"""Many B-spline curve potentials at once: built, sampled and bounded by compiled loops.

Self-contained, as every file of compiled code here (see `kernels`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from .curves import CurvePotential, clamped_basis

_MAX_NEWTON_STEPS = 60


@dataclass(frozen=True)
class CurveBatch:
    """B curves of at most M cubic pieces: piece m of curve b is `poly_q[b, m]`, `poly_v[b, m]` (powers of u ascending).

    poly_q, poly_v (B, M, 4); num_pieces (B,), beyond which a row is padding.
    """

    poly_q: np.ndarray
    poly_v: np.ndarray
    num_pieces: np.ndarray

    @classmethod
    def from_control_points(cls, control_q: np.ndarray, control_v: np.ndarray, num_control: np.ndarray) -> "CurveBatch":
        """Clamped cubic B-spline curves over control polygons (B, n), of which the first `num_control` (B,) points count.

        The abscissae of each polygon must increase strictly; ensembles see to it.
        """
        num_pieces = np.asarray(num_control, dtype=np.int64) - 3
        poly = np.zeros((2, num_pieces.size, control_q.shape[1] - 3, 4))
        for n in np.unique(num_pieces) + 3:
            rows = np.flatnonzero(num_pieces == n - 3)
            _fill_pieces(poly[0], rows, clamped_basis(int(n)), control_q)
            _fill_pieces(poly[1], rows, clamped_basis(int(n)), control_v)
        return cls(poly[0], poly[1], num_pieces)

    @classmethod
    def stack(cls, potentials: Sequence[CurvePotential]) -> "CurveBatch":
        """A batch of curves made one by one; their continuations beyond the walls are dropped."""
        num_pieces = np.array([potential.poly_q.shape[0] - 2 for potential in potentials])
        poly = np.zeros((2, num_pieces.size, int(num_pieces.max(initial=1)), 4))
        for row, potential in enumerate(potentials):
            poly[0, row, : num_pieces[row]] = potential.poly_q[1:-1]
            poly[1, row, : num_pieces[row]] = potential.poly_v[1:-1]
        return cls(poly[0], poly[1], num_pieces)

    def __len__(self) -> int:
        return self.num_pieces.size

    def __getitem__(self, index: int) -> CurvePotential:
        """One curve, as the object the integrators take."""
        pieces = slice(0, int(self.num_pieces[index]))
        return CurvePotential.from_pieces(self.poly_q[index, pieces], self.poly_v[index, pieces])

    def take(self, rows: np.ndarray) -> "CurveBatch":
        """The curves at `rows` (R,), which may repeat."""
        return CurveBatch(self.poly_q[rows], self.poly_v[rows], self.num_pieces[rows])

    def sample(self, q: np.ndarray) -> np.ndarray:
        """V of every curve at sorted positions q (S,) between the walls, (B, S)."""
        return _sample(self.poly_q, self.poly_v, self.num_pieces, np.ascontiguousarray(q, dtype=np.float64))

    def locate(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Piece (B,) and parameter u (B,) with q(u) = q[b] on curve b, for q (B,) between the walls."""
        return _locate(self.poly_q, self.num_pieces, np.ascontiguousarray(q, dtype=np.float64))

    def value(self, q: np.ndarray) -> np.ndarray:
        """V of curve b at q[b], (B,) -> (B,)."""
        piece, u = self.locate(q)
        v0, v1, v2, v3 = self.poly_v[np.arange(len(self)), piece].T
        return v0 + u * (v1 + u * (v2 + u * v3))

    def extrema(self) -> tuple[np.ndarray, np.ndarray]:
        """(min V (B,), max V (B,)) between the walls, exact: piece ends and the real roots of V'(u)."""
        return _extrema(self.poly_v, self.num_pieces)

    def separatrix_distance(self, energy: np.ndarray) -> np.ndarray:
        """abs(E - V) at the top of the nearest barrier, (B,): the least over the maxima of V inside the walls; inf without one.

        An orbit at distance 0 is the separatrix itself, which takes for ever.
        """
        return _separatrix_distance(self.poly_v, self.num_pieces, np.ascontiguousarray(energy, dtype=np.float64))


@njit(cache=True, error_model="numpy")
def _separatrix_distance(poly_v, num_pieces, energy):
    distance = np.full(num_pieces.size, np.inf)
    for row in range(num_pieces.size):
        for m in range(num_pieces[row]):
            v0, c1, c2, c3 = poly_v[row, m, 0], poly_v[row, m, 1], 2.0 * poly_v[row, m, 2], 3.0 * poly_v[row, m, 3]
            discriminant = c2 * c2 - 4.0 * c1 * c3
            if discriminant <= 0.0:
                continue
            # Of the two roots of V' the maximum is where V'' = c2 + 2 c3 u is -sqrt(discriminant); no cancellation either way.
            w = -0.5 * (c2 + np.copysign(np.sqrt(discriminant), c2))
            u = w / c3 if c2 >= 0.0 else c1 / w
            if 0.0 < u <= 1.0 and not (m == num_pieces[row] - 1 and u == 1.0):
                top = v0 + u * (c1 + u * (0.5 * c2 + u * c3 / 3.0))
                distance[row] = min(distance[row], abs(energy[row] - top))
    return distance


@njit(cache=True, error_model="numpy")
def _fill_pieces(poly, rows, basis, control):
    """poly[row, m, k] = sum_i basis[m, k, i] control[row, i]. Not a matrix product: BLAS may round a row by its neighbours."""
    for row in rows:
        for m in range(basis.shape[0]):
            for k in range(4):
                total = 0.0
                for i in range(basis.shape[2]):
                    total += basis[m, k, i] * control[row, i]
                poly[row, m, k] = total


@njit(cache=True, error_model="numpy")
def _parameter(c, q, u):
    """u in [0, 1] with q(u) = q on the piece c: Newton's method from the guess u, inside a shrinking bracket."""
    left, right = 0.0, 1.0
    for _ in range(_MAX_NEWTON_STEPS):
        residual = c[0] + u * (c[1] + u * (c[2] + u * c[3])) - q
        slope = c[1] + u * (2.0 * c[2] + 3.0 * u * c[3])
        if residual > 0.0:
            right = u
        else:
            left = u
        following = u - residual / slope if slope > 0.0 else -1.0
        if not (left <= following <= right):
            following = 0.5 * (left + right)
        if abs(following - u) <= 4e-16:
            return following
        u = following
    return u


@njit(cache=True, error_model="numpy")
def _sample(poly_q, poly_v, num_pieces, q):
    values = np.empty((num_pieces.size, q.size))
    for row in range(num_pieces.size):
        m, last = 0, num_pieces[row] - 1
        c, v = poly_q[row, 0], poly_v[row, 0]
        u, before = 0.0, c[0]
        for i in range(q.size):
            while m < last and q[i] >= poly_q[row, m + 1, 0]:
                m += 1
                c, v = poly_q[row, m], poly_v[row, m]
                u, before = 0.0, c[0]
            # The sensor before is near: go on from it along the tangent.
            guess = u + (q[i] - before) / (c[1] + u * (2.0 * c[2] + 3.0 * u * c[3]))
            u = _parameter(c, q[i], min(max(guess, 0.0), 1.0))
            before = q[i]
            values[row, i] = v[0] + u * (v[1] + u * (v[2] + u * v[3]))
    return values


@njit(cache=True, error_model="numpy")
def _locate(poly_q, num_pieces, q):
    pieces, parameters = np.empty(q.size, np.int64), np.empty(q.size)
    for row in range(q.size):
        m = num_pieces[row] - 1
        while m > 0 and q[row] < poly_q[row, m, 0]:
            m -= 1
        pieces[row] = m
        parameters[row] = _parameter(poly_q[row, m], q[row], 0.5)
    return pieces, parameters


@njit(cache=True, error_model="numpy")
def _extrema(poly_v, num_pieces):
    lowest, highest = np.full(num_pieces.size, np.inf), np.full(num_pieces.size, -np.inf)
    candidates = np.empty(4)
    for row in range(num_pieces.size):
        for m in range(num_pieces[row]):
            v = poly_v[row, m]
            c1, c2, c3 = v[1], 2.0 * v[2], 3.0 * v[3]
            candidates[0], candidates[1], candidates[2], candidates[3] = 0.0, 1.0, 0.0, 1.0
            discriminant = c2 * c2 - 4.0 * c1 * c3
            if discriminant >= 0.0:
                # The numerically stable pair of roots: w / c3 and c1 / w never cancel.
                w = -0.5 * (c2 + np.copysign(np.sqrt(discriminant), c2))
                if c3 != 0.0:
                    candidates[2] = w / c3
                if w != 0.0:
                    candidates[3] = c1 / w
            for u in candidates:
                if 0.0 <= u <= 1.0:
                    value = v[0] + u * (v[1] + u * (v[2] + u * v[3]))
                    lowest[row] = min(lowest[row], value)
                    highest[row] = max(highest[row], value)
    return lowest, highest
