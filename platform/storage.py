"""Where data lies: a local path, or the URL of a file system that pyarrow opens (`s3://`, `gs://`, ...), with fsspec for all others.

A local path is a `pathlib.Path`, used as ever. A `Url` has the few methods of one that the platform needs. In both, a file appears whole or
not at all: on a disk by rename, in an object store because an object appears when its upload is complete.
"""

import os
import random
import re
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from ..physics import InputError
from ..physics.errors import StorageUnavailable

_T = TypeVar("_T")

READERS = 8  # files of a store read at once; on a disk one after another is as fast
_PAUSES_S = (0.5, 2.0)  # between attempts; pyarrow's own for S3, three within a few seconds, come before
_PATIENT_PAUSES_S = (0.5, 2.0, 5.0, 10.0, 20.0)  # for a store that has responded before: it will again, and work would be lost
_GCS_PATIENCE_S = 10  # how long pyarrow goes on trying; its default is a quarter of an hour
_PUTS_WHOLE = ("s3", "gcs", "abfs")  # stores whose objects appear when their upload is complete; in all others a name changes at the end
_JOB_COPIES = "working_dir_files"  # the folder of Ray's session in which a job begins

_RESPONDED: set[str] = set()  # roots of stores

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_FLATTENED_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|bucket does not exist|NoSuchBucket", re.IGNORECASE)
_REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE|EXPIRED|HTTP status 40[13]|credential|forbidden|unauthori[sz]ed"
    r"|access token|permission|PERMISSION_DENIED|UNAUTHENTICATED",
    re.IGNORECASE,
)
_TRANSIENT = re.compile(
    r"time.?out|timed out|SLOW_DOWN|SlowDown|THROTTL|TOO_MANY|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|HTTP status (429|5\d\d)|UNAVAILABLE"
    r"|NETWORK_CONNECTION|curlCode|connection|could not connect|resolve host|broken pipe|is incomplete",
    re.IGNORECASE,
)
_CREDENTIALS = {
    "s3": "give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or as a profile or role of AWS, on every node",
    "gs": "give them in GOOGLE_APPLICATION_CREDENTIALS, or as the service account of the machine, on every node",
}
_ENDPOINTS = {"s3": ", and for a store other than AWS the endpoint in AWS_ENDPOINT_URL"}


