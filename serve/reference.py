"""What a prediction is compared with: the motion in the potential as it was given, or in those that the sensors leave possible.

A reference has an error of its own. Where the potential is known, it is that of a solver. Where only sensors are, the motion is found in
the best reconstruction and in others that could have the same readings (`System.plausible`), and the error is how far these are apart.

Shapes: B problems, T query times.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..physics.systems import Names, System
from ..physics.systems.functions import FunctionHamiltonians
from ..physics.systems.generic import Solved, largest_difference
from .problems import Potential, calling_it, exact_hamiltonians

_FINE_STEPS = (16, 8)  # refinements of the difference quotients that give the gradient of a function
_PLACES_OF_LINE, _PLACES_OF_CELL = 4_000, 4  # along each axis, at least: in all of a line, and between neighbouring sensors of a plane


def known_hamiltonians(potential: Potential, system: System, names: Names) -> list[Any]:
    """The Hamiltonian of a potential that is known everywhere, or two approximations of it, the better first; none for V at sensors.

    Approximate are the gradients of Python functions that cannot be compiled: they are difference quotients.
    """
    exact = exact_hamiltonians(potential, system, names, _FINE_STEPS[0])
    if exact is None:
        return []
    with calling_it(names.potential):
        if not isinstance(exact, FunctionHamiltonians) or exact.flow is not None:
            return [exact]
    return [exact, exact_hamiltonians(potential, system, names, _FINE_STEPS[1])]


def solve_reference(system: System, candidates: Sequence[Any], q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> Solved | None:
    """q, p (1, T) of a problem with q0, p0 (1,) at sorted times (1, T), in the first of the candidates; None without any.

    The error is that of the solver, and how far the motions in the other candidates are away.
    """
    motions = [
        system.solve_closely(hamiltonians, *(np.repeat(x, len(hamiltonians), axis=0) for x in (q0, p0, times)))
        for hamiltonians in candidates
    ]
    if not motions:
        return None
    best = Solved(*(part[:1] for part in motions[0]))
    away = [largest_difference((one.q, one.p), (best.q, best.p)).max() for one in motions]
    return Solved(best.q, best.p, best.error + max(away))


def drift_in(system: System, exact: Any, q0: np.ndarray, p0: np.ndarray, q: np.ndarray, p: np.ndarray, scale: float) -> float:
    """max abs(H - H0) / scale of one trajectory (1, T) in a Hamiltonian that is known; nan where V is not finite on the way."""
    energy = exact.energy_anywhere if isinstance(exact, FunctionHamiltonians) else exact.energy
    with np.errstate(all="ignore"):
        return float(np.abs(energy(q, p) - exact.energy(q0, p0)[:, None]).max() / scale)


def sensor_error(system: System, exact: Any, sensed: Any, sensors: tuple[int, ...], energy: float, scale: float) -> float:
    """The largest abs(V - its interpolation) where a particle of this energy may be in either of the two, over the energy scale."""
    cells = [max(count - 1, 1) for count in sensors]
    refined = [-(-_PLACES_OF_LINE // count) if len(sensors) == 1 else _PLACES_OF_CELL for count in cells]
    places = tuple(count * factor + 1 for count, factor in zip(cells, refined, strict=True))
    true, interpolated = (hamiltonian.sense(places)["potential"] for hamiltonian in (exact, sensed))
    reached = np.minimum(true, interpolated) <= energy
    return float(np.abs(true - interpolated)[reached].max(initial=0.0) / scale)
