"""Where a result comes from: code version, hashes of what it was made of."""

import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any


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


def write_atomically(path: Path, content: bytes) -> None:
    """Whole or not at all, also after a crash: temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, atomically; a non-finite number is an error."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
