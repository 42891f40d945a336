"""Reading the configuration: YAML files, shipped configurations and `--set` assignments."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from ...physics import InputError
from .data import DataConfig, Section
from .tree import Config
from .values import merge, validate

SHIPPED_CONFIGS = Path(__file__).parent / "shipped"


def load_config(source: str | Path | None = None, overrides: dict[str, Any] | None = None, *, given_as: str = "--config") -> Config:
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


def load_data_config(source: str | Path | None = None, overrides: dict[str, Any] | None = None) -> DataConfig:
    """The section `data` of `load_config`; loads no networks where no other section is given."""
    values = _read_yaml(source)
    if set(merge(values, overrides or {})) - {"data"}:
        return Config.build(values, overrides or {}).data
    return validate(merge(values, overrides or {}), _DataAlone, root=Config).data


def parse_assignments(assignments: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """`("training.epochs=3", ...)` -> `{"training.epochs": 3, ...}`; values are read as YAML."""
    overrides = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not key.strip():
            raise InputError(f"--set got {assignment!r}; write it as section.key=value")
        try:
            overrides[key.strip()] = _parse_value(value)
        except yaml.YAMLError:
            raise InputError(f"--set {key.strip()} got {value!r}, which is not a YAML value") from None
    return overrides


def _parse_value(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text; people mean the number
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _read_yaml(source: str | Path | None, given_as: str = "--config") -> dict[str, Any]:
    if source is None:
        return {}
    try:
        values = yaml.safe_load(_find(source).read_text())
    except OSError as error:
        raise InputError(
            f"{given_as} {str(source)!r} cannot be read ({error.strerror}); give a file, or the name of a shipped configuration: "
            f"{', '.join(sorted(path.stem for path in SHIPPED_CONFIGS.glob('*.yaml')))}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{given_as} {str(source)!r} is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{given_as} {str(source)!r} holds {type(values).__name__}; it must hold a mapping of sections")
    return values


def _find(source: str | Path) -> Path:
    """A shipped configuration is meant by its bare name, unless a file of that name exists; anything else is a path."""
    path, shipped = Path(source), SHIPPED_CONFIGS / f"{source}.yaml"
    is_name = str(source) == path.name and not path.suffix
    return shipped if is_name and shipped.is_file() and not path.is_file() else path
