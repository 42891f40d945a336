"""Potentials of straight pieces, with kinks or jumps between them: exact motion, from event to event.

On a piece the force is constant and the path a parabola; the time at which it meets the end of its piece is
known in closed form, and the momentum there comes from the energy, so errors do not add up from event to
event. At a kink motion goes on; at a jump the momentum changes to what the energy leaves, or is reversed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

_MAX_EVENTS = 100_000
_GRAZING = 1e-12  # kinetic energy at the top of a kink, below which rounding would choose the way


@dataclass(frozen=True, eq=False)
class Ramps:
    """V = heights[i] + slopes[i] (q - origins[i]) between edges[i - 1] and edges[i]; edges (n,), the others (n + 1,).

    An edge belongs to the piece on its right, but the first one to the left if `first_edge_left`.
    """

    edges: np.ndarray
    heights: np.ndarray
    slopes: np.ndarray
    origins: np.ndarray
    first_edge_left: bool = False

    def value(self, q: np.ndarray | float) -> np.ndarray:
        """V(q), any shape."""
        i = self._piece(q)
        return self.heights[i] + self.slopes[i] * (np.asarray(q) - self.origins[i])

    def gradient(self, q: np.ndarray | float) -> np.ndarray:
        """The slope at q, any shape; jumps do not show in it."""
        return self.slopes[self._piece(q)]

    def motion(self, times: np.ndarray, q0: float, p0: float) -> tuple[np.ndarray, np.ndarray]:
        """q, p at times >= 0 of any shape and order.

        At a jump up that takes all the kinetic energy, or more, the particle is reflected. Raises InputError
        where rounding would decide: a particle that comes to rest, or starts at rest, on the top of a kink; and for
        more than 100,000 events, as of a tiny orbit about a kink.
        """
        times = np.asarray(times, dtype=np.float64)
        if not np.all(times >= 0.0):
            raise InputError("times must not be negative")
        events = self._events(float(q0), float(p0), float(times.max(initial=0.0)))
        start, q, p, force = np.array(events).T
        k = np.searchsorted(start, times, side="right") - 1
        elapsed = times - start[k]
        return q[k] + elapsed * (p[k] + 0.5 * force[k] * elapsed), p[k] + force[k] * elapsed

    def _piece(self, q: np.ndarray | float) -> np.ndarray:
        i = np.searchsorted(self.edges, q, side="right")
        return i - (np.asarray(q) == self.edges[0]) if self.first_edge_left else i

    def _height(self, i: int, q: float) -> float:
        return float(self.heights[i] + self.slopes[i] * (q - self.origins[i]))

    def _events(self, q: float, p: float, end: float) -> list[tuple[float, float, float, float]]:
        """(t, q, p, force) at the start and after each event up to time `end`."""
        bounds = [-math.inf, *self.edges.tolist(), math.inf]
        i = int(self._piece(q))
        if p == 0.0:
            i = self._piece_from_rest(i, q, bounds)
        energy = 0.5 * p * p + self._height(i, q)
        t, force = 0.0, -float(self.slopes[i])
        events = [(t, q, p, force)]
        if p == 0.0 and self._rests(i, q, bounds):
            return [(t, q, p, 0.0)]
        while t <= end:
            if len(events) > _MAX_EVENTS:
                raise InputError(f"the orbit meets more than {_MAX_EVENTS} kinks before t = {end:g}; ask for less time")
            duration, side = _time_to_end(q - bounds[i], bounds[i + 1] - q, p, force)
            if not math.isfinite(duration):
                break
            t += duration
            q = bounds[i + 1] if side > 0 else bounds[i]
            kinetic, beyond = energy - self._height(i, q), energy - self._height(i + side, q)
            top_of_kink = abs(beyond - kinetic) < _GRAZING and side * self.slopes[i] > 0.0 > side * self.slopes[i + side]
            if top_of_kink and beyond < _GRAZING:
                raise InputError(f"the orbit comes to rest on the top of the kink at q = {q:g}; which way it goes on is not defined")
            if beyond > 0.0:
                i += side
                p = side * math.sqrt(2.0 * beyond)
            else:
                p = -side * math.sqrt(2.0 * max(kinetic, 0.0))
            force = -float(self.slopes[i])
            events.append((t, q, p, force))
        return events

    def _piece_from_rest(self, i: int, q: float, bounds: list[float]) -> int:
        """The piece that a particle at rest at q moves into: at a kink the one whose slope leads away from it."""
        if q != bounds[i] or self._height(i, q) != self._height(i - 1, q):
            return i
        falls_right, falls_left = self.slopes[i] < 0.0, self.slopes[i - 1] > 0.0
        if falls_right and falls_left:
            raise InputError(f"the particle starts at rest on the top of the kink at q = {q:g}; which way it goes is not defined")
        return i - 1 if falls_left else i

    def _rests(self, i: int, q: float, bounds: list[float]) -> bool:
        slope = self.slopes[i]
        return slope == 0.0 or (q == bounds[i] and slope > 0.0) or (q == bounds[i + 1] and slope < 0.0)


def _time_to_end(left: float, right: float, p: float, force: float) -> tuple[float, int]:
    """The time until a particle `left` and `right` away from the ends of its piece meets one, and which (-1 or 1)."""
    if p < 0.0 or (p == 0.0 and force < 0.0):
        duration, side = _time_to_end(right, left, -p, -force)
        return duration, -side
    if force == 0.0:
        return (right / p if p > 0.0 else math.inf), 1
    arriving = p * p + 2.0 * force * right
    if arriving >= 0.0:
        speed = p + math.sqrt(arriving)
        return (2.0 * right / speed if speed > 0.0 else math.inf), 1
    return (p + math.sqrt(p * p - 2.0 * force * left)) / -force, -1


def piecewise_linear_ramps(points: Sequence[tuple[float, float]]) -> Ramps:
    """Straight lines through points (q, V) with q from 0 to 1, continued beyond the walls; a jump where two points share their q."""
    q, v = (np.array(x, dtype=np.float64) for x in zip(*points, strict=True))
    pieces = np.diff(q) > 0.0
    slopes = np.diff(v)[pieces] / np.diff(q)[pieces]
    return Ramps(q[1:][pieces][:-1], v[:-1][pieces], slopes, q[:-1][pieces])


def step_ramps(edges: Sequence[float], heights: Sequence[float], wall: float) -> Ramps:
    """Level pieces of `heights` between 0, the edges and 1, and V = `wall` at and beyond q = 0 and q = 1."""
    levels = np.array([wall, *heights, wall], dtype=np.float64)
    return Ramps(np.array([0.0, *edges, 1.0]), levels, np.zeros(levels.size), np.zeros(levels.size), first_edge_left=True)
