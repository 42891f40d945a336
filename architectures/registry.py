"""The architectures by name. A new one is a file of its own and one line here."""

from typing import Any

from ..physics.errors import InputError
from .deeponet import DeepONet
from .fno import FNO
from .mambonet import MambONet
from .operator import ArchitectureConfig, Operator
from .traonet import TraONet
from .varonet import VaRONet

ARCHITECTURES: dict[str, type[Operator]] = {
    "deeponet": DeepONet,
    "fno": FNO,
    "mambonet": MambONet,
    "traonet": TraONet,
    "varonet": VaRONet,
}


def get_architecture(name: str) -> type[Operator]:
    """The class called `name`; InputError names the choices."""
    if name not in ARCHITECTURES:
        raise InputError(f"architecture.name is {name!r}; choose one of {', '.join(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name]


def parse_architecture(values: dict[str, Any]) -> ArchitectureConfig:
    """A typed config from a mapping with a `name`; a pydantic ValidationError tells what does not fit.

    A `preset` in it gives the values it does not name itself, and is gone from the result: what is saved are
    sizes, which a later change of the preset cannot alter.
    """
    config = get_architecture(str(values.get("name", ""))).Config
    explicit = {key: value for key, value in values.items() if key != "preset"}
    preset = values.get("preset", "default")
    if not isinstance(preset, str) or preset not in config.presets:
        raise InputError(f"architecture.preset is {preset!r}; {values['name']} has {', '.join(sorted(config.presets))}")
    return config.model_validate(config.presets[preset] | explicit)


def build_operator(config: ArchitectureConfig) -> Operator:
    """A freshly initialised network; draws from torch's global random state."""
    try:
        return get_architecture(config.name)(config)
    except ValueError as error:
        raise InputError(f"architecture: {error}") from None
