"""The architectures by name. A new one is a file of its own and one line here."""

from typing import Any

from ..physics.errors import InputError
from .deeponet import DeepONet
from .mambonet import MambONet
from .operator import ArchitectureConfig, Operator

ARCHITECTURES: dict[str, type[Operator]] = {
    "deeponet": DeepONet,
    "mambonet": MambONet,
}


def get_architecture(name: str) -> type[Operator]:
    """The class called `name`; InputError names the choices."""
    if name not in ARCHITECTURES:
        raise InputError(f"architecture.name is {name!r}; choose one of {', '.join(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name]


def parse_architecture(values: dict[str, Any]) -> ArchitectureConfig:
    """A typed config from a mapping with a `name`; a pydantic ValidationError tells what does not fit."""
    return get_architecture(str(values.get("name", ""))).Config.model_validate(values)


def build_operator(config: ArchitectureConfig) -> Operator:
    """A freshly initialised network; draws from torch's global random state."""
    try:
        return get_architecture(config.name)(config)
    except ValueError as error:
        raise InputError(f"architecture: {error}") from None
