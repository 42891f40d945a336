"""Plain values of a configuration: merged with dotted overrides, validated, and a sentence for whatever does not fit."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ...physics import InputError
from ...physics.errors import unknown_key
from .data import start_data

DEFAULT_ARCHITECTURE = "mambonet"

# Keys of earlier versions, and what to write today.
_RENAMED = {
    "data.preset": "it is called data.ensemble now",
    **{f"data.{key}": f"it is called data.ensemble.{key} now" for key in ("control_points", "length_scale", "depth")},
    "training.decay_share": "it is called training.decay_fraction now",
}

_Tree = TypeVar("_Tree", bound=BaseModel)


def merge(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A copy of the nested `values` with dotted keys replaced."""
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    if isinstance(merged.get("architecture"), dict):
        merged["architecture"] = _start_architecture(merged["architecture"], overrides)
    if isinstance(merged.get("data"), dict):
        merged["data"] = start_data(merged["data"], overrides)
    for dotted, value in overrides.items():
        *parents, leaf = dotted.split(".")
        node = merged
        for depth, parent in enumerate(parents):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise InputError(f"{dotted} does not exist: {'.'.join(parents[: depth + 1])} is a value, not a section")
        node[leaf] = value
    return merged


def _start_architecture(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """The sizes that an override leaves standing: another architecture or preset starts from its own."""
    name, preset = overrides.get("architecture.name"), overrides.get("architecture.preset")
    if name is not None and values.get("name", name) != name:
        return {}
    if preset is not None and values.get("preset") != preset:
        return {key: value for key, value in values.items() if key == "name"}
    return dict(values)


def without(values: dict[str, Any], dotted_keys: list[str]) -> dict[str, Any]:
    """A copy of `values`, two levels deep, without some `section.key`."""
    gone = {tuple(key.split(".")) for key in dotted_keys}
    return {
        section: {key: value for key, value in keys.items() if (section, key) not in gone} if isinstance(keys, dict) else keys
        for section, keys in values.items()
    }


def validate(values: dict[str, Any], tree: type[_Tree], root: type[BaseModel] | None = None) -> _Tree:
    """`values` as a `tree`; InputError names each wrong key with its path. `root` is where valid keys are looked up."""
    try:
        validated = tree.model_validate(values)
    except ValidationError as error:
        raise InputError("; ".join(_describe(problem, values, root or tree) for problem in error.errors())) from None
    if booleans := _booleans_as_numbers(values, validated.model_dump()):
        raise InputError("; ".join(f"{key} is {str(value).lower()}; give a number" for key, value in booleans.items()))
    return validated


def _booleans_as_numbers(given: Any, validated: Any, path: str = "") -> dict[str, bool]:
    """The booleans among the given values that became numbers, by dotted key: Pydantic takes true for 1."""
    if isinstance(given, bool):
        return {path: given} if isinstance(validated, int | float) and not isinstance(validated, bool) else {}
    if isinstance(given, dict) and isinstance(validated, dict):
        pairs = [(key, value, validated[key]) for key, value in given.items() if key in validated]
    elif isinstance(given, list | tuple) and isinstance(validated, list | tuple):
        pairs = [(str(index), value, result) for index, (value, result) in enumerate(zip(given, validated, strict=False))]
    else:
        return {}
    found: dict[str, bool] = {}
    for key, value, result in pairs:
        found |= _booleans_as_numbers(value, result, f"{path}.{key}" if path else key)
    return found


def _describe(problem: Any, values: dict[str, Any], root: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location) or "configuration"
    if problem["type"] == "extra_forbidden":
        if path in _RENAMED:
            return f"{path} is not a known key; {_RENAMED[path]}"
        return unknown_key(path, _valid_keys(location[:-1], values, root))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("value_error", "model_type", "model_attributes_type"):
        return f"{path}: {message}" if location and not message.startswith(f"{location[0]}.") else message
    return f"{path} is {problem['input']!r}; {message[0].lower()}{message[1:]}"


def _valid_keys(section: list[str], values: dict[str, Any], root: type[BaseModel]) -> list[str]:
    model: Any = root
    for part in section:
        if part == "architecture":
            from ...architectures import get_architecture

            model = get_architecture(values.get("architecture", {}).get("name", DEFAULT_ARCHITECTURE)).Config
        else:
            model = model.model_fields[part].annotation
    return sorted([*model.model_fields, *(["preset"] if section == ["architecture"] else [])])
