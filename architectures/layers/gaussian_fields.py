"""Gaussian processes on the unit square with squared-exponential kernels, exp(-r² / 2 l²): covariances, and fields that are drawn.

Periodic ones have the period 1 along each axis; their kernel is that of all images together, scaled to a variance of 1.

Shapes: n places along an axis, (n1, n2) a grid, L length scales.
"""

import math
from collections.abc import Sequence

import numpy as np

from ...physics.potentials.fourier_fields import PERIOD, highest_modes, mode_deviations, modes

_IMAGES = 6.0  # length scales at least from a place to the next image of another, where fields without a period are drawn by modes


def covariance(a: np.ndarray, b: np.ndarray, length_scale: float, periodic: bool) -> np.ndarray:
    """Along one axis, of places a (n) with places b (m): (n, m)."""
    differences = a[:, None] - b
    if not periodic:
        return np.exp(-0.5 * np.square(differences / length_scale))
    variances = np.square(mode_deviations(PERIOD * length_scale, int(highest_modes(np.array(PERIOD * length_scale)))))[::2]
    harmonics = np.arange(variances.size)
    return np.cos(2.0 * math.pi * harmonics * differences[..., None]) @ variances


def draw_fields(
    rng: np.random.Generator, places: Sequence[Sequence[np.ndarray]], groups: Sequence[Sequence[float]], periodic: bool, count: int
) -> list[np.ndarray]:
    """`count` fields of variance 1 for each length scale (count, L, n1, n2), at each of several grids of places along both axes.

    Length scales come in groups. The fields of a group are drawn from the same normal numbers.
    """
    scales = [scale for group in groups for scale in group]
    stretch = PERIOD / (1.0 if periodic else 1.0 + _IMAGES * max(scales))
    highest = int(highest_modes(np.array(stretch * min(scales))))
    at = [[modes(stretch * x, highest) for x in grid] for grid in places]
    fields = [np.empty((count, len(scales), *(x.size for x in grid))) for grid in places]
    number = 0
    for group in groups:
        normals = rng.standard_normal((count, 2 * highest + 1, 2 * highest + 1))
        for scale in group:
            each = mode_deviations(stretch * scale, highest)
            for (first, second), found in zip(at, fields, strict=True):
                found[:, number] = first @ (normals * np.outer(each, each)) @ second.T
            number += 1
    return fields
