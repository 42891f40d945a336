"""The prior itself fitted to V at the sensors: a reconstruction that makes use of how potentials are drawn.

A potential is the clamped cubic B-spline curve over b interior control points (q_j, v_j) between the wall points (0, h) and
(1, h) with the wall height h, each q_j uniform in a cell of its own (`abscissa_cells`). For each b the fit minimises

    sum_i (V(sensor_i) - value_i)^2 / sigma^2  +  sum_j (q_j - centre_j)^2 / (width_j^2 / 12)  +  sum_j (v_j - height)^2

with q_j kept in their cells, by the method of Levenberg and Marquardt from several starts; sigma is the noise, or the
rounding of float32. The second sum has the mean and variance of the uniform draw. The third says that heights lie within a
few units of `height`, the mean of the sensors, and no more, so it holds for every ensemble. Both matter only where the sensors
leave a point undecided. Of all minima found, the one of most evidence by Laplace's method is kept, so b is no larger than the
sensors justify (MacKay, Information Theory, Inference, and Learning Algorithms, 2003, chapters 27 and 28).

Other curves of the prior may explain the sensors too. `sample_prior` draws some of them, by minimising again with readings that are
noisier by sigma and with centres drawn from the prior (Bardsley et al., SIAM J. Sci. Comput. 36, A1895, 2014; exact where V is linear in
the unknowns), b by its evidence, with some reserve. How far apart they are is what the sensors leave open.

The unknowns x (2 b,) are abscissae, then heights.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...compiled import compiled
from ...errors import InputError
from ...potentials.cubics import NEVER, QUADRATIC, invert
from ...potentials.curves import Curves, clamped_basis
from ...threads import share_rows
from .polygons import abscissa_cells

_ROUNDING = 2.0**-23  # float32 moves no value below 4 by more
_NUM_STARTS = 16  # at most; the first one to explain the sensors is the last
_NUM_NOISY_STARTS = 4  # at least; with noise, one fit may explain the sensors and another do it better
_COARSE = 0.01  # sigma of a first fit where there are more unknowns than sensors
_TEMPER = 0.25  # of the evidence by which samples choose b: where few sensors leave it open, Laplace's method is off by factors of ten
_MAX_STEPS = 60
_LEAST_GAIN = 1e-3  # relative; a step that gains less is the last


class PriorFit(NamedTuple):
    """N curves and what they are worth: interior control points (N,), RMS of V - values (N,), and whether noise explains it (N,).

    Where `explained` is False, no start led to a curve of the prior through the sensors: the prior, the noise or the search is
    wrong for that row, and an interpolant may be better. Where 2 num_inner >= S - 2, sensors without noise do not determine
    the curve; it is then the most probable of those through them.
    """

    curves: Curves
    num_inner: np.ndarray
    residual: np.ndarray
    explained: np.ndarray


def fit_prior(
    values: np.ndarray, *, wall_height: float, noise: float = 0.0, control_points: tuple[int, int] = (2, 7), num_threads: int | None = None
) -> PriorFit:
    """Fit curves of the prior to V at S uniform sensors on [0, 1], values (N, S).

    Rows are fitted one by one: neither the batch nor the number of threads changes a bit.

    Parameters
    ----------
    wall_height
        V at both walls, q = 0 and q = 1.
    noise
        Standard deviation of the noise on the sensors, beyond the rounding of float32.
    control_points
        Fewest and most interior control points of the prior.
    num_threads
        None: one for each CPU this process may use.

    Raises
    ------
    InputError
        For values that are not finite or of another shape, fewer than 4 sensors, a negative noise, or no control points.
    """
    setting = _Setting.of(values, wall_height, noise, control_points)
    return setting.fit(num_threads)[0]


def sample_prior(
    values: np.ndarray,
    *,
    wall_height: float,
    count: int,
    noise: float = 0.0,
    control_points: tuple[int, int] = (2, 7),
    num_threads: int | None = None,
) -> tuple[PriorFit, Curves, np.ndarray]:
    """The fits, as `fit_prior`, and for each row `count` other curves of the prior through its sensors.

    The curves of all rows come one after the other, (N count,). With them comes which of them explain the sensors, (N, count): a search
    may fail. Rows are independent, and the same for any batch.
    """
    setting = _Setting.of(values, wall_height, noise, control_points)
    fit, found, evidence = setting.fit(num_threads)
    return fit, *setting.sample(found, evidence, count, num_threads)


@dataclass(frozen=True)
class _Setting:
    """N rows of values (N, S) and what all of them share: for each number of points b a basis and the bounds of the abscissae."""

    values: np.ndarray
    wall: float
    sigma: float
    bases: np.ndarray
    cells: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, wall_height: float, noise: float, control_points: tuple[int, int]) -> "_Setting":
        values = np.ascontiguousarray(values, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] < 4 or not np.all(np.isfinite(values)):
            raise InputError(f"values have shape {values.shape}; give (N, S) finite numbers at S >= 4 sensors")
        if not 0 <= noise < math.inf:
            raise InputError(f"noise is {noise}; give a standard deviation, 0 or more")
        fewest, most = control_points
        if not 2 <= fewest <= most:
            raise InputError(f"control_points are {control_points}; give the fewest and the most, 2 or more")
        bases = np.zeros((most - fewest + 1, most - 1, 4, 4))
        cells = np.zeros((most - fewest + 1, 2, most))
        for i, b in enumerate(range(fewest, most + 1)):
            cells[i, :, :b] = abscissa_cells(b)
            basis = clamped_basis(b + 2)
            bases[i, : b - 1] = [basis[m, :, m : m + 4] for m in range(b - 1)]
        return cls(values, float(wall_height), max(float(noise), _ROUNDING), bases, cells)

    @property
    def most(self) -> int:
        """The most interior control points."""
        return self.cells.shape[2]

    @property
    def most_misfit(self) -> float:
        """Of curves that explain the sensors: four standard deviations above the mean of chi^2."""
        num_sensors = self.values.shape[1]
        return num_sensors + 4.0 * math.sqrt(2.0 * num_sensors)

    def fit(self, num_threads: int | None) -> tuple[PriorFit, np.ndarray, np.ndarray]:
        """The fits, and for each b the unknowns of most evidence (N, B, 2 most) and minus twice its logarithm (N, B)."""
        num_rows, num_sensors = self.values.shape
        places = np.random.default_rng(0).random((_NUM_STARTS, self.most))
        places[0] = 0.5
        least_starts = _NUM_NOISY_STARTS if self.sigma > _ROUNDING else 1
        settings = (self.bases, self.cells, places, least_starts, self.most_misfit, *self._of_sensors)
        control = np.zeros((2, num_rows, self.most + 2))
        num_inner, misfit = np.zeros(num_rows, dtype=np.int64), np.zeros(num_rows)
        found, evidence = np.zeros((num_rows, len(self.bases), 2 * self.most)), np.full((num_rows, len(self.bases)), math.inf)

        def work(rows: slice) -> None:
            parts = (array[rows] for array in (self.values, control[0], control[1], num_inner, misfit, found, evidence))
            _fit_rows(*settings, *parts)

        share_rows(work, num_rows, num_threads)
        curves = Curves.from_control_points(control[0], control[1], num_inner + 2)
        residual = self.sigma * np.sqrt(misfit / num_sensors)
        return PriorFit(curves, num_inner, residual, misfit <= self.most_misfit), found, evidence

    def sample(self, found: np.ndarray, evidence: np.ndarray, count: int, num_threads: int | None) -> tuple[Curves, np.ndarray]:
        num_rows, num_sensors = self.values.shape
        rng = np.random.default_rng(0)  # the same numbers for every row, so that none depends on another
        draws = (rng.random(count), rng.random((count, self.most)), rng.standard_normal((count, self.most + num_sensors)))
        control = np.zeros((2, num_rows, count, self.most + 2))
        num_inner = np.full((num_rows, count), self.most)

        def work(rows: slice) -> None:
            parts = (array[rows] for array in (self.values, found, evidence, control[0], control[1], num_inner))
            _sample_rows(self.bases, self.cells, *draws, *self._of_sensors, *parts)

        share_rows(work, num_rows, num_threads)
        flat = control.reshape(2, num_rows * count, self.most + 2)
        curves = Curves.from_control_points(flat[0], flat[1], num_inner.ravel() + 2)
        errors = curves.sample(self._of_sensors[0]).reshape(num_rows, count, num_sensors) - self.values[:, None]
        return curves, np.square(errors / self.sigma).sum(axis=2) <= self.most_misfit

    @property
    def _of_sensors(self) -> tuple[np.ndarray, float, float]:
        return np.linspace(0.0, 1.0, self.values.shape[1]), self.sigma**-2, self.wall


@compiled(nogil=True)
def _fit_rows(
    bases, cells, places, least_starts, most_misfit, sensors, precision, wall,
    values, control_q, control_v, num_inner, misfit, found_x, found_evidence,
):  # fmt: skip
    """Fill the last six, the first four (R, n), (R, n), (R,) and (R,), from values (R, S); `places` (starts, most) are fractions of cells.

    `found_x` (R, B, 2 most) and `found_evidence` (R, B) hold the best of each b.
    """
    most = places.shape[1]
    fewest = most + 1 - bases.shape[0]
    for row in range(values.shape[0]):
        height = values[row].mean()
        best, found = math.inf, False
        for start in range(places.shape[0]):
            if found and start >= least_starts:
                break
            for i in range(bases.shape[0]):
                b = fewest + i
                low, high = cells[i, 0, :b], cells[i, 1, :b]
                mean, prior, x = np.full(2 * b, height), np.ones(2 * b), np.empty(2 * b)
                for j in range(b):
                    width = high[j] - low[j]
                    mean[j] = 0.5 * (low[j] + high[j])
                    prior[j] = 12.0 / (width * width)
                    x[j] = low[j] + places[start, j] * width
                x[b:] = np.interp(x[:b], sensors, values[row])
                x, chi2, evidence = _search(bases[i], wall, low, high, mean, prior, sensors, values[row], precision, x)
                undecided = _is_undecided(b, sensors.size)
                found = found or (chi2 <= most_misfit and not undecided)
                if evidence < found_evidence[row, i]:
                    found_evidence[row, i] = evidence
                    found_x[row, i, : 2 * b] = x
                if evidence < best:
                    best = evidence
                    num_inner[row], misfit[row] = b, chi2
                    control_q[row, 0], control_q[row, b + 1] = 0.0, 1.0
                    control_v[row, 0] = control_v[row, b + 1] = wall
                    control_q[row, 1 : b + 1], control_v[row, 1 : b + 1] = x[:b], x[b:]


@compiled(nogil=True)
def _sample_rows(
    bases, cells, of_number, of_abscissae, normals, sensors, precision, wall,
    values, found_x, found_evidence, control_q, control_v, num_inner,
):  # fmt: skip
    """Fill the last three, (R, K, n), (R, K, n) and (R, K), with K draws of each row; see `sample_prior`.

    `of_number` (K,) and `of_abscissae` (K, most) are uniform, `normals` (K, most + S) are standard normal numbers.
    """
    most = of_abscissae.shape[1]
    fewest = most + 1 - bases.shape[0]
    weights, read = np.empty(bases.shape[0]), np.empty(sensors.size)
    for row in range(values.shape[0]):
        least = found_evidence[row].min()
        for i in range(weights.size):
            weights[i] = math.exp(-0.5 * _TEMPER * (found_evidence[row, i] - least))
        weights /= weights.sum()
        for k in range(of_number.size):
            i, below = 0, weights[0]
            while i < weights.size - 1 and of_number[k] >= below:
                i += 1
                below += weights[i]
            b = fewest + i
            low, high = cells[i, 0, :b], cells[i, 1, :b]
            mean, prior = np.empty(2 * b), np.ones(2 * b)
            for j in range(b):
                width = high[j] - low[j]
                mean[j] = low[j] + of_abscissae[k, j] * width
                mean[b + j] = values[row].mean() + normals[k, j]
                prior[j] = 12.0 / (width * width)
            x = found_x[row, i, : 2 * b].copy()
            for s in range(sensors.size):
                read[s] = values[row, s] + normals[k, most + s] / math.sqrt(precision)
            x, _, _ = _search(bases[i], wall, low, high, mean, prior, sensors, read, precision, x)
            num_inner[row, k] = b
            control_q[row, k, 0], control_q[row, k, b + 1] = 0.0, 1.0
            control_v[row, k, 0] = control_v[row, k, b + 1] = wall
            control_q[row, k, 1 : b + 1], control_v[row, k, 1 : b + 1] = x[:b], x[b:]


@compiled()
def _is_undecided(b, num_sensors):
    """Whether curves through all sensors are many; those at the walls decide nothing."""
    return 2 * b >= num_sensors - 2


@compiled(nogil=True)
def _search(basis, wall, low, high, mean, prior, sensors, values, precision, x):
    """As `_minimise`. Where curves through all sensors are many, the search is first a freer one.

    Bound to them all along, it would stay near its start and not go to the most probable.
    """
    # One call for both, or else the compiler takes twice as long.
    used = min(precision, _COARSE**-2) if _is_undecided(x.size // 2, sensors.size) else precision
    while True:
        x, chi2, evidence = _minimise(basis, wall, low, high, mean, prior, sensors, values, used, x)
        if used == precision:
            return x, chi2, evidence
        used = precision


@compiled(nogil=True)
def _minimise(basis, wall, low, high, mean, prior, sensors, values, precision, x):
    """The minimum found from x, its sum of squares over sigma^2, and minus twice the logarithm of its evidence, up to a constant.

    Levenberg's and Marquardt's method; an abscissa at the end of its cell stays there while the gradient points outwards.
    """
    n = x.size
    b = n // 2
    normal, gradient, next_normal, next_gradient = np.empty((n, n)), np.empty(n), np.empty((n, n)), np.empty(n)
    factor, step = np.empty((n, n)), np.empty(n)
    normal[:] = 0.0
    gradient[:] = 0.0
    cost, damping, following = math.inf, 1e-3, x
    for number in range(_MAX_STEPS + 1):
        next_cost = _linearise(basis, wall, mean, prior, sensors, values, precision, following, next_normal, next_gradient)
        if next_cost < cost:
            gain = cost - next_cost
            x, cost = following, next_cost
            normal, next_normal = next_normal, normal
            gradient, next_gradient = next_gradient, gradient
            if number > 0:
                damping *= 0.1
            if gain <= _LEAST_GAIN * cost:
                break
        else:
            damping *= 8.0
            if damping > 1e6:
                break
        factor[:] = normal
        for i in range(n):
            factor[i, i] *= 1.0 + damping
            step[i] = -gradient[i]
        for j in range(b):
            if (x[j] <= low[j] and step[j] < 0.0) or (x[j] >= high[j] and step[j] > 0.0):
                step[j] = 0.0
                factor[j, :j] = 0.0
                factor[j + 1 :, j] = 0.0
        _cholesky(factor, prior)
        _solve(factor, step)
        following = x + step
        for j in range(b):
            following[j] = min(max(following[j], low[j]), high[j])
    _cholesky(normal, prior)
    chi2, evidence = cost, cost
    for j in range(n):
        chi2 -= prior[j] * (x[j] - mean[j]) ** 2
        evidence += 2.0 * math.log(normal[j, j]) - math.log(prior[j])
    return x, chi2, evidence


@compiled(nogil=True)
def _linearise(basis, wall, mean, prior, sensors, values, precision, x, normal, gradient):
    """The sum of squares at x; fills half its gradient (n,) and half its Gauss-Newton matrix (n, n), the lower triangle.

    With q(u) = sensor on its piece, dV / dv_j = N_j(u) and dV / dq_j = -V' N_j(u), for q(u) must stay where it is.
    """
    b = x.size // 2
    q, v = np.empty(b + 2), np.empty(b + 2)
    q[0], q[1 : b + 1], q[b + 1] = 0.0, x[:b], 1.0
    v[0], v[1 : b + 1], v[b + 1] = wall, x[b:], wall
    c, d, by_q, by_v = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    normal[:] = 0.0
    gradient[:] = 0.0
    cost = 0.0
    m, u, before, end = -1, 0.0, 0.0, 0.0
    for i in range(sensors.size):
        while m < 0 or (sensors[i] >= end and m < b - 2):
            m += 1
            c[:] = 0.0
            d[:] = 0.0
            for k in range(4):
                for a in range(4):
                    c[k] += basis[m, k, a] * q[m + a]
                    d[k] += basis[m, k, a] * v[m + a]
            u, before, end = 0.0, c[0], c[0] + c[1] + c[2] + c[3]
        # The sensor before is near: go on from it along the tangent.
        guess = u + (sensors[i] - before) / (c[1] + u * (2.0 * c[2] + 3.0 * u * c[3]))
        u = invert(c[0], c[1], c[2], c[3], sensors[i], min(max(guess, 0.0), 1.0), 0.0, 1.0, NEVER, QUADRATIC)
        before = sensors[i]
        slope = (d[1] + u * (2.0 * d[2] + 3.0 * u * d[3])) / (c[1] + u * (2.0 * c[2] + 3.0 * u * c[3]))
        error = d[0] + u * (d[1] + u * (d[2] + u * d[3])) - values[i]
        cost += precision * error * error
        for a in range(4):
            by_v[a] = basis[m, 0, a] + u * (basis[m, 1, a] + u * (basis[m, 2, a] + u * basis[m, 3, a]))
            by_q[a] = -slope * by_v[a]
        first, stop = max(1 - m, 0), min(b + 1 - m, 4)  # without the walls
        for a in range(first, stop):
            j = m + a - 1
            gradient[j] += precision * by_q[a] * error
            gradient[b + j] += precision * by_v[a] * error
            for e in range(first, stop):
                k = m + e - 1
                normal[b + j, k] += precision * by_v[a] * by_q[e]
                if e <= a:
                    normal[j, k] += precision * by_q[a] * by_q[e]
                    normal[b + j, b + k] += precision * by_v[a] * by_v[e]
    for j in range(2 * b):
        away = x[j] - mean[j]
        cost += prior[j] * away * away
        gradient[j] += prior[j] * away
        normal[j, j] += prior[j]
    return cost


@compiled(nogil=True)
def _cholesky(matrix, floor):
    """Factor a symmetric matrix, lower triangle, in place. Exact squares of pivots are at least `floor` (n,): rounding may leave less."""
    for j in range(matrix.shape[0]):
        square = matrix[j, j]
        for k in range(j):
            square -= matrix[j, k] * matrix[j, k]
        pivot = math.sqrt(max(square, floor[j]))
        matrix[j, j] = pivot
        for i in range(j + 1, matrix.shape[0]):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = total / pivot


@compiled(nogil=True)
def _solve(factor, x):
    """x (n,) with L L^T x = what x was, in place."""
    n = x.size
    for i in range(n):
        for k in range(i):
            x[i] -= factor[i, k] * x[k]
        x[i] /= factor[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            x[i] -= factor[k, i] * x[k]
        x[i] /= factor[i, i]
