"""One file and one line make an architecture: the example that is shown is run."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from neural_hamilton.architectures import ARCHITECTURES, build_operator, load_model, parse_architecture, save_model
from neural_hamilton.platform.config import load_config
from neural_hamilton.tune.search_spaces import parse_space


@pytest.fixture
def registered(repository: Path, tmp_path, monkeypatch):
    """The name of the architecture shown in CONTRIBUTING.md, registered for one test."""
    shown = re.search(r"```python\n(.*?)```", (repository / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert shown is not None
    (tmp_path / "example.py").write_text(shown[1])
    spec = importlib.util.spec_from_file_location("neural_hamilton.architectures.example", tmp_path / "example.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(ARCHITECTURES, "cosinenet", module.CosineNet)
    return "cosinenet"


def test_the_example_answers_and_is_saved_and_loaded(registered, tmp_path):
    model = build_operator(parse_architecture({"name": registered, "num_sensors": 20})).eval()
    potential, times, initial = torch.randn(3, 20), torch.rand(3, 7), torch.randn(3, 2)
    whole = model(potential, times, initial)
    assert whole.q.shape == whole.p.shape == (3, 7)
    torch.testing.assert_close(model(potential, times[:, [4]], initial).q, whole.q[:, [4]], atol=1e-5, rtol=0)
    torch.testing.assert_close(model(potential, times[0], initial).q[0], whole.q[0], atol=1e-5, rtol=0)
    save_model(model, tmp_path / "model", {})
    assert torch.equal(load_model(tmp_path / "model")(potential, times, initial).q, whole.q)


def test_the_example_is_known_to_configuration_and_sweeps(registered):
    config = load_config(None, {"architecture.name": registered, "architecture.num_modes": 8})
    assert config.architecture.model_dump()["num_modes"] == 8
    assert "training.learning_rate" in parse_space(config)