@dataclass(frozen=True, order=True)
class Url:
    """A folder or a file of a store. It names a place and holds no connection, so that it travels to other processes.

    Its methods are those of `pathlib.Path`. They raise FileNotFoundError where nothing is there; in one sentence, InputError where the URL
    is wrong, and StorageUnavailable where the store refuses the credentials, which may have expired, or does not respond. What may
    pass, such as a timeout, is tried again first, for about 40 s with a store that has responded to this process before.
    """

    root: str  # scheme and bucket or host
    key: str = ""
    query: str = ""  # options of the file system, as pyarrow takes them

    @classmethod
    def parse(cls, text: str) -> "Url":
        """The place of a URL; InputError where it names no bucket or carries a password."""
        whole, _, query = text.partition("?")
        scheme, _, rest = whole.partition("://")
        host, _, key = rest.partition("/")
        root = f"{scheme.lower()}://{host}"
        if "@" in host and ":" in host.partition("@")[0]:
            raise InputError(
                f"a URL of {scheme.lower()}:// carries a password, which records would keep; leave it out and give it in the environment"
            )
        if not host and scheme.lower() in ("s3", "gs", "gcs"):
            raise InputError(f"{text!r} names no bucket; write {scheme.lower()}://BUCKET/FOLDER")
        return cls(root, "/".join(part for part in key.split("/") if part), query)

    def __str__(self) -> str:
        return (f"{self.root}/{self.key}" if self.key else self.root) + (f"?{self.query}" if self.query else "")

    def __truediv__(self, name: str | Path) -> "Url":
        return Url(self.root, "/".join(part for part in (self.key, *str(name).split("/")) if part), self.query)

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return Path(self.name).stem

    @property
    def parent(self) -> "Url":
        """The folder that it lies in; a bucket is its own."""
        return Url(self.root, self.key.rpartition("/")[0], self.query)

    @property
    def parents(self) -> "tuple[Url, ...]":
        """The folders that it lies in, from its own to the bucket."""
        return (self.parent, *self.parent.parents) if self.key else ()

    def absolute(self) -> "Url":
        """Itself."""
        return self

    resolve = absolute

    def exists(self) -> bool:
        """Whether there is a file, or any file below; InputError where there is no such bucket."""
        return self._kind() != pafs.FileType.NotFound

    def is_file(self) -> bool:
        return self._kind() == pafs.FileType.File

    def is_dir(self) -> bool:
        return self._kind() == pafs.FileType.Directory

    def read_bytes(self) -> bytes:
        def read(fs: pafs.FileSystem, path: str) -> bytes:
            with fs.open_input_file(path) as stream:
                content = stream.read()
                _check_size(len(content), stream.size())
            return content

        return self._attempt("read", read)

    def read_text(self, encoding: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def write(self, content: Any) -> None:
        """Make it the file with this content, a buffer, in place of what was there."""

        def put(fs: pafs.FileSystem, path: str) -> None:
            target = path
            if fs.type_name not in _PUTS_WHOLE:
                fs.create_dir(path.rpartition("/")[0], recursive=True)
                target = f"{path.rpartition('/')[0]}/.{self.name}.{os.getpid()}.partial"
            with fs.open_output_stream(target) as stream:
                stream.write(content)  # in one call: a stream that an interrupt leaves half written would be completed as it closes
            _check_size(len(content), fs.get_file_info(target).size)
            if target != path:
                fs.move(target, path)

        self._attempt("written", put)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a store has the folders that its files lie in."""

    def iterdir(self) -> Iterator["Url"]:
        """The files and folders in this folder, by name; none where it does not exist."""
        return self.glob("*")

    def glob(self, pattern: str) -> Iterator["Url"]:
        """The files and folders below whose relative path, of as many parts as the pattern, matches it, by name."""
        depth = pattern.count("/") + 1
        parts = (name.split("/") for name in self.list_files())
        found = sorted({"/".join(name[:depth]) for name in parts if len(name) >= depth})
        return (self / name for name in found if PurePosixPath(name).match(pattern))

    def open_filesystem(self) -> tuple[pafs.FileSystem, str]:
        """The file system, and the path in it, for libraries that take both."""
        fs, base = _open_filesystem(self.root, self.query)
        return fs, f"{base}/{self.key}" if base and self.key else base or self.key

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._attempt("deleted", lambda fs, path: fs.delete_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def list_files(self) -> dict[str, int]:
        """The bytes of all files below, by their name relative to it; see `list_files`."""

        def select(fs: pafs.FileSystem, path: str) -> dict[str, int]:
            found = fs.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
            return {info.path[len(path) :].lstrip("/"): info.size for info in found if info.type == pafs.FileType.File}

        files = self._attempt("listed", select)
        if not files:
            self._check_bucket()
        return files

    def _kind(self) -> pafs.FileType:
        kind = self._attempt("read", lambda fs, path: fs.get_file_info(path).type)
        if kind == pafs.FileType.NotFound:
            self._check_bucket()
        return kind

    def _check_bucket(self) -> None:
        """A missing bucket looks like an empty one to a reader."""
        bucket = Url(self.root, "", self.query)
        if self.root.startswith(("s3://", "gs://", "gcs://")):
            kind = bucket._attempt("read", lambda fs, path: fs.get_file_info(path).type)
            if kind == pafs.FileType.NotFound:
                raise InputError(bucket._no_bucket())

    def _attempt(self, done: str, operation: Callable[[pafs.FileSystem, str], _T]) -> _T:
        """What `operation` on file system and path gives, tried again after a fault that may pass."""
        pauses = _PATIENT_PAUSES_S if self.root in _RESPONDED else _PAUSES_S
        for pause in (*pauses, None):
            try:
                result = operation(*self.open_filesystem())
                _RESPONDED.add(self.root)
                return result
            except FileNotFoundError:
                _RESPONDED.add(self.root)
                raise
            except Exception as error:
                if type(error).__module__ == "builtins" and not isinstance(error, OSError):
                    raise  # a defect; file systems of fsspec have errors of their own, which need not be an OSError
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                transient = isinstance(error, (TimeoutError, ConnectionError)) or bool(_TRANSIENT.search(reason))
                transient = transient and not _REFUSED.search(reason)
                if not transient:
                    refusal = StorageUnavailable if _REFUSED.search(reason) and not _NO_BUCKET.search(reason) else InputError
                    raise refusal(self._explain(done, reason)) from None
                if pause is None:
                    raise StorageUnavailable(self._explain_fault(done, reason, len(pauses) + 1)) from None
                time.sleep(pause * random.uniform(0.75, 1.25))  # all workers of a cluster meet the same fault at once
        raise AssertionError

    def _explain_fault(self, done: str, reason: str, attempts: int) -> str:
        endpoint = _ENDPOINTS.get(self.root.partition("://")[0], "")
        remedy = f"check the network{endpoint}, and run the same command again"
        return f"{self} cannot be {done}, in {attempts} attempts: {_short(reason)}; {remedy}"

    def _explain(self, done: str, reason: str) -> str:
        scheme = self.root.partition("://")[0].replace("gcs", "gs")
        if _NO_BUCKET.search(reason):
            return self._no_bucket()
        if _REFUSED.search(reason):
            remedy = _CREDENTIALS.get(scheme, "check them as the file system's own documentation describes")
            return f"{self} cannot be {done}: the store refuses the credentials, or there are none; {remedy} ({_short(reason)})"
        return f"{self} cannot be {done}: {_short(reason)}; correct the URL or its options"

    def _no_bucket(self) -> str:
        return f"bucket {self.root} does not exist; create it, or correct the URL"


Location = Path | Url


def locate(place: str | Path | Url) -> Location:
    """The location that a user wrote: a URL, but for `file://`, or a local path.

    Raises
    ------
    InputError
        For a URL that names no place, carries a password, or was made a `Path`, which cannot hold it.
    """
    if isinstance(place, Url):
        return place
    text = str(place)
    if isinstance(place, Path) and _FLATTENED_URL.match(text) and not place.exists():
        raise InputError(f"{text!r} looks like a URL that was made a Path, which drops a slash; give it as text")
    match = _URL.match(text)
    if match is None:
        return Path(place)
    if match[1].lower() != "file":
        return Url.parse(text)
    parts = urllib.parse.urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise InputError(f"{text!r} names no file of this machine; write file:///FOLDER")
    return Path(urllib.parse.unquote(parts.path))


def is_in_job_copy(path: Path) -> bool:
    """Whether a path lies in the copy of a working directory that Ray made for a submitted job, and deletes."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and _JOB_COPIES in path.absolute().parts


def list_files(folder: Location) -> dict[str, int]:
    """The bytes of all files in a folder and the folders in it, by their name relative to it, in order; none where it does not exist."""
    if isinstance(folder, Url):
        return dict(sorted(folder.list_files().items()))
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def fetched(location: Location) -> Iterator[Path]:
    """A file on the local disk: itself, or for the time of the block a copy of it.

    Raises FileNotFoundError where there is none, and InputError as `Url` does.
    """
    if isinstance(location, Path):
        yield location
        return
    content = location.read_bytes()
    with tempfile.TemporaryDirectory(prefix="neural-hamilton-") as scratch:
        copy = Path(scratch) / location.name
        copy.write_bytes(content)
        yield copy


@contextmanager
def staged(location: Location) -> Iterator[Path]:
    """Where to write a file so that it becomes `location`: there itself, or on the local disk, whence it is uploaded as the block ends.

    A block that raises uploads nothing.
    """
    if isinstance(location, Path):
        location.parent.mkdir(parents=True, exist_ok=True)
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="neural-hamilton-") as scratch:
        copy = Path(scratch) / location.name
        yield copy
        with pa.memory_map(str(copy)) as content:
            location.write(content.read_buffer())


