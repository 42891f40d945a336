"""One file makes an architecture, here or in another package: the example in CONTRIBUTING is run, contract tests and all."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import neural_hamilton.architectures as package
from neural_hamilton.architectures import available_architectures, build_operator, get_architecture, parse_architecture
from neural_hamilton.architectures.registry import ENTRY_POINTS
from neural_hamilton.architectures.testing import TASKS, oscillators
from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import load_config
from neural_hamilton.tune.sweeps.search_spaces import parse_space


@pytest.fixture
def example(repository: Path) -> str:
    """The network shown in CONTRIBUTING.md."""
    shown = re.search(r"<!-- recipe: architecture \S+ -->\n```python\n(.*?)```", (repository / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert shown is not None
    return shown[1]


@pytest.fixture
def added(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its name, after its file was added to the package's folders."""
    (tmp_path / "cosinenet.py").write_text(example)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    yield "cosinenet"
    sys.modules.pop("neural_hamilton.architectures.cosinenet", None)


def test_a_file_is_found_by_being_there(added):
    assert "cosinenet" in available_architectures()
    config = load_config(None, {"architecture.name": added, "architecture.num_modes": 8})
    assert config.architecture.model_dump()["num_modes"] == 8
    assert "training.learning_rate" in parse_space(config)
    task = TASKS["one coordinate"]
    assert build_operator(config.architecture, task)(*oscillators(task)[0]).q.shape == (4, 12)


@pytest.mark.slow
def test_the_example_keeps_the_contract_as_its_own_package_would_test_it(example, tmp_path, repository):
    """In a process of its own, as an installed package with an entry point."""
    absolute = re.sub(r"from \.(\S+) import", r"from neural_hamilton.architectures.\1 import", example)
    (tmp_path / "cosine_package.py").write_text(absolute)
    info = tmp_path / "cosine_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cosine-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\ncosinenet = cosine_package:CosineNet\n")
    shown = re.search(r"```python\n(import pytest.*?)```", (repository / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert shown is not None
    (tmp_path / "test_cosinenet.py").write_text(f"import sys\nsys.path[:0] = [{str(repository)!r}, {str(tmp_path)!r}]\n{shown[1]}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-c", "/dev/null", "test_cosinenet.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d{2,} passed", done.stdout)


class _Entry:
    name, value = "brokennet", "nowhere:BrokenNet"

    def load(self):
        raise ModuleNotFoundError("No module named 'nowhere'")


def test_a_package_that_cannot_be_imported_is_named_when_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [_Entry()] if group == ENTRY_POINTS else [])
    assert "brokennet" in available_architectures()
    assert get_architecture("deeponet").__name__ == "DeepONet"
    with pytest.raises(InputError, match=r"'brokennet'.*'nowhere:BrokenNet' cannot be loaded: No module named 'nowhere'"):
        get_architecture("brokennet")


@pytest.mark.parametrize("name", ["operator", "testing", "layers", "__init__", "", "a.b", "../x"])
def test_other_modules_are_no_architectures(name):
    with pytest.raises(
        InputError, match=r"architecture\.name is .*choose one of deeponet, fieldnet, fno, mambonet, orbitnet, traonet, varonet"
    ):
        parse_architecture({"name": name})


def test_nothing_is_imported_before_it_is_asked_for():
    code = "import sys, neural_hamilton.architectures as a; print([n for n in sys.modules if n.endswith(('net', '.fno', 'testing'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "neural_hamilton" not in done.stdout


def test_a_network_is_the_same_for_the_same_seed():
    config, task = parse_architecture({"name": "mambonet"}), TASKS["two coordinates"]
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(build_operator(config, task).state_dict())
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())
