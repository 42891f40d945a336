"""`python docs/generate.py [--check]`: fill the reference pages' tables from the code.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->` in docs/reference/; everything else there is written by hand.
With --check nothing is written, and the exit code is 1 where a page is out of date.
"""

import dataclasses
import importlib.metadata
import json
import re
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
from pydantic import BaseModel  # noqa: E402
from pydantic.fields import FieldInfo  # noqa: E402
from pydantic_core import PydanticUndefined  # noqa: E402

from neural_hamilton.architectures import (  # noqa: E402
    ArchitectureConfig,
    DirectConfig,
    available_architectures,
    get_architecture,
    parse_architecture,
    read_card,
)
from neural_hamilton.physics.systems import get_system, system_names  # noqa: E402
from neural_hamilton.platform.cli import cli  # noqa: E402
from neural_hamilton.platform.config.data import DataConfig  # noqa: E402
from neural_hamilton.platform.config.tree import Config  # noqa: E402
from neural_hamilton.platform.data.schema import dataset_schema  # noqa: E402
from neural_hamilton.platform.evaluation.benchmark import TASKS  # noqa: E402

REFERENCE = ROOT / "docs" / "reference"
SHIPPED = ROOT / "platform" / "config" / "shipped"
MODELS = ROOT / "serve" / "models"
LEADERBOARD = ROOT / "benchmarks" / "results" / "leaderboard"
_HELP_WIDTH = 100
_TABLE = re.compile(r"<!-- begin ([\w-]+) -->\n.*?<!-- end \1 -->", re.DOTALL)

# Of the columns that every system has; a system describes its own.
COLUMNS = {
    "trajectory_id": "unique within the dataset",
    "potential_id": "rows with the same potential share it; no potential appears in two splits",
    "potential": "V at the S sensors, exactly as the network receives it",
    "times": "the T query times",
    "q": "true position at the query times",
    "p": "true momentum at the query times",
    "q0": "initial position",
    "p0": "initial momentum",
    "energy": "H of the initial state",
    "integration_error": "certified bound of the error of q and p over the row",
    "energy_drift": "maximum of abs(H - H0) over the trajectory, divided by the system's energy scale",
}


def main(arguments: list[str]) -> int:
    stale = []
    for page in sorted(REFERENCE.glob("*.md")):
        text = page.read_text()
        filled = _TABLE.sub(_fill, text)
        if filled != text:
            stale.append(page.relative_to(ROOT))
            if "--check" not in arguments:
                page.write_text(filled)
    for page in stale:
        print(f"{page} was out of date" if "--check" not in arguments else f"{page} is out of date; run python docs/generate.py")
    return 1 if stale and "--check" in arguments else 0


def _fill(match: re.Match[str]) -> str:
    name = match[1]
    if name not in TABLES:
        raise ValueError(f"table is {name!r}; choose one of {', '.join(TABLES)}")
    return f"<!-- begin {name} -->\n{TABLES[name]()}\n<!-- end {name} -->"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def configuration() -> str:
    """A table of keys for each section of the tree but `architecture`."""
    parts = []
    for name, field in Config.model_fields.items():
        if name != "architecture":
            section = field.annotation
            assert isinstance(section, type)
            assert issubclass(section, BaseModel)
            parts.append(f"## `{name}`\n\n{_keys(section, f'{name}.')}")
    return "\n\n".join(parts)


def architectures() -> str:
    """The keys of all architectures that predict q and p directly, then each one's own, with its presets."""
    common = set(DirectConfig.model_fields)
    direct = [name for name in available_architectures() if issubclass(get_architecture(name).Config, DirectConfig)]
    parts = [f"### Common to {', '.join(f'`{name}`' for name in direct)}\n\n{_keys(DirectConfig, 'architecture.')}"]
    for name in available_architectures():
        operator = get_architecture(name)
        parts.append(f"### `{name}`\n\n{_keys(operator.Config, 'architecture.', common)}")
        for preset, values in operator.Config.presets.items():
            if values:
                sizes = ", ".join(f"`{key}: {_value(value)}`" for key, value in values.items())
                parts.append(f"Preset `{preset}`: {sizes}.")
    return "\n\n".join(parts)


