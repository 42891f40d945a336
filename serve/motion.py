"""Motion in anyone's potential and units: reduced to a well that a network was trained on, predicted there, and given back.

A bounded motion along a line is that of unit mass from rest at one wall of a well, again and again (`physics.bounded_motion`). The
network predicts one swing; the turning points and the period are integrals over the potential itself, so errors do not grow with time.

Shapes: T query times.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..physics import InputError
from ..physics.bounded_motion import BoundedMotion, check_units, find_motion
from ..physics.errors import shown
from ..physics.potentials.expressions import Expression
from ..physics.potentials.functions import FunctionPotential
from ..physics.potentials.tables import TablePotential, is_table_path, read_table
from ..platform.storage import Location
from .orbit import Orbit, Trust, Verdict, Verify, finite_or_none, judge
from .problems import DEFAULT_TIMES, Problem, as_numbers, check_number_of_times, read_times, renaming, within_rounding
from .shipped import SHIPPED_MODELS, accepts, find_model, most_accurate_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .client import Client
    from .model import Model

_PART_OF_HORIZON = 0.999  # that a swing may take
_PLACES = 4_001  # at which a well is compared with what its sensors make of it

LinePotential = str | Path | Callable[..., Any] | np.ndarray | Sequence[Any]


@dataclass(frozen=True)
class MotionNames:
    """What messages call the parts of a problem."""

    potential: str = "potential"
    parameters: str = "parameters"
    domain: str = "domain"
    mass: str = "mass"
    q0: str = "q0"
    p0: str = "p0"
    times: str = "times"
    until: str = "until"

    def in_messages(self) -> AbstractContextManager[None]:
        """What the physics refuses inside, by these names."""
        parts = {name: getattr(self, name) for name in ("domain", "mass", "q0", "p0")}
        return renaming(parts | {"parameter": self.parameters} | dict.fromkeys(("expression", "potential", "table"), self.potential))


@dataclass(frozen=True, eq=False)
class MotionProblem:
    """A particle of any mass in a potential on a line, in any units; see `motion` for the arguments.

    Without `times` there are `uniform_times` up to `until`, or over one period.
    """

    potential: LinePotential
    q0: Any
    p0: Any = 0.0
    times: Any = None
    until: float | None = None
    uniform_times: int = DEFAULT_TIMES
    mass: float = 1.0
    domain: Sequence[float] | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    names: MotionNames = field(default=MotionNames())

    @property
    def num_times(self) -> int:
        return self.uniform_times if self.times is None else int(np.size(self.times))


@dataclass(frozen=True, eq=False)
class Motion:
    """A bounded motion in the units of its potential.

    Attributes
    ----------
    times, q, p
        Query times as they were given, positions and momenta, (T,).
    time_scale
        The user's time that is one unit of the network's.
    trust
        `energy_drift` and `sensor_error` are relative to the energy above the lowest point; `solver_error` and `reference_error` to the
        distance L between the turning points, and for p to mass L / time_scale. The reference is the solution by quadrature.
    model
        The folder of the network, or its address at an endpoint.
    domain
        Where the potential is known.
    """

    times: np.ndarray
    q: np.ndarray
    p: np.ndarray
    time_scale: float
    trust: Trust
    model: Location | str
    domain: tuple[float, float]
    bounded: BoundedMotion = field(repr=False)

    @property
    def period(self) -> float:
        return self.bounded.period

    @property
    def turning_points(self) -> tuple[float, float]:
        return self.bounded.turning_points

    @property
    def energy(self) -> float:
        return self.bounded.energy

    @property
    def mass(self) -> float:
        return self.bounded.mass

    def __repr__(self) -> str:
        left, right = self.turning_points
        return f"Motion({len(self)} times, period {self.period:.6g}, between q = {left:.6g} and {right:.6g}, {self.trust})"

    def __len__(self) -> int:
        return self.times.size

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The trajectory as columns (T,): t, q, p."""
        return {"t": self.times, "q": self.q, "p": self.p}

    def plot(self, title: str = "") -> "Figure":
        """A matplotlib figure: the potential with the energy, the phase portrait, q(t) and p(t)."""
        from .figure import plot_motion

        return plot_motion(self, title)


