"""Hamiltonians given by their parameters, such as "mass=1, length=0.8": text for systems that no formula for V describes."""

from functools import cache
from typing import Any

from ..physics import InputError
from ..physics.errors import shown
from ..physics.systems import System

Ranges = dict[str, tuple[float, float]]


@cache
def parameters_of(system: System) -> Ranges:
    """The parameters of a system and their ranges, those of its default ensemble; empty where a few numbers do not make a Hamiltonian.

    A parameter is a column that the ensemble draws from the range of the same name.
    """
    if not system.ensembles:
        return {}
    drawn = vars(next(iter(system.ensembles.values()))())
    names = [column.name for column in system.columns if column.kind == "float64" and isinstance(drawn.get(column.name), tuple)]
    if not names:
        return {}
    ranges = {name: (float(drawn[name][0]), float(drawn[name][1])) for name in names}
    try:
        _rebuild(system, {name: low for name, (low, _) in ranges.items()})
    except KeyError:  # it needs more than its parameters
        return {}
    return ranges


def is_parameters(text: str, system: System) -> bool:
    """Whether text is meant as parameters; no formula holds an equals sign."""
    return "=" in text and bool(parameters_of(system))


def from_parameters(text: str, system: System, name: str) -> Any:
    """The Hamiltonian, one row, of text such as "mass=1, length=0.8"; InputError, which calls the text `name`, for any other text."""
    ranges = parameters_of(system)
    parts = [part.partition("=") for part in text.split(",")]
    values: dict[str, float] = {}
    for key, _, number in parts:
        try:
            values[key.strip()] = float(number)
        except ValueError:
            break
    if len(parts) != len(values) or values.keys() != ranges.keys():
        example = typical_parameters(system)
        raise InputError(f"{name} is {text[:100]!r}; give each parameter of system {system.name!r} once, such as {example!r}")
    for key, (low, high) in ranges.items():
        if not low <= values[key] <= high:
            raise InputError(f"{name} has {key} = {shown(values[key], low, high)}; it must be between {low:g} and {high:g}")
    return _rebuild(system, values)


def typical_parameters(system: System) -> str:
    """Text with every parameter, each in the middle of its range by factors: where ranges are the same above and below 1, that is 1."""
    return ", ".join(f"{name}={_middle(low, high):.3g}" for name, (low, high) in parameters_of(system).items())


def _middle(low: float, high: float) -> float:
    return (low * high) ** 0.5 if low > 0.0 else 0.5 * (low + high)


def _rebuild(system: System, values: dict[str, float]) -> Any:
    return system.rebuild({name: [value] for name, value in values.items()})
