"""The quality of predictions: their distance from the truth, trajectory by trajectory, and summaries with confidence intervals.

Shapes: N problems, T query times, d degrees of freedom.
"""

from typing import Any

import numpy as np
from scipy.stats import bootstrap

from ...physics.systems import Problems

METRICS = ("total_loss", "loss_q", "loss_p", "energy_drift")


def measure(problems: Problems, q: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
    """The `METRICS` of predicted q, p, each (N,); not finite where a prediction is not.

    `loss_q` and `loss_p` are mean squares over times and components. `energy_drift` is the largest abs(H - H0) over the
    system's energy scale.
    """
    with np.errstate(all="ignore"):  # a prediction can be anything
        energy = problems.hamiltonians.energy(q, p)
        return {
            "total_loss": total_losses(problems, q, p),
            "loss_q": _mean_squares(q - problems.q),
            "loss_p": _mean_squares(p - problems.p),
            "energy_drift": np.max(np.abs(energy - problems.energy[:, None]), axis=1) / problems.energy_scale,
        }


def total_losses(problems: Problems, q: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Half the sum of the mean squared errors of q and p over times and components, (N,)."""
    with np.errstate(all="ignore"):
        return 0.5 * (_mean_squares(q - problems.q) + _mean_squares(p - problems.p))


def largest_errors(problems: Problems, q: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The largest absolute error of any component of q or p, (N,); infinite where a prediction is not finite."""
    with np.errstate(all="ignore"):
        errors = np.maximum(*(np.abs(x).reshape(len(x), -1).max(axis=1) for x in (q - problems.q, p - problems.p)))
    return np.where(np.isfinite(errors), errors, np.inf)


def _mean_squares(errors: np.ndarray) -> np.ndarray:
    return np.mean(errors.reshape(len(errors), -1) ** 2, axis=1)


def count_broken(losses: np.ndarray) -> int:
    """Rows whose prediction is not finite."""
    return int(np.sum(~np.isfinite(losses)))


def summarise(values: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """median, mean, p95, p99, max of (N,), with 95% bootstrap intervals of median and mean.

    A value that is not finite counts as larger than any other: it may leave the median finite, and makes the mean infinite. A
    statistic that is not finite is None.
    """
    ordered = np.sort(np.where(np.isfinite(values), values, np.inf))
    if not ordered.size:
        return dict.fromkeys(("median", "mean", "p95", "p99", "max", "median_interval", "mean_interval"))
    with np.errstate(invalid="ignore"):  # inf - inf, between two of them
        return {
            "median": finite_or_none(np.median(ordered)),
            "mean": finite_or_none(ordered.mean()),
            "p95": finite_or_none(np.quantile(ordered, 0.95)),
            "p99": finite_or_none(np.quantile(ordered, 0.99)),
            "max": finite_or_none(ordered[-1]),
            "median_interval": _interval(values, np.median, resamples, seed) if np.isfinite(ordered[-1]) else None,
            "mean_interval": _interval(values, np.mean, resamples, seed) if np.isfinite(ordered[-1]) else None,
        }


def finite_or_none(value: Any) -> float | None:
    """A number that JSON can hold."""
    return float(value) if np.isfinite(value) else None


def finite_median(values: np.ndarray) -> float | None:
    """The median of those of the values (N,) that are finite; None where none is."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None


def _interval(values: np.ndarray, statistic: Any, resamples: int, seed: int) -> list[float]:
    """Percentile bootstrap; the two ends are one number where there is nothing to resample."""
    if values.size < 2:
        return [float(values[0])] * 2
    rng = np.random.default_rng(seed)
    result = bootstrap((values,), statistic, n_resamples=resamples, batch=100, method="percentile", rng=rng)
    return [float(x) for x in result.confidence_interval]