def motion(
    potential: LinePotential,
    q0: float,
    p0: float = 0.0,
    times: Any = None,
    *,
    mass: float = 1.0,
    domain: Sequence[float] | None = None,
    parameters: Mapping[str, float] | None = None,
    model: "str | Location | Model | Client | None" = None,
    verify: Verify = "energy",
) -> Motion:
    """The motion of a particle along a line, in your own units and for any times.

    Parameters
    ----------
    potential
        Text such as "D*(1-exp(-a*(q-r)))**2" with `parameters`; a function of arrays; or points (x, U) as an array (N, 2) or a file
        (.csv, .txt, .npy), joined by a cubic spline.
    q0, p0
        Where the particle is at t = 0, inside the domain, and its momentum.
    times
        Query times in any order, (T,); by default 100 uniform ones over a period.
    mass
        In units that make p²/2 mass an energy as the potential is one.
    domain
        Where the potential is known, (smallest, largest); of a table, by default, from its first point to its last. The particle may
        not leave it.
    parameters
        Numbers for the names in the text.
    model
        A `Model`, a model folder or the name of a shipped model, trained for wells from rest at the wall; or a `Client` of an endpoint
        that serves one. By default the most accurate that is shipped.
    verify
        "none" runs the network alone. "energy" replaces a prediction by the solution by quadrature where its energy drift, or what the
        sensors cannot resolve, exceeds the model's calibrated threshold, or where it is not at the other turning point after half a
        period; "solver" compares all of it.

    Raises
    ------
    InputError
        For a motion that is not bounded by the domain or too close to a separatrix, with the energy and the place; and for arguments
        that make no sense.
    """
    if model is None or isinstance(model, str | Location):
        from .model import Model

        model = Model(find_well_model(model))
    problem = MotionProblem(potential, q0, p0, times, mass=mass, domain=domain, parameters=parameters or {})
    return predict_motions(model, [problem], verify)[0]


def find_well_model(model: str | Location | None) -> Location:
    """The folder of a model given by folder or name; None: the most accurate shipped one that predicts motions."""
    return SHIPPED_MODELS / most_accurate_model("well", 0.0, 0.0) if model is None else find_model(model)


def predict_motions(model: "Model | Client", problems: Sequence[MotionProblem], verify: Verify = "energy") -> list[Motion]:
    """One motion for each problem, in order; InputError as `motion`, with the problem's own names."""
    if not predicts_motions(model):
        raise InputError(
            f"the model in {str(model.folder)!r} was not trained for particles that start at rest at the wall of a well, to which motions "
            "in other units are reduced; use one that was, such as orbitnet"
        )
    reduced = [_Reduced.of(problem, model) for problem in problems]
    known = [one for one in reduced if one.is_known]
    if verify == "none" and len(known) < len(reduced):
        raise InputError(next(one for one in reduced if not one.is_known).too_slow)
    sensors = np.linspace(0.0, 1.0, model.task.num_sensors)
    orbits = iter(model.predict([Problem(one.well(sensors), 0.0, 0.0, one.times_of_the_network) for one in known], "none"))
    return [one.conclude(model, next(orbits) if one.is_known else None, verify) for one in reduced]


def predicts_motions(model: "Model | Client") -> bool:
    """Whether a model was trained for what motions in other units are reduced to: wells, from rest at the wall."""
    return model.system.equivalent_well is not None and accepts(model.trained_for, 0.0, 0.0)


def predict_all(model: "Model", problems: Sequence[Problem | MotionProblem], verify: Verify) -> list[Orbit | Motion]:
    """Problems in the model's units and in others, together and in order."""
    check_number_of_times(sum(problem.num_times for problem in problems))
    own = [problem for problem in problems if isinstance(problem, MotionProblem)]
    orbits = iter(model.predict([problem for problem in problems if isinstance(problem, Problem)], verify))
    motions = iter(predict_motions(model, own, verify) if own else ())
    return [next(motions) if isinstance(problem, MotionProblem) else next(orbits) for problem in problems]


