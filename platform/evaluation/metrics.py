"""What answers are worth: their distance from the truth, trajectory by trajectory, and summaries that say how sure they are.

Shapes: N problems, T query times.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from ...physics.diagnostics import energy_drift, total_loss
from ...physics.potentials.textbook import WALL_HEIGHT
from .problems import Problems

METRICS = ("total_loss", "loss_q", "loss_p", "energy_drift")
SEPARATRIX_EDGES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)


def measure(problems: Problems, q: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
    """The `METRICS` of answers (N, T), each (N,); not finite where an answer is not."""
    with np.errstate(all="ignore"):  # an answer can be anything
        values = problems.exact.value(q)
        return {
            "total_loss": total_loss(q, p, problems.q, problems.p),
            "loss_q": np.mean((q - problems.q) ** 2, axis=1),
            "loss_p": np.mean((p - problems.p) ** 2, axis=1),
            "energy_drift": energy_drift(values, p, problems.energy, WALL_HEIGHT - problems.lowest),
        }


def count_broken(losses: np.ndarray) -> int:
    """Rows whose answer is not finite."""
    return int(np.sum(~np.isfinite(losses)))


def summarise(values: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """median, mean, p95, p99, max of (N,), with 95% bootstrap intervals of median and mean.

    A value that is not finite counts as larger than any other, so it may leave the median and takes the mean with it. A
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


def _interval(values: np.ndarray, statistic: Any, resamples: int, seed: int) -> list[float]:
    """Percentile bootstrap; the two ends are one number where there is nothing to resample."""
    if values.size < 2:
        return [float(values[0])] * 2
    rng = np.random.default_rng(seed)
    result = bootstrap((values,), statistic, n_resamples=resamples, batch=100, method="percentile", rng=rng)
    return [float(x) for x in result.confidence_interval]


def group_by_stratum(problems: Problems) -> dict[str, np.ndarray]:
    """Rows (N,) of each stratum of energies, by number; empty for a preset without strata."""
    return {str(k): problems.stratum == k for k in np.unique(problems.stratum) if k >= 0}


def group_by_separatrix(problems: Problems) -> dict[str, np.ndarray]:
    """Rows (N,) by their distance in energy from the nearest barrier top, as a share of the depth of the well; and those without one.

    At a distance of 0 the motion takes for ever to reach the top: there every answer is ill-conditioned.
    """
    distance = problems.exact.separatrix_distance(problems.energy) / (WALL_HEIGHT - problems.lowest)
    groups = {f"{low:g} to {high:g}": (low <= distance) & (distance < high) for low, high in pairwise(SEPARATRIX_EDGES)}
    last = SEPARATRIX_EDGES[-1]
    return groups | {f"{last:g} and more": (distance >= last) & np.isfinite(distance), "no barrier": np.isinf(distance)}
