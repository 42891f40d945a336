"""The prior itself fitted to V at the sensors: a reconstruction that makes use of how random surfaces are drawn.

With u = log((2 - V) / w w), V = 2 - w w exp u and u = log c + g: a constant plus a Gaussian random field (`potentials.fourier_fields`)
of one unknown length scale l. The fit is the mean of the Gaussian process given u at the interior sensors, for the l of largest
marginal likelihood at some of them, with the constant integrated out (Rasmussen and Williams, Gaussian Processes for Machine Learning,
2006, sections 2.7 and 5.4.1). To first order an error of standard deviation sigma in V is one of sigma / (2 - V) in u. The mean is a
sum of the field's modes, so the fit is a surface of the same form as the exact one.

Shapes: R rows, S sensors along an axis without those on the rim, M modes along an axis.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import fminbound
from threadpoolctl import threadpool_limits

from ...potentials.fourier_fields import highest_modes, mode_deviations, modes
from ...threads import share_rows
from .system import RIM, FittedSurfaces

_LENGTH_SCALES = np.array([0.12, 0.16, 0.22, 0.3, 0.42, 0.6])  # where the search for the best begins
_TOLERANCE = 5e-3  # of its logarithm
_MOST_SEARCHED = 150  # sensors that decide the length scale
_ROUNDING = 7e-8  # standard deviation of float32's, of values near 2
_JITTER = 1e-13  # of variances, which keeps the factorisation of nearly dependent sensors positive


class _Fit(NamedTuple):
    """Minus twice the logarithm of the marginal likelihood, up to a constant; c; and the coefficients of g (M, M)."""

    cost: float
    scale: float
    coefficients: np.ndarray


_NO_FIT = _Fit(math.inf, math.nan, np.zeros((1, 1)))  # whose motion is nan, and counted as such


def fit_surfaces(values: np.ndarray, noise: float, num_threads: int | None = None) -> FittedSurfaces:
    """The fits to V at sensors (R, S1, S2) of the unit square, rim included, with errors of standard deviation `noise`."""
    fits = [_NO_FIT] * len(values)

    def work(rows: slice) -> None:
        for row in range(*rows.indices(len(values))):
            fits[row] = _fit(values[row], max(noise, _ROUNDING))

    with threadpool_limits(1, user_api="blas"):  # parallel BLAS within our threads would oversubscribe the CPUs
        share_rows(work, len(values), num_threads)
    coefficients = np.full((len(fits), max((fit.coefficients.size for fit in fits), default=1)), np.nan)
    for row, fit in enumerate(fits):
        coefficients[row, : fit.coefficients.size] = fit.coefficients.ravel()
    return FittedSurfaces.from_modes(np.array([fit.scale for fit in fits]), coefficients)


def _fit(values: np.ndarray, noise: float) -> _Fit:
    x, y = (np.linspace(0.0, 1.0, count)[1:-1] for count in values.shape)
    below = np.maximum(RIM - values[1:-1, 1:-1], noise)
    u = np.log(below / np.outer(4.0 * x * (1.0 - x), 4.0 * y * (1.0 - y)))
    variance = np.square(noise / below) + _JITTER

    stride = math.ceil(math.sqrt(u.size / _MOST_SEARCHED))
    some = slice(stride // 2, None, stride)

    def cost(logarithm: float) -> float:
        return _explain(x[some], y[some], u[some, some], variance[some, some], math.exp(logarithm)).cost

    tried = np.log(_LENGTH_SCALES)
    best = int(np.argmin([cost(one) for one in tried]))
    [found] = np.ravel(fminbound(cost, tried[max(best - 1, 0)], tried[min(best + 1, tried.size - 1)], xtol=_TOLERANCE))
    return _explain(x, y, u, variance, math.exp(found))


def _explain(x: np.ndarray, y: np.ndarray, u: np.ndarray, variance: np.ndarray, length_scale: float) -> _Fit:
    """What a field of this length scale makes of u (S, S), whose errors have `variance` (S, S)."""
    highest = int(highest_modes(np.array(length_scale)))
    deviations = mode_deviations(length_scale, highest)
    fx, fy = (modes(places, highest) * deviations for places in (x, y))
    covariance = np.kron(fx @ fx.T, fy @ fy.T)
    covariance[np.diag_indices_from(covariance)] += variance.ravel()
    try:
        factor = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        return _NO_FIT
    ones = cho_solve(factor, np.ones(u.size), check_finite=False)
    constant = float(ones @ u.ravel() / ones.sum())
    residual = u.ravel() - constant
    weights = cho_solve(factor, residual, check_finite=False)
    cost = 2.0 * np.log(factor[0].diagonal()).sum() + math.log(ones.sum()) + residual @ weights
    field = fx.T @ weights.reshape(u.shape) @ fy
    return _Fit(float(cost), math.exp(constant), field * np.outer(deviations, deviations))
