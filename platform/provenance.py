"""Where a result comes from: code version, hashes of what it was made of, and what changed between two of its records."""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def code_version() -> str:
    """The installed version, or the one in the checkout's pyproject.toml."""
    try:
        return importlib.metadata.version("neural-hamilton")
    except importlib.metadata.PackageNotFoundError:
        import tomllib

        project = Path(__file__).resolve().parent.parent / "pyproject.toml"
        return tomllib.loads(project.read_text())["project"]["version"] if project.exists() else "unknown"


def hash_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears whole or not at all, also after a crash: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """All of `content` or nothing; see `atomic_file`."""
    with atomic_file(path) as stream:
        stream.write(content)


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, atomically; a non-finite number is an error."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def changed_keys(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The dotted keys that differ, with both values, for a sentence; empty where nothing differs."""
    old, new = _flatten(before), _flatten(now)
    keys = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    return ", ".join(f"{key} {old.get(key)!r} (asked for {new.get(key)!r})" for key in keys)


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat
