"""Bounded motion along a line in anyone's units: its turning points, its period, and the well that it is equivalent to.

H = P²/2m + U(x). A particle of energy E swings between turning points a < b, where U = E. With x = (a + b)/2 - (b - a)/2 cos θ the time
that it takes is

    t(θ) = ∫ dθ / sqrt(2 g / m),    g = (E - U) / ((x - a)(b - x)),

whose integrand is smooth where U is, and even and periodic in θ: its cosine series converges geometrically, and integrates by itself.

With u = (x - a)/(b - a) and τ = t/s the same motion is that of unit mass from rest at u = 0 in the well

    V(u) = W - s² (E - U(a + (b - a) u)) / (m (b - a)²),

with walls of height W at u = 0 and 1, for any s: a network that was trained on such wells predicts any bounded motion, for all times.

Shapes: T times; any shape for places.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.fft import dct, dst
from scipy.interpolate import CubicHermiteSpline, CubicSpline
from scipy.optimize import brentq, fminbound

from .errors import InputError, shown

Function = Callable[[np.ndarray], np.ndarray]

_PLACES = 4_001  # at which the domain is searched for places where U = E
_MOST_SEARCHES = 20  # for turning points, each with the barriers that the one before overlooked
_LARGEST = 1e100  # numbers whose squares and products stay in the range of floats
_APART = 1e-3  # of their distance: nearer to the particle's own place, the energies there differ by rounding
_FEWEST_NODES, _MOST_NODES = 64, 16_384
_DEEPER = 2.0  # times as deep below the energy as beside it, on a fine grid: a pole, as a minimum is nearly as deep there
_GOAL, _WORST = 1e-12, 1e-6  # relative error of the integrand's series: where doubling the nodes ends, and what is accepted
_REFINEMENT, _LARGEST_GRID = 64, 131_072  # of the grid on which the series is inverted; coarser for a long series, whose tail is small
_INVERSION = 1e-9  # relative error of x at a given time
_REST = 1e-12  # of the height of the energy above the lowest place, by which a particle at rest may miss its turning point


class Fold(NamedTuple):
    """Times (T,) within one swing from the left turning point to the right: since the left one, and the direction, 1 or -1."""

    since_left: np.ndarray
    direction: np.ndarray


@dataclass(frozen=True)
class BoundedMotion:
    """One particle that swings between two turning points; `find_motion` makes it.

    Attributes
    ----------
    potential
        U of positions.
    mass, energy
        m and E.
    turning_points
        a and b.
    half_period
        Time from one to the other.
    since_left
        Time at t = 0 since the particle was last at a, from 0 to the period.
    accuracy
        Relative error of the half period, by how the last doubling of the nodes changed it and by what the series leaves out.
    """

    potential: Function
    mass: float
    energy: float
    turning_points: tuple[float, float]
    half_period: float
    since_left: float
    accuracy: float
    _series: np.ndarray = field(repr=False)  # cosine coefficients of dt/dθ, (K,)

    @property
    def period(self) -> float:
        return 2.0 * self.half_period

    @property
    def width(self) -> float:
        return self.turning_points[1] - self.turning_points[0]

    def fold(self, times: np.ndarray) -> Fold:
        """Any times (T,) as times within one swing."""
        within = np.mod(self.since_left + times, self.period)
        back = within > self.half_period
        return Fold(np.where(back, self.period - within, within), np.where(back, -1.0, 1.0))

    def solve(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and P at any times, (T,) each: to 1e-9 of their ranges, or to `accuracy` times the number of periods."""
        times_T, direction_T = self.fold(np.asarray(times, dtype=np.float64))
        angle_of_phase, rate_of_angle = self._invert()
        angle_T = np.clip(angle_of_phase(times_T / self.half_period), 0.0, math.pi)
        left, right = self.turning_points
        x_T = 0.5 * (left + right) - 0.5 * self.width * np.cos(angle_T)
        speed_T = 0.5 * self.width * np.sin(angle_T) / rate_of_angle(angle_T) * (math.pi / self.half_period)
        return x_T, direction_T * self.mass * speed_T

    def error_after(self, times: np.ndarray) -> float:
        """An estimate of the largest error of `solve`, relative to the ranges of x and P; that of the period grows with time."""
        periods = float(np.max(times, initial=0.0)) / self.period
        return _INVERSION + 2.0 * math.pi * self.accuracy * (1.0 + periods)

    def _invert(self) -> tuple[CubicHermiteSpline, CubicSpline]:
        """θ of t / half_period, and dt/dθ over its mean as a function of θ, on a grid so fine that cubics are exact to 1e-9.

        Not kept: it takes as much memory as thousands of trajectories.
        """
        series = self._series / self._series[0]
        count = max(min(_REFINEMENT * series.size, _LARGEST_GRID), 2 * series.size)
        angle = np.linspace(0.0, math.pi, count + 1)
        cosines, sines = np.zeros(count + 1), np.zeros(count - 1)
        order = np.arange(1, series.size)
        cosines[: series.size] = series
        cosines[0] *= 2.0
        sines[: order.size] = series[1:] / order
        rate = 0.5 * np.asarray(dct(cosines, type=1))
        time = angle.copy()
        time[1:-1] += 0.5 * np.asarray(dst(sines, type=1))
        return CubicHermiteSpline(time / math.pi, angle, math.pi / rate), CubicSpline(angle, rate)

    def well(self, time_scale: float, wall_height: float) -> Function:
        """V of the equivalent well, at places between 0 and 1."""
        left, factor = self.turning_points[0], time_scale**2 / (self.mass * self.width**2)

        def value(u: np.ndarray) -> np.ndarray:
            return wall_height - factor * (self.energy - self.potential(left + self.width * u))

        return value

    @cached_property
    def depth(self) -> float:
        """How far the energy lies above the lowest U between the turning points."""
        left, right = self.turning_points
        return float(self.energy - self.potential(np.linspace(left, right, _PLACES)).min())


def find_motion(potential: Function, q0: float, p0: float, *, mass: float, domain: tuple[float, float]) -> BoundedMotion:
    """The motion of a particle that starts at q0 with momentum p0, inside `domain`.

    Raises
    ------
    InputError
        For a start outside the domain, a mass that is not positive, a particle that leaves the domain or stays where it is, and a motion
        whose period cannot be found: close to a separatrix, or in a potential that is not smooth. The message has the energy and the place.
    """
    _check(q0, p0, mass, domain)
    places = np.linspace(*domain, _PLACES)
    with np.errstate(over="ignore"):
        kinetic = float(0.5 * np.square(np.float64(p0)) / mass)
    energy = kinetic + float(potential(np.array([q0]))[0])
    scale = energy - float(potential(places).min())  # and not with the highest: walls may be as high as they like
    ends, series, accuracy = domain, np.empty(0), math.inf
    for _ in range(_MOST_SEARCHES):
        ends = _turning_points(potential, energy, q0, p0, domain, places, scale)
        series, accuracy, hidden = _series(potential, energy, mass, ends)
        if hidden is None:
            break
        places = np.union1d(places, hidden)  # a barrier between two places of the search
        accuracy = math.inf
    if accuracy > _GOAL or _falls_towards_an_end(potential, ends):  # neither is usual, and the search for a pole takes a millisecond
        _check_depth(potential, energy, ends)
    if not accuracy <= _WORST:
        raise InputError(
            f"q0 and p0 give a motion of energy {energy:.9g} between q = {ends[0]:.6g} and {ends[1]:.6g} whose period cannot be found to "
            f"better than {accuracy:.1e} of itself: it is too close to a separatrix, the potential is not smooth, or a large constant "
            "in it hides its shape; change q0 or p0, or subtract the constant"
        )
    half_period = math.pi * float(series[0])
    across = np.clip((0.5 * (ends[0] + ends[1]) - q0) / (0.5 * (ends[1] - ends[0])), -1.0, 1.0)
    order, angle = np.arange(1, series.size), math.acos(across)
    since_left = float(series[0] * angle + np.sin(order * angle) @ (series[1:] / order))
    since_left = 2.0 * half_period - since_left if p0 < 0.0 else since_left
    return BoundedMotion(potential, mass, energy, ends, half_period, since_left, accuracy, series)


def check_units(domain: tuple[float, float], mass: float) -> None:
    """Raise InputError unless the domain and the mass are such as calculations can be made with."""
    low, high = domain
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"domain is ({low:g}, {high:g}); give two numbers, the smaller first")
    if not 0.0 < mass < math.inf:
        raise InputError(f"mass is {mass:g}; it must be positive and finite")
    if max(abs(low), abs(high), mass, 1.0 / mass) > _LARGEST:
        raise InputError(
            f"domain is ({low:g}, {high:g}) and mass {mass:g}; choose units in which these, and the mass's inverse, are below {_LARGEST:g}"
        )


def _check(q0: float, p0: float, mass: float, domain: tuple[float, float]) -> None:
    check_units(domain, mass)
    low, high = domain
    if not low <= q0 <= high:
        raise InputError(f"q0 is {shown(q0, low, high)}; it must lie in the domain, from {low:g} to {high:g}")
    if not math.isfinite(p0):
        raise InputError(f"p0 is {p0:g}; it must be finite")


