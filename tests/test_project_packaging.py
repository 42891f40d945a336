"""The package works from a wheel, from an editable install and from the bare checkout, and hides nothing of Python's."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("physics", "architectures", "platform", "tune", "serve")
HAS_CLI = (ROOT / "platform" / "cli.py").exists() and (ROOT / "platform" / "__main__.py").exists()
needs_cli = pytest.mark.skipif(not HAS_CLI, reason="there is no command line yet")

STANDARD_PLATFORM = """
import platform, sysconfig
print(platform.python_version(), platform.__file__.startswith(sysconfig.get_path("stdlib")))
"""
WHERE = """
import importlib.util, neural_hamilton.physics
print(neural_hamilton.physics.__file__)
print(importlib.util.find_spec("neural_hamilton.platform.config.tree").origin)
"""


def run(*command, cwd, path=None):
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments, cwd):
    return run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the sources, so that building leaves nothing behind in the repository."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=ignored)
    for name in ("pyproject.toml", "neural_hamilton.py", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, checkout, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def fresh_python(folder):
    """A new environment that borrows the dependencies of this one, but neither its neural_hamilton nor its PYTHONPATH."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # A plain path in a .pth file adds the folder without running its own .pth files, so an editable install there stays out.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(scope="module", params=["wheel", "editable", "bare"])
def installed(request, checkout, tmp_path_factory):
    """(python, folder to run in, PYTHONPATH, folder the code must come from) for one way of having the package."""
    folder = tmp_path_factory.mktemp(request.param)
    python = fresh_python(folder / "venv")
    if request.param == "bare":
        return python, checkout, None, checkout
    target = request.getfixturevalue("wheel") if request.param == "wheel" else checkout
    editable = ["--editable"] if request.param == "editable" else ["--force-reinstall"]
    pip("--python", python, "install", "--no-deps", "--no-build-isolation", "--no-index", *editable, target, cwd=folder)
    return python, folder, None, (folder / "venv" if request.param == "wheel" else checkout)


def test_wheel_holds_the_rooms_and_their_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    sources = [path.relative_to(ROOT) for path in files]
    missing = [str(path) for path in sources if f"neural_hamilton/{path}" not in names]
    assert not missing
    code = {name for name in names if ".dist-info/" not in name}
    assert {name for name in code if not name.startswith("neural_hamilton/")} == {"neural_hamilton.py"}, "the public API beside the package"
    assert "neural_hamilton/__init__.py" not in names
    assert "neural_hamilton/platform/__init__.py" not in names


def test_python_keeps_its_platform_module(installed):
    python, folder, path, _ = installed
    version, standard = run(python, "-c", STANDARD_PLATFORM, cwd=folder, path=path).split()
    assert version == ".".join(map(str, sys.version_info[:3]))
    assert standard == "True"


PUBLIC_API = """
import sys
import neural_hamilton as nh
assert not {"torch", "ray", "numpy"} & sys.modules.keys()
print(nh.__file__, *dir(nh))
values = [getattr(nh, name) for name in nh.__all__]
print("ray" in sys.modules, *nh.shipped_models())
"""


def test_public_api_is_the_same_everywhere(installed):
    python, folder, path, home = installed
    first, second = run(python, "-c", PUBLIC_API, cwd=folder, path=path).splitlines()
    where, *names = first.split()
    assert Path(where).is_relative_to(home)
    assert {"load", "predict", "solve", "read_dataset", "shipped_models", "Model"} <= set(names)
    has_ray, *shipped = second.split()
    assert has_ray == "False"
    assert shipped == sorted(path.name for path in (ROOT / "serve" / "models").iterdir())


def test_imports_from_where_it_should(installed):
    python, folder, path, home = installed
    for line in run(python, "-c", WHERE, cwd=folder, path=path).split():
        assert Path(line).is_relative_to(home)


@needs_cli
def test_command_line_answers(installed):
    python, folder, path, home = installed
    assert "generate" in run(python, "-m", "neural_hamilton.platform", "--help", cwd=folder, path=path)
    script = python.parent / "neural-hamilton"
    if home != folder:
        assert script.exists(), "an installation brings the neural-hamilton script"
        assert "generate" in run(script, "--help", cwd=folder, path=path)


@needs_cli
def test_run_cli_fixture(run_cli):
    done = run_cli("--help")
    assert done.returncode == 0
    assert "generate" in done.stdout


def test_ray_workers_import_the_package(ray_session):
    def where():
        import platform

        import neural_hamilton.physics

        return neural_hamilton.physics.__file__, platform.python_version()

    source, version = ray_session.get(ray_session.remote(where).remote())
    assert Path(source) == ROOT / "physics" / "__init__.py"
    assert version == ".".join(map(str, sys.version_info[:3]))


def test_constraints_pin_everything_declared():
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line.partition(";")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]  # without platforms
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    declared = [*project["dependencies"], *project["optional-dependencies"]["test"], *project["optional-dependencies"]["dev"]]
    assert not [name for line in declared if (name := re.match(r"[\w-]+", line)[0].lower()) not in pins]
    assert pins["torch"] == "2.13.0"
    assert pins["ray"] == "2.60.0"
    assert not any("+" in version or "/" in version for version in pins.values())