def _keys(section: type[BaseModel], prefix: str, without: set[str] = frozenset()) -> str:
    rows = [
        [f"`{key}`", _type(field.annotation, field), _default(field), field.description or ""]
        for key, field in _fields(section, prefix)
        if key.rsplit(".", 1)[-1] not in without
    ]
    return table(["key", "values", "default", "meaning"], rows)


def _fields(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        elif not (section is ArchitectureConfig or issubclass(section, ArchitectureConfig)) or name != "name":
            yield f"{prefix}{name}", field


_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _type(annotation: Any, field: FieldInfo | None = None) -> str:
    """`int ≥ 1`, `float or null`, `adamw, muon`."""
    rules = field.metadata if field else ()
    bounds = [f"{sign} {_number(getattr(rule, name))}" for rule in rules for name, sign in _SIGNS.items() if hasattr(rule, name)]
    origin, choices = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in choices)
    if origin in (Union, types.UnionType):
        kinds = [_type(choice) for choice in choices if choice is not type(None)]
        null = ["null"] if type(None) in choices else []
        return " or ".join([" ".join([" or ".join(kinds), ", ".join(bounds)]).strip(), *null])
    if origin is tuple and choices[-1] is not Ellipsis:
        return f"[{', '.join(_type(choice) for choice in choices)}]"
    if origin in (list, tuple):
        return f"list of {_type(choices[0])}"
    if annotation is Any:
        return "name, or mapping with `name`"
    if origin is dict:
        return "mapping"
    if hasattr(annotation, "__metadata__"):
        return _type(annotation.__origin__)
    return " ".join([getattr(annotation, "__name__", str(annotation)), ", ".join(bounds)]).strip()


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value:,}"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "the system's" if value is PydanticUndefined else f"`{_value(value)}`"


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(part) for part in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def shipped() -> str:
    """The configurations that `--config NAME` takes, with the first sentence of each."""
    rows = []
    for path in sorted(SHIPPED.glob("*.yaml")):
        comment = re.match(r"# (.*?(?:\.(?=\s)|:(?=\n)|$))", path.read_text(), re.DOTALL)
        assert comment is not None, f"{path} begins with no comment"
        sentence = " ".join(comment[1].replace("\n#", " ").split()).rstrip(":.")
        rows.append([f"`{path.stem}`", f"{sentence}."])
    return table(["name", "what it is"], rows)


def models() -> str:
    """The shipped models, from their cards."""
    rows = []
    for folder in sorted(path.parent for path in MODELS.glob("*/model.json")):
        card = read_card(folder)
        trained_for = card["trained_for"]
        sensors = " × ".join(map(str, trained_for["sensors"])) + (f", noise {trained_for['noise']:g}" if trained_for["noise"] else "")
        start = trained_for["initial_state"]
        state = "any" if start is None else f"({', '.join(f'{value:g}' for part in start for value in part)})"
        size = f"{card['num_parameters']:,}"
        built_in = (parse_architecture(card["architecture"]).built_in or "nothing").split(",")[0]
        cost = f"{card['provenance']['seconds'] / 60:.0f} min"
        loss = f"{card['provenance']['metrics']['validation_loss']:.1e}"
        rows.append([f"`{folder.name}`", built_in, size, cost, trained_for["ensemble"]["name"], sensors, state, loss])
    heads = ["model", "built in", "parameters", "training", "ensemble", "sensors", "initial state", "validation loss, mean"]
    return table(heads, rows)


