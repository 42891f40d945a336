"""The solver's solution beside a prediction, so that both can be drawn and their difference be seen.

Shapes: T query times, d degrees of freedom.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..physics import InputError
from ..physics.bounded_motion import find_motion
from ..physics.systems import System
from ..physics.systems.functions import FunctionHamiltonians
from .motion import Motion, MotionProblem
from .orbit import Orbit
from .problems import Problem, exact_hamiltonians

MAX_REFERENCES = 16  # trajectories of one request: each costs as much as a few predictions
_NUM_PLACES = {1: (1001, 751), 2: (129, 97)}  # along an axis, by degrees of freedom: V is read there, finely, then coarsely for the bound
_TOLERANCE = 1e-7
_MARGIN = 0.1  # of the domain, by which the particle may leave it, as `solve` allows
_TINY = float(np.finfo(float).tiny)
_EXACT = 1e-9  # of the ranges of q and p: the error of a motion by quadrature
_WORST = 1e-3  # of the position or momentum: from here on a reference would mislead


@dataclass(frozen=True, eq=False)
class Reference:
    """What a solver finds for the problem of a prediction.

    Attributes
    ----------
    q, p
        In the shapes of the prediction; None where there is no reference.
    error_bound
        On the absolute error of any q or p; None where there is no reference, and for the quadrature of a motion in other units, which is
        exact to 1e-9 of the ranges of q and p.
    energies
        H along the prediction, in V as it was given, (T,); None where V is not finite there.
    refusal
        Why there is no reference, in a sentence; else None.
    """

    q: np.ndarray | None
    p: np.ndarray | None
    error_bound: float | None
    energies: np.ndarray | None
    refusal: str | None = None


def find_references(problems: Sequence[Problem | MotionProblem], predicted: Sequence[Orbit | Motion]) -> list[Reference]:
    """The reference of each prediction, in order."""
    return [find_reference(*pair) for pair in zip(problems, predicted, strict=True)]


def find_reference(problem: Problem | MotionProblem, predicted: Orbit | Motion) -> Reference:
    """The reference of one prediction: on a line by the integral over V as it was given, else, or where that fails, certified.

    V at sensors is interpolated, as a model's own check does. To be certified, V given as text is read at a thousand places on a line, at
    129 x 129 on a surface; the error bound includes what three quarters of them would change.
    """
    if isinstance(predicted, Motion):
        q, p = predicted.bounded.solve(predicted.times)
        return Reference(q, p, None, _energies_of_motion(predicted))
    exact = exact_hamiltonians(problem.potential, predicted.system, problem.names) if isinstance(problem, Problem) else None
    energies = _energies_of_orbit(exact or predicted.hamiltonian, predicted)
    try:
        return Reference(*_solve(exact or predicted.hamiltonian, predicted), energies)
    except InputError as error:
        return Reference(None, None, None, energies, str(error))


def _solve(hamiltonian: Any, orbit: Orbit) -> tuple[np.ndarray, np.ndarray, float]:
    """q, p and the bound on their error; InputError where the bound cannot be met."""
    system = orbit.system
    if system.degrees_of_freedom == 1 and system.has_unit_mass:
        with contextlib.suppress(InputError):  # a particle that rests, leaves the domain or meets a kink
            return _by_quadrature(hamiltonian, orbit)
    if not isinstance(hamiltonian, FunctionHamiltonians):
        return _certify(hamiltonian, orbit)
    counts = _NUM_PLACES[system.degrees_of_freedom]
    fine, coarse = (_certify(system.from_sensors(hamiltonian.sense((count,) * system.degrees_of_freedom)), orbit) for count in counts)
    change = max(float(np.abs(one - other).max()) for one, other in zip(fine[:2], coarse[:2], strict=True))
    if change > _WORST:
        raise InputError(
            f"the solver has no reference: V changes so quickly that reading it at {counts[0]} places along an axis leaves an error of "
            f"{change:.2g}; make V smoother"
        )
    return fine[0], fine[1], fine[2] + change


def _by_quadrature(hamiltonian: Any, orbit: Orbit) -> tuple[np.ndarray, np.ndarray, float]:
    """The motion of unit mass on a line, by the integral over V; the bound is what its error in the period can move the particle by."""
    (low, high) = orbit.system.domain[0]
    margin = _MARGIN * (high - low)

    def potential(q: np.ndarray) -> np.ndarray:
        return hamiltonian.energy(q[None], np.zeros_like(q)[None])[0]

    motion = find_motion(potential, float(orbit.q0), float(orbit.p0), mass=1.0, domain=(low - margin, high + margin))
    q, p = motion.solve(orbit.times)
    largest, slope = float(np.abs(p).max()), float(np.abs(hamiltonian.gradient(q[None], p[None])[0]).max())
    late = motion.accuracy * float(orbit.times.max()) * max(largest, slope)
    kinks = float(np.abs(0.5 * p * p + potential(q) - motion.energy).max()) / max(largest, _TINY)  # where V has one, p is less accurate
    return q, p, _EXACT * max(motion.width, largest) + late + kinks


def _certify(hamiltonian: Any, orbit: Orbit) -> tuple[np.ndarray, np.ndarray, float]:
    system: System = orbit.system
    distinct = np.unique(orbit.times)
    solved = system.certify(hamiltonian, orbit.q0[None], orbit.p0[None], distinct[None], method=system.methods[0], tolerance=_TOLERANCE)
    if solved.rejection[0] is not None:
        raise InputError(f"the solver has no reference: it cannot certify the orbit to {_TOLERANCE:g} ({solved.rejection[0].value})")
    places = np.searchsorted(distinct, orbit.times)
    return solved.q[0, places], solved.p[0, places], float(solved.integration_error[0])


def _energies_of_orbit(hamiltonian: Any, orbit: Orbit) -> np.ndarray | None:
    try:
        with np.errstate(all="ignore"):
            return _finite(hamiltonian.energy(orbit.q[None], orbit.p[None])[0])
    except InputError:  # the prediction left the places where V has a value
        return None


def _energies_of_motion(motion: Motion) -> np.ndarray | None:
    try:
        with np.errstate(all="ignore"):
            return _finite(0.5 * motion.p**2 / motion.mass + motion.bounded.potential(motion.q))
    except InputError:
        return None


def _finite(values: np.ndarray) -> np.ndarray | None:
    return values if np.isfinite(values).all() else None
