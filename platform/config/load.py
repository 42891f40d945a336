"""Reading the configuration: YAML files, shipped configurations and `--set` assignments."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from ...physics import InputError
from ..storage import Location, Url, locate
from .data import DataConfig, Section
from .plain_yaml import parse_yaml
from .tree import Config
from .values import merge, validate

SHIPPED_CONFIGS = Path(__file__).parent / "shipped"


def load_config(source: str | Location | None = None, overrides: dict[str, Any] | None = None, *, given_as: str = "--config") -> Config:
    """The tree from a YAML file (a path, or the name of a shipped one) and dotted overrides, defaults elsewhere.

    Messages call the file what it was `given_as`.

    Raises
    ------
    InputError
        For an unreadable file, an unknown or ill-typed key, or a key without effect, with its path and the valid choices.
    """
    return Config.build(_read_yaml(source, given_as), overrides or {})


class _DataAlone(Section):
    data: DataConfig = Field(default_factory=DataConfig.usual)


def load_data_config(source: str | Location | None = None, overrides: dict[str, Any] | None = None) -> DataConfig:
    """The section `data` of `load_config`; loads no networks where no other section is given."""
    values = _read_yaml(source)
    if set(merge(values, overrides or {})) - {"data"}:
        return Config.build(values, overrides or {}).data
    return validate(merge(values, overrides or {}), _DataAlone, root=Config).data


def parse_assignments(assignments: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """`("training.epochs=3", ...)` -> `{"training.epochs": 3, ...}`; values are read as in a file.

    Of several assignments to a key the last one counts, as of other options. Raises InputError for what is no assignment, and for a value
    that is no YAML.
    """
    overrides = {}
    for assignment in assignments:
        key, separator, value = (part.strip() for part in assignment.partition("="))
        if not separator or not key:
            raise InputError(f"--set got {assignment!r}; write it as section.key=value")
        overrides[key] = _parse_value(key, value)
    return overrides


def _parse_value(key: str, text: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {key} got {text!r}, which is not a YAML value: {' '.join(str(error).split())}") from None


def _read_yaml(source: str | Location | None, given_as: str = "--config") -> dict[str, Any]:
    if source is None:
        return {}
    try:
        values = parse_yaml(_find(source).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"{given_as} {str(source)!r} cannot be read ({error.strerror}); give a file, or the name of a shipped configuration: "
            f"{', '.join(sorted(path.stem for path in SHIPPED_CONFIGS.glob('*.yaml')))}"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{given_as} {str(source)!r} is not text in UTF-8; save it in that encoding") from None
    except yaml.YAMLError as error:
        raise InputError(f"{given_as} {str(source)!r} is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{given_as} {str(source)!r} holds {type(values).__name__}; it must hold a mapping of sections")
    return values


def _find(source: str | Location) -> Location:
    """A shipped configuration is meant by its bare name, unless a file of that name exists; anything else is a path."""
    if isinstance(path := locate(source), Url):
        return path
    shipped = SHIPPED_CONFIGS / f"{source}.yaml"
    is_name = str(source) == path.name and not path.suffix
    return shipped if is_name and shipped.is_file() and not path.is_file() else path
