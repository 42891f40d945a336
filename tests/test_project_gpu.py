"""`python -m benchmarks.gpu`: rehearsed on a bare machine, killed, given parts that crash and hang, and continued."""

import importlib.metadata
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.gpu import PARTS, infer, learn, parity, tables, train, work
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.networks import DIRECT, NETWORKS, network_config, shipped_models
from benchmarks.gpu.record import Record, describe, is_good
from neural_hamilton.architectures import build_operator, load_model
from neural_hamilton.architectures.selective_scan import triton_backend
from neural_hamilton.platform.training.checkpoints import save_checkpoint
from neural_hamilton.platform.training.optimizers import Optimizer

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "benchmarks" / "gpu" / "requirements.txt"
# What docs/gpu.md says is there, and what that brings with it.
BARE = (
    "click", "contourpy", "cycler", "execnet", "filelock", "fonttools", "fsspec", "hypothesis", "iniconfig", "jinja2", "kiwisolver",
    "llvmlite", "markdown-it-py", "markupsafe", "matplotlib", "mdurl", "mpmath", "networkx", "numba", "numpy", "packaging", "pillow",
    "pluggy", "protobuf", "psutil", "pyarrow", "pygments", "pyparsing", "pytest", "pytest-xdist", "python-dateutil", "pyyaml", "rich",
    "safetensors", "scipy", "setuptools", "six", "sortedcontainers", "sympy", "torch", "triton",
)  # fmt: skip
LIMIT = 16 * 2**20


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


def check_what_leaves_the_machine(out):
    """At most 8 files of at most 16 MiB, no more than two folders down, with plain names."""
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) <= 8
    for path in files:
        assert path.stat().st_size <= LIMIT
        assert len(path.relative_to(out).parts) <= 3
        assert re.fullmatch(r"[\w./-]+", path.relative_to(out).as_posix(), re.ASCII)


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


def test_measuring_goes_on_when_nobody_reads_and_no_terminal_is_there(bare, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(command(bare, out, "--parts", "card,scan"), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and "card" in process.stdout.readline()
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) in (0, 120)  # the latter is Python's own complaint about the pipe
    assert [part["status"] for part in Record(out).read()["parts"].values()] == ["done", "done"]


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


def bench_on_cpu(out):
    return Bench(torch.device("cpu"), True, time.time() + 300, out)


def scan_row(tmp_path):
    return parity._scan(bench_on_cpu(tmp_path), "triton", torch.float32, 5)()


def test_cells_of_full_size_that_a_cpu_can_measure(tmp_path, monkeypatch):
    bench = Bench(torch.device("cpu"), False, time.time() + 300, tmp_path)
    monkeypatch.setattr(train, "_STREAM_SECONDS", 0.05)
    fed = train._stream(bench, "deeponet")()
    assert fed["batch"] == 1024 and fed["drawn_rows_per_second"] > 0
    for model in ("paper-13-sensors", "paper-noisy-sensors"):
        solver = infer._solver(bench, model, shipped_models()[model], 1024)()
        network = infer._network(bench, model, shipped_models()[model], 1, "float32")()
        assert solver["times_the_networks_loss"] > 1 and network["trained"]
        assert network["median_loss"] < solver["median_loss"] < 0.01
    exact = infer._solver(bench, "phase-space", shipped_models()["phase-space"], 1)()
    assert exact["times_the_networks_loss"] <= 1 and exact["step"] == 0.01  # the quadrature's own error, which RK4 reaches


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run in the interpreter here")
def test_parity_notices_a_wrong_kernel(tmp_path, monkeypatch):
    assert scan_row(tmp_path)["passed"]
    forward, backward = triton_backend.scan_forward, triton_backend.scan_backward

    def leaves_one_out(*arguments):
        y, states = forward(*arguments)
        unwritten = torch.empty_like(y)
        unwritten[:, 1:] = y[:, 1:]
        return unwritten, states

    monkeypatch.setattr(triton_backend, "scan_forward", leaves_one_out)
    row = scan_row(tmp_path)
    assert math.isnan(row["error"]) and row["worst_tensor"] == "y" and not row["passed"]
    monkeypatch.setattr(triton_backend, "scan_forward", forward)

    def slightly_off(*arguments):
        *gradients, dgate = backward(*arguments)
        return *gradients, dgate * (1 + 1e-4)

    monkeypatch.setattr(triton_backend, "scan_backward", slightly_off)
    row = scan_row(tmp_path)
    assert row["worst_tensor"] == "dgate" and not row["passed"]
    monkeypatch.setattr(triton_backend, "scan_backward", lambda *a: tuple(g + 1e-9 * torch.rand(()) for g in backward(*a)))
    assert not scan_row(tmp_path)["same_bits"] and not scan_row(tmp_path)["passed"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run in the interpreter here")
def test_parity_notices_a_network_that_predicts_otherwise(tmp_path, monkeypatch):
    measure = parity._network(bench_on_cpu(tmp_path), DIRECT)
    assert measure()["passed"]
    forward = triton_backend.scan_forward

    def slightly_off(*arguments):
        y, states = forward(*arguments)
        return y * 1.001, states

    monkeypatch.setattr(triton_backend, "scan_forward", slightly_off)
    row = measure()
    assert not row["passed"] and row["trajectory_error"] > 1e-5 and row["trajectory_error_of_cpu"] < 1e-6


def test_the_scan_moves_what_can_be_counted_by_hand():
    forward, both = (work.ScanWork(2, 32, 3, 4, backward) for backward in (False, True))
    sequence, selected, kept = 2 * 32 * 3, 2 * 32 * 4, 2 * 2 * 3 * 4
    assert forward.bytes == 4 * (4 * sequence + 2 * selected)  # x, delta, gate, y; B, C
    assert both.bytes == forward.bytes + 4 * (2 * kept + 7 * sequence + 4 * selected)
    assert (forward.exponentials, both.exponentials) == (2 * 32 * 3 * 4, 3 * 2 * 32 * 3 * 4)


def test_operations_of_a_network_can_be_counted_by_hand():
    architecture = network_config("deeponet", True, {}).architecture
    layers = [module for module in build_operator(architecture).modules() if isinstance(module, torch.nn.Linear)]
    trunk = [layer for layer in layers if layer.in_features == 1 + 2 * architecture.num_frequencies]
    assert len(trunk) == 1
    at_times = layers[layers.index(trunk[0]) :]
    of_rows = [layer for layer in layers if layer not in at_times]
    rows, times = 7, 10
    products = 2 * sum(rows * layer.weight.numel() for layer in of_rows) + 2 * sum(times * layer.weight.numel() for layer in at_times)
    sums = 2 * rows * times * 2 * architecture.num_channels
    assert work.network_operations(architecture, rows, (1, times), backward=False) == products + sums


@pytest.mark.parametrize("name", NETWORKS)
def test_a_backward_pass_costs_about_twice_the_forward_pass(name):
    """That of a depthwise convolution too, which PyTorch's own count takes for a full one."""
    architecture = network_config(name, True, {}).architecture
    forward, both = (work.network_operations(architecture, 8, (1, 10), backward) for backward in (False, True))
    assert 2.5 * forward < both <= 3.0 * forward


def test_the_tables_of_the_documents_are_those_of_the_record():
    parts, texts = Record(tables.RESULTS).read()["parts"], [document.read_text() for document in tables.DOCUMENTS]
    assert [tables.fill(text, parts) for text in texts] == texts, "run python -m benchmarks.gpu.tables"
    assert set(re.findall(r"<!-- begin (\w+) -->", "".join(texts))) == set(tables.TABLES)


def test_a_measurement_gets_its_place_in_the_tables():
    cell = {"scan": "triton", "batch": 1024, "length": 1024, "width": 128, "direction": "forward"}
    rows = [{"cell": cell, "figures": {"seconds": 1.23e-3, "bytes_per_second": 1.42e12}}]
    card = [{"cell": {"what": "copy"}, "figures": {"bytes_per_second": 2e12}}]
    rows.append({"cell": cell | {"width": 256}, "skipped": "out of memory"})
    first, _, second, *_ = tables._scan({"scan": rows, "card": card})
    assert first[6:8] == ["1.23 ms", "71%"] and second[6:8] == ["out of memory"] * 2
    assert first[8] == tables.NOT_YET
    step = {"network": DIRECT, "batch": 1024, "precision": "float32", "mode": "eager"}
    card.append({"cell": {"what": "matrix product, float32"}, "figures": {"operations_per_second": 50e12}})
    lines = tables._train({"train": [{"cell": step, "figures": {"steps_per_second": 40.0, "busy": 0.52}}], "card": card})
    (line,) = (line for line in lines if line[:2] == [f"`{DIRECT}`", "1,024"])
    assert line[5:] == ["40.0", tables.NOT_YET, tables.NOT_YET, "52%", "15%"]  # of 189 GFLOP a step
    figures = {"trajectory_error": 2e-3, "trajectory_error_of_cpu": 1e-6, "gradient_error": 2e-5, "gradient_error_of_cpu": 1e-5}
    checks = [{"cell": {"check": "network", "network": DIRECT}, "figures": figures | {"passed": False}}]
    lines = {line[0]: line[1:] for line in tables._parity({"parity": checks})}
    assert lines["`mambonet-direct`, q and p"] == ["10 times the CPU's", "2.0e-03, 1 of 1 failed", "1.0e-06"]
    assert lines["`mambonet-direct`, gradient"] == ["10 times the CPU's", "2.0e-05", "1.0e-05"]
    solver = {"cell": {"solver": "rk4", "accuracy_of": "paper", "trajectories": 16384}}
    solver["figures"] = {"seconds_each": 3.4e-6, "times_the_networks_loss": 23.4}
    asked = {"model": "paper", "trajectories": 16384, "precision": "float32"}
    rows = [{"cell": asked, "figures": {"seconds_each": 2e-6, "seconds_each_from_host_to_host": 4e-6}}, solver]
    (line,) = (line for line in tables._infer({"infer": rows}) if line[:2] == ["`paper`", "16,384"])
    assert line[3:] == ["2.00 µs", "4.00 µs", "3.40 µs, at 23 times the loss"]
    with pytest.raises(ValueError, match="table is 'cards'; choose one of card"):
        tables.fill("<!-- begin cards -->\n<!-- end cards -->", {})


def record_of(folder, *parts, tiny=False, loss=1.0):
    record = Record(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        record.begin(part, tiny=tiny)
        record.add(part, {"cell": {"network": DIRECT}, "figures": {"validation_loss": loss}})
        record.end(part, "done")


def test_what_a_run_left_is_kept_beside_what_others_left(tmp_path):
    results = tmp_path / "results"
    record_of(tmp_path / "first", "card", "learn", loss=1.0)
    record_of(tmp_path / "second", "learn", loss=0.5)
    for number, folder in enumerate(("first", "second"), start=1):
        checkpoint = tmp_path / folder / "learn" / "checkpoints" / f"epoch-{number:05d}.safetensors"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"")
        tables.keep(tmp_path / folder, results)
    parts = Record(results).read()["parts"]
    assert list(parts) == ["card", "learn"] and parts["learn"]["rows"][0]["figures"]["validation_loss"] == 0.5
    assert [path.name for path in results.rglob("*.safetensors")] == ["epoch-00002.safetensors"]
    Record(tmp_path / "second").begin("card", tiny=False)  # begun and killed: what is there already is worth more
    tables.keep(tmp_path / "second", results)
    assert Record(results).read()["parts"]["card"]["rows"]
    record_of(tmp_path / "rehearsal", "card", tiny=True)
    with pytest.raises(ValueError, match="holds a rehearsal"):
        tables.keep(tmp_path / "rehearsal", results)
    with pytest.raises(ValueError, match=r"holds no gpu\.json"):
        tables.keep(tmp_path / "nothing", results)


@pytest.mark.parametrize("content", ["", '{"parts": ', "[]", '{"parts": {"card": 3}}', '{"parts": {"card": {}}}', "[" * 100_000])
def test_a_damaged_record_is_one_sentence(tmp_path, content):
    (tmp_path / "gpu.json").write_text(content)
    with pytest.raises(ValueError, match=r"gpu\.json is damaged; delete it, or give another folder"):
        tables.keep(tmp_path, tmp_path / "results")
    with pytest.raises(SystemExit, match="2"):
        tables.main([str(tmp_path)])


def test_lines_have_units():
    figures = {"seconds": 2.29e-6, "bytes_per_second": 2.1e12, "passed": True, "busy": 0.25}
    row = {"cell": {"scan": "triton", "batch": 100}, "figures": figures}
    assert describe(row) == "triton, batch 100: seconds 2.29 µs, bytes per second 2.1 T, passed True, busy 0.25"
    assert describe({"cell": {"what": "copy"}, "failed": "why"}) == "copy: failed: why"


def learnt(out):
    (cell,) = learn.cells(bench_on_cpu(out))
    return cell.measure()


def test_learning_continues_where_it_stopped(tmp_path, monkeypatch, capsys):
    """On another machine: from the checkpoint in the repository, into an empty folder."""
    monkeypatch.setattr(learn, "RESULTS", tmp_path / "repository")
    first = learnt(tmp_path / "first")
    assert (first["epochs_before"], first["epochs"]) == (0, 2)
    check_what_leaves_the_machine(tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "repository")
    second = learnt(tmp_path / "second")
    assert (second["epochs_before"], second["epochs"]) == (2, 4)
    check_what_leaves_the_machine(tmp_path / "second")
    history = [json.loads(line) for line in (tmp_path / "second" / "learn" / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2, 3, 4]
    assert history[2]["learning_rate"] > history[1]["learning_rate"], "the longer schedule is not at its end yet"
    assert "epoch 4 of 4: validation loss" in capsys.readouterr().out
    card = json.loads((tmp_path / "second" / "learn" / "model" / "model.json").read_text())
    assert card["provenance"]["metrics"]["validation_loss"] == second["validation_loss"]
    assert load_model(tmp_path / "second" / "learn" / "model").config.name == "mambonet"
    third = learnt(tmp_path / "second")  # what is in DIR is newer than what is in the repository
    assert (third["epochs_before"], third["epochs"]) == (4, 6)
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "second").rglob("*.[yj]*"))


def test_the_learning_rate_ends_with_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(learn, "RESULTS", tmp_path / "repository")
    small = network_config(DIRECT, True, {})
    monkeypatch.setattr(learn, "network_config", lambda *_: small)
    deadline = time.time() + 6
    (cell,) = learn.cells(Bench(torch.device("cpu"), False, deadline, tmp_path / "out"))
    figures = cell.measure()
    assert time.time() < deadline + 2 and figures["epochs"] > 10
    last = json.loads((tmp_path / "out" / "learn" / "history.jsonl").read_text().splitlines()[-1])
    if figures["finished"]:
        assert last["learning_rate"] < 0.1 * small.training.learning_rate
    else:  # the machine became slower than it was at first
        assert time.time() > deadline - 1


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, monkeypatch):
    """Whatever write ends the process: what is left can be continued."""
    monkeypatch.setattr(learn, "RESULTS", tmp_path / "repository")
    write = learn.write_file

    class Killed(BaseException):
        pass

    for last in range(10):  # two epochs of five files
        out, writes = tmp_path / f"out-{last}", iter(range(100))

        def some(path, content, last=last, out=out, writes=writes):
            if path.is_relative_to(out) and next(writes) == last:
                (path.parent / f".{path.name}.1.partial").write_bytes(content[:10])
                assert sum(file.is_file() for file in out.rglob("*")) <= 6  # and gpu.json, and one more that may be on its way
                raise Killed
            write(path, content)

        monkeypatch.setattr(learn, "write_file", some)
        with pytest.raises(Killed):
            learnt(out)
        monkeypatch.setattr(learn, "write_file", write)
        assert learn.epochs_of(out / "learn") == (1 if last >= 5 else 0)
        assert learnt(out)["epochs_before"] == (1 if last >= 5 else 0)


@pytest.mark.parametrize("damage", ["checkpoint", "config.yaml", "history.jsonl", "missing config", "foreign file", "other network"])
def test_a_damaged_source_is_passed_over(tmp_path, monkeypatch, capsys, damage):
    monkeypatch.setattr(learn, "RESULTS", tmp_path / "repository")
    learnt(tmp_path / "repository")
    shutil.copytree(tmp_path / "repository", tmp_path / "out")
    learnt(tmp_path / "out")
    folder = tmp_path / "out" / "learn"
    (checkpoint,) = (folder / "checkpoints").iterdir()
    if damage == "checkpoint":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    elif damage in ("config.yaml", "history.jsonl"):
        (folder / damage).write_bytes((folder / damage).read_bytes()[:100])
    elif damage == "missing config":
        (folder / "config.yaml").unlink()
    elif damage == "other network":
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("d_feedforward: 16", "d_feedforward: 32"))
    else:
        (folder / "checkpoints" / "epoch-best.safetensors").write_bytes(b"")
    assert learnt(tmp_path / "out")["epochs_before"] == (4 if damage == "foreign file" else 2)
    assert ("is not continued: " in capsys.readouterr().out) is (damage != "foreign file")
    check_what_leaves_the_machine(tmp_path / "out")


def test_a_file_too_large_to_leave_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(learn, "RESULTS", tmp_path / "repository")
    monkeypatch.setattr(learn, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"at most 1000 can leave the machine"):
        learnt(tmp_path / "out")


def test_the_checkpoint_of_what_learn_trains_can_leave_the_machine(tmp_path):
    config = network_config(DIRECT, False, {})
    model = build_operator(config.architecture)
    optimizer = Optimizer(model, config.training)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step(1e-3)
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"epoch": 1, "learner": {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": None}})
    assert path.stat().st_size <= LIMIT
    assert config.training.ema_decay is None  # which would be another network in it
