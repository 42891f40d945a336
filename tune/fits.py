"""Laws of the loss against the number of training rows: with a floor, loss = E + A size^(-alpha), and without.

Shapes: S sizes, N losses in all, R parameters of a confidence region, K sizes to predict.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from scipy import stats

from ..physics import InputError
from .curves import (
    BOUNDS,
    LEAST_SQUARES,
    STEEPEST,
    Data,
    above_floor,
    best_fit,
    constants,
    degrees_of_freedom,
    descend,
    farthest_level,
    log_loss,
    objective_grid,
    pooled_sd,
    with_alpha,
    with_floor,
)

NUM_SIZES = 4  # that a law with a floor needs: three parameters, and one size that may contradict them
HUBER_DELTA = 1e-3
_GRID, _FINE_GRID, _ZOOMS = 21, 51, 4  # of the confidence region
_LEAST_FREEDOM = 3  # losses beyond one for each size, below which there are no intervals
_LEAST_SD = 1e-9  # of log(loss): rounding, not noise
_WIDEST_FLOOR = 0.5  # interval of a floor that counts as identified, as a fraction of the loss at the largest size


@dataclass(frozen=True)
class LackOfFit:
    """The F test of what the law leaves over between sizes against the scatter of repetitions."""

    statistic: float
    freedom: tuple[int, int]
    p_value: float


@dataclass(frozen=True)
class Prediction:
    """Losses (K,) and limits of their intervals; limits are None where the law has no intervals."""

    loss: np.ndarray
    lower: np.ndarray | None
    upper: np.ndarray | None


@dataclass(frozen=True)
class _Region:
    """The parameters that the losses do not contradict: R shapes, for each the lowest and highest logarithm of the loss."""

    low: np.ndarray
    high: np.ndarray
    slope: np.ndarray
    bend: np.ndarray


@dataclass(frozen=True, eq=False)
class ScalingLaw:
    """loss = floor + amplitude * size^(-alpha), fitted by `fit_scaling_law`.

    Intervals are None, with a sentence in `reason`, where there are too few repetitions; an upper limit of None means that there is none.
    `identified` says whether the losses determine both alpha and the floor, else `reason` says what they leave open. `holds` is False
    where the lack of fit is significant. `preferred` is "floor" where the floor's interval excludes 0, else "power law"; the power law
    without a floor is the least-squares line of `fit_power_law`.
    """

    sizes: tuple[float, ...]
    repetitions: tuple[int, ...]
    confidence: float
    alpha: float
    alpha_interval: tuple[float, float | None] | None
    floor: float
    floor_interval: tuple[float, float] | None
    amplitude: float
    alpha_identified: bool
    floor_identified: bool
    reason: str | None
    preferred: str
    power_law_alpha: float
    power_law_interval: tuple[float, float] | None
    lack_of_fit: LackOfFit | None
    holds: bool | None
    residual_sd: float | None
    _fitted: np.ndarray = field(repr=False)
    _region: _Region | None = field(repr=False)

    @property
    def identified(self) -> bool:
        return self.alpha_identified and self.floor_identified

    def predict(self, sizes: Sequence[float] | np.ndarray, repetitions: int | None = None) -> Prediction:
        """The law at other sizes, with its confidence interval or a prediction interval.

        Without `repetitions` the interval is that of the law itself. With it, the interval is for the geometric mean of this many new
        runs, independent of those fitted: the scatter of their mean is added in quadrature to each half of the interval.
        """
        x = np.log(self.sizes[-1] / np.asarray(sizes, dtype=float))
        reach = np.log(self.sizes[-1] / self.sizes[0])
        centre = log_loss(self._fitted[None], x, reach)[0]
        if self._region is None:
            return Prediction(np.exp(centre), None, None)
        shapes = np.stack([np.zeros_like(self._region.low), self._region.slope, self._region.bend], axis=1)
        over = log_loss(shapes, x, reach)
        below = np.maximum(centre - (over + self._region.low[:, None]).min(axis=0), 0.0)
        above = np.maximum((over + self._region.high[:, None]).max(axis=0) - centre, 0.0)
        noise = 0.0
        if repetitions is not None and self.residual_sd is not None:
            noise = _quantile(self.confidence, degrees_of_freedom(self.repetitions)) * self.residual_sd / np.sqrt(repetitions)
        return Prediction(np.exp(centre), np.exp(centre - np.hypot(below, noise)), np.exp(centre + np.hypot(above, noise)))

    def as_dict(self) -> dict[str, Any]:
        """All but what `predict` needs, as JSON can hold it."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("lack_of_fit", "_fitted", "_region")}
        lack = self.lack_of_fit
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return plain | {
            "identified": self.identified,
            "lack_of_fit": None if lack is None else asdict(lack) | {"freedom": list(lack.freedom)},
        }


