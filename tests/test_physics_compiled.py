"""The disk cache of compiled code: loaded where nothing changed, thrown away where a file that it calls has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLER = """
from {imported} import {decorator}
from .helper import helper

@{decorator}({options})
def caller(x):
    return helper(x) + 1.0
"""
HELPER = """
from neural_hamilton.physics.compiled import compiled

@compiled()
def helper(x):
    return {value}
"""


def run(folder: Path, **variables: str) -> list[float]:
    """The caller's result and the number of times that it came from the cache, in a new process."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])} | variables
    program = "from top.package.caller import caller; print(caller(1.0), sum(caller.stats.cache_hits.values()))"
    command = [sys.executable, "-B", "-c", program]
    output = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True, timeout=300).stdout
    return [float(word) for word in output.split()]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of two files, of which the caller is compiled by `compiled` and the helper is `x * 10`."""
    folder = tmp_path / "top" / "package"
    folder.mkdir(parents=True)
    for init in (folder / "__init__.py", folder.parent / "__init__.py"):
        init.touch()
    (folder / "caller.py").write_text(CALLER.format(imported="neural_hamilton.physics.compiled", decorator="compiled", options=""))
    (folder / "helper.py").write_text(HELPER.format(value="x * 10.0"))
    return folder


def test_an_edit_in_another_file_is_noticed(package, tmp_path):
    assert run(tmp_path) == [11.0, 0.0]
    assert run(tmp_path) == [11.0, 1.0], "nothing has changed: the cache must be used"
    (package / "helper.py").write_text(HELPER.format(value="x * 20.0"))
    assert run(tmp_path) == [21.0, 0.0]
    assert run(tmp_path) == [21.0, 1.0]


def test_numbas_own_cache_would_not_notice(package, tmp_path):
    """Shows that the test above can fail."""
    (package / "caller.py").write_text(CALLER.format(imported="numba", decorator="njit", options="cache=True"))
    assert run(tmp_path) == [11.0, 0.0]
    (package / "helper.py").write_text(HELPER.format(value="x * 20.0"))
    assert run(tmp_path) == [11.0, 1.0]


def test_files_without_compiled_code_do_not_count(package, tmp_path):
    run(tmp_path)
    (package / "other.py").write_text("VALUE = 1\n")
    assert run(tmp_path) == [11.0, 1.0]


@pytest.fixture
def nowhere(package: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a user for whom neither the package nor the cache folder can be written; root may, but not into a file."""
    (package / "__pycache__").touch()
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    return {"HOME": str(tmp_path / "file"), "XDG_CACHE_HOME": str(tmp_path / "file"), "TMPDIR": str(tmp_path / "temporary")}


def test_machine_code_is_kept_among_temporary_files_where_nothing_else_can_be_written(package, nowhere, tmp_path):
    assert run(tmp_path, **nowhere) == [11.0, 0.0]
    assert run(tmp_path, **nowhere) == [11.0, 1.0]
    (folder,) = (tmp_path / "temporary").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_machine_code_is_never_loaded_from_a_folder_that_others_can_write(package, nowhere, tmp_path):
    run(tmp_path, **nowhere)
    (folder,) = (tmp_path / "temporary").iterdir()
    folder.chmod(0o777)
    assert run(tmp_path, **nowhere) == [11.0, 0.0]
