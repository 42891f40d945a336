"""Imports between rooms point one way, and nothing drags Ray in where it is not wanted."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("physics", "architectures", "platform", "tune", "serve")
MAY_IMPORT = {
    "physics": set(),
    "architectures": {"physics"},
    "platform": {"physics", "architectures"},
    "tune": {"physics", "architectures", "platform"},
    "serve": {"physics", "architectures", "platform"},
}
FORBIDDEN_PACKAGES = {"physics": {"torch", "ray"}, "architectures": {"ray"}}
WITHOUT_RAY = (
    "physics", "architectures", "platform.training.loop", "platform.evaluation", "platform.config.tree", "platform.data.schema",
    "platform.data.datasets", "platform.cli", "serve.model", "serve.solve", "serve.commands",
)  # fmt: skip
# The demo runs every stage and `plan` plans every command; platform/cli.py finds commands by name.
COMPOSITION_ROOTS = (Path("platform/commands/demo.py"), Path("platform/commands/plan.py"))

SOURCES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path):
    """(module written absolutely, written as a relative import, inside a function) of every import in a file."""
    found = []

    def visit(node, in_function):
        if isinstance(node, ast.Import):
            found.extend((alias.name, False, in_function) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            if node.level:
                package = ["neural_hamilton", *path.parent.parts]
                base = package[: len(package) - node.level + 1]
                module = ".".join([*base, *filter(None, [node.module])])
                # `from .. import physics` names a room in its list of names.
                modules = [f"{module}.{alias.name}" for alias in node.names] if len(base) == 1 and not node.module else [module]
                found.extend((name, True, in_function) for name in modules)
            else:
                found.append((node.module, False, in_function))
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse((ROOT / path).read_text()), False)
    return found


def violations(path):
    room = path.parts[0]
    for module, relative, in_function in imports(path):
        head, _, rest = module.partition(".")
        if head in FORBIDDEN_PACKAGES.get(room, ()):
            yield f"{path} imports {module}; {room} may not"
        if head in ROOMS and head != "platform":
            yield f"{path} imports {module} as if a room were a package of its own"
        if head != "neural_hamilton":
            continue
        if not relative:
            yield f"{path} imports {module} absolutely; imports between rooms are relative"
        target = rest.partition(".")[0]
        composed = path in COMPOSITION_ROOTS and target in {"tune", "serve"} and in_function
        if target != room and target not in MAY_IMPORT[room] and not composed:
            yield f"{path} imports {module}; {room} may import only {sorted(MAY_IMPORT[room]) or 'no other room'}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_point_one_way(path):
    assert not list(violations(path))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("physics/x.py", "import torch"),
        ("physics/x.py", "from ray import data"),
        ("physics/x.py", "from ..architectures.mamba import Mamba"),
        ("architectures/x.py", "def f():\n    import ray.train"),
        ("architectures/x.py", "from .. import platform"),
        ("platform/x.py", "def f():\n    from ..tune.sweeps.sweep import run"),
        ("platform/commands/demo.py", "from ...serve.application import run"),
        ("tune/x.py", "from ..serve.model import Model"),
        ("serve/x.py", "from neural_hamilton.physics import InputError"),
        ("serve/x.py", "from physics import InputError"),
    ],
)
def test_the_check_sees_violations(path, source, tmp_path, monkeypatch):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(source)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert list(violations(Path(path)))


@pytest.mark.parametrize("root", COMPOSITION_ROOTS, ids=str)
def test_a_composition_root_may_import_inside_functions(tmp_path, monkeypatch, root):
    (tmp_path / root).parent.mkdir(parents=True)
    (tmp_path / root).write_text("import platform\ndef f():\n    from ...tune.sweeps.sweep import run")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert not list(violations(root))


@pytest.mark.parametrize("folder", ["platform", "tests"])
def test_folders_that_must_not_be_packages(folder):
    """`platform/__init__.py` would hide Python's own `platform` from everything started in the repository."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_local_work_does_not_import_ray_and_imports_write_nothing(tmp_path):
    """One process imports them one after the other, the lowest room first, and says who brought in what."""
    code = "\n".join(
        f"import neural_hamilton.{module}; print('{module}', *sorted({{'ray', 'torch'}} & sys.modules.keys()))" for module in WITHOUT_RAY
    )
    work = tmp_path / "work"
    work.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"], cwd=work, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    brought = {line.split()[0]: set(line.split()[1:]) for line in done.stdout.splitlines()}
    assert brought["physics"] == set()
    assert not [module for module, packages in brought.items() if "ray" in packages]
    assert not list(work.iterdir())
