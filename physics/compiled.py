"""`@compiled`: Numba's `njit`, kept on disk, with a cache that notices edits in other files.

Numba stores a compiled function next to its source and recompiles it when that file changes. Machine code of the
functions that it calls is part of what is stored, so a function whose callee lives in another file would go on running
the old callee. `compiled` adds to Numba's stamp of the file a hash of all files of the package that contain compiled
code. Editing any of them recompiles all of them; compiled code may therefore be imported from file to file, as long as
the constants that it reads come from files with compiled code too.

Where neither the folder of the source nor the user's cache folder can be written, as in many containers, machine code is kept in the
folder for temporary files; where that cannot be used either, each process compiles for itself.
"""

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, UserWideCacheLocator

__all__ = ["compiled"]


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: `numba.njit(error_model="numpy", **options)`, cached on disk.

    Division by zero gives inf or nan, as in NumPy. A function with `forceinline=True` should take arrays one by one,
    never as a tuple: counting references to them at every call costs more than a force, and Numba leaves it out only where
    it sees no call.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher: Any = njit(error_model="numpy", **options)(function)
        with contextlib.suppress(RuntimeError):  # no folder can be written
            dispatcher._cache = _PackageCache(function)  # what `cache=True` does, with the cache below
        return dispatcher

    return decorate


class _TemporaryLocator(UserWideCacheLocator):
    """A folder of this user among the temporary files."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        super().__init__(py_func, py_file)
        folder = Path(tempfile.gettempdir()) / f"neural-hamilton-numba-{os.getuid()}"
        self._cache_path = str(folder / self.get_suitable_cache_subpath(py_file))

    def ensure_cache_path(self) -> None:
        # Everyone may write where temporary files lie, and what is loaded from a cache is run: nobody else may have made this folder.
        folder = Path(self._cache_path).parent
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise PermissionError(f"{folder} is not a private folder of this user")
        super().ensure_cache_path()


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes: ClassVar = [*CompileResultCacheImpl._locator_classes, _TemporaryLocator]


class _PackageCache(FunctionCache):
    """Numba's cache of one function, out of date as soon as any compiled code of the package has changed."""

    _impl_class = _CacheImpl

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
