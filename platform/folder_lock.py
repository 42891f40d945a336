"""One command at a time in a folder that it writes: two would delete each other's unfinished files and mix their records.

On a disk the kernel holds the lock, and releases it however the process ends. A store has no locks: there a command keeps a lease, a file
that it writes again every few seconds. Who finds a lease waits whether it changes; after `_LEASE_S` without a change its holder is dead.
"""

import contextlib
import errno
import fcntl
import functools
import inspect
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ..physics import InputError
from ..physics.files import read_json, write_json
from .outputs import check_placement
from .storage import Location, Url

LOCK_FILE = ".lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}  # file systems without locks, such as many mounts of Lustre
_LEASE_S, _RENEWED_S = 20.0, 4.0  # how long a lease lasts, and how often its holder renews it
_SETTLED_S = 1.0  # of two that take a lease at once, the one whose file is still there after this has it

P = ParamSpec("P")
R = TypeVar("R")


def holds_folder(parameter: str, label: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: the function holds the folder that it is given as `parameter`, see `hold_folder`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def holding(*args: P.args, **kwargs: P.kwargs) -> R:
            folder = signature.bind(*args, **kwargs).arguments[parameter]
            with hold_folder(folder, label) if isinstance(folder, Location) else contextlib.nullcontext():
                return function(*args, **kwargs)

        return holding

    return decorate


@contextmanager
def hold_folder(folder: Location, label: str) -> Iterator[None]:
    """Hold `folder`, which is made where it does not exist, for this process; `label` names it in messages, such as "--out".

    Nothing remains of the lock, nor of new folders in which nothing was written. On a file system without locks a warning names the
    danger, and the command goes on.

    Raises
    ------
    InputError
        Where another process holds the folder, it cannot be written, or `check_placement` refuses it.
    """
    name = f"{label} {str(folder)!r}"
    check_placement(folder, label)
    with _hold_url(folder, name) if isinstance(folder, Url) else _hold_path(folder, name):
        yield


@contextmanager
def _hold_path(folder: Path, name: str) -> Iterator[None]:
    path = folder.absolute() / LOCK_FILE
    made = [each for each in path.parents if not each.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquire(path, name)
    except OSError as error:
        raise InputError(f"{name} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(lock)
        with contextlib.suppress(OSError):  # one that holds what was written
            for each in made:
                each.rmdir()


def _acquire(path: Path, name: str) -> int:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 200).decode(errors="replace") or "another command"
            os.close(lock)
            raise _in_use(name, holder) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(lock)
                raise
            warning = f"warning: the file system of {name} has no locks ({error.strerror}): start no second command that writes there"
            print(warning, file=sys.stderr)
            return lock
        if _is_at(lock, path):
            os.truncate(lock, 0)
            os.write(lock, _this_process().encode())
            return lock
        os.close(lock)  # a process that ended has removed the file meanwhile: another file is the lock now


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def _hold_url(folder: Url, name: str) -> Iterator[None]:
    lease = _Lease(folder / LOCK_FILE, name)
    lease.take()
    try:
        yield
    finally:
        lease.give_back()


class _Lease:
    """The file that shows who works in a folder of a store. This process is terminated where somebody else has taken it over."""

    def __init__(self, file: Url, name: str) -> None:
        self._file, self._name, self._token, self._renewals = file, name, uuid.uuid4().hex, 0
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)

    def take(self) -> None:
        """Raises InputError where somebody holds it."""
        found, patience = self._read(), time.monotonic() + _LEASE_S
        if found:
            print(f"{self._name} was left or is in use by {found['holder']}; waiting up to {_LEASE_S:.0f} s to see which", file=sys.stderr)
        while found and time.monotonic() < patience:
            time.sleep(1.0)
            now = self._read()
            if now and now != found:
                raise _in_use(self._name, now["holder"])
            found = now
        self._write()
        time.sleep(_SETTLED_S)
        now = self._read()
        if now and now["token"] != self._token:
            raise _in_use(self._name, now["holder"])
        self._renewing.start()

    def give_back(self) -> None:
        self._ended.set()
        self._renewing.join()
        with contextlib.suppress(InputError):  # who comes next waits until it has run out
            self._file.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._ended.wait(_RENEWED_S):
            with contextlib.suppress(InputError):  # nobody else can take it meanwhile either
                found = self._read()
                if found and found["token"] != self._token:
                    sentence = f"was taken over by {found['holder']} while this command stood still, and so it ends"
                    print(f"error: {self._name} {sentence}", file=sys.stderr, flush=True)
                    os.kill(os.getpid(), signal.SIGTERM)  # as any other end, it leaves whole files
                    return
                self._write()

    def _read(self) -> dict[str, Any] | None:
        return read_json(self._file) if self._file.is_file() else None

    def _write(self) -> None:
        self._renewals += 1
        write_json(self._file, {"holder": _this_process(), "token": self._token, "renewals": self._renewals})


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _in_use(name: str, holder: str) -> InputError:
    return InputError(f"{name} is in use by {holder}; wait until that ends, or choose another folder")
