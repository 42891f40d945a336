"""The YAML of configurations, in files and in `--set`: what is written looks like what is read.

Scalars have the types of YAML 1.2's core schema: only `true` and `false` are booleans, numbers are decimal, and 1e-3 is one. PyYAML's own
YAML 1.1 also takes `yes` for a boolean, 010 for 8 and 1:00 for 60. A key that is given twice in a mapping is refused.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_TAG = "tag:yaml.org,2002:"
_TYPES = (
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", re.compile(r"[-+]?[0-9]+"), list("-+0123456789")),
    (
        "float",
        re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
        list("-+.0123456789"),
    ),
    ("merge", re.compile("<<"), ["<"]),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's registry, filled below)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == f"{_TAG}merge":
                continue
            key, line = self.construct_object(key_node), key_node.start_mark.line + 1
            if key in lines:
                raise ConstructorError(None, None, f"{key} is given in line {lines[key]} and again in line {line}; keep one of them")
            lines[key] = line
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = str(self.construct_scalar(node))
        try:
            return int(text, 10) if node.tag == f"{_TAG}int" else float(re.sub(r"\.(?=inf|nan)", "", text, flags=re.IGNORECASE))
        except ValueError:
            raise ConstructorError(None, None, f"{text[:40]!r} is no decimal number", node.start_mark) from None


for _name, _pattern, _first in _TYPES:
    # `fullmatch`, because PyYAML only matches the beginning.
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern.pattern})\Z"), _first)
for _name in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_name}", _Loader.construct_number)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that either version of YAML would take for something else."""


_Dumper.add_implicit_resolver(f"{_TAG}float", re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+\Z"), list("-+.0123456789"))


def parse_yaml(text: str) -> Any:
    """The value of a YAML document.

    Raises
    ------
    yaml.YAMLError
        For what is no YAML, a key given twice, named with its lines, and nesting without an end.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def format_yaml(values: dict[str, Any]) -> str:
    """A YAML document that `parse_yaml` reads as `values`."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)
