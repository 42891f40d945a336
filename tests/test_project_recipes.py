"""Each recipe of CONTRIBUTING.md, as it is written there: its one file in a copy of the project, then the commands below it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECTION = re.compile(
    r"^<!-- recipe: (?P<name>\w+) (?P<path>\S+) -->\n```python\n(?P<code>.*?)^```\n\n```bash\n(?P<commands>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
RECIPES = {match["name"]: match for match in SECTION.finditer((ROOT / "CONTRIBUTING.md").read_text())}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the packages, with the compiled code that lies beside them, and the program on the path."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("physics", "architectures", "platform", "tune", "serve"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "neural_hamilton.py", folder)
    program = folder / "bin" / "neural-hamilton"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m neural_hamilton.platform "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    "name", ["ensemble", "architecture", *(pytest.param(name, marks=pytest.mark.slow) for name in ("system", "study", "baseline"))]
)
def test_the_recipe_works(name, project):
    recipe = RECIPES[name]
    file = project / recipe["path"]
    file.write_text(recipe["code"])
    path = os.pathsep.join([str(project / "bin"), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(project)}
    command = ["bash", "-ec", recipe["commands"]]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=600, check=False)
    file.unlink()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
