"""Gaussian random fields on a few points."""

import numpy as np

_JITTER = 1e-12  # keeps the Cholesky factor real when neighbouring points are almost perfectly correlated


def gaussian_random_field(normals: np.ndarray, length_scale: float) -> np.ndarray:
    """Correlate standard normals (b,) at points i / b with kernel exp(-((i - j) / b)^2 / (2 length_scale^2)).

    Source: arXiv 2410.20951, potential generation.
    """
    num_points = normals.size
    points = np.arange(num_points) / num_points
    covariance = np.exp(-((points[:, None] - points[None, :]) ** 2) / (2.0 * length_scale**2))
    return np.linalg.cholesky(covariance + _JITTER * np.eye(num_points)) @ normals
