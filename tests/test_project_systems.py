"""What belongs to a system stays in `physics/systems`: offenders elsewhere, and a second system taken through every command."""

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from serving import free_port

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("physics", "architectures", "platform", "tune", "serve")
SYSTEMS = Path("physics/systems")
SOURCES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# How version 0.1 recorded what it knew of one system; its cards are migrated there.
HISTORY = {Path("architectures/card.py")}
OUTSIDE = [path for path in SOURCES if not path.is_relative_to(SYSTEMS) and path not in HISTORY]
TEXTS = [*(ROOT / "serve/page").glob("*.*"), *(ROOT / "platform").rglob("*.j2")]
# Names that only one system has, and names of its ensembles. `dataset` and the like are everybody's.
FOREIGN_NAMES = re.compile(r"(?i)^_?(wall|walls|wall_height|horizon|paper|phase_space)$")
ENSEMBLE_NAMES = {"paper", "phase-space", "sharp"}


def offences(tree):
    """Decisions that belong to a system: comparisons with an ensemble's name, constants of its horizon or walls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for part in (node.left, *node.comparators):
                if isinstance(part, ast.Constant) and part.value in ENSEMBLE_NAMES:
                    yield f"line {node.lineno}: compares with the ensemble {part.value!r}"
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and FOREIGN_NAMES.match(target.id) and isinstance(node.value, ast.Constant):
                    yield f"line {node.lineno}: {target.id} is a number of one system"
        if isinstance(node, ast.ImportFrom) and re.search(r"systems\.well", node.module or ""):
            yield f"line {node.lineno}: imports the well itself"
        if isinstance(node, ast.Dict) and any(isinstance(key, ast.Constant) and key.value in ENSEMBLE_NAMES for key in node.keys):
            yield f"line {node.lineno}: a table by ensembles"


@pytest.mark.parametrize("path", OUTSIDE, ids=str)
def test_no_module_outside_knows_a_system(path):
    assert not list(offences(ast.parse((ROOT / path).read_text())))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_template_decides_by_an_ensemble(path):
    assert not re.search(r"""["'](paper|phase-space)["']""", path.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "if preset == 'paper': pass",
        "x = 1 if 'phase-space' in names else 2",
        "HORIZON = 2.0",
        "_WALL_HEIGHT: float = 2.0",
        "from ..physics.systems.well.polygons import WALL_HEIGHT",
        "ranges = {'paper': 1, 'phase-space': 2}",
    ],
)
def test_the_check_sees_offences(source):
    assert list(offences(ast.parse(source)))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process in which the package `two_oscillators` is installed: one file and its entry point."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "examples" / "two_oscillators.py", folder)
    metadata = folder / "two_oscillators-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: two-oscillators\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[neural_hamilton.systems]\ntwo-oscillators = two_oscillators:SYSTEM\n")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])}


@pytest.fixture(scope="module")
def command(installed):
    def run(*words):
        line = [sys.executable, "-m", "neural_hamilton.platform", *map(str, words), "--json"]
        done = subprocess.run(line, cwd=ROOT, env=installed, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def dataset(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "dataset"
    command("generate", folder, "--system", "two-oscillators", "--train", 64, "--val", 16, "--test", 16, "--times", 20, "--local")
    return folder


@pytest.fixture(scope="module")
def models(command, dataset, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    sizes = {
        "deeponet": ["architecture.width=32", "architecture.num_layers=1"],
        "mambonet": ["architecture.d_model=16", "architecture.num_heads=2", "architecture.num_mamba_layers=2", "architecture.d_state=4"],
    }
    found = {}
    for name, keys in sizes.items():
        settings = [word for key in ["training.epochs=2", "training.trackers=[]", *keys] for word in ("--set", key)]
        found[name] = Path(command("train", dataset, "--arch", name, "--out", runs / name, "--local", *settings)["model"])
    return found


def test_the_second_system_fits_in_one_short_file():
    assert len((ROOT / "examples" / "two_oscillators.py").read_text().splitlines()) <= 90


def test_generate_and_inspect(command, dataset):
    report = command("inspect", dataset, "--recheck", 16)
    assert report["system"] == "two-oscillators" and report["problems"] == []
    assert report["integration_error"]["max"] <= 1e-9
    assert "shape=[20,2]" in report["schema"]["q"] and "shape=[12,12]" in report["schema"]["potential"]
    assert "Two coupled oscillators" in (dataset / "README.md").read_text()


@pytest.mark.parametrize("name", [pytest.param("deeponet", marks=pytest.mark.slow), "mambonet"])
def test_train_evaluate_and_predict(command, dataset, models, name, tmp_path):
    few = [
        word
        for key in ("study_rows=4", "work_batches=[1,10]", "windows=2", "solver_steps=[0.02]")
        for word in ("--set", f"evaluation.{key}")
    ]
    if name == "mambonet":  # one network is enough for the studies, which ask the system and not the architecture
        few = ["--set", "evaluation.studies=[]"]
    result = command("evaluate", models[name], "--dataset", dataset, "--out", tmp_path / "report", "--record", *few)
    losses = result["metrics"]["total_loss"]
    assert 0 < losses["median"] <= losses["max"] and np.isfinite(losses["mean"])
    exact = [b for b in result["baselines"].values() if b["track"] == "oracle"]
    assert exact and min(b["total_loss"]["median"] for b in exact) < 1e-6 < losses["median"]
    assert (tmp_path / "report/report.html").exists() and (models[name] / "README.md").exists()
    orbit = command("predict", models[name], "--potential", "q1**2 + q2**2 + q1**2*q2**2", "--q0", "0.4,0.1", "--p0", "0,0", "--times", 9)
    assert np.shape(orbit["q"]) == np.shape(orbit["p"]) == (9, 2)
    assert orbit["trust"]["solver_error"] > 0


def test_the_serve_command_answers_and_stops_on_sigterm(models, installed):
    """Over HTTP, as a client sees it."""
    words = ["serve", str(models["mambonet"]), "--port", str(free_port()), "--json"]
    command = [sys.executable, "-m", "neural_hamilton.platform", *words]
    with subprocess.Popen(command, cwd=ROOT, env=installed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = json.loads(process.stdout.readline())["url"]
        axis = np.linspace(-1, 1, 12)
        potential = (axis[:, None] ** 2 + axis**2).tolist()
        body = {
            "trajectories": [{"potential": potential, "q0": [0.4, 0.1], "p0": [0.0, 0.0], "times": [0.0, 1.0, 3.0]}],
            "verify": "solver",
        }
        response = httpx.post(f"{url}/v1/trajectories", json=body, trust_env=False, timeout=60)
        assert response.status_code == 200, response.text
        (trajectory,) = response.json()["trajectories"]
        assert np.shape(trajectory["q"]) == (3, 2)
        np.testing.assert_allclose(trajectory["q"][0], [0.4, 0.1], atol=0.2 if trajectory["trust"]["source"] == "model" else 1e-9)
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert rest == ""  # the JSON line stays the last
    assert "stopped" in errors
    deadline = time.monotonic() + 10
    while is_open(httpx.URL(url).port):
        assert time.monotonic() < deadline, "the port is still open"
        time.sleep(0.1)


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