def _turning_points(
    potential: Function, energy: float, q0: float, p0: float, domain: tuple[float, float], places: np.ndarray, scale: float
) -> tuple[float, float]:
    """The nearest places on both sides of q0 where U = E. A particle that starts at rest starts at one of them."""

    def above(x: float) -> float:
        return float(potential(np.array([x]))[0]) - energy

    width = domain[1] - domain[0]
    apart = _APART * width / _PLACES
    left, right = places[places < q0 - apart][::-1], places[places > q0 + apart]
    rounding = float(np.finfo(float).eps) * width  # relative to x, as is usual, it would be none at x = 0
    ends = []
    at_rest = p0 == 0.0
    inward = [above(side[0]) < -_REST * scale if side.size else False for side in (left, right)]
    if at_rest and not any(inward):
        raise InputError(f"q0 is {q0:g}, where a particle at rest stays: the potential is nowhere lower next to it; move q0 or give p0")
    if at_rest and all(inward):
        raise InputError(f"q0 is {q0:g}, where a particle at rest stays on a top of the potential, energy {energy:.9g}; move q0 or give p0")
    for side, moves_there, edge in zip((left, right), inward, domain, strict=True):
        if at_rest and not moves_there:
            ends.append(q0)
            continue
        heights = potential(side) - energy if side.size else np.empty(0)
        beyond = np.flatnonzero(heights >= 0.0)
        if not beyond.size:
            height = f", where the potential is {float(potential(np.array([edge]))[0]):.6g}"
            leaves = f"with which the particle leaves the domain at q = {edge:g}{height}"
            raise InputError(f"q0 and p0 give energy {energy:.9g}, {leaves}; widen it or lower p0")
        first = beyond[0]
        inside = side[first - 1] if first else q0
        ends.append(float(side[first]) if heights[first] == 0.0 else brentq(above, inside, side[first], xtol=rounding))
    return ends[0], ends[1]


def _falls_towards_an_end(potential: Function, ends: tuple[float, float]) -> bool:
    """Whether the potential falls where it should rise to the energy: a jump or a pole was taken for a turning point."""
    near, nearer = 3e-6 * (ends[1] - ends[0]), 1e-6 * (ends[1] - ends[0])
    heights = potential(np.array([ends[0] + nearer, ends[0] + near, ends[1] - nearer, ends[1] - near]))
    return bool(heights[0] < heights[1] or heights[2] < heights[3])


def _check_depth(potential: Function, energy: float, ends: tuple[float, float]) -> None:
    """Raise InputError where the potential falls without bound between the ends: what a particle does at a pole is not defined."""
    places = 0.5 * (ends[0] + ends[1]) - 0.5 * (ends[1] - ends[0]) * np.cos(np.linspace(0.0, math.pi, _PLACES))
    heights = potential(places[1:-1])
    lowest = int(np.argmin(heights))
    around = (places[lowest], places[lowest + 2])
    place, least, *_ = fminbound(lambda x: float(potential(np.array([x]))[0]), *around, xtol=1e-15, full_output=True)
    beside = min([*heights[max(lowest - 1, 0) : lowest], *heights[lowest + 1 : lowest + 2]])
    if energy - min(least, heights[lowest]) > _DEEPER * (energy - beside):
        raise InputError(
            f"q0 and p0 give a motion of energy {energy:.9g} through q = {place:.6g}, where the potential falls so steeply that it "
            "may have a pole; choose a domain without it, or a smoother potential"
        )


def _series(potential: Function, energy: float, mass: float, ends: tuple[float, float]) -> tuple[np.ndarray, float, np.ndarray | None]:
    """The cosine coefficients of dt/dθ, their relative error, and places where U >= E between the ends, if there are any."""
    middle, reach = 0.5 * (ends[0] + ends[1]), 0.5 * (ends[1] - ends[0])
    nodes, mean_before, series, accuracy = _FEWEST_NODES, math.inf, np.empty(0), math.inf
    while nodes <= _MOST_NODES:
        angle = (np.arange(nodes) + 0.5) * (math.pi / nodes)
        x = middle - reach * np.cos(angle)
        heights = potential(x)
        kinetic = energy - heights
        if not (kinetic > 0.0).all():
            rounding = 8.0 * float(np.finfo(float).eps) * max(abs(energy), float(np.abs(heights).max()))
            hidden = x[kinetic <= -rounding]
            hidden = hidden[(hidden > ends[0]) & (hidden < ends[1])]
            near = np.minimum(hidden - ends[0], ends[1] - hidden) > 1e-9 * reach  # nearer, it is rounding
            if near.any():
                return series, accuracy, hidden[near]
            kinetic = np.maximum(kinetic, np.finfo(float).tiny)
        with np.errstate(all="ignore"):  # with units that overflow the accuracy is nan
            rate = reach * np.sin(angle) / np.sqrt(2.0 * kinetic / mass)
            series = np.asarray(dct(rate, type=2)) / nodes
            series[0] *= 0.5
            tail = np.abs(series[3 * nodes // 4 :]).max()
            accuracy = float(max(abs(series[0] - mean_before), tail) / series[0])
        if accuracy <= _GOAL:
            break
        mean_before, nodes = series[0], 2 * nodes
    kept = np.flatnonzero(np.abs(series) > 1e-16 * series[0])
    return series[: kept[-1] + 1] if kept.size else series, accuracy, None  # none: beyond the range of numbers, and refused
