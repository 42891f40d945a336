"""Power laws by least squares on logarithms."""

from typing import Any

import numpy as np
from scipy import stats


def fit_power_law(sizes: list[int], losses: list[float], confidence: float) -> dict[str, Any]:
    """Fit loss = a * size^(-b): ordinary least squares of log(loss) on log(size) over all points.

    Returns
    -------
    dict
        `a`, `b`; `b_interval`, the two-sided t-interval of b with n - 2 degrees of freedom; `residual_sd`
        of log(loss); `points`; and `note`. What the points do not determine is None and the note says why:
        a and b need two different sizes, the interval a third point. Cells of one size share their training
        rows, so the interval covers the randomness of training and not that of drawing a dataset.
    """
    pairs = [(size, loss) for size, loss in zip(sizes, losses, strict=True) if np.isfinite(loss) and loss > 0]
    fit: dict[str, Any] = {"a": None, "b": None, "b_interval": None, "residual_sd": None, "points": len(pairs), "note": None}
    num_sizes = len({size for size, _ in pairs})
    if num_sizes < 2:
        return fit | {"note": f"no fit: it needs at least 2 different sizes, there are {num_sizes}"}
    x, y = np.log(np.array(pairs, dtype=float).T)
    slope, intercept = _least_squares(x, y)
    fit |= {"a": float(np.exp(intercept)), "b": float(-slope)}
    freedom = len(x) - 2
    if freedom < 1:
        return fit | {"note": f"no interval: it needs at least 3 points, there are {len(x)}"}
    sd = float(np.sqrt(np.sum((y - intercept - slope * x) ** 2) / freedom))
    half = _quantile(confidence, freedom) * sd / np.sqrt(np.sum((x - x.mean()) ** 2))
    return fit | {"b_interval": [float(-slope - half), float(-slope + half)], "residual_sd": sd}


def confidence_band(sizes: list[int], fit: dict[str, Any], confidence: float, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper confidence limits of the fitted line at sizes `at` (N,); needs a fit with an interval."""
    x = np.log(np.asarray(sizes, dtype=float))
    centre = np.log(fit["a"]) - fit["b"] * np.log(at)
    spread = np.sqrt(1 / len(x) + (np.log(at) - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2))
    half = _quantile(confidence, len(x) - 2) * fit["residual_sd"] * spread
    return np.exp(centre - half), np.exp(centre + half)


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    slope = float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))
    return slope, float(y.mean() - slope * x.mean())


def _quantile(confidence: float, freedom: int) -> float:
    return float(stats.t.ppf(0.5 + confidence / 2, freedom))
