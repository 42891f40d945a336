"""Potentials given as cubic curves (q(u), V(u)): the clamped B-spline prior and interpolants of sensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.interpolate import BSpline, CubicSpline, PPoly

from ..errors import InputError
from ..kernels import curve_curvatures, curve_forces, curve_values


@dataclass(frozen=True)
class CurvePotential:
    """V(q) defined through a curve of M cubic pieces (powers of u ascending; see `kernels`).

    knots_q (M + 1,), poly_q (M, 4), poly_v (M, 4); q(u) is increasing, so V is a function of q.
    Build one with `from_control_points` or `from_samples`.
    """

    knots_q: np.ndarray
    poly_q: np.ndarray
    poly_v: np.ndarray

    @classmethod
    def from_control_points(cls, control_q: Sequence[float] | np.ndarray, control_v: Sequence[float] | np.ndarray) -> "CurvePotential":
        """The clamped cubic B-spline curve with uniform knots over a control polygon of n >= 4 points.

        Raises InputError unless the abscissae increase strictly (which makes q(u) increase).
        """
        q, v = np.asarray(control_q, dtype=np.float64), np.asarray(control_v, dtype=np.float64)
        if q.ndim != 1 or q.shape != v.shape or q.size < 4:
            raise InputError(f"control polygon has shapes {q.shape} and {v.shape}; give two equal lists of at least 4 numbers")
        if not (np.all(np.isfinite(q)) and np.all(np.isfinite(v)) and np.all(np.diff(q) > 0)):
            raise InputError("control polygon must be finite with strictly increasing abscissae")
        basis = clamped_basis(q.size)
        return cls.from_pieces(basis @ q, basis @ v)

    @classmethod
    def from_samples(cls, values: Sequence[float] | np.ndarray) -> "CurvePotential":
        """The C2 (not-a-knot) cubic spline through V at uniform points on [0, 1], shape (S,), S >= 4."""
        v = np.asarray(values, dtype=np.float64)
        if v.ndim != 1 or v.size < 4 or not np.all(np.isfinite(v)):
            raise InputError(f"samples of V have shape {v.shape}; give at least 4 finite numbers")
        spline = CubicSpline(np.linspace(0.0, 1.0, v.size), v)
        poly_q = np.zeros((v.size - 1, 4))
        poly_q[:, 0], poly_q[:, 1] = spline.x[:-1], np.diff(spline.x)
        return cls.from_pieces(poly_q, _unit_pieces(spline))

    @classmethod
    def from_pieces(cls, poly_q: np.ndarray, poly_v: np.ndarray) -> "CurvePotential":
        """The curve of the pieces between the walls, coefficients (M, 4) each, in order and joined.

        Adds the cubic Taylor continuation beyond each wall: stages of a solver may overshoot a turning point
        there by O(h^2), and a C3 continuation costs them no order.
        """
        left, right = _taylor(poly_q[0], poly_v[0], 0.0), _taylor(poly_q[-1], poly_v[-1], 1.0)
        wall_q = np.array([poly_q[0, 0], poly_q[-1].sum()])
        outer = [np.array([[q, 1.0, 0.0, 0.0]]) for q in wall_q]
        return cls(
            knots_q=np.concatenate([[-np.inf], poly_q[:, 0], wall_q[1:], [np.inf]]),
            poly_q=np.concatenate([outer[0], poly_q, outer[1]]),
            poly_v=np.concatenate([left[None], poly_v, right[None]]),
        )

    @property
    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The arrays the compiled kernels take."""
        return self.knots_q, self.poly_q, self.poly_v

    def value(self, q: np.ndarray) -> np.ndarray:
        """V(q), any shape; continued beyond the walls by a cubic."""
        q = np.asarray(q, dtype=np.float64)
        return curve_values(self.curve, q.ravel()).reshape(q.shape)

    def gradient(self, q: np.ndarray) -> np.ndarray:
        """V'(q), any shape; continued beyond the walls by a cubic."""
        q = np.asarray(q, dtype=np.float64)
        return -curve_forces(self.curve, q.ravel()).reshape(q.shape)

    def curvature(self, q: np.ndarray) -> np.ndarray:
        """V''(q), any shape; continued beyond the walls by a cubic."""
        q = np.asarray(q, dtype=np.float64)
        return curve_curvatures(self.curve, q.ravel()).reshape(q.shape)

    def extrema(self) -> tuple[float, float]:
        """(min V, max V) over the walls, exact: piece ends and the real roots of V'(u)."""
        v0, v1, v2, v3 = self.poly_v[1:-1].T
        candidates = [v0, v0 + v1 + v2 + v3]
        c1, c2, c3 = v1, 2 * v2, 3 * v3
        with np.errstate(all="ignore"):
            # The numerically stable pair of roots: w / c3 and c1 / w never cancel.
            w = -0.5 * (c2 + np.copysign(np.sqrt(c2 * c2 - 4 * c1 * c3), c2))
            for u in (w / c3, c1 / w):
                candidates.append((v0 + u * (v1 + u * (v2 + u * v3)))[(u >= 0) & (u <= 1)])
        values = np.concatenate(candidates)
        return float(values.min()), float(values.max())


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


def _unit_pieces(spline: CubicSpline) -> np.ndarray:
    """Ascending coefficients (M, 4) of a piecewise cubic, each piece rescaled to u in [0, 1]."""
    widths = np.diff(spline.x)[:, None]
    return spline.c[::-1].T * widths ** np.arange(4)


def _taylor(poly_q: np.ndarray, poly_v: np.ndarray, u: float) -> np.ndarray:
    """Coefficients (4,) of V in powers of q - q(u), by the chain rule on the curve at u."""
    q1, q2, q3 = _derivatives(poly_q.tolist(), u)
    v1, v2, v3 = _derivatives(poly_v.tolist(), u)
    v0 = poly_v[0] + u * (poly_v[1] + u * (poly_v[2] + u * poly_v[3]))
    slope = v1 / q1
    curvature = (v2 - slope * q2) / q1**2
    third = (v3 - 3 * curvature * q1 * q2 - slope * q3) / q1**3
    return np.array([v0, slope, curvature / 2, third / 6])


def _derivatives(c: list[float], u: float) -> tuple[float, float, float]:
    """The first three derivatives of a cubic at u."""
    return c[1] + u * (2.0 * c[2] + 3.0 * u * c[3]), 2.0 * c[2] + 6.0 * u * c[3], 6.0 * c[3]
