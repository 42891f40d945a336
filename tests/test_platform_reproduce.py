"""Training in stages that end in time, and `reproduce`: a model from nothing, whatever ends its calls."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neural_hamilton.architectures import read_card
from neural_hamilton.physics import InputError
from neural_hamilton.platform import reproduction
from neural_hamilton.platform.cli import main
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.reproduction import default_config, reproduce

SIZES = {
    "data.train": 24,
    "data.val": 8,
    "data.test": 8,
    "data.sensors": 20,
    "data.times": 20,
    "architecture.name": "deeponet",
    "architecture.width": 8,
    "architecture.num_layers": 1,
    "architecture.num_channels": 4,
    "training.epochs": 3,
    "training.batch_size": 8,
    "evaluation.studies": [],
    "evaluation.bootstrap": 20,
    "evaluation.solver_steps": [0.02],
}
CONFIG = load_config(None, SIZES)
FLAGS = [word for key, value in SIZES.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def over():
    """A deadline that has passed: a call then does as little as it may."""
    return time.time() - 1.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduce") / "whole"
    return out, reproduce(CONFIG, out)


def weights(out):
    return (out / "run" / "model" / "model.safetensors").read_bytes()


def files(out):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in out.rglob("*") if path.is_file()}


def test_a_model_from_nothing_is_trained_measured_and_has_its_card(whole):
    out, result = whole
    evaluation = json.loads((out / "report" / "evaluation.json").read_text())
    assert result["finished"] and result["left"] == [] and result["epochs"] == 3
    assert result["test_loss"] == evaluation["metrics"]["total_loss"]
    assert result["weights_sha256"] == evaluation["model"]["weights_sha256"] == read_card(out / "run" / "model")["weights_sha256"]
    assert json.loads((out / "result.json").read_text()) == result
    assert Path(result["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert read_card(out / "run" / "model")["calibration"]["dataset_hash"] == result["dataset_hash"]
    assert (out / "run" / "model" / "README.md").exists()


def test_what_is_done_is_not_done_again(whole):
    out, result = whole
    before = files(out)
    assert reproduce(CONFIG, out) == result
    changed = {path.relative_to(out).as_posix() for path, mark in files(out).items() if before.get(path) != mark}
    assert changed <= {"run/dataset.json", "run/config.yaml"}  # the claim of the run folder


def test_calls_that_are_ended_by_the_clock_make_the_same_model(whole, tmp_path, capfd):
    epochs, calls = [], 0
    while not (result := reproduce(CONFIG, tmp_path / "out", over()))["finished"]:
        epochs.append(result["epochs"])
        calls += 1
        assert calls < 10
        assert result["left"][-1] == "the evaluation"
    assert epochs == sorted(epochs) and epochs[-1] == 3
    assert weights(tmp_path / "out") == weights(whole[0])
    lines = capfd.readouterr().err
    assert lines.count("generate 40 certified trajectories") == 1 and lines.count("evaluate the model") == 1
    timed = {"seconds", "run", "model", "report"}
    assert {k: v for k, v in result.items() if k not in timed} == {k: v for k, v in whole[1].items() if k not in timed}


@pytest.mark.slow
def test_a_report_that_was_lost_is_made_again_and_a_damaged_record_too(whole, tmp_path):
    out = shutil.copytree(whole[0], tmp_path / "out")
    first = reproduce(CONFIG, out)
    weights_before = (out / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    (out / "report" / "report.html").unlink()
    assert reproduce(CONFIG, out)["finished"]
    assert (out / "report" / "report.html").exists()
    for name in ("result.json", "run/result.json", "report/evaluation.json"):
        content = (out / name).read_text()
        (out / name).write_text(content[:40])
        assert reproduce(CONFIG, out)["test_loss"] == first["test_loss"]
        assert json.loads((out / name).read_text()).keys() == json.loads(content).keys()
    assert (out / "run" / "model" / "model.safetensors").stat().st_mtime_ns == weights_before


def test_a_precision_that_this_machine_lacks_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduction.torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="training.precision is 'tf32', which needs a CUDA device"):
        reproduce(load_config("winner-orbitnet"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_configuration_is_refused_also_when_all_is_done(whole):
    with pytest.raises(InputError, match=r"training.epochs was 3, is 4"):
        reproduce(load_config(None, SIZES | {"training.epochs": 4}), whole[0])
    with pytest.raises(InputError, match="data.seed|seed"):
        reproduce(load_config(None, SIZES | {"data.seed": 1}), whole[0])


def test_a_changed_way_of_measuring_measures_again_and_trains_nothing(whole, tmp_path, capfd):
    out = shutil.copytree(whole[0], tmp_path / "out")
    capfd.readouterr()
    reproduce(load_config(None, SIZES | {"evaluation.max_rows": 4}), out)
    lines = capfd.readouterr().err
    assert "evaluate the model" in lines and "train" not in lines
    assert json.loads((out / "report" / "evaluation.json").read_text())["dataset"]["rows"] == 4


def test_folders_and_sizes_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"holds 'thesis.tex', which is not part of a reproduction"):
        reproduce(CONFIG, tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        reproduce(CONFIG, tmp_path / "file")
    with pytest.raises(InputError, match=r"data.test is 0"):
        reproduce(load_config(None, SIZES | {"data.test": 0}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_default_configuration_is_the_one_for_this_machine(monkeypatch):
    for has_gpu, kind in ((True, "winner"), (False, "shipped")):
        monkeypatch.setattr(reproduction.torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        for ensemble, model in (("paper", "orbitnet"), ("phase-space", "orbitnet-phase-space")):
            assert default_config(ensemble) == f"{kind}-{model}"
            assert load_config(default_config(ensemble)).data.distribution.name == ensemble


def test_the_command_without_ray_killed_and_run_again(whole, tmp_path):
    """As a process in which Ray cannot be imported, killed while it trains."""
    out = tmp_path / "out"
    (tmp_path / "ray.py").write_text("raise ImportError('no Ray here')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])}
    command = [sys.executable, "-m", "neural_hamilton.platform", "reproduce", "paper", "--config", "deeponet", "--out", out, *FLAGS]
    command = [*map(str, command), "--json", "--set", "training.epochs=40"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / "run" / "history.jsonl").exists():
        assert process.poll() is None, "the command ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["finished"] and result["epochs"] == 40
    assert "certified trajectories" not in done.stderr, "the dataset was there"


def test_train_in_stages_says_so_and_resumes(whole, tmp_path, capfd, monkeypatch):
    dataset, run = whole[0] / "dataset", tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    command = ["train", str(dataset), "--out", str(run), "--local", "--config", "deeponet", *FLAGS, "--minutes", "0.0001"]
    assert main(command) == 0
    assert capfd.readouterr().out.strip() == "1 of 3 epochs are done; the same command with --resume continues"
    assert not (run / "result.json").exists()
    assert main([*command, "--resume"]) == 0
    assert capfd.readouterr().out.startswith("2 of 3")
    assert main([*command[:-2], "--resume"]) == 0
    assert "at epoch" in capfd.readouterr().out
    assert (run / "model" / "model.safetensors").read_bytes() == weights(whole[0])
    assert main([*command[:-1], "0"]) == 2
