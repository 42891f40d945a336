"""Random wells that are not smooth, of five kinds, with exact motion: none of them is in any ensemble."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError
from ..base import Shapes, State
from ..functions import FunctionHamiltonians
from .polygons import WALL_HEIGHT
from .system import Well
from .textbook import NamedPotential, piecewise_linear

_LOWEST, _HIGHEST = -2.0, 1.8  # V at the corners between the walls
_MARGIN = 0.05  # between corners, and from what an orbit of the highest energy must clear
_ATTEMPTS = 100

Corners = list[tuple[float, float]]


def draw_shapes(initial_state: tuple[State, State] | None, count: int, seed: int) -> dict[str, Shapes]:
    """`count` wells of each kind: cusps, kinks, plateaus, steps and finite walls; orbits from `initial_state`, or from random ones.

    Orbits whose motion is not defined, or is too near a separatrix to be known, are drawn again.
    """
    return {name: _draw_kind(draw, np.random.default_rng([seed, k]), initial_state, count) for k, (name, draw) in enumerate(_KINDS.items())}


def _draw_kind(
    draw: Callable[[np.random.Generator], NamedPotential], rng: np.random.Generator, initial_state: tuple[State, State] | None, count: int
) -> Shapes:
    orbits = [_draw_orbit(draw, rng, initial_state) for _ in range(count)]
    potentials, q0, p0 = zip(*orbits, strict=True)

    def truth(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q, p = zip(*(potential.truth(times, *start) for potential, *start in orbits), strict=True)
        return np.stack(q), np.stack(p)

    return Shapes(FunctionHamiltonians(potentials, Well.domain), np.array(q0), np.array(p0), truth)


def _draw_orbit(
    draw: Callable[[np.random.Generator], NamedPotential], rng: np.random.Generator, initial_state: tuple[State, State] | None
) -> tuple[NamedPotential, float, float]:
    for _ in range(_ATTEMPTS):
        potential = draw(rng)
        q0, p0 = _random_state(potential, rng) if initial_state is None else (initial_state[0][0], initial_state[1][0])
        try:
            potential.truth(np.array([Well.horizon]), q0, p0)
        except InputError:
            continue
        return potential, q0, p0
    raise InputError(f"no orbit of {_ATTEMPTS} has a known motion from {initial_state}")


def _random_state(potential: NamedPotential, rng: np.random.Generator) -> tuple[float, float]:
    """A state of an energy below the walls: q0 uniform where V is lower, and p0 of either sign."""
    while True:
        q0 = float(rng.uniform(_MARGIN, 1.0 - _MARGIN))
        room = WALL_HEIGHT - _MARGIN - float(potential.value(q0))
        if room > 0.0:
            return q0, float(rng.choice([-1.0, 1.0]) * np.sqrt(2.0 * room * rng.uniform(0.05, 1.0)))


@dataclass(frozen=True)
class _Cusp:
    """V = bottom + (2 - bottom) |(q - middle) / distance from it to the wall|^exponent."""

    exponent: float
    middle: float
    bottom: float

    def value(self, q: Any) -> Any:
        x, width = self._place(q)
        return self.bottom + (WALL_HEIGHT - self.bottom) * np.abs(x / width) ** self.exponent

    def gradient(self, q: Any) -> Any:
        """Given as 0 at the bottom, where there is none."""
        x, width = self._place(q)
        distance = np.where(x == 0.0, 1.0, np.abs(x / width))
        return (WALL_HEIGHT - self.bottom) * self.exponent * np.sign(x) / width * distance ** (self.exponent - 1.0)

    def _place(self, q: Any) -> tuple[Any, Any]:
        x = np.asarray(q) - self.middle
        return x, np.where(x < 0.0, self.middle, 1.0 - self.middle)


def _cusp(rng: np.random.Generator) -> NamedPotential:
    cusp = _Cusp(exponent=rng.uniform(0.4, 0.95), middle=rng.uniform(0.3, 0.7), bottom=rng.uniform(_LOWEST, 1.0))
    return NamedPotential("cusp", cusp.value, cusp.gradient, breakpoints=(cusp.middle,))


def _kinks(rng: np.random.Generator) -> NamedPotential:
    places = _places(rng, int(rng.integers(2, 6)))
    return _through([(q, _height(rng)) for q in places], "kinks")


def _plateaus(rng: np.random.Generator) -> NamedPotential:
    """Level pieces with slopes between them."""
    places = _places(rng, 2 * int(rng.integers(1, 4)))
    heights = np.repeat([_height(rng) for _ in places[::2]], 2)
    return _through(list(zip(places, heights, strict=True)), "plateaus")


def _steps(rng: np.random.Generator) -> NamedPotential:
    """Slopes at the walls, and jumps from one level piece to the next between them."""
    first, *jumps, last = _places(rng, int(rng.integers(3, 6)))
    height = _height(rng)
    corners = [(first, height)]
    for q in jumps:
        corners.append((q, height))
        height = _height(rng)
        corners.append((q, height))
    return _through([*corners, (last, height)], "steps")


def _finite_wall(rng: np.random.Generator) -> NamedPotential:
    """A thin rectangular wall on a sloping floor: half of them are higher than any energy."""
    left, q, right = _places(rng, 3)
    width = rng.uniform(0.2, 0.9) * min(right - q, 0.1)
    v_left, v_right = _height(rng), _height(rng)
    before, after = (float(np.interp(x, [left, right], [v_left, v_right])) for x in (q, q + width))
    top = rng.uniform(WALL_HEIGHT + _MARGIN, 4.0) if rng.random() < 0.5 else rng.uniform(max(before, after), WALL_HEIGHT - _MARGIN)
    return _through([(left, v_left), (q, before), (q, top), (q + width, top), (q + width, after), (right, v_right)], "finite-wall")


def _places(rng: np.random.Generator, count: int) -> list[float]:
    """`count` ascending positions, at least `_MARGIN` apart and from the walls."""
    free = 1.0 - (count + 1) * _MARGIN
    return [float(x) for x in np.sort(rng.uniform(0.0, free, count)) + _MARGIN * np.arange(1, count + 1)]


def _height(rng: np.random.Generator) -> float:
    return float(rng.uniform(_LOWEST, _HIGHEST))


def _through(corners: Corners, name: str) -> NamedPotential:
    return piecewise_linear([(0.0, WALL_HEIGHT), *corners, (1.0, WALL_HEIGHT)], name)


_KINDS = {"cusps": _cusp, "kinks": _kinks, "plateaus": _plateaus, "steps": _steps, "finite walls": _finite_wall}
