"""Gaussian random fields on a few points."""

import numpy as np

_JITTER = 1e-12  # keeps the Cholesky factor real when neighbouring points are almost perfectly correlated


def gaussian_random_fields(normals: np.ndarray, length_scale: np.ndarray) -> np.ndarray:
    """Correlate standard normals (B, b) at points i / b with kernel exp(-((i - j) / b)^2 / (2 length_scale^2)), scales (B,).

    Source: arXiv 2410.20951, potential generation.
    """
    num_points = normals.shape[1]
    points = np.arange(num_points) / num_points
    covariance = np.exp(-((points[:, None] - points) ** 2) / (2.0 * length_scale[:, None, None] ** 2))
    factor = np.linalg.cholesky(covariance + _JITTER * np.eye(num_points))
    # Not a matrix product: BLAS may round a row by its neighbours, and a row must not depend on them.
    return np.sum(factor * normals[:, None, :], axis=-1)
