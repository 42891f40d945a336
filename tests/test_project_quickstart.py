"""The quickstart notebook runs from the first cell to the last."""

import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.mark.slow
def test_the_quickstart_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(_kernel(tmp_path)))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.metadata.kernelspec["name"] = "quickstart"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert not [output for output in outputs if output.output_type == "error"]


def _kernel(folder):
    """A kernel of this interpreter that draws into the notebook: tests set another backend for figures."""
    specification = folder / "kernels" / "quickstart"
    specification.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    environment = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    kernel = {"argv": command, "display_name": "quickstart", "language": "python", "env": environment}
    (specification / "kernel.json").write_text(json.dumps(kernel))
    return folder


def test_the_notebook_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)]
