"""Gaussian random fields on the unit square as finite sums of Fourier modes: analytic, and rebuilt from their coefficients.

    g(x, y) = sum_ij a_ij f_i(x) f_j(y),    f_0 = 1,  f_(2k-1) = cos(pi k x),  f_(2k) = sin(pi k x)

The modes have period 2, so that the field does not repeat itself on [0, 1]. Their variances are those of a squared-exponential
kernel, exp(-r² / 2 l²), summed over its images, up to pi k l = 6.5, where what is left out is below 1e-9 of the variance.

Shapes: R rows, K the highest mode, M = 2 K + 1 functions along each axis.
"""

import math

import numpy as np

from ..compiled import compiled

PERIOD = 2.0
_CUT = 6.5  # of pi k l


def highest_modes(length_scale: np.ndarray) -> np.ndarray:
    """K of fields of these length scales, (R,)."""
    return np.ceil(_CUT / (math.pi * np.asarray(length_scale))).astype(np.int64)


def mode_deviations(length_scale: float, highest: int) -> np.ndarray:
    """Standard deviations (M,) of the coefficients along one axis, for a field of variance 1."""
    k = np.arange(1, highest + 1)
    variance = np.concatenate([[1.0], np.repeat(2.0 * np.exp(-0.5 * (math.pi * k * length_scale) ** 2), 2)])
    # At each place cos² + sin² = 1: a pair counts once.
    return np.sqrt(variance / (1.0 + variance[1::2].sum()))


def gaussian_fields(normals: np.ndarray, length_scale: float) -> np.ndarray:
    """Coefficients a (R, M, M) from standard normal numbers (R, M, M), M = 2 K + 1 with K of `highest_modes`."""
    deviations = mode_deviations(length_scale, (normals.shape[1] - 1) // 2)
    return normals * deviations[:, None] * deviations


def modes(places: np.ndarray, highest: int) -> np.ndarray:
    """f_i at places (n,), (n, M)."""
    angles = math.pi * np.arange(1, highest + 1) * places[:, None]
    values = np.ones((places.size, 2 * highest + 1))
    values[:, 1::2], values[:, 2::2] = np.cos(angles), np.sin(angles)
    return values


@compiled()
def fill_modes(x, first, second, third):
    """f_i, f_i' and f_i'' (M,) at x."""
    c, s = math.cos(math.pi * x), math.sin(math.pi * x)
    first[0], second[0], third[0] = 1.0, 0.0, 0.0
    cosine, sine = 1.0, 0.0
    for k in range(1, (first.size - 1) // 2 + 1):
        cosine, sine = cosine * c - sine * s, sine * c + cosine * s
        w = math.pi * k
        first[2 * k - 1], first[2 * k] = cosine, sine
        second[2 * k - 1], second[2 * k] = -w * sine, w * cosine
        third[2 * k - 1], third[2 * k] = -w * w * cosine, -w * w * sine
