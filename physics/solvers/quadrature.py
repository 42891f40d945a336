"""Orbits from t = integral of dq / sqrt(2 (E - V(q))), with no time-stepper involved.

An orbit of one degree of freedom swings between two turning points a < b, where V = E, and the time from a
to q is an integral. It is cut where V is not smooth (knots of a curve, kinks) and taken in the coordinate x
that makes V smooth there: the parameter u of a curve's piece, or q itself.

- Next to a turning point x = a + s^2 (or b - s^2) turns the integrand 1 / sqrt(E - V) into a smooth one:
  E - V(x) = s^2 W with W = -(V(x) - V(a)) / (x - a), a divided difference that is formed without cancellation.
- Elsewhere E - V is carried over from the neighbour as E - V(x) = (E - V(x1)) - (V(x) - V(x1)), again by a
  divided difference, so that a turning point a hair beyond a knot costs no digits.
- Panels are halved until Gauss-Legendre quadrature of 24 nodes agrees with itself on both halves.
- q(t) is the root of t(s) = t by Newton's method, whose slope is the integrand.

The result is exact to about 1e-15 / D, where D is the least E - V above a barrier that the orbit passes, times
the swings made. Orbits that rest are constant; those too near a separatrix or an equilibrium are refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..errors import InputError
from ..potentials.curves import Curves
from .problems import Potential
from .smooth_pieces import NODES, WEIGHTS, CubicPiece, Piece, cubic_pieces, find_root, smooth_pieces

_PANEL_TOLERANCE = 1e-15
_MAX_HALVINGS = 70
_MAX_NEWTON_STEPS = 60
_ROUNDING = 1e-14  # of the ends of a curve
_SMALLEST_CLEARANCE = 1e-8  # E - V at the top of a barrier
_SMALLEST_SLOPE = 1e-4  # abs(V') at a turning point
_LARGEST_CONTINUATION = 1e-9  # of a piece beyond a knot, in E - V; in the coordinate its square root

Array = np.ndarray


def solve_orbit(potential: Potential, q0: float, p0: float, times: Array) -> tuple[Array, Array, int]:
    """The orbit from (q0, p0) at t = 0, which must stay within the potential's domain.

    Parameters
    ----------
    potential
        A single curve, cut at its knots; or a potential with a `domain` and `breakpoints`, whose value and gradient take arrays.
    times
        Any shape, any order, any sign.

    Returns
    -------
    q, p
        Of the shape of `times`.
    num_evaluations
        0: forces are not counted.

    Raises
    ------
    InputError
        If the orbit starts outside its domain, or leaves it; within 1e-8 in energy of a separatrix;
        or if the orbit turns where abs(V') < 1e-4, so that it all but rests at an equilibrium.
    """
    times = np.asarray(times, dtype=np.float64)
    if isinstance(potential, Curves):
        pieces = cubic_pieces(potential)
        low, high = float(pieces[0].position(0.0)) - _ROUNDING, float(pieces[-1].position(1.0)) + _ROUNDING
    else:
        domain = getattr(potential, "domain", None)
        if domain is None:
            raise InputError("quadrature needs a potential with a `domain` (low, high), and `breakpoints` where it is not smooth")
        (low, high), pieces = domain, smooth_pieces(potential)  # pyright: ignore[reportArgumentType]
    if not (low <= q0 <= high and np.isfinite(p0)):
        raise InputError(f"start is q0 = {q0}, p0 = {p0}; q0 must be between {low:g} and {high:g}, p0 finite")
    start = next((i for i, piece in enumerate(pieces) if q0 < piece.position(piece.right)), len(pieces) - 1)
    x0 = pieces[start].coordinate(q0)
    at_knot = start > 0 and x0 <= pieces[start].left
    slopes = [pieces[start].slope(x0)] * 2  # on either side of the start
    if at_knot:
        slopes[0] = pieces[start - 1].slope(pieces[start - 1].right)
    falls_left, falls_right = slopes[0] > 0.0, slopes[1] < 0.0
    if p0 == 0.0 and falls_left and falls_right:
        raise InputError(f"the particle starts at rest on the top of a kink at q = {q0}; which way it goes is not defined")
    if p0 == 0.0 and not (falls_left or falls_right):
        return np.full(times.shape, float(q0)), np.zeros(times.shape), 0
    # The piece that the start belongs to; one that is hardly moving belongs to where it falls.
    if at_knot and (falls_left if 0.5 * p0 * p0 <= _LARGEST_CONTINUATION else p0 < 0.0):
        start, x0 = start - 1, pieces[start - 1].right
    swing = _Swing(pieces, start, x0, float(p0))
    return *swing.states(times), 0


@dataclass(frozen=True, eq=False)
class _Arc:
    """A part of the swing from the left to the right turning point, in a variable s that makes it smooth.

    `evaluate(s)` gives x, dt/ds and p > 0; `find_s` gives s of the start, from its x and abs(p).
    """

    piece: Piece
    start: float
    stop: float
    evaluate: Callable[[Array], tuple[Array, Array, Array]]
    find_s: Callable[[float, float], float]


def _left_arc(piece: Piece, a: float, middle: float) -> _Arc:
    def evaluate(s: Array) -> tuple[Array, Array, Array]:
        x = a + s * s
        w = -piece.secant(x, a)
        return x, piece.stretch(x) * np.sqrt(2.0 / w), s * np.sqrt(2.0 * w)

    # By p, not by x - a, which loses its digits next to a.
    return _Arc(piece, 0.0, np.sqrt(middle - a), evaluate, lambda x, p: p / np.sqrt(-2.0 * float(piece.secant(max(x, a), a))))


def _right_arc(piece: Piece, middle: float, b: float) -> _Arc:
    def evaluate(s: Array) -> tuple[Array, Array, Array]:
        x = b - s * s
        w = piece.secant(x, b)
        return x, piece.stretch(x) * np.sqrt(2.0 / w), -s * np.sqrt(2.0 * w)

    return _Arc(piece, -np.sqrt(b - middle), 0.0, evaluate, lambda x, p: -p / np.sqrt(2.0 * float(piece.secant(min(x, b), b))))


def _open_arc(piece: Piece, left: float, right: float, anchor: float, clearance: float) -> _Arc:
    """Between two points with E - V > 0; E - V is `clearance` at `anchor`, the end that is nearer to a turning point."""

    def evaluate(x: Array) -> tuple[Array, Array, Array]:
        p = np.sqrt(2.0 * (clearance - (x - anchor) * piece.secant(x, anchor)))
        return x, piece.stretch(x) / p, p

    return _Arc(piece, left, right, evaluate, lambda x, _: x)


class _Swing:
    """The way from the left turning point to the right one, as panels of quadrature; motion is this way, there and back."""

    def __init__(self, pieces: Sequence[Piece], start: int, x0: float, p0: float) -> None:
        self._energy = 0.5 * p0 * p0 + float(pieces[start].height(x0))
        first, a = self._turning_point(pieces, start, x0, p0, -1)
        last, b = self._turning_point(pieces, start, x0, p0, +1)
        for piece, x in ((pieces[first], a), (pieces[last], b)):
            if abs(piece.slope(x)) < _SMALLEST_SLOPE:
                raise InputError(
                    f"orbit of energy {self._energy:.9g} turns at q = {float(piece.position(x)):.9g}, where V' is {piece.slope(x):.1e}: "
                    f"too near an equilibrium for quadrature; the slope must be at least {_SMALLEST_SLOPE:g}"
                )
        arcs = self._arcs(pieces, first, a, last, b)
        self._panels: list[tuple[_Arc, float, float]] = []
        durations: list[float] = []
        for arc in arcs:
            for left, right, duration in _halve(arc):
                self._panels.append((arc, left, right))
                durations.append(duration)
        self._times = np.concatenate([[0.0], np.cumsum(durations)])
        self._phase = self._find_phase(pieces[start], x0, p0)

    def _clearance(self, pieces: Sequence[Piece], start: int, x0: float, p0: float, i: int, x: float) -> float:
        """E - V(x) on piece i; within the piece of the start without cancellation."""
        if i == start:
            return 0.5 * p0 * p0 - (x - x0) * float(pieces[i].secant(x, x0))
        return self._energy - float(pieces[i].height(x))

    def _turning_point(self, pieces: Sequence[Piece], start: int, x0: float, p0: float, side: int) -> tuple[int, float]:
        """The piece and coordinate where E - V first vanishes on the way from the start to the left (side -1) or right (+1)."""
        if p0 == 0.0 and side * pieces[start].slope(x0) > 0.0:
            return start, x0
        i, x, before = start, x0, 0.5 * p0 * p0
        while True:
            piece = pieces[i]
            end = piece.right if side > 0 else piece.left
            stops = [*(y for y in piece.extrema()[::side] if (y - x) * side > 0.0 and (end - y) * side > 0.0), end]
            for stop in stops:  # V is monotone from one to the next
                clearance = self._clearance(pieces, start, x0, p0, i, stop)
                if clearance <= 0.0:
                    return i, find_root(partial(self._clearance, pieces, start, x0, p0, i), x, stop)
                if stop != end and clearance < min(before, _SMALLEST_CLEARANCE):
                    raise InputError(
                        f"orbit of energy {self._energy:.9g} passes the top of a barrier at q = {float(piece.position(stop)):.9g} "
                        f"with only {clearance:.1e} to spare: too near a separatrix for quadrature; {_SMALLEST_CLEARANCE:g} is needed"
                    )
                x, before = stop, clearance
            beyond = self._continued_turning_point(piece, end, before)
            if beyond is not None:
                return i, beyond
            i += side
            if not 0 <= i < len(pieces):
                raise InputError(f"orbit of energy {self._energy:.9g} leaves its domain; V must reach that energy within it")
            x = pieces[i].left if side > 0 else pieces[i].right

    @staticmethod
    def _continued_turning_point(piece: Piece, end: float, clearance: float) -> float | None:
        """The turning point if it lies a hair beyond the end of a polynomial piece, where E - V is `clearance`.

        A turning point so near a knot has too few digits in the neighbour's coordinate. In the continued
        piece it has all, and the continuation is exact to the cube of the distance.
        """
        if not isinstance(piece, CubicPiece) or clearance > _LARGEST_CONTINUATION:
            return None
        outwards = 1.0 if end == piece.right else -1.0
        if outwards * piece.slope(end) <= 0.0:
            return None
        x = end
        for _ in range(5):
            secant = outwards * float(piece.secant(x, end))
            if secant <= clearance * _LARGEST_CONTINUATION**-0.5:
                return None
            x = end + outwards * clearance / secant
        return x

    def _arcs(self, pieces: Sequence[Piece], first: int, a: float, last: int, b: float) -> list[_Arc]:
        if first == last:
            middle = 0.5 * (a + b)
            return [_left_arc(pieces[first], a, middle), _right_arc(pieces[first], middle, b)]
        left, right = _left_arc(pieces[first], a, pieces[first].right), _right_arc(pieces[last], pieces[last].left, b)
        arcs = [left]
        for i in range(first + 1, last):
            piece = pieces[i]
            middle = 0.5 * (piece.left + piece.right)
            ends = [self._energy - float(piece.height(x)) for x in (piece.left, piece.right)]
            if i == first + 1:
                ends[0] = 0.5 * float(left.evaluate(np.array(left.stop))[2]) ** 2
            if i == last - 1:
                ends[1] = 0.5 * float(right.evaluate(np.array(right.start))[2]) ** 2
            arcs.append(_open_arc(piece, piece.left, middle, piece.left, ends[0]))
            arcs.append(_open_arc(piece, middle, piece.right, piece.right, ends[1]))
        return [*arcs, right]

    def _find_phase(self, piece: Piece, x0: float, p0: float) -> float:
        """The time since the last left turning point at the start."""
        arcs = list(dict.fromkeys(arc for arc, _, _ in self._panels if arc.piece is piece))
        arc = next((arc for arc in arcs[:-1] if x0 <= float(arc.evaluate(np.array(arc.stop))[0])), arcs[-1])
        s = arc.find_s(x0, abs(p0))
        of_arc = [k for k, panel in enumerate(self._panels) if panel[0] is arc]
        k = next((k for k in of_arc[:-1] if s <= self._panels[k][2]), of_arc[-1])
        _, left, right = self._panels[k]
        elapsed = float(self._times[k] + _integrate(arc, np.array(left), np.array(min(max(s, left), right))))
        return elapsed if p0 >= 0.0 else 2.0 * self._times[-1] - elapsed

    def states(self, times: Array) -> tuple[Array, Array]:
        """q, p at times of any shape."""
        half = self._times[-1]
        phase = np.mod(self._phase + times, 2.0 * half)
        forward = phase <= half
        elapsed = np.where(forward, phase, 2.0 * half - phase)
        which = np.clip(np.searchsorted(self._times, elapsed, side="right") - 1, 0, len(self._panels) - 1)
        q, p = np.empty(times.shape), np.empty(times.shape)
        for k in np.unique(which):
            arc, left, right = self._panels[k]
            here = which == k
            s = _find_s(arc, left, right, elapsed[here] - self._times[k])
            x, _, momentum = arc.evaluate(s)
            q[here], p[here] = arc.piece.position(x), momentum
        return q, np.where(forward, p, -p)


def _integrate(arc: _Arc, left: Array, right: Array) -> Array:
    """The time from s = left to s = right, of any shape."""
    width = right - left
    return width * (arc.evaluate(left[..., None] + width[..., None] * NODES)[1] @ WEIGHTS)


def _halve(arc: _Arc) -> list[tuple[float, float, float]]:
    """Panels (left, right, duration) of an arc, in order, halved until the quadrature agrees with itself."""
    whole = float(_integrate(arc, np.array(arc.start), np.array(arc.stop)))
    panels: list[tuple[float, float, float]] = []
    pending = [(arc.start, arc.stop, whole, 0)]
    while pending:
        left, right, duration, depth = pending.pop()
        middle = 0.5 * (left + right)
        halves = _integrate(arc, np.array([left, middle]), np.array([middle, right]))
        refined = float(halves.sum())
        if not np.isfinite(refined):
            raise InputError("the potential or its gradient is not finite along the orbit, or jumps where no breakpoint is given")
        if abs(refined - duration) <= _PANEL_TOLERANCE * (1.0 + abs(whole)) or depth == _MAX_HALVINGS:
            panels.append((left, right, refined))
        else:
            pending += [(middle, right, float(halves[1]), depth + 1), (left, middle, float(halves[0]), depth + 1)]
    return panels


def _find_s(arc: _Arc, left: float, right: float, elapsed: Array) -> Array:
    """s at times `elapsed` (N,) after s = left, within one panel: Newton's method inside a shrinking bracket."""
    low, high = np.full(elapsed.shape, left), np.full(elapsed.shape, right)
    s = np.clip(left + elapsed / np.maximum(arc.evaluate(low)[1], 1e-300), low, high)
    start = np.full(elapsed.shape, left)
    for _ in range(_MAX_NEWTON_STEPS):
        excess = _integrate(arc, start, s) - elapsed
        low, high = np.where(excess < 0.0, s, low), np.where(excess < 0.0, high, s)
        following = s - excess / arc.evaluate(s)[1]
        following = np.where((following >= low) & (following <= high), following, 0.5 * (low + high))
        settled = np.abs(following - s) <= 4e-16 * (np.abs(s) + (right - left))
        s = following
        if settled.all():
            break
    return s
