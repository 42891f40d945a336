"""Problems as users give them - a potential, an initial state, query times - and how they become arrays.

Shapes: R problems, T query times, d degrees of freedom.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..physics import InputError
from ..physics.errors import shown
from ..physics.potentials.expressions import Expression
from ..physics.potentials.functions import FunctionPotential
from ..physics.systems import Names, System
from ..physics.systems.functions import FunctionHamiltonians
from .parameters import from_parameters, is_parameters, typical_parameters

MAX_TIMES = 10_000
MAX_POINTS = 1_000_000  # query times of one batch, all problems together: bounds memory and the size of a response
DEFAULT_TIMES = 100
_DIFFERENCE_STEP = 1 / 500  # of the domain's width
_ROUNDING = 1e-12  # of the ends of intervals, by which numbers may lie beyond them

Potential = str | Callable[..., Any] | np.ndarray | Sequence[Any] | Mapping[str, Any] | Any


@dataclass(frozen=True, eq=False)
class Problem:
    """One potential, one initial state, and the times at which q and p are wanted.

    Attributes
    ----------
    potential
        Text such as "8*(q-0.5)**2" (in q1, q2, ... with several degrees of freedom), the parameters of the system as text such as
        "mass=1, length=0.8", a function of the coordinates, V at the sensors (S,) or (S1, S2), a mapping of all fields of the
        system, or its exact `Hamiltonians` with one row.
    q0, p0
        A number with one degree of freedom, d numbers with more; None: the only state of a model that was trained for one, else 0
        for p0 and for a single q0, and the centre of the domain for several.
    times
        In any order, (T,); None: 100 uniform ones up to the horizon.
    names
        What messages call these.
    """

    potential: Potential
    q0: Any = None
    p0: Any = None
    times: Any = None
    names: Names = field(default=Names())

    @property
    def num_times(self) -> int:
        return DEFAULT_TIMES if self.times is None else int(np.size(self.times))


def exact_hamiltonians(potential: Potential, system: System, names: Names, refinement: int = 1) -> Any | None:
    """The Hamiltonian, one row, of a potential given as text, as a function or exactly; None for V at the sensors.

    The steps of the difference quotients that give the gradient of a function are divided by `refinement`.
    """
    if isinstance(potential, str) and is_parameters(potential, system):
        return from_parameters(potential, system, names.potential)
    if isinstance(potential, str) or callable(potential):
        if dict(system.fields) != {"potential": 1}:
            typical = typical_parameters(system)
            advice = f"; give its parameters, such as {typical!r}" if typical else ""
            raise InputError(
                f"{names.potential} is a formula for V, but system {system.name!r} has the fields {', '.join(system.fields)}{advice}"
            )
        if isinstance(potential, str):
            return FunctionHamiltonians([Expression(potential, system.degrees_of_freedom)], system.domain)
        steps = tuple((high - low) * _DIFFERENCE_STEP / refinement for low, high in system.domain)
        return FunctionHamiltonians([FunctionPotential(potential, steps)], system.domain)
    if hasattr(potential, "sense"):
        if len(potential) != 1:
            raise InputError(f"{names.potential} holds {len(potential)} Hamiltonians; give one, such as hamiltonians.take(np.array([0]))")
        return potential
    return None


def read_fields(problem: Problem, system: System, sensors: tuple[int, ...], exact: Any | None = None) -> dict[str, np.ndarray]:
    """The fields of one problem at the sensors, in the shapes of `Hamiltonians.sense` without the rows; `exact`: its Hamiltonian, if known.

    Raises
    ------
    InputError
        For an expression that cannot be read, or sensors of another number.
    """
    potential, name = problem.potential, problem.names.potential
    if exact is not None:
        with calling_it(name):
            return {field: values[0] for field, values in exact.sense(sensors).items()}
    given = potential if isinstance(potential, Mapping) else {"potential": potential}
    if set(given) != set(system.fields):
        raise InputError(f"{name} has the fields {', '.join(given)}; system {system.name!r} has {', '.join(system.fields)}")
    fields = {}
    for field_name, channels in system.fields.items():
        values = as_numbers(given[field_name], name)
        expected = sensors if channels == 1 else (channels, *sensors)
        if values.shape != expected and values.shape == (
            math.prod(expected),
        ):  # all of a grid in one list, the last coordinate running fastest
            values = values.reshape(expected)
        if values.shape != expected:
            raise InputError(f"{name} has {_counted(values.shape)} sensors; this model expects {_counted(expected)}")
        fields[field_name] = values
    return fields


def read_state(value: Any, system: System, name: str) -> np.ndarray:
    """q0 or p0 as a float64 number (), or (d,) with d > 1; InputError for another shape."""
    numbers = as_numbers(value, name)
    if system.degrees_of_freedom == 1 and numbers.shape in ((), (1,)):
        return numbers.reshape(())
    if numbers.shape != (system.degrees_of_freedom,) or system.degrees_of_freedom == 1:
        wanted = "one number" if system.degrees_of_freedom == 1 else f"{system.degrees_of_freedom} numbers, one for each coordinate"
        raise InputError(f"{name} is {str(value)[:60]}; give {wanted}")
    return numbers


def read_times(times: Any, horizon: float, name: str) -> np.ndarray:
    """Query times (T,) in their order; InputError unless they are 1 to 10,000 numbers between 0 and the horizon, but for rounding."""
    if times is None:
        return np.linspace(0.0, horizon, DEFAULT_TIMES)
    times = as_numbers(times, name)
    if times.ndim != 1:
        raise InputError(f"{name} is {'a single number' if times.ndim == 0 else f'of shape {times.shape}'}; give a list of numbers")
    if not 1 <= times.size <= MAX_TIMES:
        raise InputError(f"{name} has {times.size} values; give a list of 1 to {MAX_TIMES} numbers")
    times = within_rounding(times, 0.0, horizon)
    bad = np.flatnonzero(~((times >= 0.0) & (times <= horizon)))
    if bad.size:
        received = shown(times[bad[0]], 0.0, horizon)
        upper = f"be between 0 and {horizon:g}" if np.isfinite(horizon) else "be finite and not negative"
        raise InputError(f"{name}[{bad[0]}] is {received}; times must {upper}")
    return times


def within_rounding(values: np.ndarray, low: Any, high: Any) -> np.ndarray:
    """The values, with those that lie beyond an end of [low, high] by rounding moved to it."""
    if np.all((low <= values) & (values <= high)):
        return values
    slack = _ROUNDING * np.maximum(np.abs(low), np.where(np.isfinite(high), np.abs(high), 1.0))
    values = np.where((values < low) & (values >= low - slack), low, values)
    return np.where((values > high) & (values <= high + slack), high, values)


def check_number_of_times(count: int) -> None:
    """Refuse a batch with too many query times, of all its problems together."""
    if count > MAX_POINTS:
        raise InputError(f"there are {count} query times in total; at most {MAX_POINTS} are allowed in one batch")


def as_problems(potential: Any, q0: Any, p0: Any, times: Any, system: System) -> tuple[list[Problem], bool]:
    """The problems of a call `model(potential, q0, p0, times)`, and whether it asked for a batch.

    It did if any argument has one dimension more than a single problem gives it; the others then stand for every problem.
    """
    state = 0 if system.degrees_of_freedom == 1 else 1
    batched = {
        "potential": _is_batch_of_potentials(potential, system),
        "q0": _dimensions(q0) > state,
        "p0": _dimensions(p0) > state,
        "times": _dimensions(times) > 1,
    }
    given = {"potential": potential, "q0": q0, "p0": p0, "times": times}
    counts = {name: len(given[name]) for name, is_batch in batched.items() if is_batch}
    if not counts:
        return [Problem(potential, q0, p0, times)], False
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise InputError(f"a batch needs equally many of everything that varies; there are {listed}")
    problems = []
    for row in range(next(iter(counts.values()))):
        parts = {name: value[row] if batched[name] else value for name, value in given.items()}
        problems.append(Problem(**parts, names=Names(*(f"{name}[{row}]" if batched[name] else name for name in given))))
    return problems, True


def _is_batch_of_potentials(potential: Any, system: System) -> bool:
    if _is_one_potential(potential):
        return False
    if isinstance(potential, list | tuple) and any(map(_is_one_potential, potential)):
        return True
    return _dimensions(potential) > system.degrees_of_freedom


def _is_one_potential(value: Any) -> bool:
    """Whether it is a potential in any form but V at the sensors, whose dimensions must be counted."""
    return isinstance(value, str | Mapping) or callable(value) or hasattr(value, "sense")


def _dimensions(value: Any) -> int:
    """How deep lists are nested, by their first elements, or the dimensions of an array."""
    if isinstance(value, list | tuple):
        return 1 + (_dimensions(value[0]) if value else 0)
    return np.ndim(value) if value is not None else 0


def as_numbers(value: Any, name: str) -> np.ndarray:
    """A float64 array, or InputError."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        if "inhomogeneous" in str(error):
            raise InputError(f"{name} has lists of different lengths; give a full array of numbers") from None
        raise InputError(f"{name} is {str(value)[:60]!r}; give numbers") from None


def _counted(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) if shape else "no"


@contextmanager
def renaming(parts: Mapping[str, str]) -> Iterator[None]:
    """Refusals that begin with one of `parts` begin with what it stands for."""
    try:
        yield
    except InputError as error:
        subject, space, rest = str(error).partition(" ")
        raise InputError(f"{parts.get(subject, subject)}{space}{rest}") from None


def calling_it(name: str) -> AbstractContextManager[None]:
    """Refusals of an "expression ..." or a "potential ..." get the caller's name for it."""
    return renaming(dict.fromkeys(("expression", "potential"), name))
