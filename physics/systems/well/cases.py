"""Wells with names and exact solutions: textbook potentials, and a ladder of cusps, kinks and jumps that no ensemble draws."""

from functools import partial
from typing import Literal

from ..base import NamedCase, State
from ..functions import FunctionHamiltonians
from .system import Well
from .textbook import NAMED_POTENTIALS, NamedPotential, piecewise_linear, power_law, steps

_INSIDE: tuple[State, State] = ((0.4,), (0.0,))  # at rest inside the well, where any initial state may be given
_MOVING: tuple[State, State] = ((0.35,), (1.0,))  # steps only act on a particle that moves: at rest on a level piece it stays
_EXPONENTS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.5, 3.0, 4.0)


def named_cases(initial_state: tuple[State, State] | None) -> list[NamedCase]:
    """Textbook potentials and the non-smooth ladder, from `initial_state`, or from inside the well where it is None.

    Wells with steps are among them only where any initial state may be given.
    """
    start = initial_state or _INSIDE
    textbook = [_case("textbook", potential, start) for potential in NAMED_POTENTIALS.values()]
    ladder = [_case("non-smooth", potential, start) for potential in [*map(power_law, _EXPONENTS), *_polygons()]]
    jumps = [_case("non-smooth", potential, _MOVING) for potential in _jumps()] if initial_state is None else []
    return textbook + ladder + jumps


def _polygons() -> list[NamedPotential]:
    return [
        piecewise_linear([(0.0, 2.0), (0.3, 0.0), (0.7, 0.0), (1.0, 2.0)], "trough"),
        piecewise_linear([(0.0, 2.0), (0.25, 0.0), (0.5, 1.0), (0.75, 0.5), (1.0, 2.0)], "two-kinked-wells"),
    ]


def _jumps() -> list[NamedPotential]:
    return [
        steps([0.2, 0.8], [1.0, 0.0, 1.0], "stepped-well"),
        steps([0.3, 0.5, 0.7], [1.5, 0.5, 0.0, 1.0], "staircase"),
    ]


def _case(kind: Literal["textbook", "non-smooth"], potential: NamedPotential, start: tuple[State, State]) -> NamedCase:
    q0, p0 = start
    truth = partial(potential.truth, q0=q0[0], p0=p0[0])
    return NamedCase(potential.name, kind, FunctionHamiltonians([potential], Well.domain), q0, p0, truth)
