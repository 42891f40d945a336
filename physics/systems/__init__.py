"""Hamiltonian systems, a file or package for each: what generation, training, evaluation and serving ask about a system.

A system is found by its name: a module of this package that exposes `SYSTEM`, or an entry point of the group
`neural_hamilton.systems` in an installed package.
"""

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points

from ..errors import InputError
from .base import Column, Drawn, Ensemble, Group, Hamiltonians, NamedCase, Names, Rejection, Shapes, System, Trajectories
from .baselines import Baseline, FixedSteps, Reconstruction, Role, States, roles, with_role
from .draws import SPLITS, Draws, between
from .imported import Imported
from .problems import Predictions, Problems
from .rows import ROWS_VERSION, Rows, draw_rows, own_columns

__all__ = [
    "ROWS_VERSION",
    "SPLITS",
    "Baseline",
    "Column",
    "Drawn",
    "Draws",
    "Ensemble",
    "FixedSteps",
    "Group",
    "Hamiltonians",
    "Imported",
    "NamedCase",
    "Names",
    "Predictions",
    "Problems",
    "Reconstruction",
    "Rejection",
    "Role",
    "Rows",
    "Shapes",
    "States",
    "System",
    "Trajectories",
    "between",
    "draw_rows",
    "get_system",
    "own_columns",
    "roles",
    "system_names",
    "with_role",
]

_GROUP = "neural_hamilton.systems"
_NOT_SYSTEMS = {
    "base", "baselines", "compiled_flow", "draws", "flow_baselines", "functions", "generic", "imported", "packed", "problems", "rows",
}  # fmt: skip


def system_names() -> list[str]:
    """The names of all systems, built in or installed."""
    own = {module.name for module in pkgutil.iter_modules(__path__)} - _NOT_SYSTEMS
    return sorted({_public(name) for name in own} | {point.name for point in entry_points(group=_GROUP)})


@cache
def get_system(name: str, field: str = "data.system") -> System:
    """The system called `name`; InputError names the choices, and the field that asked for it."""
    for point in entry_points(group=_GROUP):
        if point.name == name:
            return point.load()
    module = str(name).replace("-", "_")
    if _public(module) != name or name not in system_names():
        raise InputError(f"{field} is {name!r}; choose one of {', '.join(system_names())}")
    return importlib.import_module(f".{module}", __name__).SYSTEM


def _public(module: str) -> str:
    return module.replace("_", "-")
