"""`python -m benchmarks.gpu`: rehearsed on a bare machine, killed, given parts that crash and hang, and continued."""

import importlib.metadata
import math
import os
import re
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import psutil
import pytest
import torch
from gpu_helpers import check_what_leaves_the_machine

from benchmarks.gpu import PARTS, tables
from benchmarks.gpu.networks import NETWORKS
from benchmarks.gpu.record import Record, describe, is_good

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "benchmarks" / "gpu" / "requirements.txt"
# What docs/gpu.md says is there, and what that brings with it.
BARE = (
    "click", "contourpy", "cycler", "execnet", "filelock", "fonttools", "fsspec", "hypothesis", "iniconfig", "jinja2", "kiwisolver",
    "llvmlite", "markdown-it-py", "markupsafe", "matplotlib", "mdurl", "mpmath", "networkx", "numba", "numpy", "packaging", "pillow",
    "pluggy", "protobuf", "psutil", "pyarrow", "pygments", "pyparsing", "pytest", "pytest-xdist", "python-dateutil", "pyyaml", "rich",
    "safetensors", "scipy", "setuptools", "six", "sortedcontainers", "sympy", "torch", "triton",
)  # fmt: skip


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A virtual environment that has what a bare GPU machine has, and what `make gpu-wheels` collects for it; nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    carried = [line.strip() for line in REQUIREMENTS.read_text().splitlines() if line.strip() and not line.startswith("#")]
    wanted = {normal(name) for name in (*BARE, *carried)}
    for distribution in importlib.metadata.distributions():
        if normal(distribution.metadata["Name"]) in wanted:
            tops = {Path(file).parts[0] for file in distribution.files or [] if Path(file).parts[0] not in ("..", "__pycache__")}
            for top in tops:
                if not (packages / top).exists():
                    (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    return folder / "bin" / "python"


def command(python, out, *options):
    return [str(python), "-m", "benchmarks.gpu", "--tiny", "--out", str(out), *options]


def environment():
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return variables | {"OMP_NUM_THREADS": "2"}


def run(python, out, *options, timeout=300):
    words = command(python, out, *options)
    return subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False)


