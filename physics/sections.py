"""Poincaré sections of motions with two degrees of freedom, and how far the places that two motions visit on one differ.

Shapes: R orbits, T times, N crossings of all orbits together.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import xlogy

Box = tuple[tuple[float, float], tuple[float, float]]

_HALVINGS = 53  # of the interval between two times: to the last bit of a position within it


class Crossings(NamedTuple):
    """Where orbits cross a plane upwards: N points, those of the first orbit first, in the order of time.

    `orbit` is the row that each belongs to; `position` and `momentum` are those of the other coordinate.
    """

    orbit: np.ndarray
    times: np.ndarray
    position: np.ndarray
    momentum: np.ndarray

    def of(self, orbit: int) -> np.ndarray:
        """The points of one orbit in the section, (n, 2): position and momentum."""
        own = self.orbit == orbit
        return np.stack([self.position[own], self.momentum[own]], axis=-1)


def crossings(
    times: np.ndarray, q: np.ndarray, p: np.ndarray, rates_q: np.ndarray, rates_p: np.ndarray, axis: int, value: float | np.ndarray
) -> Crossings:
    """The crossings of the plane q[axis] = value with a positive velocity of q[axis].

    Between two times the states are cubics in time that have the given states and rates at both ends, so a crossing is off by
    O(h⁴) for times at a distance h. One is found wherever q[axis] is below the plane at one time and not below it at the next;
    two crossings between neighbouring times go unnoticed, and so does the state at the first time, if it lies on the plane.

    Parameters
    ----------
    times
        Sorted times, (T,) or (R, T).
    q, p
        States at these times, (R, T, 2). An angle must be continuous in time: the plane is crossed where it equals `value`, not
        `value` plus turns. No crossing is found where a state or a rate is not finite.
    rates_q, rates_p
        dq/dt and dp/dt there, (R, T, 2): `System.rates`.
    axis
        The coordinate that is constant on the plane, 0 or 1.
    value
        Its value, one for all orbits or (R,).
    """
    other = 1 - axis
    times = np.broadcast_to(times, q.shape[:2])
    distance = q[..., axis] - np.reshape(value, (-1, 1))
    # Of each orbit and time: distance from the plane, other coordinate, its momentum; and their rates.
    states = np.stack([distance, q[..., other], p[..., other]], axis=-1)
    rates = np.stack([rates_q[..., axis], rates_q[..., other], rates_p[..., other]], axis=-1)
    known = np.isfinite(np.concatenate([states, rates], axis=-1)).all(axis=-1)
    below, above = known & (distance < 0.0), known & (distance >= 0.0)
    row, before = np.nonzero(below[:, :-1] & above[:, 1:])
    after = before + 1
    step = times[row, after] - times[row, before]
    cubic = _cubics(states[row, before], states[row, after], rates[row, before] * step[:, None], rates[row, after] * step[:, None])
    fraction = _upward_root(cubic[..., 0])
    _, position, momentum = _evaluate(cubic, fraction[:, None]).T
    return Crossings(row, times[row, before] + fraction * step, position, momentum)


def occupancy_divergence(first: np.ndarray, second: np.ndarray, box: Box, bins: int = 6) -> float:
    """The Jensen–Shannon divergence, in bits, of where the points (n, 2) and (m, 2) lie: 0 for equal histograms, 1 for disjoint ones.

        D = H((P + Q) / 2) - (H(P) + H(Q)) / 2,    H(P) = -sum of P log2 P over the cells

    The cells are `bins` times `bins` in `box`, and a margin around it for points outside. Samples of n points each from one distribution
    that occupies K cells evenly are (K - 1) / (4 n ln 2) apart on average, to first order in 1 / n, so a divergence must be compared with
    one that is known to be zero but for the sample. It is nan without points on either side, and 1 with points on one only.

    Source: Lin, IEEE Transactions on Information Theory 37 (1991), 145.
    """
    if not len(first) or not len(second):
        return float("nan") if len(first) == len(second) else 1.0
    one, two = (_occupancy(points, box, bins) for points in (first, second))
    return max(0.0, _entropy(0.5 * (one + two)) - 0.5 * (_entropy(one) + _entropy(two)))


def _cubics(start: np.ndarray, end: np.ndarray, start_slope: np.ndarray, end_slope: np.ndarray) -> np.ndarray:
    """Ascending coefficients in s in [0, 1] of Hermite's cubics, (4, ...)."""
    rise = end - start
    return np.stack([start, start_slope, 3.0 * rise - 2.0 * start_slope - end_slope, start_slope + end_slope - 2.0 * rise])


def _evaluate(cubic: np.ndarray, s: np.ndarray) -> np.ndarray:
    return cubic[0] + s * (cubic[1] + s * (cubic[2] + s * cubic[3]))


def _upward_root(cubic: np.ndarray) -> np.ndarray:
    """A root in (0, 1] at which cubics (4, N), negative at 0 and not at 1, change sign: by bisection."""
    low, high = np.zeros(cubic.shape[1]), np.ones(cubic.shape[1])
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        below = _evaluate(cubic, middle) < 0.0
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return high


def _occupancy(points: np.ndarray, box: Box, bins: int) -> np.ndarray:
    """The fraction of points in each cell, (bins + 2, bins + 2), margin included."""
    low, high = np.array(box).T
    cells = np.clip(np.floor((points - low) / (high - low) * bins), -1, bins).astype(np.int64) + 1
    counts = np.zeros((bins + 2, bins + 2))
    np.add.at(counts, (cells[:, 0], cells[:, 1]), 1.0)
    return counts / len(points)


def _entropy(fractions: np.ndarray) -> float:
    """In bits."""
    return float(-xlogy(fractions, fractions).sum() / np.log(2.0))