def map_potential_of_motion(problem: MotionProblem, num_places: int) -> tuple[tuple[float, float], np.ndarray, float | None]:
    """The domain, U at uniform places over it (N,), and the energy of the particle; None without a q0. Its motion may be unbounded.

    Raises
    ------
    InputError
        For a potential that cannot be read or is not finite everywhere in the domain, or a particle outside it.
    """
    names = problem.names
    with names.in_messages():
        potential, (low, high) = _read_potential(problem)
        check_units((low, high), mass := _read_number(problem.mass, names.mass))
        values = potential(np.linspace(low, high, num_places))
        if problem.q0 is None:
            return (low, high), values, None
        q0, p0 = _read_number(problem.q0, names.q0), _read_number(problem.p0, names.p0)
        if not low <= q0 <= high:
            raise InputError(f"{names.q0} is {shown(q0, low, high)}; it must lie in the domain, from {low:g} to {high:g}")
        energy = 0.5 * p0 / mass * p0 + float(potential(np.array([q0]))[0])
    if not np.isfinite(energy):
        raise InputError(f"{names.p0} is too large: the energy of the particle is {energy}")
    return (low, high), values, energy


@dataclass(frozen=True, eq=False)
class _Reduced:
    """A problem with its motion, and the time scale that makes it one that the network knows."""

    bounded: BoundedMotion
    domain: tuple[float, float]
    times: np.ndarray
    time_scale: float
    is_known: bool
    names: MotionNames
    wall_height: float

    @classmethod
    def of(cls, problem: MotionProblem, model: "Model | Client") -> "_Reduced":
        names = problem.names
        q0, p0 = _read_number(problem.q0, names.q0), _read_number(problem.p0, names.p0)
        mass = _read_number(problem.mass, names.mass)
        with names.in_messages():
            potential, domain = _read_potential(problem)
            bounded = find_motion(potential, q0, p0, mass=mass, domain=domain)
        well = model.system.equivalent_well
        assert well is not None
        per_root_depth = bounded.width * math.sqrt(bounded.mass / bounded.depth)
        fastest = bounded.half_period / (_PART_OF_HORIZON * model.task.horizon)
        scale = max(math.sqrt(well.usual_depth) * per_root_depth, fastest)
        is_known = (scale / per_root_depth) ** 2 <= well.largest_depth
        return cls(bounded, domain, _read_times(problem, bounded.period), scale, is_known, names, well.wall_height)

    @property
    def well(self) -> Callable[[np.ndarray], np.ndarray]:
        return self.bounded.well(self.time_scale, self.wall_height)

    @property
    def times_of_the_network(self) -> np.ndarray:
        """When the network is asked, (T + 1,): the last time is that of half a period, when the particle must be at the other wall."""
        return np.append(self.bounded.fold(self.times).since_left, self.bounded.half_period) / self.time_scale

    @property
    def momentum(self) -> float:
        """The user's momentum that is one unit of the network's."""
        return self.bounded.mass * self.bounded.width / self.time_scale

    @property
    def too_slow(self) -> str:
        left, right = self.bounded.turning_points
        return (
            f"{self.names.q0} and {self.names.p0} give a motion of energy {self.bounded.energy:.9g} that is too slow for the network, "
            f"over a plateau or near a separatrix: it takes {self.bounded.half_period:.6g} from q = {left:.6g} to {right:.6g}; with verify "
            "energy or solver it is solved instead"
        )

    def conclude(self, model: "Model | Client", orbit: Orbit | None, verify: Verify) -> Motion:
        """The network's swing in the user's units, or the solution by quadrature where that is to be trusted more."""
        bounded = self.bounded
        left, width = bounded.turning_points[0], bounded.width
        q = p = None
        difference, error, trusted = np.nan, np.nan, False
        drift = unresolved = np.nan
        if orbit is not None and orbit.trust.source == "model":
            q, p = left + width * orbit.q[:-1], self.momentum * bounded.fold(self.times).direction * orbit.p[:-1]
            if verify != "none":
                drift, unresolved = self._drift(q, p), self._sensor_error(model)
            limit = np.inf if model.drift_threshold is None else model.drift_threshold
            # Energy does not notice a swing that is too slow or too fast, nor a time so far that nobody can tell the phase.
            late = max(abs(orbit.q[-1] - 1.0), abs(orbit.p[-1]), bounded.error_after(self.times))
            trusted = verify == "none" or (drift <= limit and not unresolved > limit and late <= model.solver_threshold)
        verdict: Verdict | None = None if verify == "none" else "accepted"
        if verify == "solver" or not trusted:
            exact_q, exact_p = bounded.solve(self.times)
            error = bounded.error_after(self.times)
            verdict = "replaced"
            if q is not None and p is not None:
                difference = float(max(np.abs(q - exact_q).max() / width, np.abs(p - exact_p).max() / self.momentum))
                verdict = judge(difference, error, model.solver_threshold, verify)
            if verdict == "replaced":
                q, p = exact_q, exact_p
                drift = self._drift(q, p)
        assert q is not None and p is not None
        trust = Trust(
            energy_drift=None if verify == "none" else drift,
            solver_error=finite_or_none(difference) if verify == "solver" else None,
            source="solver" if verdict == "replaced" else "model",
            reference_error=finite_or_none(error),
            sensor_error=finite_or_none(unresolved),
            verdict=verdict,
        )
        return Motion(self.times, q, p, self.time_scale, trust, model.folder, self.domain, bounded)

    def _sensor_error(self, model: "Model | Client") -> float:
        """See `Trust.sensor_error`."""
        sensors = np.linspace(0.0, 1.0, model.task.num_sensors)
        sensed = model.system.from_sensors({"potential": self.well(sensors)[None]})
        places = np.linspace(0.0, 1.0, _PLACES)
        interpolated = sensed.sense((_PLACES,))["potential"][0]
        return float(np.abs(self.well(places) - interpolated).max() * self._energy / self.bounded.depth)

    @property
    def _energy(self) -> float:
        """The user's energy that is one unit of the network's."""
        return self.bounded.mass * (self.bounded.width / self.time_scale) ** 2

    def _drift(self, q: np.ndarray, p: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            energy = 0.5 * p * p / self.bounded.mass + self.bounded.potential(q)
        return float(np.abs(energy - self.bounded.energy).max() / self.bounded.depth)


def _read_potential(problem: MotionProblem) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[float, float]]:
    """U as a function of places, and the domain."""
    potential, names, domain = problem.potential, problem.names, problem.domain
    if isinstance(potential, Path) or (isinstance(potential, str) and is_table_path(potential)):
        potential = read_table(potential)
    elif not isinstance(potential, str) and not callable(potential):
        potential = TablePotential(as_numbers(potential, names.potential))
    if problem.parameters and not isinstance(potential, str):
        raise InputError(f"{names.parameters} are {', '.join(problem.parameters)}; they belong to a potential given as text")
    if isinstance(potential, TablePotential):
        first, last = potential.domain
        low, high = (first, last) if domain is None else within_rounding(np.array(_read_domain(domain, names)), first, last).tolist()
        if low < first or high > last:
            received = f"({shown(low, first)}, {shown(high, last)})"
            raise InputError(f"{names.domain} is {received}; the table has points from {first:g} to {last:g}, and the domain lies within")
        return potential.value, (low, high)
    low, high = _read_domain(domain, names)
    if isinstance(potential, str):
        return Expression(potential, parameters=problem.parameters).value, (low, high)
    return FunctionPotential(potential, (high - low,)).value, (low, high)  # its gradient is not asked for


def _read_times(problem: MotionProblem, period: float) -> np.ndarray:
    if problem.times is not None:
        return read_times(problem.times, np.inf, problem.names.times)
    until = period if problem.until is None else problem.until
    if not 0.0 < until < np.inf:
        raise InputError(f"{problem.names.until} is {until:g}; it must be positive and finite")
    return np.linspace(0.0, until, problem.uniform_times)


def _read_number(value: Any, name: str) -> float:
    numbers = as_numbers(value, name)
    if numbers.size != 1:
        raise InputError(f"{name} is {str(value)[:60]}; give one number")
    return float(numbers.ravel()[0])


def _read_domain(domain: Any, names: MotionNames) -> tuple[float, float]:
    if domain is None or np.shape(domain) != (2,):
        raise InputError(f"{names.domain} is {domain}; give two numbers between which the particle moves, the smaller first")
    low, high = as_numbers(domain, names.domain).tolist()
    return low, high
