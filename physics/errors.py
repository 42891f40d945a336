"""The one exception that means "what was asked for is wrong", in every package."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A user's input is refused: the message names the field, the value received and the values allowed.

    Everything that meets a user (command line, HTTP) turns it into one clear sentence; any other
    exception is a defect of this project and keeps its traceback.
    """


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
