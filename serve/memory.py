"""Memory of large requests, given back to the machine. Without this the C library keeps most of it, for requests that may never come."""

import ctypes
import ctypes.util
import functools
from collections.abc import Callable

LARGE_BYTES = 4 * 2**20  # of a request and its response: below, what is kept is soon used again


def give_back() -> None:
    """Return unused memory to the machine, where the C library can (glibc)."""
    trim = _find_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _find_trim() -> Callable[[int], int] | None:
    name = ctypes.util.find_library("c")
    return getattr(ctypes.CDLL(name), "malloc_trim", None) if name else None
