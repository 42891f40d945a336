"""The prior itself fitted to V at the sensors: a reconstruction that makes use of how random surfaces are drawn.

With u = log((2 - V) / w w), V = 2 - w w exp u and u = log c + g: a constant plus a Gaussian random field (`potentials.fourier_fields`)
of one unknown length scale l. The fit is the mean of the Gaussian process given u at the interior sensors, for the l of largest
marginal likelihood at some of them, with the constant integrated out (Rasmussen and Williams, Gaussian Processes for Machine Learning,
2006, sections 2.7 and 5.4.1). To first order an error of standard deviation sigma in V is one of sigma / (2 - V) in u. The mean is a
sum of the field's modes, so the fit is a surface of the same form as the exact one.

Shapes: R rows, S sensors along an axis without those on the rim, M modes along an axis.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import fminbound
from threadpoolctl import threadpool_limits

from ...potentials.fourier_fields import highest_modes, mode_deviations, modes
from ...threads import share_rows
from .surfaces import RIM, FittedSurfaces

_LENGTH_SCALES = np.array([0.12, 0.16, 0.22, 0.3, 0.42, 0.6])  # where the search for the best begins
_TOLERANCE = 5e-3  # of its logarithm
_MOST_SEARCHED = 150  # sensors that decide the length scale
_ROUNDING = 7e-8  # standard deviation of float32's, of values near 2
_NUM_COARSE, _NUM_FINE = 36, 41  # length scales weighed for a sample
_JITTER = 1e-13  # of variances, which keeps the factorisation of nearly dependent sensors positive


_NO_FIT = (math.nan, np.zeros((1, 1)))  # whose motion is nan, and counted as such


class _Posterior(NamedTuple):
    """The fields of one length scale given u at the sensors: a constant plus a Gaussian process, by its modes there, `fx` and `fy` (S, M).

    `cost` is minus twice the logarithm of the marginal likelihood, up to a constant; the constant has a normal distribution.
    """

    cost: float
    constant: float
    constant_deviation: float
    u: np.ndarray
    variance: np.ndarray
    factor: tuple[np.ndarray, bool]
    fx: np.ndarray
    fy: np.ndarray
    deviations: np.ndarray

    @property
    def mean(self) -> tuple[float, np.ndarray]:
        """log c and the coefficients of g (M, M) that are most probable."""
        return self.constant, self._correct(self.u - self.constant) * self._scales

    def sample(self, rng: np.random.Generator) -> tuple[float, np.ndarray]:
        """log c and the coefficients of a field drawn from the posterior: one of the prior, corrected by what it misses at the sensors."""
        constant = self.constant + self.constant_deviation * rng.standard_normal()
        drawn = rng.standard_normal((self.fx.shape[1], self.fy.shape[1]))
        error = np.sqrt(self.variance) * rng.standard_normal(self.u.shape)
        return constant, (drawn + self._correct(self.u - constant - self.fx @ drawn @ self.fy.T - error)) * self._scales

    def _correct(self, residual: np.ndarray) -> np.ndarray:
        weights = cho_solve(self.factor, residual.ravel(), check_finite=False)
        return self.fx.T @ weights.reshape(residual.shape) @ self.fy

    @property
    def _scales(self) -> np.ndarray:
        return np.outer(self.deviations, self.deviations)


def fit_surfaces(values: np.ndarray, noise: float, num_threads: int | None = None) -> FittedSurfaces:
    """The fits to V at sensors (R, S1, S2) of the unit square, rim included, with errors of standard deviation `noise`."""

    def fit(row: int) -> list[tuple[float, np.ndarray]]:
        found = _most_probable(_Readings.of(values[row], noise))
        return [found.mean if found else _NO_FIT]

    [surfaces] = _each(fit, len(values), 1, num_threads)
    return surfaces


def sample_surfaces(
    values: np.ndarray, noise: float, length_scales: tuple[float, float], count: int, seed: int, num_threads: int | None = None
) -> list[FittedSurfaces]:
    """`count` draws of all R surfaces from their distribution given V at sensors (R, S1, S2), noise as in `fit_surfaces`.

    The length scale is drawn as well, from its posterior under a uniform prior on the range `length_scales`. The mean of the motions on
    such surfaces is what no prediction from the sensors can beat in expected squared error.
    """

    def draw(row: int) -> list[tuple[float, np.ndarray]]:
        rng = np.random.default_rng((seed, row))
        readings = _Readings.of(values[row], noise)
        candidates, weights = _weigh_length_scales(readings.some(), length_scales)
        drawn, counts = np.unique(rng.choice(candidates, size=count, p=weights), return_counts=True)
        posteriors = [_condition(readings, float(scale)) for scale in drawn]
        return [
            posterior.sample(rng) if posterior else _NO_FIT
            for posterior, repeats in zip(posteriors, counts, strict=True)
            for _ in range(repeats)
        ]

    return _each(draw, len(values), count, num_threads)


def _each(work: Callable[[int], list[tuple[float, np.ndarray]]], rows: int, count: int, num_threads: int | None) -> list[FittedSurfaces]:
    """Surfaces of all rows, `count` times: of log c and the coefficients that `work` returns for one row."""
    found = [[_NO_FIT] * count for _ in range(rows)]

    def share(part: slice) -> None:
        for row in range(*part.indices(rows)):
            found[row] = work(row)

    with threadpool_limits(1, user_api="blas"):  # parallel BLAS within our threads would oversubscribe the CPUs
        share_rows(share, rows, num_threads)
    size = max((coefficients.size for draws in found for _, coefficients in draws), default=1)
    surfaces = []
    for number in range(count):
        coefficients = np.full((rows, size), np.nan)
        for row, draws in enumerate(found):
            own = draws[number][1]
            coefficients[row, : own.size] = own.ravel()
        scales = np.exp(np.array([draws[number][0] for draws in found]))
        surfaces.append(FittedSurfaces.from_modes(scales, coefficients))
    return surfaces


class _Readings(NamedTuple):
    """u at the interior sensors (S1, S2), whose errors have `variance`, and the sensors' places along each axis."""

    x: np.ndarray
    y: np.ndarray
    u: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, noise: float) -> "_Readings":
        noise = max(noise, _ROUNDING)
        x, y = (np.linspace(0.0, 1.0, count)[1:-1] for count in values.shape)
        below = np.maximum(RIM - values[1:-1, 1:-1], noise)
        u = np.log(below / np.outer(4.0 * x * (1.0 - x), 4.0 * y * (1.0 - y)))
        return cls(x, y, u, np.square(noise / below) + _JITTER)

    def some(self) -> "_Readings":
        """Those that decide the length scale."""
        stride = math.ceil(math.sqrt(self.u.size / _MOST_SEARCHED))
        part = slice(stride // 2, None, stride)
        return _Readings(self.x[part], self.y[part], self.u[part, part], self.variance[part, part])


def _most_probable(readings: _Readings) -> _Posterior | None:
    """The posterior for the length scale of largest likelihood."""
    some = readings.some()

    def cost(logarithm: float) -> float:
        found = _condition(some, math.exp(logarithm))
        return found.cost if found else math.inf

    tried = np.log(_LENGTH_SCALES)
    best = int(np.argmin([cost(one) for one in tried]))
    [found] = np.ravel(fminbound(cost, tried[max(best - 1, 0)], tried[min(best + 1, tried.size - 1)], xtol=_TOLERANCE))
    return _condition(readings, math.exp(found))


def _weigh_length_scales(readings: _Readings, bounds: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Length scales in a range and their probabilities: on a coarse grid, then on a fine one where it matters."""

    def costs(scales: np.ndarray) -> np.ndarray:
        found = (_condition(readings, float(scale)) for scale in scales)
        return np.array([posterior.cost if posterior else math.inf for posterior in found])

    coarse = np.linspace(*bounds, _NUM_COARSE)
    best, reach = coarse[np.argmin(costs(coarse))], 2 * (coarse[1] - coarse[0])
    fine = np.linspace(max(bounds[0], best - reach), min(bounds[1], best + reach), _NUM_FINE)
    cost = costs(fine)
    weights = np.exp(-0.5 * (cost - cost.min())) if np.isfinite(cost).any() else np.ones(_NUM_FINE)
    return fine, weights / weights.sum()


def _condition(readings: _Readings, length_scale: float) -> _Posterior | None:
    """What fields of this length scale make of the readings; None where their covariance cannot be factorised."""
    x, y, u, variance = readings
    highest = int(highest_modes(np.array(length_scale)))
    deviations = mode_deviations(length_scale, highest)
    fx, fy = (modes(places, highest) * deviations for places in (x, y))
    covariance = np.kron(fx @ fx.T, fy @ fy.T)
    covariance[np.diag_indices_from(covariance)] += variance.ravel()
    try:
        factor = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        return None
    ones = cho_solve(factor, np.ones(u.size), check_finite=False)
    constant = float(ones @ u.ravel() / ones.sum())
    residual = u.ravel() - constant
    weights = cho_solve(factor, residual, check_finite=False)
    cost = 2.0 * np.log(factor[0].diagonal()).sum() + math.log(ones.sum()) + residual @ weights
    return _Posterior(float(cost), constant, float(ones.sum()) ** -0.5, u, variance, factor, fx, fy, deviations)