def leaderboard() -> str:
    """The entries of every task of the benchmark."""
    parts = []
    for task in TASKS:
        path = LEADERBOARD / f"{task}.json"
        if not path.exists():
            continue
        rows = []
        for entry in json.loads(path.read_text())["entries"]:
            loss, valid = entry["total_loss"], entry["valid_time"]
            name = f"[{entry['name']}]({entry['link']})" if entry.get("link") else f"`{entry['name']}`"
            about = f"network; built in: {entry['built_in'] or 'nothing'}" if entry["kind"] == "network" else entry["kind"]
            times = [_score(valid, ".2g"), f"{1e3 * entry['seconds_per_trajectory']:.2g}"]
            rows.append([name, about, _score(loss["median"]), _score(loss["mean"]), _score(entry["energy_drift"]), *times])
        heads = ["entry", "what it is", "loss, median", "loss, mean", "energy drift", "valid time", "ms each"]
        parts.append(f"### `{task}`\n\n{table(heads, rows)}")
    return "\n\n".join(parts)


def _score(value: float | None, form: str = ".1e") -> str:
    return "–" if value is None else format(value, form)


def columns() -> str:
    """Names, types and meanings of a dataset's columns."""
    data = DataConfig()
    meanings = COLUMNS | {column.name: column.meaning for column in data.get_system().columns}
    shapes = {"potential": "S", "times": "T", "q": "T", "p": "T"}
    rows = []
    for field in dataset_schema(data):
        kind = f"tensor[{shapes[field.name]}]" if field.name in shapes else _arrow_type(str(field.type))
        rows.append([f"`{field.name}`", kind + (", or null" if field.nullable else ""), meanings[field.name]])
    return table(["column", "type", "meaning"], rows)


def _arrow_type(name: str) -> str:
    return re.sub(r"list<\w+: (\w+)( not null)?>", r"list of \1", name.replace("double", "float64"))


def ensembles() -> str:
    """The keys of each system's ensembles."""
    parts = []
    for system in map(get_system, system_names()):
        for name, ensemble in system.ensembles.items():
            rows = [
                [f"`data.ensemble.{field.name}`", f"`{_value(field.default)}`", field.metadata.get("description", "")]
                for field in dataclasses.fields(ensemble)
            ]
            summary = " ".join((ensemble.__doc__ or "").split("\n\n")[0].split())
            parts.append(f"### System `{system.name}`, ensemble `{name}`\n\n{summary}\n\n{table(['key', 'default', 'meaning'], rows)}")
    return "\n\n".join(parts)


def commands() -> str:
    """`--help` of every command."""
    top = cli.make_context("neural-hamilton", [], resilient_parsing=True, terminal_width=_HELP_WIDTH)
    parts = []
    for path, command, context in _commands(cli, top):
        parts.append(f"## {path}\n\n```text\n{command.get_help(context).rstrip()}\n```")
    return "\n\n".join(parts)


def _commands(group: click.Group, context: click.Context, path: str = "") -> Iterator[tuple[str, click.Command, click.Context]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        below = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(command, below, f"{path}{name} ")
        else:
            yield f"{path}{name}", command, below


def dependencies() -> str:
    """What the package needs, with the licence that each declares."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    rows = []
    for requirement in needed:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        rows.append([f"`{requirement}`", _licence(importlib.metadata.metadata(name[0]))])
    return table(["package", "licence"], rows)


def _licence(about: Any) -> str:
    """As the package's metadata has it: an expression, else a short text, else its classifiers."""
    classifiers = [entry.rpartition("::")[2].strip() for entry in about.get_all("Classifier") or [] if entry.startswith("License")]
    text = about.get("License") or ""
    return about.get("License-Expression") or (text if 0 < len(text) < 30 else ", ".join(classifiers))


TABLES: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "architectures": architectures,
    "shipped": shipped,
    "columns": columns,
    "ensembles": ensembles,
    "models": models,
    "leaderboard": leaderboard,
    "commands": commands,
    "dependencies": dependencies,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
