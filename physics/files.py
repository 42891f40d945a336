"""Files that appear whole or not at all, and JSON documents that say which version they are."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears whole or not at all, also after a crash: temporary name, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Write all of `content` or nothing; see `atomic_file`."""
    with atomic_file(path) as stream:
        stream.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; a non-finite number is an error."""
    write_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path, schema_versions: tuple[int, ...] = ()) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises
    ------
    InputError
        Where the file cannot be read, holds no JSON object, or has a `schema_version` other than `schema_versions`.
    """
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path} is not JSON") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds {type(value).__name__}; it must hold a JSON object")
    version = value.get("schema_version")
    if schema_versions and version not in schema_versions:
        raise InputError(f"{path} has schema_version {version!r}; this version reads {', '.join(map(str, schema_versions))}")
    return value


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
