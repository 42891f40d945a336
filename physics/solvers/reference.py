"""Reference solutions by SciPy, sharing no code with the compiled solvers: certificates are checked against them."""

from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.interpolate import BSpline, PPoly

# Local tolerances; short steps keep the dense output as accurate as the steps themselves.
_CONTROL: dict[str, Any] = {"rtol": 1e-13, "atol": 1e-15, "max_step": 0.01}


def solve_control_polygon(
    control_q: np.ndarray, control_v: np.ndarray, q0: float, p0: float, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The orbit in the exact potential of a clamped B-spline curve, rebuilt from a dataset row alone.

    Integrates the curve parameter, s' = p / q'(s), p' = -V'(s) / q'(s), with DOP853 at rtol 1e-13, and
    restarts at every knot: V''' jumps there, and an error estimator that steps across a jump is blind to it.

    Parameters
    ----------
    control_q, control_v
        Shape (n,), the control polygon.
    times
        Shape (T,), sorted.

    Returns
    -------
    q, p
        Shape (T,) each.
    """
    num_pieces = len(control_q) - 3
    knots = np.concatenate([np.zeros(3), np.arange(num_pieces + 1), np.full(3, num_pieces)]).astype(np.float64)
    curve_q, curve_v = (
        _Pieces(PPoly.from_spline(BSpline(knots, np.asarray(c, dtype=np.float64), 3)), num_pieces) for c in (control_q, control_v)
    )

    s = curve_q.solve(q0)
    piece = min(int(s), num_pieces - 1)
    t, p = 0.0, p0
    if s == piece and p < 0 and piece > 0:
        piece -= 1
    qs, ps = np.full(times.size, np.nan), np.full(times.size, np.nan)
    end = float(times[-1])
    while True:

        def slope(_: float, state: np.ndarray, piece: int = piece) -> tuple[float, float]:
            scale = curve_q(piece, state[0], 1)
            return state[1] / scale, -curve_v(piece, state[0], 1) / scale

        # The end pieces continue beyond the ends: an orbit passes an end only by rounding.
        exits = [_crossing(piece, -1.0)] * (piece > 0) + [_crossing(piece + 1, 1.0)] * (piece < num_pieces - 1)
        solution = solve_ivp(slope, (t, end), [s, p], "DOP853", events=exits or None, dense_output=True, **_CONTROL)
        stop = solution.t[-1]
        inside = (times >= t) & (times <= stop)
        if inside.any():
            states = solution.sol(times[inside])
            qs[inside], ps[inside] = curve_q(piece, states[0], 0), states[1]
        t, (s, p) = stop, solution.y[:, -1]
        if solution.status != 1:
            return qs, ps
        piece += 1 if p > 0 else -1


class _Pieces:
    """A piecewise polynomial whose piece is named by the caller and continued beyond its ends."""

    def __init__(self, polynomial: PPoly, num_pieces: int) -> None:
        self._coefficients = polynomial.c[:, 3 : 3 + num_pieces]
        self._num_pieces = num_pieces

    def __call__(self, piece: int, s: Any, derivative: int) -> Any:
        coefficients = self._coefficients[:, piece]
        return np.polyval(np.polyder(coefficients, derivative) if derivative else coefficients, s - piece)

    def solve(self, value: float) -> float:
        for piece in range(self._num_pieces):
            if value <= self(piece, piece + 1.0, 0) or piece == self._num_pieces - 1:
                shifted = self._coefficients[:, piece].copy()
                shifted[-1] -= value
                roots = np.roots(shifted)
                inside = roots.real[(abs(roots.imag) < 1e-9) & (roots.real > -1e-9) & (roots.real < 1 + 1e-9)]
                return piece + float(np.clip(inside[0], 0.0, 1.0)) if inside.size else float(piece)
        raise AssertionError("unreachable")


def _crossing(knot: int, direction: float) -> Any:
    def event(_: float, state: np.ndarray) -> float:
        return float(state[0] - knot)

    event.terminal = True  # type: ignore[attr-defined]
    event.direction = direction  # type: ignore[attr-defined]
    return event