def remove_folder(folder: Location) -> None:
    """Delete a folder and all in it, where there is one."""
    if isinstance(folder, Path):
        if folder.exists():
            shutil.rmtree(folder)
        return
    with suppress(FileNotFoundError):
        folder._attempt("deleted", lambda fs, path: fs.delete_dir(path))


@lru_cache(maxsize=64)
def _open_filesystem(root: str, query: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a bucket or host, and the bucket's own path in it."""
    if root.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in query:
        query = "&".join([*filter(None, [query]), f"retry_limit_seconds={_GCS_PATIENCE_S}"])
    text = f"{root}?{query}" if query else root
    try:
        fs, path = pafs.FileSystem.from_uri(text)
        return fs, path.rstrip("/")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if "Unrecognized filesystem type" not in str(error) and not isinstance(error, pa.ArrowNotImplementedError):
            raise InputError(f"{text!r} cannot be used: {_short(str(error))}; correct the URL") from None
    if query:
        raise InputError(f"{text!r} has options after '?', which {root.partition('://')[0]}:// does not take; leave them out")
    return _open_with_fsspec(root)


def _open_with_fsspec(root: str) -> tuple[pafs.FileSystem, str]:
    scheme = root.partition("://")[0]
    try:
        import fsspec

        fs, path = fsspec.core.url_to_fs(root)
    except (ImportError, ValueError) as error:
        known = "pyarrow knows s3, gs, abfs, hdfs and file"
        raise InputError(f"{scheme}:// is no file system that is installed here: {known}, fsspec others ({_short(str(error))})") from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs)), path.rstrip("/")


def _check_size(here: int, there: int | None) -> None:
    """Refuse a transfer that broke off: to a reader, that may look like the end of a file."""
    if there is not None and here != there:
        raise ConnectionError(f"the transfer is incomplete, {here} bytes here and {there} in the store")


def _short(reason: str) -> str:
    return re.sub(r"\s*\(Request ID: [^)]*\)", "", " ".join(reason.split()))[:240]
