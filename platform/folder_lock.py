"""One command at a time in a folder that it writes: two would delete each other's unfinished files and mix their records."""

import contextlib
import errno
import fcntl
import functools
import inspect
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from ..physics import InputError
from .outputs import check_placement

LOCK_FILE = ".lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}  # file systems without locks, such as many mounts of Lustre

P = ParamSpec("P")
R = TypeVar("R")


def holds_folder(parameter: str, label: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: the function holds the folder that it is given as `parameter`, see `hold_folder`; anything but a path is not locked."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def holding(*args: P.args, **kwargs: P.kwargs) -> R:
            folder = signature.bind(*args, **kwargs).arguments[parameter]
            with hold_folder(folder, label) if isinstance(folder, Path) else contextlib.nullcontext():
                return function(*args, **kwargs)

        return holding

    return decorate


@contextmanager
def hold_folder(folder: Path, label: str) -> Iterator[None]:
    """Hold `folder`, which is made where it does not exist, for this process; `label` names it in messages, such as "--out".

    The kernel releases the lock however the process ends. Nothing remains of it, nor of a new folder in which nothing was written. On a
    file system without locks a warning names the danger, and the command goes on.

    Raises
    ------
    InputError
        Where another process holds the folder, it cannot be written, or `check_placement` refuses it.
    """
    name = f"{label} {str(folder)!r}"
    check_placement(folder, label)
    path, is_new = folder.absolute() / LOCK_FILE, not folder.exists()
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
        if is_new:
            with contextlib.suppress(OSError):  # it holds what was written
                path.parent.rmdir()


def _acquire(path: Path, name: str) -> int:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 200).decode(errors="replace") or "another command"
            os.close(lock)
            raise InputError(f"{name} is in use by {holder}; wait until that ends, or choose another folder") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(lock)
                raise
            warning = f"warning: the file system of {name} has no locks ({error.strerror}): start no second command that writes there"
            print(warning, file=sys.stderr)
            return lock
        if _is_at(lock, path):
            os.truncate(lock, 0)
            os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return lock
        os.close(lock)  # a process that ended has removed the file meanwhile: another file is the lock now


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
