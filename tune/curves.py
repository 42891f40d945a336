"""Curves loss = E + A size^(-alpha) through the logarithms of losses, many fits at once.

Shapes: S sizes, N losses in all, B fits, P parameters of a fit, G shapes of the curve, K sizes to predict.

Three parameters that the losses determine almost independently describe a curve: the level, which is log(loss) at the largest size; the
secant slope, which is the mean slope of log(loss) between the smallest and the largest size; and the bend, which is alpha minus the
secant slope. The bend is 0 exactly where E is 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

LEAST_SQUARES = 1e3  # a delta above every residual
STEEPEST = 5.0  # of the secant slope, and of the bend
BOUNDS = np.array([np.inf, STEEPEST, STEEPEST])
_FLATTEST = 1e-6
_GRID = 21  # slopes, and bends, of the start values
_STARTS = 24  # best points of the grid from which a fit descends
_STEPS = 60
_POLISHED = 3  # best of these
_SIMPLEX = np.full(3, 0.02)
_BISECTIONS = 26
# An even number of repetitions leaves the Huber loss flat between the two in the middle. Squares of this weight choose among curves that
# it cannot tell apart: at a residual of the spread around a straight line, a hundredth of the Huber loss.
_TIES = 0.01
_LEAST_SPREAD = 1e-3

Curve = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # parameters (B, P) -> log(loss) (B, S), derivatives (B, S, P)


@dataclass(frozen=True)
class Data:
    """Logarithms of losses, ordered by size and then by value, so that no result depends on the order in which they were given."""

    y: np.ndarray
    which: np.ndarray
    first: np.ndarray  # of each size
    x: np.ndarray  # log(largest / size)
    largest: float
    tie_weight: float

    @staticmethod
    def of(sizes: Sequence[float], logs: list[np.ndarray]) -> "Data":
        counts = np.array([each.size for each in logs])
        x = np.log(sizes[-1] / np.asarray(sizes, dtype=float))
        y, which = np.concatenate(logs), np.repeat(np.arange(len(logs)), counts)
        spread = np.std(y - np.polyval(np.polyfit(x[which], y, 1), x[which]))
        return Data(y, which, np.cumsum(counts) - counts, x, float(sizes[-1]), _TIES / max(float(spread), _LEAST_SPREAD))

    @property
    def reach(self) -> float:
        return float(self.x[0])

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(B, N) summed for each size, (B, S)."""
        return np.add.reduceat(values, self.first, axis=1)


