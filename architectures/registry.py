"""The architectures by name: one file `architectures/<name>.py` each, or an entry point of another package.

A file that assigns `ARCHITECTURE` is found without being listed anywhere. Another package registers its class under the group
`neural_hamilton.architectures`, by the name that its configuration carries. Nothing is imported before it is asked for.
"""

import importlib
import importlib.metadata
import pkgutil
import sys
from typing import Any

from ..physics.errors import InputError
from .operator import ArchitectureConfig, Operator
from .task import Task

ENTRY_POINTS = "neural_hamilton.architectures"
_NEEDS_PYTEST = "testing"  # a module here that is imported by tests alone

_REMOVED_KEYS = {
    "num_sensors": "the dataset decides; choose the number of sensors with data.sensors when you generate it",
    "orbit": "use the architecture orbitnet in place of orbit: solved, and mambonet with phase_angle: true in place of orbit: angle",
}


def available_architectures() -> tuple[str, ...]:
    """The names of all architectures, those of other packages included."""
    return tuple(sorted({*_own(), *_entry_points()}))


def get_architecture(name: str) -> type[Operator]:
    """The class called `name`.

    Raises
    ------
    InputError
        Where there is none; the message lists the names. Also where the package that registers it cannot be imported.
    """
    if name in _modules():
        found = getattr(importlib.import_module(f".{name}", __package__), "ARCHITECTURE", None)
        if found is not None:
            return found
    entry = _entry_points().get(name)
    if entry is None:
        raise InputError(f"architecture.name is {name!r}; choose one of {', '.join(available_architectures())}")
    try:
        return entry.load()
    except Exception as error:
        raise InputError(f"architecture.name is {name!r}; its entry point {entry.value!r} cannot be loaded: {error}") from error


def parse_architecture(values: dict[str, Any]) -> ArchitectureConfig:
    """A typed configuration from a mapping with a `name`; a pydantic ValidationError says what does not fit.

    A `preset` in it gives the values that it does not name itself, and is not in the result: what is saved are sizes, which
    a later change of the preset cannot alter.
    """
    config = get_architecture(str(values.get("name", ""))).Config
    explicit = {key: value for key, value in values.items() if key != "preset"}
    for key in explicit.keys() & _REMOVED_KEYS.keys() - config.model_fields.keys():
        raise InputError(f"architecture.{key} is {explicit[key]!r}, but is not a key of {values['name']}: {_REMOVED_KEYS[key]}")
    preset = values.get("preset", "default")
    if not isinstance(preset, str) or preset not in config.presets:
        raise InputError(f"architecture.preset is {preset!r}; {values['name']} has {', '.join(sorted(config.presets))}")
    return config.model_validate(config.presets[preset] | explicit)


def build_operator(config: ArchitectureConfig, task: Task) -> Operator:
    """A freshly initialised network for `task`; draws from torch's global random state.

    Raises
    ------
    InputError
        Where the architecture cannot be built for this task; the message names what it supports.
    """
    architecture = get_architecture(config.name)
    reason = architecture.why_not(config, task)
    if reason is not None:
        raise InputError(f"architecture: {reason}")
    return architecture(config, task)


def _own() -> list[str]:
    """The modules of this package that assign ARCHITECTURE."""
    return [name for name in _modules() if hasattr(importlib.import_module(f".{name}", __package__), "ARCHITECTURE")]


def _modules() -> list[str]:
    folders = sys.modules[__name__.rpartition(".")[0]].__path__
    return [module.name for module in pkgutil.iter_modules(folders) if not module.ispkg and module.name != _NEEDS_PYTEST]


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
