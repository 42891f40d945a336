"""How files are written and versioned JSON is read, everywhere in this project.

A file appears whole or not at all, also after a crash: on a disk it is written under a temporary name, flushed (fsync) and
renamed, and the folder is flushed too, without which the rename itself may be lost. A place in a store sees to that itself.
"""

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from .errors import InputError

Migration = Callable[[dict[str, Any]], dict[str, Any]]


class Place(Protocol):
    """A file or folder to be read: a `Path`, or what has these of its methods, with the same errors."""

    @property
    def name(self) -> str: ...
    @property
    def parent(self) -> Any: ...
    def exists(self) -> bool: ...
    def read_bytes(self) -> bytes: ...
    def read_text(self, encoding: str | None = None) -> str: ...
    def __truediv__(self, name: str, /) -> Any: ...


class StoredPlace(Place, Protocol):
    """A place in a store."""

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None: ...
    def write(self, content: Any, /) -> None: ...


def as_place(place: str | Place) -> Place:
    """A text as a local path."""
    return Path(place) if isinstance(place, str) else place


@contextmanager
def atomic_file(path: Path | StoredPlace) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file `path` when the block ends, and is dropped where it raises."""
    if not isinstance(path, Path):
        buffer = io.BytesIO()
        yield buffer
        path.write(buffer.getbuffer())
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_file(path: Path | StoredPlace, content: bytes) -> None:
    """All of `content` or nothing; see `atomic_file`."""
    if not isinstance(path, Path):
        path.write(content)
        return
    with atomic_file(path) as stream:
        stream.write(content)


def write_json(path: Path | StoredPlace, value: Any) -> None:
    """Indented JSON, written like any file. Raises ValueError for a number that is not finite."""
    write_file(path, as_json(value))


def as_json(value: Any) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def read_json(
    path: Place, what: str | None = None, version: int | None = None, migrations: Mapping[int, Migration] | None = None
) -> dict[str, Any]:
    """The JSON object in a file, in the form of schema `version`.

    Parameters
    ----------
    path
        The file.
    what
        What it belongs to, for messages, such as "dataset 'runs/data'"; None: its folder.
    version
        Value that `schema_version` must have in the end. None: the file is not versioned.
    migrations
        Functions by the schema version they take; each returns the next one's form. They raise KeyError for information that the
        file lacks, or InputError with the end of a sentence.

    Raises
    ------
    InputError
        Where the file cannot be read, holds no JSON object, or is of a version that cannot be migrated to `version`.
    """
    migrations = migrations or {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except InputError:
        raise
    except OSError:
        owner = what or f"folder {str(path.parent)!r}"
        raise InputError(f"{owner} {f'has no readable {path.name}' if path.parent.exists() else 'does not exist'}") from None
    except ValueError:
        raise InputError(f"{path} is not JSON") from None
    if version is None:
        if not isinstance(value, dict):
            raise InputError(f"{path} holds {type(value).__name__}; it must hold a JSON object")
        return value
    found = value.get("schema_version") if isinstance(value, dict) else None
    readable = sorted({version, *migrations})
    if type(found) is not int or found not in readable:
        raise InputError(f"{path} has schema_version {found!r}; this version reads {' and '.join(map(str, readable))}")
    for step in range(found, version):
        try:
            value = migrations[step](value) | {"schema_version": step + 1}
        except InputError as error:
            raise InputError(f"{path} is of schema {found} and cannot be read: {error}") from None
        except KeyError as error:
            raise InputError(f"{path} is of schema {found} and cannot be read: it has no {error.args[0]}") from None
    return value


def is_litter(name: str) -> bool:
    """Whether a file of this name is what an operating system leaves in folders: it belongs to nobody's work."""
    return name in (".DS_Store", "Thumbs.db", "desktop.ini") or name.startswith((".nfs", "._"))


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of files to disk, on systems that can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
