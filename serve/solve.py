"""Certified orbits in any potential: the exact motion that a model's prediction can be compared with."""

from dataclasses import replace
from typing import Any

import numpy as np

from ..physics import InputError
from ..physics.systems import Names, Rejection, System, Trajectories, generic, get_system
from ..physics.systems.functions import FunctionHamiltonians
from .orbit import Orbit, Trust
from .problems import Potential, Problem, exact_hamiltonians, read_fields, read_state, read_times

_NAMES = Names()
_FEWEST_INTERVALS = 100  # of the span of times, each solved by at least one step


def solve(
    potential: Potential,
    q0: Any = 0.0,
    p0: Any = 0.0,
    times: Any = None,
    *,
    system: str | System = "well",
    method: str | None = None,
    tolerance: float = 1e-9,
) -> Orbit:
    """The orbit of a particle, with a certified bound on its error. Everything is dimensionless, for unit mass.

    The orbit is solved again with shorter steps until no q or p changes by more than `tolerance`; the last change is
    `orbit.integration_error`. The solution that is kept is the finer one, whose own error is a small part of this bound.

    Parameters
    ----------
    potential
        Text such as "8*(q-0.5)**2": exact in float64, with its exact gradient.
        A function V(q), or V(q1, q2, ...) with several degrees of freedom, of NumPy arrays: exact in float64, with its gradient
        by central differences of order 8. The bound then includes the change when the difference step is halved. The function
        must be defined slightly beyond the domain.
        V at uniform sensors, (S,) or (S1, S2): interpolated as for a model.
        An exact Hamiltonian with one row, such as `dataset.hamiltonians.take(np.array([0]))`, or the parameters of the system as
        text such as "mass=1, length=0.8".
    q0, p0
        Initial state, inside the domain: a number each, or d numbers with d degrees of freedom.
    times
        Query times in any order, (T,); by default 100 uniform ones up to the system's horizon, which they may exceed.
    system
        A system, or its name.
    method
        How the orbit in V at sensors or in an exact Hamiltonian is certified, one of `system.methods`. Text and functions are
        always solved by Dormand and Prince's method of order 8.
    tolerance
        Largest accepted bound.

    Returns
    -------
    Orbit
        With `integration_error`, and `trust.energy_drift` of the solution.

    Raises
    ------
    InputError
        For arguments that make no sense, a particle that leaves the domain, or an orbit that cannot be certified.
    """
    system = system if isinstance(system, System) else get_system(system, "system")
    if not 0.0 < tolerance < np.inf:
        raise InputError(f"tolerance is {tolerance}; it must be positive and finite")
    asked = read_times(np.linspace(0.0, system.horizon, 100) if times is None else times, np.inf, _NAMES.times)
    start = (read_state(q0, system, _NAMES.q0)[None], read_state(p0, system, _NAMES.p0)[None])
    hamiltonians = exact_hamiltonians(potential, system, _NAMES) or _interpolate(potential, system)
    System.check_initial_state(system, hamiltonians, start[0], start[1], [_NAMES])  # not that V is one the system's networks know
    if isinstance(hamiltonians, FunctionHamiltonians):
        if method is not None:
            raise InputError(f"method is {method!r}; a formula or a function is always solved by dop853")
        orbits = _certify_function(system, potential, hamiltonians, start, asked, tolerance)
    else:
        distinct = np.unique(asked)[None]
        orbits = system.certify(hamiltonians, *start, distinct, method=method or system.methods[0], tolerance=tolerance)
    rejection = orbits.rejection[0]
    if rejection is not None:
        raise InputError(f"the orbit cannot be certified to {tolerance:g} ({rejection.value}); {_ADVICE}")
    places = np.searchsorted(orbits.times[0], asked)
    trust = Trust(float(orbits.energy_drift[0]), None, "solver", reference_error=float(orbits.integration_error[0]))
    error = float(orbits.integration_error[0])
    state = (orbits.q[0, places], orbits.p[0, places], start[0][0], start[1][0])
    return Orbit(asked, *state, trust, error, system=system, hamiltonians=hamiltonians)


_ADVICE = "soften the potential, ask for shorter times, start where the particle stays inside the domain, or accept a larger tolerance"


def _interpolate(potential: Any, system: System) -> Any:
    """V at uniform sensors of any number as Hamiltonians with one row."""
    values = np.asarray(potential, dtype=np.float64)
    sensors = values.shape[-system.degrees_of_freedom :]
    fields = read_fields(Problem(values), system, sensors)
    return system.from_sensors({name: row[None] for name, row in fields.items()})


def _certify_function(
    system: System,
    potential: Potential,
    hamiltonians: FunctionHamiltonians,
    start: tuple[np.ndarray, np.ndarray],
    asked: np.ndarray,
    tolerance: float,
) -> Trajectories:
    """The certified orbit in a potential given as text or as a function, with the error of its gradient in the certificate."""
    span = max(float(asked.max()), np.finfo(float).tiny)
    times = np.union1d(asked, np.linspace(0.0, span, _FEWEST_INTERVALS + 1))[None]
    scale = system.energy_scale(system.from_sensors(hamiltonians.sense((system.default_sensors,) * system.degrees_of_freedom)))
    orbits = generic.certify(hamiltonians, *start, times, domain=system.domain, energy_scale=scale, tolerance=tolerance)
    if isinstance(potential, str) or orbits.rejection[0] is not None:
        return orbits
    finer = exact_hamiltonians(potential, system, _NAMES, refinement=2)
    again = generic.certify(finer, *start, times, domain=system.domain, energy_scale=scale, tolerance=tolerance)
    change = max(float(np.max(np.abs(a - b))) for a, b in ((again.q, orbits.q), (again.p, orbits.p)))
    error = again.integration_error + change
    rejection = again.rejection[0] or (None if error[0] <= tolerance else Rejection.NOT_CERTIFIED)
    return replace(again, integration_error=error, rejection=[rejection])
