"""The two exceptions that are no defects, in every package: what was asked for is wrong, or there is nowhere to write it now."""

import difflib
import errno
import os
from collections.abc import Iterable


class InputError(ValueError):
    """A user's input is refused: the message names the field, the value received and the values allowed.

    Everything that meets a user (command line, HTTP) turns it into one clear sentence; any other
    exception is a defect of this project and keeps its traceback.
    """


class StorageUnavailable(Exception):
    """Files cannot be written or read now: the disk is full, or a store does not respond, or refuses the credentials.

    The work itself is right, and can go on later.

    No `InputError`: nobody shall take an outage for a file that is missing or damaged.
    """


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from, tells of a full disk: as an operating system does, or SQLite."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in ("database or disk is full", os.strerror(errno.ENOSPC))):
            return True
        error = error.__cause__ or error.__context__
    return False


def shown(value: float, *limits: float) -> str:
    """A number for a message: with six digits, or with as many as it takes to tell it from each of the limits that it differs from."""
    for digits in (6, 9, 12):
        text = f"{value:.{digits}g}"
        if all(value == limit or text != f"{limit:.{digits}g}" for limit in limits):
            return text
    return repr(float(value))


def unknown_key(path: str, choices: Iterable[str]) -> str:
    """The refusal of a key that there is not, with the nearest one that there is."""
    known = sorted(choices)
    close = difflib.get_close_matches(path.rpartition(".")[2], known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{path} is not a known key; {hint}valid keys are {', '.join(known)}"
