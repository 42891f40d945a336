"""The command line as a user runs it: real processes, exit codes, one sentence for a mistake."""

import json
import os
import socket
import subprocess
import sys

import pytest

from neural_hamilton.architectures import build_operator, parse_architecture, save_model
from neural_hamilton.platform.commands.tables import format_facts
from neural_hamilton.platform.config import DataConfig
from neural_hamilton.platform.training.trained_for import task_of, trained_for

COMMANDS = [
    "generate", "inspect", "train", "evaluate", "compare", "sweep", "scale", "serve", "predict", "plan", "doctor", "demo", "reproduce",
    "submit",
]  # fmt: skip
TINY = ["--set", "architecture.width=8", "--set", "training.epochs=2"]
FEW = ["--set", "evaluation.bootstrap=10", "--set", "evaluation.studies=[]"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "model"
    data = DataConfig(sensors=20)
    network = build_operator(parse_architecture({"name": "deeponet", "width": 8}), task_of(data))
    save_model(network, folder, trained_for(data), {})
    return folder


@pytest.fixture
def cli(capfd, monkeypatch, tmp_path):
    """Run a command line in this process: (exit code, stdout, stderr)."""
    from neural_hamilton.platform.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(cli, command):
    code, out, _ = cli(command, "--help")
    assert code == 0 and "Usage:" in out
    assert ("Commands:" if command == "plan" else "--json") in out


def test_the_help_waits_for_neither_torch_nor_ray():
    code = (
        "import sys\nfrom neural_hamilton.platform.cli import main\n"
        "assert main(['--help']) in (None, 0)\n"
        "heavy = {'torch', 'ray', 'optuna', 'matplotlib', 'pandas', 'fastapi'} & set(sys.modules)\n"
        "sys.exit(f'{heavy} imported' if heavy else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_the_process_itself_answers_and_refuses(run_cli, tmp_path):
    helped = run_cli("--help")
    assert helped.returncode == 0 and all(command in helped.stdout for command in COMMANDS)
    refused = run_cli("inspect", tmp_path / "nothing")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "Traceback" not in refused.stderr


def mistakes(dataset, model, tmp_path):
    """(command line, words its sentence must hold)."""
    plain_file = tmp_path / "file"
    plain_file.write_text("x")
    return {
        "unknown command": (["trane"], ["trane", "train"]),
        "unknown flag": (["train", dataset, "--otu", "x"], ["--otu", "--out"]),
        "missing flag": (["train", dataset], ["--out"]),
        "wrong type": (["generate", tmp_path / "d", "--train", "many"], ["--train", "many"]),
        "wrong choice": (["generate", tmp_path / "d", "--train", "1", "--dtype", "int8"], ["--dtype", "int8", "float64"]),
        "unknown ensemble": (["generate", tmp_path / "d", "--train", "1", "--ensemble", "papers"], ["papers", "paper, phase-space"]),
        "unknown system": (["generate", tmp_path / "d", "--train", "1", "--system", "wel"], ["data.system", "wel", "well"]),
        "key without effect": (
            ["train", dataset, "--out", tmp_path / "r", "--set", "training.decay_fraction=0.1"],
            ["training.decay_fraction is 0.1", "warmup-stable-decay"],
        ),
        "other noise than the dataset's": (
            ["train", dataset, "--out", tmp_path / "r", "--set", "data.noise=0.1"],
            ["data.noise is 0.1 and 0.0 in the dataset"],
        ),
        "other sensors than the dataset's": (
            ["train", dataset, "--out", tmp_path / "r", "--set", "architecture.num_sensors=50"],
            ["architecture.num_sensors", "50", "the dataset decides"],
        ),
        "nothing asked for": (["generate", tmp_path / "d"], ["--train"]),
        "negative rows": (["generate", tmp_path / "d", "--train", "-3"], ["data.train", "-3"]),
        "unknown architecture": (["train", dataset, "--arch", "perceptron", "--out", tmp_path / "r"], ["perceptron", "mambonet"]),
        "unknown key": (["train", dataset, "--out", tmp_path / "r", "--set", "training.epoch=3"], ["training.epoch", "epochs"]),
        "malformed --set": (["train", dataset, "--out", tmp_path / "r", "--set", "training.epochs"], ["--set", "training.epochs"]),
        "unknown configuration": (["train", dataset, "--out", tmp_path / "r", "--config", "nope.yaml"], ["nope.yaml", "demo"]),
        "no dataset": (["train", tmp_path / "nothing", "--out", tmp_path / "r"], ["nothing", "does not exist"]),
        "local with workers": (["train", dataset, "--local", "--workers", "2", "--out", tmp_path / "r"], ["--workers", "2", "--local"]),
        "local with no GPUs of workers": (
            ["train", dataset, "--local", "--gpus-per-worker", "0", "--out", tmp_path / "r"],
            ["--gpus-per-worker", "--local"],
        ),
        "local with resources of workers": (
            ["train", dataset, "--local", "--gpus-per-worker", "1", "--out", tmp_path / "r"],
            ["--gpus-per-worker", "--local"],
        ),
        "destination is a file": (["generate", plain_file, "--train", "3"], ["file"]),
        "no ensemble to reproduce": (["reproduce", "papers", "--out", tmp_path / "r"], ["papers", "phase-space"]),
        "no number of minutes": (["train", dataset, "--out", tmp_path / "r", "--minutes", "nan"], ["--minutes", "nan"]),
        "no time at all": (["train", dataset, "--out", tmp_path / "r", "--minutes", "0"], ["--minutes", "0"]),
        "destination below a file": (["generate", plain_file / "d", "--train", "3"], ["file"]),
        "out below a file": (["train", dataset, "--local", "--out", plain_file / "r", "--arch", "deeponet"], ["file"]),
        "no model": (["evaluate", tmp_path / "nothing", "--dataset", dataset, "--out", tmp_path / "e"], ["nothing", "does not exist"]),
        "unknown split": (
            ["evaluate", model, "--dataset", dataset, "--split", "exam", "--out", tmp_path / "e"],
            ["exam", "train, val, test"],
        ),
        "bad expression": (["predict", model, "--potential", "import os"], ["import os", "character"]),
        "not a wall": (["predict", model, "--potential", "q**2"], ["2"]),
        "unknown suffix": (["predict", model, "--potential", "8*(q-0.5)**2", "--out", tmp_path / "x.bmp"], [".bmp"]),
        "sizes": (["scale", dataset, "--arch", "deeponet", "--sizes", "ten", "--out", tmp_path / "s"], ["--sizes", "ten"]),
        "size too large": (["scale", dataset, "--arch", "deeponet", "--sizes", "65", "--out", tmp_path / "s"], ["65", "64"]),
        "no trials": (["sweep", dataset, "--arch", "deeponet", "--trials", "0", "--out", tmp_path / "s"], ["--trials", "0"]),
        "plan of nothing": (["plan"], ["generate, train, sweep or scale"]),
    }


@pytest.mark.parametrize("name", list(mistakes("", "", __import__("pathlib").Path(os.devnull).parent / "shm")))
def test_mistake_gets_one_sentence_and_exit_code_2(cli, tiny_dataset, model, tmp_path, name):
    arguments, words = mistakes(tiny_dataset, model, tmp_path)[name]
    code, _, err = cli(*arguments)
    assert code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert all(word in err for word in words), err
    assert os.listdir(tmp_path) == ["file"]


def test_without_a_command_it_prints_its_help(run_cli):
    done = run_cli()
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("Usage:") and "\n  train " in done.stderr and "error:" not in done.stderr


def test_it_says_its_version(cli):
    from neural_hamilton.platform.provenance import code_version

    assert cli("--version") == (0, f"neural-hamilton {code_version()}\n", "")


@pytest.mark.parametrize("command", ["evaluate", "compare", "serve", "predict"])
def test_a_run_folder_in_place_of_its_model_is_refused_with_the_model(cli, model, command):
    arguments = {"compare": [model], "predict": ["--potential", "q"]}.get(command, [])
    arguments += ["--dataset", "d", "--out", "o"] if command in ("evaluate", "compare") else []
    code, _, err = cli(command, model.parent, *arguments)
    assert code == 2 and err == f"error: {str(model.parent)!r} is a run folder; its model is {str(model)!r}\n"


def test_a_shipped_configuration_is_meant_by_its_name_unless_a_file_has_it(cli, tiny_dataset, tmp_path):
    (tmp_path / "deeponet").mkdir()
    train = ["train", tiny_dataset, "--config", "deeponet", "--local", *TINY]
    code, _, err = cli(*train, "--out", "a")
    assert code == 0, err
    (tmp_path / "deeponet").rmdir()
    (tmp_path / "deeponet").write_text("training: {speed: 3}")
    code, _, err = cli(*train, "--out", "b")
    assert code == 2 and "training.speed" in err
    code, _, err = cli("train", tiny_dataset, "--config", "./demo", "--local", "--out", "c")
    assert code == 2 and "./demo" in err


def test_model_of_another_schema_version_is_refused(cli, model, tiny_dataset, tmp_path):
    card = json.loads((model / "model.json").read_text()) | {"schema_version": 99}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text(json.dumps(card))
    code, _, err = cli("evaluate", tmp_path / "model", "--dataset", tiny_dataset, "--out", tmp_path / "e")
    assert code == 2 and "schema_version 99" in err


def test_truncated_file_is_named_by_train_and_by_inspect(cli, tiny_dataset, tmp_path):
    import shutil

    copy = shutil.copytree(tiny_dataset, tmp_path / "copy")
    victim = copy / "train" / "part-00001-of-00002.parquet"
    victim.write_bytes(victim.read_bytes()[:-50])
    for arguments in (["inspect", copy], ["train", copy, "--local", "--arch", "deeponet", "--out", tmp_path / "r", *TINY]):
        code, _, err = cli(*arguments)
        assert code == 2 and "part-00001-of-00002.parquet" in err and "generate" in err


def test_read_only_destination_is_one_sentence(run_cli, tmp_path):
    if os.geteuid() == 0 and os.system(f"mount -t tmpfs -o ro tmpfs {tmp_path} 2>/dev/null") != 0:
        pytest.skip("root can write anywhere, and no read-only file system can be mounted here")
    try:
        tmp_path.chmod(0o500) if os.geteuid() else None
        refused = run_cli("generate", tmp_path / "d", "--train", 3)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "cannot be written" in refused.stderr
    finally:
        os.system(f"umount -l {tmp_path} 2>/dev/null")


def test_port_in_use_is_one_sentence(cli, ray_session, model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = cli("serve", model, "--port", taken.getsockname()[1])
    assert code == 2 and err.count("\n") == 1 and str(taken) not in err and "--port" in err


def test_every_result_is_one_json_object_on_the_last_line(cli, ray_session, tiny_dataset, model, tmp_path):
    run = tmp_path / "run"
    train = ["train", tiny_dataset, "--arch", "deeponet", "--local", "--out", run, *TINY]
    lines = {
        "generate": ["generate", tmp_path / "d", "--train", 2, "--val", 0, "--test", 1, "--times", 10, "--sensors", 10, "--seed", 3],
        "inspect": ["inspect", tiny_dataset, "--recheck", 2],
        "train": train,
        "resume": [*train, "--resume"],
        "evaluate": ["evaluate", run / "model", "--dataset", tiny_dataset, "--out", tmp_path / "e", *FEW],
        "compare": ["compare", run / "model", model, "--dataset", tiny_dataset, "--out", tmp_path / "c", *FEW],
        "reproduce": [
            "reproduce",
            "paper",
            "--config",
            "deeponet",
            "--out",
            tmp_path / "whole",
            *TINY,
            *FEW,
            *(f"--set=data.{key}={value}" for key, value in {"train": 4, "val": 2, "test": 2, "sensors": 10, "times": 10}.items()),
        ],
        "predict": ["predict", run / "model", "--potential", "8*(q-0.5)**2", "--out", tmp_path / "x.csv"],
        "plan generate": ["plan", "generate", "--train", 100],
        "plan train": ["plan", "train", tiny_dataset, "--arch", "deeponet"],
        "plan sweep": ["plan", "sweep", tiny_dataset, "--arch", "deeponet", "--trials", 3],
        "plan scale": ["plan", "scale", tiny_dataset, "--arch", "deeponet", "--sizes", "10,20", "--seeds", 2],
        "doctor": ["doctor"],
    }
    results = {}
    for name, arguments in lines.items():
        code, out, err = cli(*arguments, "--json")
        assert code == 0, (name, err)
        results[name] = json.loads(out.splitlines()[-1])
    assert results["generate"]["counts"] == {"train": 2, "val": 0, "test": 1}
    assert results["inspect"]["problems"] == []
    assert results["resume"] == results["train"]
    assert results["evaluate"]["dataset"]["rows"] == 16
    assert len(results["compare"]["models"]) == 2
    assert results["reproduce"]["finished"] and results["reproduce"]["left"] == []
    assert results["plan scale"]["runs"] == 4
    assert results["plan generate"]["rows"] == 100 and results["plan generate"]["seconds"] > 0


def test_flags_override_set_and_set_overrides_the_file(cli, tiny_dataset, tmp_path):
    (tmp_path / "c.yaml").write_text("architecture: {name: mambonet}\ntraining: {epochs: 9, seed: 4}\n")
    code, _, err = cli(
        "train", tiny_dataset, "--config", tmp_path / "c.yaml", "--arch", "deeponet", "--local", "--out", tmp_path / "r", *TINY
    )
    assert code == 0, err
    from neural_hamilton.platform.config import load_config

    config = load_config(tmp_path / "r" / "config.yaml")
    assert (config.architecture.name, config.training.epochs, config.training.seed) == ("deeponet", 2, 4)
    assert config.data.sensors == 20


def test_facts_are_lines_with_sizes_and_times_as_people_say_them():
    facts = {"rows": 3, "disk_bytes": 3 * 2**29, "memory_bytes_per_task": 2048, "seconds": 300.0}
    facts |= {"gpus": [], "counts": {"train": 2}, "left": {}}
    lines = ["rows: 3", "disk: 1.5 GiB", "memory_per_task: 2 KiB", "seconds: 5 min", "gpus: none", "counts:", "  train: 2", "left: none"]
    assert format_facts(facts).splitlines() == lines


def test_the_help_does_not_promise_every_system_the_sensors_of_one(cli):
    _, out, _ = cli("generate", "--help")
    assert "[default: the system's, 100 for well]" in " ".join(out.split())