def test_the_bare_machine_is_bare(bare):
    code = "import importlib.util as u; print([name for name in ('ray', 'optuna', 'fastapi', 'pydantic', 'torch') if u.find_spec(name)])"
    done = subprocess.run([bare, "-c", code], env=environment(), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "['pydantic', 'torch']"


def test_the_document_lists_what_is_carried():
    text = tables.DOCUMENTS[0].read_text()
    carried = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    assert carried and all(normal(name) in normal(text) for name in carried)


@pytest.mark.slow
def test_every_part_is_rehearsed_without_ray(bare, tmp_path):
    out = tmp_path / "out"
    done = run(bare, out, "--minutes", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    parts = Record(out).read()["parts"]
    assert list(parts) == list(PARTS)
    for name, part in parts.items():
        assert part["status"] == "done" and part["rows"], name
        assert all(is_good(row) for row in part["rows"])
        assert part["tiny"] and part["torch"] == torch.__version__ and part["code_version"]
        assert f"== {name}: done" in done.stdout
    measured = [row for part in parts.values() for row in part["rows"] if "figures" in row]
    assert len(measured) > 40
    assert all(describe(row) in done.stdout for row in measured), "printed as it is recorded"
    checks = [row["cell"] for row in parts["parity"]["rows"] if row.get("figures", {}).get("passed")]
    assert {cell.get("network") for cell in checks} >= set(NETWORKS)
    assert {cell["dtype"] for cell in checks if cell["check"] == "scan"} == {"float32", "bfloat16", "float16"}
    assert any(cell["check"] == "tests marked gpu" for cell in checks)
    check_what_leaves_the_machine(out)
    for document in tables.DOCUMENTS:
        tables.fill(document.read_text(), parts)  # from real rows


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_measured_survives_a_signal_and_nothing_runs_on(bare, tmp_path, number):
    out = tmp_path / "out"
    process = subprocess.Popen(command(bare, out, "--parts", "card,scan"), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = next(line for line in process.stdout if line.startswith("scan:"))
    started = psutil.Process(process.pid).children(recursive=True)
    assert started
    process.send_signal(number)
    process.stdout.read()
    assert process.wait(timeout=30) != 0
    deadline = time.time() + 30
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in started):
        assert time.time() < deadline, "a part outlived the command"
        time.sleep(0.05)
    parts = Record(out).read()["parts"]
    assert parts["card"]["status"] == "done"
    assert line.strip() == f"scan: {describe(parts['scan']['rows'][0])}"
    assert parts["scan"]["status"] == ("stopped" if number == signal.SIGTERM else "running")


def in_process_of_its_own(out, parts, minutes, code):
    """The command with `measure_part` replaced by what `code` defines."""
    script = f"import sys, time, os\nimport benchmarks.gpu.__main__ as command\nreal = command.measure_part\n{code}\n"
    script += "command.measure_part = measure_part\n"
    script += f"sys.exit(command.main(['--tiny', '--minutes', '{minutes}', '--parts', '{parts}', '--out', {str(out)!r}]))\n"
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
def test_measuring_goes_on_when_nobody_reads_and_no_terminal_is_there(bare, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(command(bare, out, "--parts", "card,scan"), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and "card" in process.stdout.readline()
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) in (0, 120)  # the latter is Python's own complaint about the pipe
    assert [part["status"] for part in Record(out).read()["parts"].values()] == ["done", "done"]


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder(bare, tmp_path):
    process = subprocess.Popen(command(bare, tmp_path, "--parts", "scan"), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline()
    second = run(bare, tmp_path, "--parts", "card")
    assert second.returncode == 2 and "where another run is at work" in second.stderr
    process.stdout.read()
    assert process.wait(timeout=120) == 0


def test_a_part_that_crashes_and_one_that_hangs_do_not_stop_the_others(tmp_path):
    code = """
command._GRACE = 0.5
def measure_part(name, bench):
    if name == "card":
        os.abort()
    if name == "parity":
        os._exit(0)
    if name == "scan":
        time.sleep(600)
    real(name, bench)
"""
    done = in_process_of_its_own(tmp_path / "out", "card,parity,scan,learn", 0.25, code)
    parts = Record(tmp_path / "out").read()["parts"]
    assert done.returncode == 1
    assert parts["card"]["status"] == "failed" and "SIGABRT" in parts["card"]["reason"]
    assert parts["parity"]["status"] == "failed" and parts["parity"]["reason"] == "its process ended before the last cell"
    assert parts["scan"]["status"] == "out of time"
    assert parts["learn"]["status"] == "done", done.stdout + done.stderr


@pytest.mark.slow
def test_a_cell_that_fails_is_recorded_with_its_reason_and_the_next_one_is_measured(tmp_path):
    code = """
import benchmarks.gpu.card as card
def broken(bench):
    raise ValueError("no copy today")
card._copy = broken
measure_part = real
"""
    done = in_process_of_its_own(tmp_path / "out", "card", 1, code)
    part = Record(tmp_path / "out").read()["parts"]["card"]
    assert done.returncode == 1 and part["status"] == "failed" and part["reason"] == "1 of its cells failed"
    outcomes = {row["cell"]["what"]: row for row in part["rows"]}
    assert outcomes["copy"]["failed"] == "ValueError: no copy today"
    assert "figures" in outcomes["matrix product, float32"]


def test_cells_that_no_time_is_left_for_are_skipped(tmp_path):
    code = "def measure_part(name, bench):\n    real(name, type(bench)(bench.device, bench.tiny, 0.0, bench.out))\n"
    in_process_of_its_own(tmp_path / "out", "card", 1, code)
    rows = Record(tmp_path / "out").read()["parts"]["card"]["rows"]
    assert rows and all(row["skipped"] == "out of time" for row in rows)
    assert Record(tmp_path / "out").read()["parts"]["card"]["status"] == "out of time"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--parts", "scan,dance"], "part is 'dance'; choose from card, parity, scan"),
        (["--minutes", "0"], "'0'; give a positive number"),
        (["--minutes", "nan"], "'nan'; give a positive number"),
        (["--minutes", "soon"], "'soon'"),
        (["--out", "pyproject.toml"], "pyproject.toml', which cannot be used"),
        ([], "which holds a measurement; give another folder"),
    ],
)
def test_wrong_use_is_one_sentence(options, message, tmp_path):
    record = Record(tmp_path)
    record.begin("card", tiny=False)
    done = run(sys.executable, tmp_path, *options)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    words = [word for word in command(sys.executable, tmp_path / "out") if word != "--tiny"]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "sees no CUDA device here; --tiny rehearses on a CPU" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_part_that_runs_again_replaces_its_rows_and_no_others(tmp_path):
    record = Record(tmp_path)
    for part in ("scan", "card"):
        record.begin(part)
        record.add(part, {"cell": {"of": part}, "figures": {"value": math.nan}})
        record.end(part, "done")
    record.begin("scan")
    parts = record.read()["parts"]
    assert list(parts) == ["card", "scan"]
    assert parts["scan"]["rows"] == [] and parts["card"]["rows"][0]["figures"]["value"] == "nan"


def test_what_could_not_be_written_is_written_later(tmp_path, monkeypatch, capsys):
    record = Record(tmp_path)
    record.begin("scan")
    written = []

    def full(path, value):
        written.append(value)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("benchmarks.gpu.record.write_json", full)
        for number in range(2):
            record.add("scan", {"cell": {"number": number}, "figures": {}})
    assert len(written) == 2 and "gpu.json cannot be written: No space left on device" in capsys.readouterr().out
    assert Record(tmp_path).read()["parts"]["scan"]["rows"] == []
    record.end("scan", "done")
    scan = Record(tmp_path).read()["parts"]["scan"]
    assert [row["cell"]["number"] for row in scan["rows"]] == [0, 1] and scan["status"] == "done"