def _shape(slope: np.ndarray, bend: np.ndarray, x: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """The rise (B, S) of loss - floor above the largest size, as a fraction of the rise at the smallest; and its derivative in alpha.

    The loss at `x` = log(largest / size) is its value at the largest size times 1 + (exp(slope reach) - 1) rise.
    """
    alpha = np.maximum(slope + bend, _FLATTEST)[:, None]
    unit = 1 / np.expm1(alpha * reach)
    rise = np.expm1(alpha * x) * unit
    return rise, x * (rise + unit) - reach * rise * (1 + unit)


def log_loss(parameters: np.ndarray, x: np.ndarray, reach: float) -> np.ndarray:
    """log(loss) (B, K) for parameters (B, 3) at x (K,)."""
    level, slope, bend = parameters.T
    return level[:, None] + np.log1p(np.expm1(slope * reach)[:, None] * _shape(slope, bend, x, reach)[0])


def with_floor(data: Data) -> Curve:
    def curve(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        level, slope, bend = parameters.T
        rise, by_alpha = _shape(slope, bend, data.x, data.reach)
        height = np.expm1(slope * data.reach)[:, None]
        value = 1 + height * rise
        bent = height * by_alpha / value
        by_slope = data.reach * (1 + height) * rise / value + bent
        return level[:, None] + np.log(value), np.stack([np.ones_like(value), by_slope, bent], axis=2)

    return curve


def with_alpha(data: Data, alpha: float) -> Curve:
    """Parameters are the level and the slope."""
    rise = _shape(np.array([alpha]), np.zeros(1), data.x, data.reach)[0]

    def curve(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        level, slope = parameters.T
        height = np.expm1(slope * data.reach)[:, None]
        value = 1 + height * rise
        return level[:, None] + np.log(value), np.stack([np.ones_like(value), data.reach * (1 + height) * rise / value], axis=2)

    return curve


def _objective(residual: np.ndarray, data: Data, delta: float) -> np.ndarray:
    """The Huber loss of residuals (B, N), divided by delta, and squares that decide between curves of equal Huber loss; (B,)."""
    size = np.abs(residual)
    square = size * size
    return (np.where(size < delta, 0.5 / delta * square, size - 0.5 * delta) + 0.5 * data.tie_weight * square).sum(axis=1)


def descend(
    curve: Curve, data: Data, y: np.ndarray, start: np.ndarray, high: np.ndarray, delta: float, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fit y (B, N) from start (B, P) by iteratively reweighted Gauss-Newton steps; the best parameters met and their objective.

    All parameters but the first lie between 0 and `high` (P,). One that a step would push out stays at its bound, and the others
    take the step that is best there. Weights begin with a larger delta, which shrinks to the one given.
    """
    low = np.array([-np.inf, *np.zeros(start.shape[1] - 1)])
    diagonal = np.arange(start.shape[1])
    now, best, least = start.copy(), start.copy(), np.full(len(y), np.inf)
    for iteration in range(iterations + 1):
        value, derivatives = curve(now)
        residual = y - value[:, data.which]
        objective = _objective(residual, data, delta)
        better = objective < least
        best[better], least[better] = now[better], objective[better]
        if iteration == iterations:
            break
        weight = 1 / np.maximum(np.abs(residual), max(delta, 0.3 * 0.6**iteration)) + data.tie_weight
        weighted = data.sums(weight)[:, :, None] * derivatives
        normal = derivatives.transpose(0, 2, 1) @ weighted
        normal[:, diagonal, diagonal] = normal[:, diagonal, diagonal] * (1 + 1e-8) + 1e-10
        gradient = np.einsum("bs,bsp->bp", data.sums(weight * residual), derivatives)
        step = np.linalg.solve(normal, gradient[:, :, None])[:, :, 0]
        held = (now + step < low) | (now + step > high)
        allowed = np.clip(now + step, low, high) - now
        some = held.any(axis=1)
        if some.any():
            held, allowed, normal = held[some], allowed[some], normal[some]
            gradient = (gradient[some] - np.einsum("bpq,bq->bp", normal, held * allowed)) * ~held
            normal = normal * ~held[:, :, None] * ~held[:, None, :]
            normal[:, diagonal, diagonal] += held
            step[some] = np.linalg.solve(normal, gradient[:, :, None])[:, :, 0] + held * allowed
        now = np.clip(now + np.clip(step, -1.0, 1.0), low, high)
    return best, least


def _level(data: Data, offsets: np.ndarray, delta: float) -> np.ndarray:
    """The best level (G,) of curves with values `offsets` (G, S) at level 0, by bisection."""
    residual = data.y - offsets[:, data.which]
    low, high = residual.min(axis=1), residual.max(axis=1)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        left = residual - middle[:, None]
        up = (np.clip(left / delta, -1.0, 1.0) + data.tie_weight * left).sum(axis=1) > 0
        low, high = np.where(up, middle, low), np.where(up, high, middle)
    return 0.5 * (low + high)


def objective_grid(data: Data, slopes: np.ndarray, bends: np.ndarray, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (G, 3) of every pair, each with its best level, and their objectives."""
    slope, bend = (each.ravel() for each in np.meshgrid(slopes, bends, indexing="ij"))
    offsets = log_loss(np.stack([np.zeros_like(slope), slope, bend], axis=1), data.x, data.reach)
    level = _level(data, offsets, delta)
    objective = _objective(data.y - offsets[:, data.which] - level[:, None], data, delta)
    return np.stack([level, slope, bend], axis=1), objective


def best_fit(data: Data, delta: float, bend: float = STEEPEST, *, polish: bool = False) -> tuple[np.ndarray, float]:
    """The best parameters with a bend up to the one given, and their objective; to rounding with `polish`."""
    means = data.sums(data.y[None])[0] / np.bincount(data.which)
    slope = np.clip((means[0] - means[-1]) / data.reach, 0.02, STEEPEST)
    slopes = np.clip(slope * np.geomspace(0.3, 2.0, _GRID), 0, STEEPEST)
    points, objective = objective_grid(data, slopes, np.array([0.0, *np.geomspace(0.01, bend, _GRID)]) if bend else np.zeros(1), delta)
    start = points[np.argsort(objective, kind="stable")[:_STARTS]]
    repeated = np.repeat(data.y[None], len(start), axis=0)
    highest = np.array([np.inf, STEEPEST, bend])
    found, least = descend(with_floor(data), data, repeated, start, highest, delta, _STEPS)
    if not polish:
        return found[np.argmin(least)], float(least.min())
    polished = [_polish(data, found[i], highest, delta) for i in np.argsort(least, kind="stable")[:_POLISHED]]
    return min(polished, key=lambda result: result[1])


def _polish(data: Data, start: np.ndarray, high: np.ndarray, delta: float) -> tuple[np.ndarray, float]:
    """The minimum near start (3,), by a simplex: steps get small where a curve passes through losses, long before the minimum."""

    def objective(parameters: np.ndarray) -> float:
        residual = data.y - log_loss(parameters[None], data.x, data.reach)[:, data.which]
        return float(_objective(residual, data, delta)[0])

    corners = np.array([start, *(start + np.diag(np.where(start + _SIMPLEX > high, -_SIMPLEX, _SIMPLEX)))])
    options = {"initial_simplex": corners, "xatol": 1e-9, "fatol": 1e-12, "maxiter": 2000, "maxfev": 2000}
    bounds = list(zip((-np.inf, 0.0, 0.0), high, strict=True))
    found = minimize(objective, start, method="Nelder-Mead", bounds=bounds, options=options)
    return (found.x, float(found.fun)) if found.fun < objective(start) else (start, objective(start))


def above_floor(slope: np.ndarray, bend: np.ndarray, reach: float) -> np.ndarray:
    """The fraction of the loss at the largest size that is not floor."""
    return np.expm1(slope * reach) / np.expm1(np.maximum(slope + bend, _FLATTEST) * reach)


def constants(parameters: np.ndarray, data: Data) -> tuple[float, float, float]:
    """alpha, floor and amplitude. A loss that does not fall at all is all floor."""
    level, slope, bend = parameters
    if slope <= 0:
        return 0.0, float(np.exp(level)), 0.0
    above = above_floor(slope, bend, data.reach)
    return float(slope + bend), float(np.exp(level) * (1 - above)), float(np.exp(level) * above * data.largest ** (slope + bend))


def farthest_level(data: Data, offsets: np.ndarray, level: np.ndarray, threshold: float, delta: float, sign: float) -> np.ndarray:
    """From the best levels (G,) towards `sign`, the last at which the objective is not above the threshold."""
    residual = data.y - offsets[:, data.which] - level[:, None]
    near, far = np.zeros_like(level), np.full_like(level, 2 * threshold / data.y.size + 2 * delta)  # there it is always above
    for _ in range(_BISECTIONS):
        middle = 0.5 * (near + far)
        below = _objective(residual - sign * middle[:, None], data, delta) <= threshold
        near, far = np.where(below, middle, near), np.where(below, far, middle)
    return level + sign * near


def degrees_of_freedom(repetitions: Sequence[int] | np.ndarray) -> int:
    return int(np.sum(repetitions)) - len(repetitions)


def pooled_sd(y: np.ndarray, data: Data) -> np.ndarray:
    """The standard deviation (B,) of y (B, N) within sizes."""
    counts = np.bincount(data.which)
    means = data.sums(y) / counts
    return np.sqrt(np.square(y - means[:, data.which]).sum(axis=1) / degrees_of_freedom(counts))
