"""Where a result comes from: code version, hashes of what it was made of, and what changed between two of its records."""

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any


def code_version() -> str:
    """The installed version, or the one in the checkout's pyproject.toml."""
    try:
        return importlib.metadata.version("neural-hamilton")
    except importlib.metadata.PackageNotFoundError:
        import tomllib

        project = Path(__file__).resolve().parent.parent / "pyproject.toml"
        return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"] if project.exists() else "unknown"


def hash_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def changed_keys(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The dotted keys that differ, with both values, for a sentence; empty where nothing differs."""
    old, new = flatten(before), flatten(now)
    keys = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    return ", ".join(f"{key} {old.get(key)!r} (asked for {new.get(key)!r})" for key in keys)


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(node, dict):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat
