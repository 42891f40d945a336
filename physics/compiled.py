"""`@compiled`: Numba's `njit`, kept on disk, with a cache that notices edits in other files.

Numba stores a compiled function next to its source and recompiles it when that file changes. Machine code of the
functions that it calls is part of what is stored, so a function whose callee lives in another file would go on running
the old callee. `compiled` adds to Numba's stamp of the file a hash of all files of the package that contain compiled
code. Editing any of them recompiles all of them; compiled code may therefore be imported from file to file, as long as
the constants that it reads come from files with compiled code too.
"""

import hashlib
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

__all__ = ["compiled"]


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: `numba.njit(error_model="numpy", **options)`, cached on disk.

    Division by zero gives inf or nan, as in NumPy. A function with `forceinline=True` should take arrays one by one,
    never as a tuple: counting references to them at every call costs more than a force, and Numba leaves it out only where
    it sees no call.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher: Any = njit(error_model="numpy", **options)(function)
        dispatcher._cache = _PackageCache(function)  # what `cache=True` does, with the cache below
        return dispatcher

    return decorate


class _PackageCache(FunctionCache):
    """Numba's cache of one function, out of date as soon as any compiled code of the package has changed."""

    def __init__(self, py_func: Callable[..., Any]) -> None:
        super().__init__(py_func)
        stamp = (self._impl.locator.get_source_stamp(), _hash_compiled_sources(_package_folder(py_func)))
        self._cache_file = IndexDataCacheFile(cache_path=self._cache_path, filename_base=self._impl.filename_base, source_stamp=stamp)


def _package_folder(function: Callable[..., Any]) -> Path:
    """The folder of the package below the top level that a function belongs to: of `neural_hamilton.physics`, for instance."""
    package = sys.modules[".".join(function.__module__.split(".")[:2])]
    assert package.__file__ is not None
    return Path(package.__file__).parent


@cache
def _hash_compiled_sources(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        source = path.read_bytes()
        if b"compiled(" in source:
            digest.update(source)
    return digest.hexdigest()