def fit_scaling_law(
    sizes: Sequence[float] | np.ndarray,
    losses: Sequence[Sequence[float] | np.ndarray] | np.ndarray,
    confidence: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> ScalingLaw:
    """Fit loss = E + A size^(-alpha), E >= 0, to repeated runs at several sizes.

    The fit minimises the Huber loss (delta 1e-3) of log(loss), as in Hoffmann et al. 2022 (arXiv 2203.15556), from the best points of a
    grid over the shapes of the curve. The best minima are polished to rounding: the refit of Besiroglu et al. (arXiv 2404.10102) traces
    impossible intervals to an optimizer that stopped early.

    Intervals invert a test. A value of alpha belongs to the interval if the best fit with this value is worse than the best fit of all by
    no more than t s, with s the pooled standard deviation of log(loss) within sizes. A smoothed, studentised bootstrap gives t: it draws
    `resamples` studies around the fitted curve from the deviations of the repetitions from their sizes' means, widened by
    sqrt(n / (n - 1)), and t is the quantile of the same quantity in them, each at its own s. So few repetitions make the interval wide,
    as in Student's t. It is done twice, around the law and around the best law with E = 0, and the larger t is used. The intervals of E
    and of predictions come from the same region of parameters. Percentiles of refitted resamples would miss a true alpha on the low side
    one time in ten where E = 0.

    Fraction of 400 simulated studies whose 95% intervals hold the truth, with alpha = 0.5, sizes over two decades and log-normal noise
    (1,000 resamples); and the bias of alpha, which is positive because E cannot be negative:

        sizes x runs   noise   E, of the last loss   alpha   E      law at the last size   median bias   mean bias
        6 x 9          10%     0                     0.935   0.97   0.96                   +0.009        +0.014
        6 x 9          10%     10%                   0.965   0.97   0.97                   +0.002        +0.008
        6 x 9          20%     0                     0.938   0.97   0.96                   +0.019        +0.029
        6 x 9          20%     10%                   0.963   0.97   0.96                   +0.011        +0.023
        4 x 2          10%     0                     0.940   0.98   0.96                   +0.013        +0.024
        4 x 2          10%     10%                   0.963   0.98   0.96                   +0.004        +0.016
        4 x 2          20%     0                     0.940   0.98   0.96                   +0.025        +0.049
        4 x 2          20%     10%                   0.953   0.98   0.96                   +0.019        +0.041

    The noise is assumed to be the same fraction of the loss at every size. Where it grows fourfold from the smallest size to the largest,
    the intervals of alpha still hold the truth in 92% to 97% of 200 studies of 6 x 9 runs, but those of the law at the last size in 84%.
    Sizes are taken as independent. With 6 x 3 nested draws, whose deviations at sizes M < N correlate by sqrt(M / N), the intervals of
    alpha hold the truth in 93% of 100 studies with E = 0, and those of the law at the last size in 88%.

    Parameters
    ----------
    sizes
        S >= 4 different numbers of training rows.
    losses
        For each size its losses, (repetitions,). An array (draws, seeds) holds several seeds on each of several draws of the dataset:
        the geometric mean over the seeds is then one repetition, because seeds on the same rows are not independent of each other.

    Raises
    ------
    InputError
        For fewer than 4 sizes, and for losses that are no positive finite numbers.
    """
    ordered, logs = _checked(sizes, losses, confidence, resamples)
    data, repetitions = Data.of(ordered, logs), tuple(each.size for each in logs)
    fitted, least = best_fit(data, HUBER_DELTA, polish=True)
    alpha, floor, amplitude = constants(fitted, data)
    region, sd, alpha_interval, floor_interval = None, None, None, None
    if degrees_of_freedom(repetitions) >= _LEAST_FREEDOM:
        sd = float(pooled_sd(data.y[None], data)[0])
        curves = (fitted, best_fit(data, HUBER_DELTA, bend=0.0)[0]) if sd > _LEAST_SD else ()
        critical = max((_critical(data, curve, confidence, resamples, seed) for curve in curves), default=0.0)
        region = _confidence_region(data, fitted, least + critical * sd)
        alpha_interval, floor_interval = _project(region, data, alpha, floor)
    open_alpha = _what_alpha_leaves_open(alpha, alpha_interval)
    open_floor = _what_floor_leaves_open(floor_interval, float(np.exp(fitted[0])), ordered[-1])
    lack = _lack_of_fit(data, repetitions)
    line = fit_power_law([ordered[i] for i in data.which], np.exp(data.y).tolist(), confidence)
    return ScalingLaw(
        sizes=tuple(ordered),
        repetitions=repetitions,
        confidence=confidence,
        alpha=alpha,
        alpha_interval=alpha_interval,
        floor=floor,
        floor_interval=floor_interval,
        amplitude=amplitude,
        alpha_identified=open_alpha is None,
        floor_identified=open_floor is None,
        reason="; ".join(filter(None, dict.fromkeys((open_alpha, open_floor)))) or None,
        preferred="floor" if floor_interval is not None and floor_interval[0] > 0 else "power law",
        power_law_alpha=line["b"],
        power_law_interval=tuple(line["b_interval"]) if line["b_interval"] else None,
        lack_of_fit=lack,
        holds=None if lack is None else lack.p_value >= 1 - confidence,
        residual_sd=sd,
        _fitted=fitted,
        _region=region,
    )


def mean_intervals(law: ScalingLaw, losses: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Geometric means (S,) of the losses of each size; and the limits of their intervals, Student's with the law's pooled scatter."""
    centres = np.array([np.mean(np.log(each)) for each in losses])
    if law.residual_sd is None:
        return np.exp(centres), None, None
    half = _quantile(law.confidence, degrees_of_freedom(law.repetitions)) * law.residual_sd / np.sqrt([len(each) for each in losses])
    return np.exp(centres), np.exp(centres - half), np.exp(centres + half)


def _checked(sizes: Any, losses: Any, confidence: float, resamples: int) -> tuple[list[float], list[np.ndarray]]:
    arrays = [np.asarray(each, dtype=float) for each in losses]
    sizes = [float(size) for size in sizes]
    if len(sizes) != len(arrays):
        raise InputError(f"sizes has {len(sizes)} values and losses has {len(arrays)}; give the losses of each size")
    if not all(np.isfinite(size) and size > 0 for size in sizes) or len(set(sizes)) < len(sizes):
        raise InputError(f"sizes is {', '.join(f'{size:g}' for size in sizes)}; give different positive numbers")
    if len(sizes) < NUM_SIZES:
        raise InputError(f"sizes has {len(sizes)} values; a law with a floor needs at least {NUM_SIZES}: fit_power_law needs two")
    for size, each in zip(sizes, arrays, strict=True):
        if each.ndim not in (1, 2) or not each.size:
            raise InputError(f"the losses of size {size:g} have shape {each.shape}; give (repetitions,) or (draws, seeds), not empty")
        wrong = each[~(np.isfinite(each) & (each > 0))]
        if wrong.size:
            raise InputError(f"the losses of size {size:g} contain {wrong[0]:g}; the logarithm needs positive finite losses")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; give a number between 0 and 1")
    if resamples < 100:
        raise InputError(f"resamples is {resamples}; give at least 100")
    order = np.argsort(sizes)
    logs = [np.log(arrays[i]) for i in order]
    return [sizes[i] for i in order], [np.sort(each.mean(axis=1) if each.ndim == 2 else each) for each in logs]


def _critical(data: Data, fitted: np.ndarray, confidence: float, resamples: int, seed: int) -> float:
    """How much worse, in units of s, the best fit with the true alpha may be: a quantile over resamples, where alpha is known."""
    counts = np.bincount(data.which)
    repeated = counts[data.which] > 1
    deviations = data.y - (data.sums(data.y[None])[0] / counts)[data.which]
    pool = (deviations * np.sqrt(counts / np.maximum(counts - 1, 1))[data.which])[repeated]
    pool -= np.median(pool)  # the Huber loss fits medians
    rng = np.random.default_rng(seed)
    drawn = pool[rng.integers(pool.size, size=(resamples, data.y.size))]
    width = 1.06 * pool.size**-0.2  # Silverman's rule, in standard deviations
    noise = (drawn + width * pool.std() * rng.standard_normal(drawn.shape)) / np.hypot(1, width)
    y = log_loss(fitted[None], data.x, data.reach)[:, data.which] + noise
    alpha = fitted[1] + fitted[2]
    start = np.repeat(fitted[None], resamples, axis=0)
    _, held = descend(with_alpha(data, alpha), data, y, start[:, :2], np.array([np.inf, min(alpha, STEEPEST)]), HUBER_DELTA, 20)
    _, free = descend(with_floor(data), data, y, start, BOUNDS, HUBER_DELTA, 20)
    worse = held - np.minimum(held, free)
    return float(np.quantile(worse / np.maximum(pooled_sd(y, data), _LEAST_SD), confidence))


def _confidence_region(data: Data, fitted: np.ndarray, threshold: float) -> _Region:
    """All parameters with an objective up to the threshold, on a grid that zooms in on them."""
    limits, inside = np.array([[0.0, STEEPEST], [0.0, STEEPEST]]), fitted[None]
    for zoom in range(_ZOOMS + 1):
        count = _FINE_GRID if zoom == _ZOOMS else _GRID
        axes = [np.union1d(np.linspace(low, high, count), best) for (low, high), best in zip(limits, fitted[1:], strict=True)]
        points, objective = objective_grid(data, axes[0], axes[1], HUBER_DELTA)
        inside = np.concatenate([points[objective <= threshold], fitted[None]])
        cells = (limits[:, 1] - limits[:, 0])[:, None] / (count - 1) * [-1, 1]
        limits = np.clip(np.stack([inside[:, 1:].min(axis=0), inside[:, 1:].max(axis=0)], axis=1) + cells, 0.0, STEEPEST)
    offsets = log_loss(inside * [0, 1, 1], data.x, data.reach)
    low, high = (farthest_level(data, offsets, inside[:, 0], threshold, HUBER_DELTA, sign) for sign in (-1.0, 1.0))
    return _Region(low, high, inside[:, 1], inside[:, 2])


def _project(region: _Region, data: Data, alpha: float, floor: float) -> tuple[tuple[float, float | None], tuple[float, float]]:
    """The intervals of alpha and of the floor."""
    alphas = region.slope + region.bend
    under = 1 - above_floor(region.slope, region.bend, data.reach)
    open_end = max(region.slope.max(), region.bend.max()) >= STEEPEST
    upper = None if open_end else max(float(alphas.max()), alpha)
    floors = under * np.exp(np.stack([region.low, region.high]))
    return (min(float(alphas.min()), alpha), upper), (min(float(floors.min()), floor), max(float(floors.max()), floor))


_NO_INTERVALS = "neither alpha nor E is identified: intervals need repetitions, at least 3 more losses than sizes"


def _what_alpha_leaves_open(alpha: float, interval: tuple[float, float | None] | None) -> str | None:
    """A sentence, or None where alpha is identified."""
    if interval is None:
        return _NO_INTERVALS
    low, high = interval
    if high is None:
        return f"alpha is not identified: it is at least {low:.2g} and has no upper limit"
    if low <= 0 or high - low > alpha:
        return f"alpha is not identified: its interval, {low:.2g} to {high:.2g}, is wider than alpha itself"
    return None


def _what_floor_leaves_open(interval: tuple[float, float] | None, last: float, size: float) -> str | None:
    """A sentence, or None where E is identified; `last` is the law's loss at the largest size."""
    if interval is None:
        return _NO_INTERVALS
    low, high = interval
    if high - low > _WIDEST_FLOOR * last:
        return f"E is not identified: it may be {low / last:.0%} to {high / last:.0%} of the loss at size {size:,g}"
    return None


def _lack_of_fit(data: Data, repetitions: Sequence[int]) -> LackOfFit | None:
    """By least squares; None where no size or no repetition is left over."""
    fitted, _ = best_fit(data, LEAST_SQUARES)
    left = len(repetitions) - (3 if fitted[2] > 0 else 2)
    if left < 1 or degrees_of_freedom(repetitions) < 1:
        return None
    means = data.sums(data.y[None])[0] / repetitions
    between = float(np.sum(repetitions * np.square(means - log_loss(fitted[None], data.x, data.reach)[0])) / left)
    within = max(float(pooled_sd(data.y[None], data)[0]), _LEAST_SD) ** 2
    statistic = between / within
    freedom = (left, degrees_of_freedom(repetitions))
    return LackOfFit(statistic, freedom, float(stats.f.sf(statistic, *freedom)))


def fit_power_law(sizes: Sequence[float], losses: Sequence[float], confidence: float) -> dict[str, Any]:
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


def confidence_band(
    sizes: Sequence[float], fit: dict[str, Any], confidence: float, at: np.ndarray, repetitions: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper confidence limits of the fitted line at sizes `at` (K,); needs a fit with an interval.

    With `repetitions`, limits for the geometric mean of this many new runs.
    """
    x = np.log(np.asarray(sizes, dtype=float))
    centre = np.log(fit["a"]) - fit["b"] * np.log(at)
    new = 0.0 if repetitions is None else 1 / repetitions
    spread = np.sqrt(new + 1 / len(x) + (np.log(at) - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2))
    half = _quantile(confidence, len(x) - 2) * fit["residual_sd"] * spread
    return np.exp(centre - half), np.exp(centre + half)


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    slope = float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))
    return slope, float(y.mean() - slope * x.mean())


def _quantile(confidence: float, freedom: int) -> float:
    return float(stats.t.ppf(0.5 + confidence / 2, freedom))
